"""Every rebuild verdict has its reason, and a tolerance that is kept on both sides of its edge."""

import pytest

from pedigree.evidence.store import open_store
from pedigree.project import Project
from pedigree.rebuild import ACCURACY_TOLERANCE, judge_rebuild
from pedigree.training.record import TrainingRecord, read_record

OTHER = "sha256:" + "0" * 64


@pytest.fixture
def record(trained: Project) -> TrainingRecord:
    return read_record(next(iter(open_store(trained, trained.policy()).all("training"))))


@pytest.mark.parametrize(
    ("differences", "accuracy", "verdict", "reason"),
    [
        ((), (0.80, 0.80 + ACCURACY_TOLERANCE / 2), "within tolerance", "0.0050 apart, where 0.01"),
        (("machine: threads",), (0.8, 0.8), "within tolerance", "0.0000 apart"),
        ((), (0.80, 0.78), "different", "0.0200 apart, where 0.01 may be"),
        ((), None, "different", "no recorded accuracy is known"),
        (("train.seed differs",), (0.8, 0.8), "different", "an input differs: train.seed differs"),
    ],
)
def test_a_verdict_on_other_bits_says_why(
    record: TrainingRecord,
    differences: tuple[str, ...],
    accuracy: tuple[float, float] | None,
    verdict: str,
    reason: str,
) -> None:
    found = judge_rebuild(record, OTHER, differences, accuracy)
    assert found[0] == verdict
    assert reason in found[1]


def test_equal_bits_are_identical_whatever_the_machine(record: TrainingRecord) -> None:
    found = judge_rebuild(record, record.model_digest, ("machine: threads",), None)
    assert found == ("bit-identical", f"all {len(record.model_files)} files are the recorded ones")
