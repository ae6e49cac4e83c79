"""Accuracy of a model on the evaluation snapshot, overall and per source, and the check of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pedigree.digests import JSON
from pedigree.evidence.check_limits import AccuracyLimits
from pedigree.findings import CheckResult
from pedigree.settings import Settings


class Evaluation(Settings):
    """What a model got right: rows and correct predictions, by source and by label."""

    rows: int = Field(ge=1)
    correct: int = Field(ge=0)
    by_source: dict[str, tuple[int, int]] = Field(description="source: (rows, correct)")
    by_label: dict[str, tuple[int, int]] = Field(description="label: (rows, correct)")

    @property
    def accuracy(self) -> float:
        """Share of rows that were predicted right."""
        return self.correct / self.rows

    @property
    def source_accuracy(self) -> dict[str, float]:
        """The same for each source."""
        return {name: right / rows for name, (rows, right) in sorted(self.by_source.items())}


def predict(
    folder: Path, texts: Sequence[str], max_tokens: int, device: Any, batch_size: int = 64
) -> list[int]:
    """Return the label position that a verified model folder predicts for each text."""
    import torch

    from pedigree.training.model import load_classifier, pad_batch, tokenize

    model = load_classifier(folder).to(device)
    token_ids = tokenize(folder, texts, max_tokens)
    order = sorted(range(len(texts)), key=lambda row: (len(token_ids[row]), row))
    predicted = [0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = pad_batch(token_ids, rows, device)
            best = model(input_ids=ids, attention_mask=mask).logits.argmax(-1).tolist()
            for row, label in zip(rows, best, strict=True):
                predicted[row] = label
    return predicted


def score(predicted: Sequence[str], labels: Sequence[str], sources: Sequence[str]) -> Evaluation:
    """Count what is right."""
    by_source: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    by_label: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for guess, label, source in zip(predicted, labels, sources, strict=True):
        for counts in (by_source[source], by_label[label]):
            counts[0] += 1
            counts[1] += guess == label
    return Evaluation(
        rows=len(labels),
        correct=sum(right for _, right in by_label.values()),
        by_source={name: (rows, right) for name, (rows, right) in by_source.items()},
        by_label={name: (rows, right) for name, (rows, right) in by_label.items()},
    )


def check_accuracy(
    evaluation: Evaluation, previous: Evaluation | None, limits: AccuracyLimits
) -> CheckResult:
    """Check accuracy against floors and against the production model before, if there is one."""
    problems: list[str] = []
    if evaluation.accuracy < limits.floor:
        problems.append(f"accuracy {evaluation.accuracy:.3f} is below the floor {limits.floor}")
    for name, value in evaluation.source_accuracy.items():
        if value < limits.source_floor:
            problems.append(f"accuracy {value:.3f} on {name} is below {limits.source_floor}")
    if previous is not None:
        drop = previous.accuracy - evaluation.accuracy
        if _exceeds(drop, limits.max_drop):
            problems.append(
                f"accuracy is {drop:.3f} below production's (at most {limits.max_drop})"
            )
        problems += _source_drops(evaluation.source_accuracy, previous.source_accuracy, limits)
    counts: dict[str, JSON] = {
        "rows": evaluation.rows,
        "accuracy": round(evaluation.accuracy, 6),
        "by_source": {name: round(v, 6) for name, v in evaluation.source_accuracy.items()},
        "previous_accuracy": round(previous.accuracy, 6) if previous else None,
    }
    detail = ", ".join(f"{name} {v:.3f}" for name, v in evaluation.source_accuracy.items())
    return CheckResult(
        "evaluation_accuracy",
        not problems,
        f"{'; '.join(problems)}: look at the data's checks, or train longer."
        if problems
        else f"Accuracy is {evaluation.accuracy:.3f} on {evaluation.rows} rows ({detail}).",
        counts,
    )


def _source_drops(
    now: Mapping[str, float], before: Mapping[str, float], limits: AccuracyLimits
) -> list[str]:
    return [
        f"accuracy on {name} is {before[name] - now[name]:.3f} below production's (at most "
        f"{limits.max_source_drop})"
        for name in sorted(now.keys() & before.keys())
        if _exceeds(before[name] - now[name], limits.max_source_drop)
    ]


def _exceeds(drop: float, limit: float) -> bool:
    """Compare shares without the last bits of floating point: .90 - .87 is not more than .03."""
    return drop > limit + 1e-9
