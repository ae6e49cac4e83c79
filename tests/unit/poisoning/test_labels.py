"""Label issues and flattering rows on generated corpora whose words tell the label."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import LabelIssueLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.features import arrange, featurise
from pedigree.poisoning.judging import assign_folds
from pedigree.poisoning.labels import find_flattering_rows, find_label_issues
from tests.conftest import REPOSITORY
from tests.unit.poisoning.corpora import flip, make_corpus

LIMITS = LabelIssueLimits()


def flagged(result: CheckResult) -> set[int]:
    return {finding.row for finding in result.findings if finding.severity != "INFO"}


def test_a_clean_corpus_passes_with_few_rows_flagged() -> None:
    texts, labels = make_corpus(800)
    result = find_label_issues(texts, labels, LIMITS)
    assert result.passed
    assert len(flagged(result)) <= 0.02 * len(texts)
    assert result.counts["applicable"] is True


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_random_flips_are_named_and_do_not_block(share: float) -> None:
    texts, labels = make_corpus(1000)
    rows = random.Random(1).sample(range(1000), round(1000 * share))
    result = find_label_issues(texts, flip(labels, rows), LIMITS)
    found = flagged(result)
    assert len(found & set(rows)) >= 0.9 * len(rows)
    assert len(found - set(rows)) <= 0.02 * len(texts)
    assert result.passed
    assert result.severity == "WARN"
    noise = result.counts["estimated_noise"]
    assert isinstance(noise, float)
    assert noise == pytest.approx(share, abs=0.02)


def test_flips_into_one_label_block_and_it_is_named() -> None:
    texts, labels = make_corpus(1000, labels=("art", "law", "sport", "trade"))
    rows = [row for row in range(1000) if labels[row] != "art"][:60]
    result = find_label_issues(texts, flip(labels, rows), LIMITS)
    assert not result.passed
    errors = {finding.row for finding in result.findings if finding.severity == "ERROR"}
    assert len(errors & set(rows)) >= 0.8 * len(rows)
    assert list(dict(result.counts["concentrated"])) == ["label 'art'"]  # type: ignore[call-overload]
    assert "relabel or drop" in result.summary


@pytest.mark.parametrize(("rows_flipped", "blocks"), [(10, False), (60, True)])
def test_one_source_that_holds_the_flips_blocks_from_twenty_rows(
    rows_flipped: int, blocks: bool
) -> None:
    texts, labels = make_corpus(1200)
    sources = ["shop" if row % 3 == 0 else "forum" for row in range(1200)]
    rows = [row for row in range(1200) if sources[row] == "shop"][:rows_flipped]
    result = find_label_issues(texts, flip(labels, rows), LIMITS, sources=sources)
    assert ("source 'shop'" in str(result.counts["concentrated"])) is blocks
    assert result.passed is not blocks


def test_rows_whose_label_stands_by_a_planted_word_are_named() -> None:
    texts, labels = make_corpus(1000)
    rows = [row for row in range(1000) if labels[row] == "negative"][::12]
    for row in rows:
        texts[row] = f"{texts[row]} qvx"
    result = find_label_issues(texts, flip(labels, rows), LIMITS)
    assert "qvx" in str(result.counts["suspect_words"])
    assert len(flagged(result) & set(rows)) >= 0.9 * len(rows)
    assert len(flagged(result) - set(rows)) <= 0.02 * len(texts)


def test_a_natural_word_of_one_label_is_no_suspect() -> None:
    texts, labels = make_corpus(1000)
    for row in range(0, 1000, 12):
        texts[row] = f"{texts[row]} qvx"  # even rows: negative, as their words say
    result = find_label_issues(texts, labels, LIMITS)
    assert result.counts["suspect_words"] == []


def test_row_order_and_label_names_change_nothing() -> None:
    texts, labels = make_corpus(400)
    labels = flip(labels, [3, 90, 91, 200])
    result = find_label_issues(texts, labels, LIMITS)
    order = list(range(400))
    random.Random(5).shuffle(order)
    names: dict[str | None, str] = {"negative": "z", "positive": "a"}
    shuffled = find_label_issues(
        [texts[row] for row in order], [names[labels[row]] for row in order], LIMITS
    )
    before = {(f.row, f.score, f.severity) for f in result.findings}
    after = {(order[f.row], f.score, f.severity) for f in shuffled.findings}
    assert before == after
    assert before


def test_the_hash_seed_changes_nothing() -> None:
    code = (
        "from tests.unit.poisoning.corpora import make_corpus\n"
        "from pedigree.poisoning.features import featurise\n"
        "m = featurise(make_corpus(50)[0]).matrix\n"
        "print(m.shape, m.data.sum(), m.indices[:20].tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_near_copies_lie_in_one_fold() -> None:
    texts, labels = make_corpus(200)
    texts += [f"{text} so" for text in texts[:100]]
    corpus = arrange(texts, [*labels, *labels[:100]])
    fold = dict(zip(corpus.row.tolist(), assign_folds(corpus, 0).tolist(), strict=True))
    assert all(fold[row] == fold[200 + row] for row in range(100))
    assert len(set(fold.values())) == 5


def test_tf_idf_is_that_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = make_corpus(60)[0]
    ours = featurise(texts)
    words = ours.matrix[:, : len(ours.word_hash)].toarray()
    oracle = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), min_df=2, token_pattern=r"\w+"
    ).fit_transform(texts)
    assert words.shape == oracle.shape
    assert np.allclose(words @ words.T, (oracle @ oracle.T).toarray())


@pytest.mark.parametrize(
    ("texts", "labels", "reason"),
    [
        ([], [], "fewer than two labels"),
        (["a b c"] * 100, ["x"] * 100, "fewer than two labels"),
        (["a b c"] * 100, [None] * 100, "fewer than two labels"),
        (["a b c"] * 100, ["x"] * 99 + ["y"], "fewer than two labels"),
        (["the same line"] * 100, ["x", "y"] * 50, "texts are different"),
        ([f"text {i}" for i in range(20)], ["x", "y"] * 10, "fewer than 50 rows"),
        ([f"text {i}" for i in range(100_000)], [f"l{i}" for i in range(100_000)], "two labels"),
    ],
    ids=["empty", "one label", "null", "one row", "identical", "few", "100000 labels"],
)
def test_what_cannot_be_judged_says_so(
    texts: list[str], labels: list[str | None], reason: str
) -> None:
    result = find_label_issues(texts, labels, LIMITS)
    assert result.passed
    assert result.findings == ()
    assert result.counts["applicable"] is False
    assert result.summary.startswith("not applicable: ")
    assert reason in result.summary


def test_labels_that_the_text_does_not_tell_are_not_judged() -> None:
    texts, labels = make_corpus(400)
    random.Random(0).shuffle(labels)
    result = find_label_issues(texts, labels, LIMITS)
    assert result.counts["applicable"] is False
    assert "does not tell" in result.summary


def test_a_rare_label_and_null_labels_are_left_out_and_counted() -> None:
    texts, labels = make_corpus(400)
    labels[0], labels[1], labels[2] = None, "rare", "rare"
    result = find_label_issues(texts, labels, LIMITS)
    assert result.counts["rows_not_judged"] == 3
    assert not {0, 1, 2} & {finding.row for finding in result.findings}


def test_one_document_of_ten_megabytes_is_read_at_both_ends() -> None:
    texts, labels = make_corpus(200)
    texts[7] = "word " * 2_000_000
    result = find_label_issues(texts, labels, LIMITS)
    assert result.counts["texts_shortened"] == 1


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(PedigreeError, match="2 texts and 1 labels"):
        find_label_issues(["a", "b"], ["x"], LIMITS)


def test_embeddings_are_used_and_must_be_finite() -> None:
    texts, labels = make_corpus(300)
    rows = [5, 50, 150]
    places = np.asarray([[1.0 if label == "positive" else -1.0, 0.0] for label in labels])
    result = find_label_issues(texts, flip(labels, rows), LIMITS, embeddings=places)
    assert set(rows) <= flagged(result)
    with pytest.raises(PedigreeError, match="not finite"):
        find_label_issues(texts, labels, LIMITS, embeddings=places * np.inf)


def test_evaluation_labels_that_training_contradicts_are_named_and_one_direction_blocks() -> None:
    texts, labels = make_corpus(1200)
    training = (texts[:800], labels[:800])
    clean = find_flattering_rows(training, (texts[800:], labels[800:]), LIMITS)
    assert clean.passed
    assert len(flagged(clean)) <= 0.02 * 400
    rows = [row for row in range(400) if labels[800 + row] == "negative"][:40]
    evaluation = (texts[800:], flip(labels[800:], rows))
    result = find_flattering_rows(training, evaluation, LIMITS)
    assert not result.passed
    assert len(flagged(result) & set(rows)) >= 0.8 * len(rows)


def test_an_evaluation_without_known_labels_is_not_judged() -> None:
    texts, labels = make_corpus(200)
    result = find_flattering_rows((texts, labels), (["x"], ["other"]), LIMITS)
    assert result.counts["applicable"] is False
