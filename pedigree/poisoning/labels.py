"""Labels that the rest of the corpus contradicts, and evaluation labels that flatter.

Confident learning (Northcutt, Jiang and Chuang 2021) on probabilities from models that saw neither
the row nor its near-copies. It runs on the frozen table before training, without a GPU::

    >>> result = find_label_issues(texts, labels, LabelIssueLimits())
    >>> [(finding.row, finding.reason) for finding in result.findings]
    [(17, "the rest of the corpus takes it for 'positive' ...")]

Natural corpora have up to several per cent of wrong labels, so a flagged row is a warning. What
blocks is a label or a source that holds far more of them than the rest of the same corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import LabelIssueLimits
from pedigree.findings import (
    MAX_EXAMPLES,
    CheckResult,
    Finding,
    Severity,
    not_applicable,
    show_text,
)
from pedigree.poisoning.features import (
    Booleans,
    Floats,
    Integers,
    LabelledTexts,
    arrange,
    featurise,
    join_embeddings,
    name_word,
    single_thread,
)
from pedigree.poisoning.judging import Judgement, assign_folds, judge, judge_by
from pedigree.poisoning.trigger_blind import Suspect, find_suspects

MIN_ROWS = 50
# A label with fewer rows is not judged: five folds leave eight to learn it from.
MIN_LABEL_ROWS = 10
MAX_LABELS = 300
# Log-likelihood that the text must add to the labels' frequencies: a likelihood ratio of e^10.
MIN_GAIN = 10.0


@dataclass(frozen=True)
class _Group:
    """A label or source with far more issues than its overlap with others explains."""

    name: str
    issues: int
    expected: float
    places: Integers


def find_label_issues(
    texts: Sequence[str],
    labels: Sequence[str | None],
    limits: LabelIssueLimits,
    *,
    seed: int = 0,
    sources: Sequence[str] | None = None,
    embeddings: Floats | None = None,
) -> CheckResult:
    """Find rows whose label the other rows contradict; at most about `share` of correct ones.

    WARN: the likeliest label is further ahead of the given one than in `share` of correct rows,
    by the models' own probabilities, which poison does not move (`judge`). WARN too: rows whose
    label stands by a word alone. An out-of-fold model learns a trigger from the other poisoned rows
    and finds them all consistent; so words that hold up a label against the rest of their rows are
    looked for, and those rows are judged by models that learned neither (`find_suspects`). ERROR:
    such rows of a label or source whose issues are `concentration` times what is expected, and
    what the rest of the corpus shows. INFO: further rows that confident learning names.

    What cannot be judged passes as not applicable, with the reason. Random flips spread over the
    corpus never block: an honest corpus may be as noisy.

    Args:
        texts: (rows,) the texts; of one longer than 8,000 characters both ends are read.
        labels: (rows,) their labels; a row without one, or with a label of fewer than 10 rows, is
            not judged.
        limits: thresholds from the policy.
        seed: which folds are made.
        sources: (rows,) their sources.
        embeddings: (rows, dimensions) sentence embeddings, used beside words where given: they
            see what words do not say (SST-2: .43 of flips instead of .34).

    Raises:
        PedigreeError: the columns differ in length.
    """
    require_equal_lengths(texts, labels, sources, embeddings)
    corpus, reason = select(texts, labels)
    if reason:
        return not_applicable("label_issues", reason)
    with single_thread():
        fold = assign_folds(corpus, seed)
        features = featurise(corpus.texts)
        if embeddings is not None:
            features = join_embeddings(features, embeddings[corpus.row])
        first = judge(features.matrix, corpus, fold, limits.share)
        if first.calibration.fit < MIN_GAIN:
            return not_applicable("label_issues", "the text does not tell the labels")
        suspects, apart = find_suspects(corpus, features, first, limits.significance)
    flagged = first.doubt > first.threshold
    groups = _find_concentrations(corpus, first, flagged, limits, sources)
    rows = _Rows(corpus, first, flagged, suspects, apart, groups)
    return _report("label_issues", rows, texts, labels, sources)


def find_flattering_rows(
    training: tuple[Sequence[str], Sequence[str | None]],
    evaluation: tuple[Sequence[str], Sequence[str | None]],
    limits: LabelIssueLimits,
    *,
    seed: int = 0,
) -> CheckResult:
    """Find evaluation rows whose label the training data contradicts.

    Wrong labels that a poisoned model would agree with make it look better than it is; they lie
    in one direction. So each such row is a warning, and a label that gathers `concentration` times
    the issues expected blocks. Findings count rows of the evaluation table.

    Args:
        training: texts and labels to learn from.
        evaluation: texts and labels to judge.
        limits: thresholds from the policy.
        seed: which folds calibrate the model.

    Raises:
        PedigreeError: texts and labels differ in length.
    """
    name = "flattering_rows"
    require_equal_lengths(*training, None, None)
    require_equal_lengths(*evaluation, None, None)
    learned, reason = select(*training)
    if reason:
        return not_applicable(name, f"in the training data, {reason}")
    known = set(learned.names)
    given = [label if label in known else None for label in evaluation[1]]
    judged = arrange(evaluation[0], given).renamed(learned.names)
    if not judged.texts:
        return not_applicable(name, "no row has a label that training knows")
    with single_thread():
        matrix = featurise([*learned.texts, *judged.texts]).matrix
        border = len(learned.texts)
        fold = assign_folds(learned, seed)
        judgement, gain = judge_by(
            matrix[:border], learned, fold, matrix[border:], judged, limits.share
        )
    if gain < MIN_GAIN:
        return not_applicable(name, "the text does not tell the labels")
    flagged = judgement.doubt > judgement.threshold
    groups = _find_concentrations(judged, judgement, flagged, limits, None)
    rows = _Rows(judged, judgement, flagged, [], judgement.doubt, groups)
    return _report(name, rows, *evaluation, None)


def require_equal_lengths(
    texts: Sequence[str],
    labels: Sequence[str | None],
    sources: Sequence[str] | None,
    embeddings: Floats | None,
) -> None:
    """Refuse columns that are not of one table."""
    columns = {"labels": labels, "sources": sources, "embeddings": embeddings}
    for name, column in columns.items():
        if column is not None and len(column) != len(texts):
            raise PedigreeError(
                f"The table has {len(texts)} texts and {len(column)} {name}: expected one a row. "
                "Pass columns of one table."
            )


def select(texts: Sequence[str], labels: Sequence[str | None]) -> tuple[LabelledTexts, str | None]:
    """Return the rows that can be judged, or the reason why none can."""
    counts: dict[str, int] = {}
    for label in labels:
        if label is not None:
            counts[label] = counts.get(label, 0) + 1
    enough = {label for label, count in counts.items() if count >= MIN_LABEL_ROWS}
    reason = None
    if len(enough) < 2:
        reason = f"fewer than two labels have {MIN_LABEL_ROWS} rows"
    elif len(enough) > MAX_LABELS:
        reason = f"{len(enough)} labels are more than the {MAX_LABELS} that are judged at this cost"
    elif sum(counts[label] for label in enough) < MIN_ROWS:
        reason = f"fewer than {MIN_ROWS} rows have a label to judge"
    kept = [] if reason else [label if label in enough else None for label in labels]
    corpus = arrange(texts if not reason else [], kept)
    if not reason and len(np.unique(corpus.digest)) < MIN_ROWS:
        reason = f"fewer than {MIN_ROWS} texts are different"
    return corpus, reason


def _find_concentrations(
    corpus: LabelledTexts,
    judgement: Judgement,
    flagged: Booleans,
    limits: LabelIssueLimits,
    sources: Sequence[str] | None,
) -> list[_Group]:
    """Return the labels and sources that hold too many of the issues.

    The issues expected of a label or source if all its labels were correct follow from the models'
    probabilities; what is found is compared with `concentration` times that, times the ratio in
    the rest of the corpus (Poisson tail).
    """
    parts: list[tuple[str, Integers, Floats]] = []
    chance = judgement.calibration.probability * judgement.flaggable
    for index, name in enumerate(corpus.names):
        parts.append((f"label {name!r}", corpus.label == index, chance[:, index]))
    if sources is not None:
        named = np.asarray([sources[row] for row in corpus.row.tolist()], dtype=object)
        for name in sorted(set(named.tolist())):
            inside = named == name
            parts.append((f"source {name!r}", inside, np.where(inside, judgement.expected, 0)))
    total, issues = round(float(judgement.expected.sum()), 6), int(flagged.sum())
    groups: list[_Group] = []
    for name, inside, expectation in parts:
        expected, found = round(float(expectation.sum()), 6), int(flagged[inside].sum())
        rest = (issues - found) / max(total - expected, 1e-9)
        allowed = limits.concentration * max(1.0, rest) * expected
        tail = float(poisson.sf(found - 1, allowed)) * len(parts)
        excess = (found - expected) / max(int(inside.sum()), 1)
        if found >= limits.min_rows and excess >= limits.min_excess and tail < limits.significance:
            groups.append(_Group(name, found, expected, np.flatnonzero(inside & flagged)))
    return groups


@dataclass(frozen=True)
class _Rows:
    """What was found, in canonical order."""

    corpus: LabelledTexts
    judgement: Judgement
    flagged: Booleans
    suspects: list[Suspect]
    apart: Floats
    groups: list[_Group]

    def find_confident_issues(self) -> Booleans:
        """Return the rows that confident learning names as wrongly labelled."""
        import warnings

        from cleanlab.filter import find_label_issues as find_by_confident_learning

        probability = self.judgement.calibration.probability
        counts = np.bincount(self.corpus.label, minlength=probability.shape[1])
        if (counts == 0).any():
            return np.zeros(len(self.flagged), bool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = find_by_confident_learning(
                self.corpus.label, probability, filter_by="confident_learning", n_jobs=1
            )
        return np.asarray(found, bool) & (self.judgement.doubt > 0)


def _report(
    check: str,
    rows: _Rows,
    texts: Sequence[str],
    labels: Sequence[str | None],
    sources: Sequence[str] | None,
) -> CheckResult:
    """Turn what was found into findings by table row, figures and a sentence."""
    findings = tuple(sorted(_list_findings(rows), key=lambda one: one.row))
    failed = bool(rows.groups)
    named = [one for one in findings if one.severity != "INFO"]
    calibration = rows.judgement.calibration
    truth = calibration.probability.mean(axis=0)
    wrong = round(float((calibration.noise * (1 - truth)).sum()), 9)
    counts: dict[str, JSON] = {
        "applicable": True,
        "rows": len(texts),
        "rows_not_judged": len(texts) - len(rows.corpus.row),
        "rows_flagged": len(named),
        "expected_among_correct": round(float(rows.judgement.expected.sum()), 1),
        "confident_learning_issues": len(findings),
        "estimated_noise": round(wrong, 4),
        "threshold_log_odds": rows.judgement.threshold,
        "texts_shortened": rows.corpus.shortened,
        "suspect_words": [_name(rows.corpus, one) for one in rows.suspects[:MAX_EXAMPLES]],
        "concentrated": {one.name: one.issues for one in rows.groups},
    }
    where = "; ".join(
        f"{one.name} holds {one.issues} of them, {one.expected:.0f} expected" for one in rows.groups
    )
    summary = (
        f"The rest of the corpus contradicts the label of {len(named)} of {len(texts)} rows "
        f"({rows.judgement.expected.sum():.0f} expected if all labels were right; about "
        f"{wrong:.1%} of labels look given without regard to the text)."
    )
    if failed:
        summary += f" {where}. Review these rows and relabel or drop them at their source."
    return CheckResult(
        check, not failed, summary, counts, findings, _examples(named, texts, labels, sources)
    )


def _list_findings(rows: _Rows) -> list[Finding]:
    blocked: dict[int, str] = {}
    for group in rows.groups:
        blocked |= {place: group.name for place in group.places.tolist()}
    confident = rows.find_confident_issues()
    found: dict[int, Finding] = {}
    for place in np.flatnonzero(rows.flagged | confident).tolist():
        severity: Severity = "WARN" if rows.flagged[place] else "INFO"
        severity = "ERROR" if place in blocked else severity
        found[place] = _find(rows, place, severity, blocked.get(place))
    for suspect in rows.suspects:
        word = _name(rows.corpus, suspect)
        for place in suspect.places.tolist():
            if place not in found or found[place].severity == "INFO":
                found[place] = _find_leaning(rows, place, suspect, word)
    return list(found.values())


def _find(rows: _Rows, place: int, severity: Severity, group: str | None) -> Finding:
    corpus, doubt = rows.corpus, float(rows.judgement.doubt[place])
    other = corpus.names[int(rows.judgement.scores[place].argmax())]
    given = corpus.names[int(corpus.label[place])]
    return Finding(
        int(corpus.row[place]),
        round(doubt, 6),
        severity,
        f"the rest of the corpus takes it for {other!r}, not {given!r} (log-odds {doubt:.1f}, "
        f"limit {rows.judgement.threshold:.1f})",
        group or f"{given!r} that reads as {other!r}",
    )


def _find_leaning(rows: _Rows, place: int, suspect: Suspect, word: str) -> Finding:
    doubt = float(rows.apart[place])
    given = rows.corpus.names[suspect.label]
    return Finding(
        int(rows.corpus.row[place]),
        round(max(doubt, 0.0), 6),
        "WARN",
        f"label {given!r} stands by {word!r} alone: the rest of the text contradicts it "
        f"(log-odds {doubt:.1f}), as in {len(suspect.places)} of {suspect.rows} such rows",
        f"word {word!r}",
    )


def _name(corpus: LabelledTexts, suspect: Suspect) -> str:
    return name_word(suspect.word, [corpus.texts[place] for place in suspect.places.tolist()])


def _examples(
    named: Sequence[Finding],
    texts: Sequence[str],
    labels: Sequence[str | None],
    sources: Sequence[str] | None,
) -> tuple[dict[str, JSON], ...]:
    worst = sorted(named, key=lambda one: (one.severity != "ERROR", -one.score, one.row))
    records: list[dict[str, JSON]] = []
    for one in worst[:MAX_EXAMPLES]:
        record: dict[str, JSON] = {
            "row": one.row,
            "label": labels[one.row],
            "reason": one.reason,
            "text": show_text(texts, one.row),
        }
        if sources is not None:
            record["source"] = sources[one.row]
        records.append(record)
    return tuple(records)
