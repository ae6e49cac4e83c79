"""Trying the unverified: a quarantined classifier on the rows of a file, inside the sandbox.

    trial = try_artifact(digest, texts, gate, now, out=Path("predictions.jsonl"))

Each line that comes out carries `unverified` with the model's digest, and a statement about the
whole file says so too: a source with either is refused, so that nothing trains on it.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from pedigree.admission.conversion import PICKLED, open_quarantined
from pedigree.admission.gate import Gate, require_admitted
from pedigree.admission.keeping import open_artifact
from pedigree.digests import JSON, hex_of, sha256_hex
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.files import PARTIAL, explain_disk_errors, write_atomically
from pedigree.sandbox import Limits, level_of, run_sandboxed
from pedigree.sandbox.workers import classify

MARK = "unverified"
KIND = "trial"
MAX_TOKENS = 256
_WORKER = "pedigree.sandbox.workers.classify:classify"
_NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class Trial:
    """What a model that nobody vouches for said: the marked lines, and the signed statement."""

    lines: tuple[dict[str, JSON], ...]
    statement: Statement


def try_artifact(
    digest: str,
    texts: Sequence[str],
    gate: Gate,
    now: datetime,
    *,
    out: Path,
    like: str | None = None,
    limits: Limits | None = None,
) -> Trial:
    """Classify texts with a quarantined model; write marked lines to `out` and sign about them.

    Args:
        digest: of the quarantined model: a folder, or a file with weights alone.
        texts: one a row.
        gate: the project's gate.
        now: when.
        out: where the predictions go, as JSON lines.
        like: digest of an admitted model whose configuration and tokenizer a file of weights has.
        limits: what the sandbox may use.

    Raises:
        GateClosed: it is not in quarantine, or `like` was not admitted.
        PedigreeError: it is no classifier, the isolation is below the policy's minimum, or the
            run failed. Nothing is written then.
    """
    if not texts:
        raise PedigreeError("There are no rows to try the model on: give at least one.")
    weights, form, folder = _find_parts(digest, gate, like)
    request = {"texts": list(texts), "max_tokens": MAX_TOKENS, "weights": form}
    parent = gate.project.outside
    with explain_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=parent) as temporary:
        result = run_sandboxed(
            _WORKER,
            payload=json.dumps(request).encode(),
            read_only=[weights, folder],
            output=Path(temporary) / "out",
            outputs=[classify.OUTPUT],
            limits=limits,
            minimum=level_of(gate.policy.admission.minimum_isolation),
            isolation=gate.isolation,
        )
        written = (Path(temporary) / "out" / classify.OUTPUT).read_bytes()
    lines = _mark(written, texts, digest)
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    statement = gate.store.write(
        KIND,
        [{"name": out.name, "digest": {"sha256": sha256_hex(data)}}],
        {
            MARK: True,
            "model": {"sha256": hex_of(digest)},
            "rows": len(lines),
            "isolation": cast(JSON, result.isolation.record()),
            "triedOn": now.astimezone(UTC).isoformat(),
        },
    )
    write_atomically(out, data)  # after the statement: no unmarked file for anybody to find
    return Trial(lines, statement)


def _find_parts(digest: str, gate: Gate, like: str | None) -> tuple[Path, str, Path]:
    """Return the file with the weights, its form, and the folder with the configuration."""
    artifact, kinds, _ = open_quarantined(digest, gate)
    folder = artifact.path
    names = {entry.path for entry in artifact.files}
    if like is not None:
        require_admitted(gate.store, like, gate.policy)
        folder = open_artifact(like, gate.project.admitted, "admit it").path
    if missing := [name for name in _NEEDED if not (folder / name).is_file()]:
        raise PedigreeError(
            f"{digest} cannot be tried: {' and '.join(missing)} is missing; name an admitted model "
            "of the same form with --like DIGEST."
        )
    if len(names) == 1:
        pickled = next(iter(kinds.values()), None) in PICKLED
        return artifact.path / names.pop(), "pickle" if pickled else "safetensors", folder
    if "model.safetensors" not in names:
        raise PedigreeError(
            f"{digest} cannot be tried: it has no model.safetensors. Only classifiers are run."
        )
    return artifact.path / "model.safetensors", "safetensors", folder


def _mark(written: bytes, texts: Sequence[str], digest: str) -> tuple[dict[str, JSON], ...]:
    """Check what a hostile model may have written, and mark each line."""
    try:
        found = cast(list[dict[str, JSON]], json.loads(written))
        pairs = [(str(one["label"])[:200], float(cast(float, one["score"]))) for one in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PedigreeError(f"{digest} answered with nothing that can be read.") from None
    if len(pairs) != len(texts):
        raise PedigreeError(f"{digest} gave {len(pairs)} answers for {len(texts)} rows: refused.")
    return tuple(
        {"row": row, "text": text, "label": label, "score": value, MARK: digest}
        for row, (text, (label, value)) in enumerate(zip(texts, pairs, strict=True))
    )


def refuse_trials(store: EvidenceStore, digests: Sequence[str], name: str) -> None:
    """Refuse a source that is the output of a trial.

    Raises:
        GateClosed: one of the files is.
    """
    for digest in digests:
        statements, _ = store.about(digest, KIND)
        if statements:
            model = statements[0].predicate["model"]["sha256"]
            raise GateClosed(
                f"{name} is what the unverified model sha256:{model} said in a trial: it may not "
                "become data. Take another source."
            )
