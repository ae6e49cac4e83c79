"""`croissant.json`: an MLCommons Croissant 1.1 description of a model's training snapshot.

It names each Parquet part by its sha256 and size and each column by its type. The data itself is
not exported: `contentUrl` is relative, so the description loads it from the snapshot's own folder.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from pedigree.digests import JSON, FileEntry, Manifest, digest_json, hex_of, sorted_manifest
from pedigree.errors import EvidenceMissing, VerificationFailed
from pedigree.exports import croissant_rai
from pedigree.exports.facts import Facts
from pedigree.exports.licences import licence_address

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", croissant_rai.CONFORMS_TO)
_TYPES = {"string": "sc:Text", "int64": "sc:Integer"}
# The context of the Croissant 1.1 specification, appendix "JSON-LD context"; it lets texts that are
# in one language be plain strings.
_CONTEXT: dict[str, JSON] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        name: f"cr:{name}"
        for name in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract",
            "field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray",
            "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
            "subField", "transform",
        )
    },
}  # fmt: skip


def read_parts(folder: Path, facts: Facts) -> Manifest:
    """Return the files of the training snapshot in `folder`, as its signed statement vouches.

    Raises:
        EvidenceMissing: the snapshot is not here.
        VerificationFailed: its manifest is not the one of the statement.
    """
    digest = facts.record.inputs.training.digest
    path = folder / hex_of(digest) / "manifest.json"
    try:
        items = json.loads(path.read_bytes())["files"]
        files = sorted_manifest(FileEntry.model_validate(item) for item in items)
    except FileNotFoundError:
        raise EvidenceMissing(
            f"There is no snapshot {digest} in {folder}, whose files croissant.json describes: run "
            f"`dvc pull {facts.record.inputs.training.dvc.path}.dvc`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError, RecursionError):
        files = ()
    signed = "sha256:" + cast(str, facts.snapshot.predicate["manifest"]["sha256"])
    if digest_json([entry.model_dump() for entry in files]) != signed:
        raise VerificationFailed(
            f"{path} does not list the files that the signed statement about snapshot {digest} "
            "vouches for: restore it with `dvc checkout --force`."
        )
    return files


def describe_snapshot(facts: Facts, files: Manifest, now: datetime) -> dict[str, JSON]:
    """Return the Croissant document; one record set a Parquet part.

    `now` is its date of publication: when the description left the project.
    """
    digest = facts.record.inputs.training.digest
    name = f"{facts.record.model_name}-training-snapshot"
    schema = cast(list[tuple[str, str]], facts.snapshot.predicate["schema"])
    licences = sorted({licence_address(str(source["licence"])) for source in facts.sources})
    rows = ", ".join(f"{one['source']} ({one['rows']} rows)" for one in facts.sources)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": name,
        "description": f"The {facts.snapshot.predicate['rows']} rows that model {facts.model} was "
        f"trained on, from {rows}. Snapshot {digest}, Merkle root of the sorted row ids "
        f"{facts.snapshot.predicate['merkleRoot']}. The files are not part of the export.",
        "url": f"urn:pedigree:snapshot:{digest}",
        # Semantic versions know no digest but as the build: what was frozen has one version.
        "version": f"1.0.0+{hex_of(digest)}",
        "datePublished": now.astimezone(UTC).date().isoformat(),
        "citeAs": f"@misc{{{name}, title={{{name}}}, note={{snapshot {digest}}}}}",
        "license": cast(JSON, licences),
        "creator": [
            {"@type": "sc:Organization", "name": name}
            for name in sorted({str(one["collector"]) for one in facts.sources})
        ],
        "isBasedOn": [_origin(one) for one in facts.sources],
        **croissant_rai.describe_responsibly(facts),
        "distribution": [_file(entry) for entry in files],
        "recordSet": [_records(entry, schema) for entry in files],
    }


def _origin(source: Mapping[str, Any]) -> dict[str, JSON]:
    uri = str(source["uri"])
    return {
        "@type": "sc:CreativeWork",
        "name": str(source["source"]),
        "identifier": f"sha256:{source['sha256']}",
        "description": f"Fetched from {uri}",
        "license": licence_address(str(source["licence"])),
        # The form package:NAME==VERSION/FILE is ours, and a relative path is no address.
        **({"url": uri} if "://" in uri else {}),
    }


def _file(entry: FileEntry) -> dict[str, JSON]:
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": entry.sha256,
    }


def _records(entry: FileEntry, schema: list[tuple[str, str]]) -> dict[str, JSON]:
    name = "rows-" + entry.path.removeprefix("part-").removesuffix(".parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/row_id"},
        "field": [_field(name, entry.path, column, kind) for column, kind in schema],
    }


def _field(records: str, file: str, column: str, kind: str) -> dict[str, Any]:
    inner = kind.removeprefix("list<").removesuffix(">")
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{column}",
        "name": column,
        "dataType": _TYPES.get(inner, "sc:Integer"),
        **({"isArray": True, "arrayShape": "-1"} if inner != kind else {}),
        "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
    }
