"""What is exported about a model: each fact from a signed statement, and those statements.

The chain is followed by digest: model, base model, both snapshots, their curated documents, and the
sources of those. A link that is missing or not trusted refuses the export: a folder that looks
whole must be whole.

    >>> facts = collect_facts(store, "sha256:9f2c…")
    >>> [claim.kind for claim in facts.claims][:2]
    ['training', 'evaluation']
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from pedigree.digests import hex_of
from pedigree.errors import EvidenceMissing, VerificationFailed
from pedigree.evidence.store import PREDICATES, EvidenceStore, Statement
from pedigree.fetching import describe_uri
from pedigree.lineage import Answers, explain_model
from pedigree.registry import Promotion, find_training, list_promotions
from pedigree.training.record import TrainingRecord, read_record

# A reader starts with the model and goes back to its sources.
_ORDER = ("training", "evaluation", "promotion", "rebuild", "verdict", "snapshot", "curation")


@dataclass(frozen=True)
class Facts:
    """What is known about one model, all of it from `claims`.

    Attributes:
        model: the model's digest.
        record: what its training statement says.
        answers: the five questions, each with its whole answer.
        promotions: environments that it was given to, oldest first.
        evaluation: its newest evaluation, or None where it was never evaluated.
        snapshot: the statement about its training snapshot.
        claims: every trusted statement on the way from the model to its sources.
    """

    model: str
    record: TrainingRecord
    answers: Answers
    promotions: tuple[Promotion, ...]
    evaluation: Statement | None
    snapshot: Statement
    claims: tuple[Statement, ...]

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Sources of the training snapshot: id, rows, licence, uri, sha256 and more of each."""
        training = cast(dict[str, Any], self.answers.answers[2]["training"])
        sources = cast(list[dict[str, Any]], training["sources"])
        # Statements of older versions name files by their path on the machine.
        return [{**source, "uri": describe_uri(str(source["uri"]))} for source in sources]

    @property
    def base(self) -> dict[str, Any]:
        """The base model: id (`base`), digest, and where its weights are from."""
        said = cast(dict[str, Any], self.answers.answers[0])
        return {**said, "from": describe_uri(str(said["from"]))} if "from" in said else said

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts that training and promotion relied on."""
        return cast(list[dict[str, Any]], self.answers.answers[3]["verdicts"])


def collect_facts(store: EvidenceStore, digest: str) -> Facts:
    """Gather what is known about a model.

    Raises:
        EvidenceMissing: its training is not attested, or a link to what it is made of is missing.
        VerificationFailed: a statement on the way is not signed by a trusted key, or was changed.
    """
    record = read_record(find_training(store, digest))
    claims = tuple(_follow(store, digest, record))  # first: it says why a link is not trusted
    answers = explain_model(store, digest)
    if answers.missing:
        raise EvidenceMissing(
            f"Model {digest} cannot be exported: no trusted statement says "
            f"{'; '.join(answers.missing)}. Restore the evidence, or run the pipeline again."
        )
    by_kind = {kind: [c for c in claims if c.kind == kind] for kind in ("snapshot", "evaluation")}
    mine = f"sha256:{hex_of(record.inputs.training.digest)}"
    return Facts(
        digest,
        record,
        answers,
        tuple(one for one in list_promotions(store) if one.model == digest),
        max(by_kind["evaluation"], key=lambda one: str(one.predicate["evaluatedOn"]), default=None),
        next(one for one in by_kind["snapshot"] if subject_of(one) == mine),
        claims,
    )


def subject_of(statement: Statement) -> str:
    """Return the digest that a statement is about."""
    return "sha256:" + cast(str, statement.subjects[0]["digest"]["sha256"])


def _follow(store: EvidenceStore, digest: str, record: TrainingRecord) -> Iterator[Statement]:
    """Yield every statement about the model and about what it descends from, each once."""
    waiting = [
        digest,
        record.inputs.training.digest,
        record.evaluation_snapshot.digest,
        record.inputs.base.digest,
    ]
    found: dict[str, Statement] = {}
    seen: set[str] = set()
    while waiting:
        subject = waiting.pop(0)
        if subject in seen:
            continue
        seen.add(subject)
        for statement in _everything_about(store, subject):
            found[statement.digest] = statement
            waiting += _parents(statement)
    kinds = {kind: place for place, kind in enumerate(_ORDER)}
    yield from sorted(found.values(), key=lambda one: (kinds.get(one.kind, 99), one.digest))


def _everything_about(store: EvidenceStore, digest: str) -> Iterator[Statement]:
    for kind in PREDICATES:
        statements, problems = store.about(digest, kind)
        if problems:
            raise VerificationFailed(f"Evidence about {digest} is not exported: {problems[0]}")
        yield from statements


def _parents(statement: Statement) -> list[str]:
    said = statement.predicate
    if statement.kind == "snapshot":
        return ["sha256:" + cast(str, said["curated"]["sha256"])]
    if statement.kind == "curation":
        inputs = cast(dict[str, dict[str, str]], said["inputs"])
        return ["sha256:" + one["sha256"] for one in inputs.values()]
    return []
