"""The environment's bill of materials: CycloneDX 1.7, one component for each distribution."""

import importlib.metadata
import uuid
from datetime import UTC, datetime

from pedigree import __version__
from pedigree.dependencies.installed import normalise
from pedigree.digests import JSON, digest_json, sha256_hex

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:pedigree:sbom:v1")


def describe_environment(lock_sha256: str | None, now: datetime) -> dict[str, JSON]:
    """Return the bill of materials of this interpreter's distributions.

    Args:
        lock_sha256: of the lock that it was made from, if there is one.
        now: the time stamp.
    """
    # A folder that is on the path twice gives each of its distributions twice.
    found = {str(one["bom-ref"]): one for one in map(_describe, importlib.metadata.distributions())}
    components = [found[name] for name in sorted(found)]
    properties: list[JSON] = (
        [{"name": "pedigree:lock:sha256", "value": lock_sha256}] if lock_sha256 else []
    )
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest_json(list[JSON](components)))}",
        "version": 1,
        "metadata": {
            "timestamp": now.astimezone(UTC).isoformat(timespec="seconds"),
            "tools": {
                "components": [{"type": "application", "name": "pedigree", "version": __version__}]
            },
            "component": {"type": "platform", "name": "environment", "bom-ref": "environment"},
            "properties": properties,
        },
        "components": list[JSON](components),
        "dependencies": [
            {"ref": "environment", "dependsOn": [one["bom-ref"] for one in components]}
        ],
    }


def _describe(one: importlib.metadata.Distribution) -> dict[str, JSON]:
    name, version = normalise(str(one.metadata["Name"])), one.version
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    record = one.read_text("RECORD")
    licence = (one.metadata.get_all("License-Expression") or [None])[0]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        **({"licenses": [{"expression": licence}]} if licence else {}),
        # Of the list of its files, not of a file: so a property and no hash.
        **(
            {
                "properties": [
                    {"name": "pedigree:record:sha256", "value": sha256_hex(record.encode())}
                ]
            }
            if record
            else {}
        ),
    }
