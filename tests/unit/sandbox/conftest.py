"""What this machine can do, probed once."""

import pytest

from pedigree.sandbox import Isolation, Level, probe_isolation


@pytest.fixture(scope="session")
def isolation() -> Isolation:
    found = probe_isolation()
    if found.level < Level.LANDLOCK_SECCOMP:
        pytest.skip(f"nothing is ever opened here: {found.absent}")
    return found
