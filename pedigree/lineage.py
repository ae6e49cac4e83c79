"""The five questions about a model, answered from signed statements and never by guessing.

    1. What base model is it built on, and where did those weights come from?
    2. Which adapters, fine-tunes and merges were applied, in which order?
    3. Which data snapshots, sources and labelling batches went in?
    4. Which checks passed, on exactly which bytes, under which policy?
    5. Who approved it, for which environment and tenant, and can it be rebuilt?

A link without trusted evidence is UNKNOWN, and then `Answers.complete` is false.

    >>> answers = explain_model(store, "sha256:9f2c…")
    >>> answers.complete
    True
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from pedigree.admission.transitions import find_newest_passage
from pedigree.digests import JSON
from pedigree.errors import VerificationFailed
from pedigree.evidence.revocations import find_revocations
from pedigree.evidence.store import EvidenceStore, Statement
from pedigree.excluded import merge_excluded, name_excluded
from pedigree.registry import (
    Promotion,
    alias_of,
    environment_uri,
    find_training,
    list_promotions,
)
from pedigree.training.record import SnapshotInput, TrainingRecord, read_record

UNKNOWN = "UNKNOWN"
NOT_RECORDED = "not recorded"
QUESTIONS = (
    "What base model is it built on, and where did those weights come from?",
    "Which adapters, fine-tunes and merges were applied, in which order?",
    "Which data snapshots, sources and labelling batches went in?",
    "Which checks passed, on exactly which bytes, under which policy?",
    "Who approved it, for which environment and tenant, and can it be rebuilt?",
)


@dataclass
class Answers:
    """What evidence says about one model: an answer a question, and the links that are missing."""

    model: str
    name: str
    answers: list[dict[str, JSON]] = field(default_factory=list[dict[str, JSON]])
    missing: list[str] = field(default_factory=list[str])

    @property
    def complete(self) -> bool:
        """Whether every link was found."""
        return not self.missing

    def unknown(self, what: str) -> str:
        """Note a missing link and return what stands in its place."""
        self.missing.append(what)
        return UNKNOWN


def explain_model(store: EvidenceStore, digest: str) -> Answers:
    """Answer the five questions about a model.

    Raises:
        EvidenceMissing: its training is not attested.
        VerificationFailed: its training statement is not trusted.
    """
    training = find_training(store, digest)
    record = read_record(training)
    promotions = [one for one in list_promotions(store) if one.model == digest]
    answers = Answers(digest, record.model_name)
    answers.answers += [
        _explain_base(store, answers, record),
        _explain_changes(record),
        _explain_data(store, answers, record),
        _explain_checks(store, answers, training, record, promotions),
        _explain_release(store, training, record, promotions),
    ]
    return answers


def _newest(store: EvidenceStore, digest: str, kind: str, stamp: str) -> Statement | None:
    found = store.about(digest, kind)[0]
    return max(found, key=lambda one: str(one.predicate.get(stamp, "")), default=None)


def _explain_base(
    store: EvidenceStore, answers: Answers, record: TrainingRecord
) -> dict[str, JSON]:
    base = record.inputs.base
    if record.inputs.params.method == "scratch":
        return {
            "base": "none: trained from scratch",
            "tokenizer_from": base.id,
            "digest": base.digest,
        }
    statement = _newest(store, base.digest, "base-model", "fetchedOn")
    said = statement.predicate if statement else None
    return {
        "base": base.id,
        "digest": base.digest,
        "from": said["uri"] if said else answers.unknown(f"where base model {base.digest} is from"),
        "file_sha256": said["uriDigest"]["sha256"] if said else UNKNOWN,
        "publisher": said["publisher"] if said else UNKNOWN,
        "licence": said["licence"] if said else UNKNOWN,
        "fetched_on": said["fetchedOn"] if said else UNKNOWN,
        "admission": explain_admission(store, answers, base.digest),
    }


def explain_admission(store: EvidenceStore, answers: Answers, digest: str) -> str:
    """Return what the gate said of a base model last, and from what it was converted here.

    Models from before the gate have nothing.
    """
    statements, problems = store.about(digest, "admission")
    if problems:
        return answers.unknown(f"whether the base model {digest} was admitted")
    if not statements:
        return "none: it came in before there was a gate"
    decision = find_newest_passage(store, digest)[-1].predicate
    said = f"{decision['state']} on {decision['decidedOn']}"
    made = [one.predicate for one in statements if one.predicate["state"] == "converted"]
    if not made:
        return said
    newest = max(made, key=lambda one: str(one["decidedOn"]))
    parent, waiver = f"sha256:{newest['parent']['sha256']}", newest.get("waiver")
    said += f"; converted here from {parent} ({newest['reason']})"
    if waiver:
        given = [
            one for one in store.about(parent, "waiver")[0] if one.digest[7:] == waiver["sha256"]
        ]
        by = store.owner(given[0]) if given else answers.unknown(f"who let {parent} be converted")
        said += f", by a waiver of {by}"
    return said


def _explain_changes(record: TrainingRecord) -> dict[str, JSON]:
    params = record.inputs.params
    step: dict[str, JSON] = {
        "step": 1,
        "what": "LoRA fine-tune, merged" if params.method == "lora" else "training from scratch",
        "adapter": record.adapter_digest,
        "parameters": cast(JSON, params.model_dump(mode="json")),
        "on": record.inputs.training.digest,
    }
    return {"steps": [step], "adapters_from_outside": []}


def _explain_data(
    store: EvidenceStore, answers: Answers, record: TrainingRecord
) -> dict[str, JSON]:
    return {
        "training": _explain_snapshot(store, answers, record.inputs.training),
        "evaluation": _explain_snapshot(store, answers, record.evaluation_snapshot),
    }


def _explain_snapshot(
    store: EvidenceStore, answers: Answers, snapshot: SnapshotInput
) -> dict[str, JSON]:
    about: dict[str, JSON] = {
        "digest": snapshot.digest,
        "rows": snapshot.rows,
        "dvc_md5": snapshot.dvc.md5,
        "dvc_path": snapshot.dvc.path,
    }
    statement = _newest(store, snapshot.digest, "snapshot", "")
    if statement is None:
        return {**about, "sources": answers.unknown(f"what snapshot {snapshot.digest} consists of")}
    curated = "sha256:" + cast(str, statement.predicate["curated"]["sha256"])
    curation = _newest(store, curated, "curation", "")
    inputs = cast(dict[str, dict[str, str]], curation.predicate["inputs"]) if curation else {}
    sources: list[JSON] = []
    for part in cast(list[dict[str, JSON]], statement.predicate["bySource"]):
        name = cast(str, part["source"])
        raw = inputs.get(name)
        origin = _newest(store, raw["sha256"], "source", "fetchedOn") if raw else None
        said = origin.predicate if origin else {}
        if origin is None:
            answers.unknown(f"where the rows of source {name} are from")
        sources.append(
            {
                "source": name,
                "rows": part["rows"],
                # That nobody recorded these is itself what evidence says: not a missing link.
                "label_batch": part["label_batch"] or NOT_RECORDED,
                "guideline_version": part["guideline_version"] or NOT_RECORDED,
                "annotators": part["annotators"] or NOT_RECORDED,
                **{
                    key: cast(JSON, said.get(key, UNKNOWN))
                    for key in ("uri", "sha256", "kind", "licence", "collector", "fetchedOn")
                },
            }
        )
    statements = store.about(snapshot.digest, "snapshot")[0]
    without: list[JSON] = [*name_excluded(merge_excluded(statements))]
    return {**about, "curated": curated, "sources": sources, "without": without}


def _explain_checks(
    store: EvidenceStore,
    answers: Answers,
    training: Statement,
    record: TrainingRecord,
    promotions: list[Promotion],
) -> dict[str, JSON]:
    """List the verdicts that training relied on, and those that promotion relied on."""
    places = {
        "training_snapshot": record.inputs.training.digest,
        "evaluation_snapshot": record.evaluation_snapshot.digest,
        "model": answers.model,
    }
    known = {
        statement.digest: (place, statement)
        for place, digest in places.items()
        for statement in store.about(digest, "verdict")[0]
    }
    relied = [
        (str(item["name"]).removeprefix("verdict:"), "sha256:" + str(item["digest"]["sha256"]))
        for item in cast(
            list[dict[str, Any]],
            training.predicate["buildDefinition"]["resolvedDependencies"],
        )
        if str(item["name"]).startswith("verdict:")
    ]
    if not relied:
        answers.unknown("which verdicts training relied on")
    by_training = {digest for _, digest in relied}
    for promotion in promotions[-1:]:
        relied += [
            ("verdict", "sha256:" + str(item["digest"]["sha256"]))
            for item in cast(
                list[dict[str, Any]], promotion.statement.predicate["inputAttestations"]
            )
            if item["name"] == "verdict" and "sha256:" + item["digest"]["sha256"] not in by_training
        ]
    if not promotions:
        relied += [("", digest) for digest, (place, _) in known.items() if place == "model"]
    return {
        "verdicts": [
            _describe_verdict(answers, name, digest, known.get(digest))
            for name, digest in dict.fromkeys(relied)
        ]
    }


def _describe_verdict(
    answers: Answers, name: str, digest: str, known: tuple[str, Statement] | None
) -> dict[str, JSON]:
    if known is None:
        answers.unknown(f"the verdict {digest} ({name}), which was relied on")
        return {"check": name, "verdict": digest, "result": UNKNOWN, "on": UNKNOWN}
    place, statement = known
    said = statement.predicate
    tests = [*said["passedTests"], *said["warnedTests"], *said["failedTests"]]
    configuration = {item["name"]: item["digest"]["sha256"] for item in said["configuration"]}
    return {
        "check": tests[0],
        "result": said["result"],
        "on": place,
        "digest": "sha256:" + statement.subjects[0]["digest"]["sha256"],
        "policy": "sha256:" + configuration["policy"],
        "verdict": digest,
        "summary": said["summary"],
    }


def _explain_release(
    store: EvidenceStore,
    training: Statement,
    record: TrainingRecord,
    promotions: list[Promotion],
) -> dict[str, JSON]:
    inputs = record.inputs
    rebuilt = _newest(store, record.model_digest, "rebuild", "rebuiltOn")
    obstacles: list[JSON] = []
    if inputs.code.dirty:
        obstacles.append("the code differed from its commit")
    if inputs.environment.lock_sha256 is None:
        obstacles.append("no lock was recorded")
    if inputs.params.mode != "strict":
        obstacles.append("it was trained in fast mode")
    return {
        "environments": [
            {
                "environment": promotion.environment,
                "model_version": f"{promotion.name}:{promotion.version}",
                "promoted_on": promotion.promoted_on,
                "policy": promotion.policy,
                "approvals_demanded": promotion.statement.predicate["approvalsDemanded"],
                "approved_by": list(promotion.approvals),
                "tenant": promotion.tenant or "all",
                "carries": list(promotion.statement.predicate.get("carries", [])),
                "waivers": list(promotion.statement.predicate.get("waivers", [])),
                # Statements from before the keys had roles were all signed with such a key.
                "development_keys": promotion.statement.predicate.get("developmentKeys", True),
                "statement": promotion.statement.digest,
            }
            for promotion in promotions
        ],
        "attestation": training.digest,
        "trained_by": store.owner(training),
        "revoked": list[JSON](find_revocations(store, record.ingredients())),
        "refused": list[JSON](_explain_refusals(store, record.model_digest)),
        "rebuild": {
            "possible": not obstacles,
            "obstacles": obstacles,
            "commit": inputs.code.commit,
            "lock_sha256": inputs.environment.lock_sha256,
            "mode": inputs.params.mode,
            "verdict": (
                f"{rebuilt.predicate['verdict']} on {rebuilt.predicate['rebuiltOn']}, signed by "
                f"{store.owner(rebuilt)}"
            )
            if rebuilt
            else "none yet",
            "verdicts": list[JSON](_explain_rebuilds(store, training, record.model_digest)),
        },
    }


def _explain_rebuilds(
    store: EvidenceStore, training: Statement, digest: str
) -> list[dict[str, JSON]]:
    """Return each rebuild verdict with whose key signed it, oldest first."""
    found = store.about(digest, "rebuild")[0]
    return [
        {
            "verdict": one.predicate["verdict"],
            # Statements from before there was a reason list differences alone.
            "reason": one.predicate.get("reason")
            or "; ".join(one.predicate.get("differences", ())),
            "tolerance": one.predicate.get("accuracyTolerance"),
            "rebuilt_on": one.predicate["rebuiltOn"],
            "signed_by": store.owner(one),
            "key": one.signer,
            "independent": one.signer != training.signer,
            "statement": one.digest,
        }
        for one in sorted(found, key=lambda one: str(one.predicate["rebuiltOn"]))
    ]


def _explain_refusals(store: EvidenceStore, digest: str) -> list[dict[str, JSON]]:
    """Return each promotion that was refused and recorded, oldest first."""
    refusals = [one.predicate for one in store.about(digest, "refusal")[0]]
    return [
        {
            "environment": str(said["resourceUri"]).removeprefix(environment_uri("", None)),
            "refused_on": said["timeVerified"],
            "reasons": list(said["reasons"]),
        }
        for said in sorted(refusals, key=lambda said: str(said["timeVerified"]))
    ]


@dataclass(frozen=True)
class ModelLine:
    """One model in a list."""

    model: str
    name: str
    base: str
    adapters: tuple[str, ...]
    snapshots: tuple[str, ...]
    environments: tuple[str, ...]
    approved_by: tuple[str, ...]
    accuracy: float | None
    trained_on: str
    revoked: bool = False


def list_models(store: EvidenceStore) -> Iterator[ModelLine]:
    """Yield every attested model, oldest first; an environment names the model it holds now."""
    holds = {alias_of(one.environment, one.tenant): one for one in list_promotions(store)}
    newest: dict[str, Statement] = {}
    for statement in store.all("training"):
        newest["sha256:" + statement.subjects[0]["digest"]["sha256"]] = statement
    lines = [_describe_model(store, digest, one, holds) for digest, one in newest.items()]
    yield from sorted(lines, key=lambda line: (line.trained_on, line.model))


def _describe_model(
    store: EvidenceStore, digest: str, statement: Statement, holds: dict[str, Promotion]
) -> ModelLine:
    record = read_record(statement)
    if record.model_digest != digest:
        raise VerificationFailed(f"The statement {statement.path} was moved.")
    evaluation = _newest(store, digest, "evaluation", "evaluatedOn")
    mine = [promotion for promotion in holds.values() if promotion.model == digest]
    return ModelLine(
        model=digest,
        name=record.model_name,
        base=f"{record.inputs.base.id} {record.inputs.base.digest}",
        adapters=(record.adapter_digest,) if record.adapter_digest else (),
        snapshots=(record.inputs.training.digest,),
        environments=tuple(sorted(alias_of(one.environment, one.tenant) for one in mine)),
        approved_by=tuple(sorted({who for promotion in mine for who in promotion.approvals})),
        accuracy=cast(float, evaluation.predicate["accuracy"]) if evaluation else None,
        trained_on=record.finished_on,
        revoked=bool(find_revocations(store, record.ingredients())),
    )
