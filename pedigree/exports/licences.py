"""Declared licences as identifiers of the SPDX list, where they are known to be one.

People declare "MIT", "apache-2.0" or "ask the publisher". What is on the list goes out as its
identifier and address; anything else stays a name, in the declarer's words.

    >>> find_spdx("apache-2.0")
    'Apache-2.0'
    >>> find_spdx("ask the publisher") is None
    True
"""

# Those that data sets and models carry; the whole list has some 700, most of them for software.
# Each is in the SPDX list as CycloneDX 1.7 has it: a test compares.
_KNOWN = (
    "0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0",
    "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "C-UDA-1.0", "CC-BY-3.0", "CC-BY-4.0",
    "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0",
    "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ECL-2.0", "EPL-2.0",
    "EUPL-1.1", "EUPL-1.2", "GFDL-1.3-only", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only",
    "GPL-3.0-or-later", "ISC", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only",
    "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0", "NCSA", "ODbL-1.0", "ODC-By-1.0", "OFL-1.1",
    "OGL-UK-3.0", "OSL-3.0", "PDDL-1.0", "PostgreSQL", "Unlicense", "Zlib", "etalab-2.0",
)  # fmt: skip
_BY_NAME = {name.lower(): name for name in _KNOWN}


def find_spdx(declared: str) -> str | None:
    """Return the SPDX identifier that `declared` is, whatever its case, or None."""
    return _BY_NAME.get(declared.strip().lower())


def licence_address(declared: str) -> str:
    """Return the address of the licence in the SPDX list, or `declared` where it is not there."""
    spdx = find_spdx(declared)
    return f"https://spdx.org/licenses/{spdx}.html" if spdx else declared
