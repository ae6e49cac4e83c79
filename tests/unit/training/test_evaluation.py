"""Accuracy against scikit-learn, and the check of it at its thresholds."""

import random
import zipfile
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, recall_score

from pedigree.evidence.check_limits import AccuracyLimits
from pedigree.params import TrainingParams
from pedigree.training.evaluation import Evaluation, check_accuracy, predict, score
from pedigree.training.loop import TrainingRows, train
from pedigree.training.model import save_model
from tests.conftest import review_rows

LIMITS = AccuracyLimits(floor=0.7, source_floor=0.6, max_drop=0.03, max_source_drop=0.1)


def evaluation(**sources: tuple[int, int]) -> Evaluation:
    """Return an evaluation of (rows, correct) by source."""
    return Evaluation(
        rows=sum(count for count, _ in sources.values()),
        correct=sum(right for _, right in sources.values()),
        by_source=sources,
        by_label={"all": (1, 1)},
    )


def test_scores_are_those_of_scikit_learn() -> None:
    draw = random.Random(0)
    names = ["negative", "neutral", "positive"]
    labels = draw.choices(names, k=500)
    predicted = [one if draw.random() < 0.6 else draw.choice(names) for one in labels]
    sources = draw.choices(["forum", "shop"], k=500)
    found = score(predicted, labels, sources)
    assert found.rows == 500
    assert found.accuracy == accuracy_score(labels, predicted)
    for source in ("forum", "shop"):
        mine = [i for i in range(500) if sources[i] == source]
        expected = accuracy_score([labels[i] for i in mine], [predicted[i] for i in mine])
        assert found.source_accuracy[source] == expected
        assert found.by_source[source][0] == len(mine)
    recalls = recall_score(labels, predicted, labels=names, average=None)
    for name, recall in zip(names, recalls, strict=True):
        count, right = found.by_label[name]
        assert right / count == recall


def test_a_small_example_is_counted_as_by_hand() -> None:
    found = score(["a", "b", "b", "a"], ["a", "a", "b", "b"], ["x", "x", "y", "y"])
    assert (found.rows, found.correct) == (4, 2)
    assert found.by_source == {"x": (2, 1), "y": (2, 1)}
    assert found.by_label == {"a": (2, 1), "b": (2, 1)}


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        score(["a"], ["a", "b"], ["x", "x"])


def test_no_rows_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="rows"):
        score([], [], [])


@pytest.mark.parametrize(
    ("now", "before", "passed", "says"),
    [
        (evaluation(x=(1000, 700)), None, True, "Accuracy is 0.700 on 1000 rows"),
        (evaluation(x=(1000, 699)), None, False, "accuracy 0.699 is below the floor 0.7"),
        (evaluation(x=(900, 900), y=(100, 60)), None, True, "y 0.600"),
        (evaluation(x=(900, 900), y=(100, 59)), None, False, "accuracy 0.590 on y is below 0.6"),
        (evaluation(x=(1000, 875)), evaluation(x=(1000, 900)), True, "0.875"),
        (evaluation(x=(1000, 860)), evaluation(x=(1000, 900)), False, "0.040 below production"),
        (evaluation(x=(1000, 950)), evaluation(x=(1000, 900)), True, "0.950"),
        (
            evaluation(x=(900, 890), y=(100, 80)),
            evaluation(x=(900, 880), y=(100, 95)),
            False,
            "accuracy on y is 0.150 below production",
        ),
        (
            evaluation(x=(900, 890), z=(100, 70)),
            evaluation(x=(900, 880), y=(100, 95)),
            True,
            "z 0.700",
        ),
    ],
)  # fmt: skip
def test_floors_and_drops_decide(
    now: Evaluation, before: Evaluation | None, passed: bool, says: str
) -> None:
    result = check_accuracy(now, before, LIMITS)
    assert result.passed is passed
    assert says in result.summary
    assert result.check == "evaluation_accuracy"
    assert result.counts["previous_accuracy"] == (before.accuracy if before else None)


def test_every_problem_is_named() -> None:
    result = check_accuracy(
        evaluation(x=(100, 50), y=(100, 60)), evaluation(x=(100, 90), y=(100, 61)), LIMITS
    )
    for part in ("below the floor", "on x is below 0.6", "below production", "accuracy on x is"):
        assert part in result.summary
    assert "on y" not in result.summary


def test_a_drop_of_just_what_is_allowed_passes() -> None:
    assert check_accuracy(evaluation(x=(100, 87)), evaluation(x=(100, 90)), LIMITS).passed


@pytest.fixture(scope="module")
def model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that learned 160 reviews, saved as a folder."""
    folder = tmp_path_factory.mktemp("model")
    base = folder / "base"
    with zipfile.ZipFile(tiny_base) as archive:
        archive.extractall(base)
    table = review_rows(160)
    data = TrainingRows(
        [key for key, _, _ in table],
        [text for _, text, _ in table],
        [int(label == "positive") for _, _, label in table],
    )
    params = TrainingParams(
        epochs=8, learning_rate=0.01, max_tokens=32, lora_rank=4, cpu_capability="default"
    )
    labels = ("negative", "positive")
    device = torch.device("cpu")
    outcome = train(
        data, labels, params, base, device, folder / "work", "sha256:c", 0, lambda _: None
    )
    out = folder / "model"
    out.mkdir()
    save_model(outcome.model, params, base, "sha256:" + "b" * 64, out)
    return out


def test_predictions_are_those_of_transformers_in_any_batch_and_order(model: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = [text for _, text, _ in review_rows(60, 500)]
    texts[3] = " ".join(texts[3:9])  # longer than max_tokens
    tokenizer = AutoTokenizer.from_pretrained(model)
    classifier = AutoModelForSequenceClassification.from_pretrained(model).eval()
    expected = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            expected.append(int(classifier(**inputs).logits.argmax()))
    assert len(set(expected)) == 2
    device = torch.device("cpu")
    for batch_size in (1, 7, 64):
        assert predict(model, texts, 32, device, batch_size) == expected
    assert predict(model, texts[::-1], 32, device) == expected[::-1]


def test_a_model_that_learned_predicts_what_it_did_not_see(model: Path) -> None:
    table = review_rows(100, 700)
    labels = [int(label == "positive") for _, _, label in table]
    found = predict(model, [text for _, text, _ in table], 32, torch.device("cpu"))
    assert accuracy_score(labels, found) > 0.7
