"""Checks of form: that rows, bytes and weights are what they claim to be.

Pure functions to `CheckResult`, like the poisoning checks; these find damage, not attacks.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from pedigree.curation import CURATED_SCHEMA
from pedigree.errors import PedigreeError
from pedigree.findings import CheckResult, Finding
from pedigree.snapshots import open_snapshot


def check_schema(table: pa.Table, labels: Mapping[str, list[str]]) -> CheckResult:
    """Check columns, types, and that each row has a text and a label that its source declares.

    Args:
        table: a snapshot's rows.
        labels: for each source the labels that it declares.
    """
    expected = [("row_id", "string"), *[(f.name, str(f.type)) for f in CURATED_SCHEMA]]
    found = [(field.name, str(field.type)) for field in table.schema]
    if found != expected:
        return CheckResult(
            "schema_holds",
            False,
            f"The columns are {found}, expected {expected}: materialise the snapshot again.",
        )
    columns = cast(dict[str, list[Any]], table.select(["text", "label", "source"]).to_pydict())
    findings = tuple(
        Finding(row, 1.0, "ERROR", f"label {label!r} is not declared by {source!r}", str(source))
        if text
        else Finding(row, 1.0, "ERROR", "the text is empty", str(source))
        for row, (text, label, source) in enumerate(zip(*columns.values(), strict=True))
        if not text or label not in labels.get(source, [])
    )
    by_label = Counter(columns["label"])
    problems = [f"{len(findings)} rows have no text or an undeclared label"] if findings else []
    if len(by_label) < 2:
        problems.append(f"all rows carry one label ({', '.join(map(str, by_label))})")
    return CheckResult(
        "schema_holds",
        not problems,
        f"{'; '.join(problems)}: correct the source."
        if problems
        else f"{table.num_rows} rows in {len(by_label)} labels are as declared.",
        {"rows": table.num_rows, "bad_rows": len(findings), "labels": len(by_label)},
        findings,
    )


def check_snapshot(digest: str, root: Path, pointer_md5: str | None) -> CheckResult:
    """Check a snapshot's bytes and rows against its digest, and that DVC tracks it."""
    try:
        snapshot = open_snapshot(digest, root)
    except PedigreeError as error:
        return CheckResult("snapshot_digest_matches", False, str(error))
    if pointer_md5 is None:
        return CheckResult(
            "snapshot_digest_matches",
            False,
            f"DVC has no pointer for {snapshot.path}: run `dvc add {snapshot.path}`.",
        )
    return CheckResult(
        "snapshot_digest_matches",
        True,
        f"{snapshot.rows} rows in {len(snapshot.manifest.files)} files are the ones that {digest} "
        "names.",
        {"rows": snapshot.rows, "files": len(snapshot.manifest.files), "dvc_md5": pointer_md5},
    )


def check_weights(model: Path) -> CheckResult:
    """Check that every weight in every safetensors file below `model` is finite.

    Tensors are read one at a time from the mapped file, so memory is that of the largest.
    """
    import numpy as np
    from safetensors import safe_open

    findings: list[Finding] = []
    tensors = 0
    files = sorted(model.rglob("*.safetensors"))
    for path in files:
        with safe_open(path, "numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                tensor = weights.get_tensor(name)
                bad = int(tensor.size - np.isfinite(tensor).sum())
                if bad:
                    reason = f"{bad} of {tensor.size} values of {name} are NaN or infinite"
                    findings.append(Finding(tensors, bad / tensor.size, "ERROR", reason, path.name))
                tensors += 1
    passed = not findings and tensors > 0
    return CheckResult(
        "weights_are_finite",
        passed,
        f"All of {tensors} tensors in {len(files)} files are finite."
        if passed
        else f"{len(findings)} of {tensors} tensors hold NaN or infinite values "
        f"({json.dumps([f.reason for f in findings[:3]])}): train again with a lower rate.",
        {"tensors": tensors, "files": len(files), "bad_tensors": len(findings)},
        tuple(findings),
    )
