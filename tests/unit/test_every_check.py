"""All checks of rows on hard tables, and under other conditions: always an answer, and the same."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pedigree.evidence.check_limits import CheckLimits
from pedigree.inspection import inspect_rows
from tests.conftest import REPOSITORY, review_rows

LIMITS = CheckLimits()
TEXTS = [text for _, text, _ in review_rows(300)]
LABELS: list[str | None] = [label for _, _, label in review_rows(300)]
WHO: list[str | None] = [f"w{i % 9}" for i in range(300)]

HARD: dict[str, tuple[list[str], list[str | None], list[str | None]]] = {
    "no rows": ([], [], []),
    "one row": (["a text"], ["x"], ["w"]),
    "all rows identical": (["the same text here"] * 300, LABELS, WHO),
    "one label": (TEXTS, ["x"] * 300, WHO),
    "a label with one row": (TEXTS, [*LABELS[:-1], "rare"], WHO),
    "labels all different": (TEXTS, [f"label {i}" for i in range(300)], WHO),
    "most labels missing": (TEXTS, [None] * 250 + LABELS[250:], WHO),
    "some annotators missing": (TEXTS, LABELS, [None if i % 3 else w for i, w in enumerate(WHO)]),
    "no annotators": (TEXTS, LABELS, [None] * 300),
    "empty texts": ([""] * 300, LABELS, WHO),
    "texts of one character": (["a", "b", "?"] * 100, LABELS, WHO),
    "nothing but marks": (["?!", "\u200b\u200b", "\U0001f600"] * 100, LABELS, WHO),
    "a document of 10 MB": (["word and " * 1_200_000, *TEXTS[1:]], LABELS, WHO),
    "a word of 1 MB": (["x" * 1_000_000, *TEXTS[1:]], LABELS, WHO),
    "no spaces": (["".join(text.split()) for text in TEXTS], LABELS, WHO),
    "control characters": ([f"{text}\x00\x1b[31m" for text in TEXTS], LABELS, WHO),
}
CHECKS = {
    "near_duplicate_label_conflicts", "near_duplicate_floods", "trigger_ngrams", "label_issues",
    "anomalous_clusters", "influential_rows", "hidden_text", "embedded_instructions", "secrets",
    "annotator_manipulation",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HARD))
def test_every_check_answers_on_a_hard_table(name: str) -> None:
    texts, labels, annotators = HARD[name]
    results = inspect_rows(texts, labels, LIMITS, annotators)
    assert {result.check for result in results} == CHECKS
    for result in results:
        assert result.summary
        assert all(0 <= finding.row < len(texts) for finding in result.findings)
        assert len(result.examples) <= 20
        if not result.applicable:
            assert result.summary.startswith("not applicable: ")
            assert result.outcome == "NOT_APPLICABLE"


@pytest.mark.parametrize("name", ["no rows", "one row", "one label"])
def test_a_check_that_learns_says_that_it_could_not_judge(name: str) -> None:
    texts, labels, annotators = HARD[name]
    results = {r.check: r for r in inspect_rows(texts, labels, LIMITS, annotators)}
    for check in ("trigger_ngrams", "label_issues", "influential_rows"):
        assert results[check].outcome == "NOT_APPLICABLE", check


def test_many_labels_are_answered_in_bounded_time() -> None:
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS * 40)]
    results = inspect_rows(texts, [f"label {i}" for i in range(len(texts))], LIMITS)
    assert {result.check for result in results} == CHECKS - {"annotator_manipulation"}


def test_threads_and_hash_seed_change_no_byte_of_the_findings(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [
        (f"{text} zorblat" if draw.random() < 0.04 else text, draw.choice([label, label, "other"]))
        for text, label in zip(TEXTS * 3, LABELS * 3, strict=True)
    ]
    file = tmp_path / "rows.parquet"
    texts, labels = (list(column) for column in zip(*rows, strict=True))
    who = [WHO[i % 9] for i in range(len(rows))]
    pq.write_table(pa.table({"text": texts, "label": labels, "who": who}), file)
    found: list[bytes] = []
    for threads, seed in (("1", "0"), ("4", "17")):
        out = tmp_path / f"{threads}.parquet"
        command = [sys.executable, "-m", "pedigree", "check", str(file), "--annotator", "who"]
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        done = subprocess.run(
            [*command, "--out", str(out)], cwd=REPOSITORY, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, **dict.fromkeys(names, threads)},
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        found.append(out.read_bytes())
    assert pq.read_table(tmp_path / "1.parquet").num_rows
    assert found[0] == found[1]
