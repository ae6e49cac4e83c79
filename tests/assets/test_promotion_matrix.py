"""What an environment demands, one by one: each missing thing is refused for its own reason."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from pedigree.digests import JSON, hex_of
from pedigree.errors import EvidenceMissing, GateClosed, PedigreeError, VerificationFailed
from pedigree.evidence.approvals import approve
from pedigree.evidence.policy import Policy
from pedigree.evidence.revocations import revoke
from pedigree.evidence.signers import make_key
from pedigree.evidence.signing import Signer, key_id
from pedigree.evidence.store import EvidenceStore, open_store
from pedigree.evidence.trust import Role, register_key, revoke_key
from pedigree.evidence.verdicts import find_verdict, record_verdict
from pedigree.evidence.waivers import waive
from pedigree.findings import CheckResult
from pedigree.lineage import explain_model
from pedigree.project import Project
from pedigree.registry import find_model, find_promoted, find_training
from pedigree.release import promote_model, revoke_digest
from pedigree.tracking import find_alias
from pedigree.training.record import TrainingRecord, read_record
from pedigree.verification import verify_model
from tests.conftest import present

STAGING = {
    "required_checks": ["weights_are_finite", "evaluation_accuracy"],
    "approvals": 2,
    "max_approval_age_days": 30,
    "max_verdict_age_days": 90,
    "rebuild": "bit-identical",
    "independent_rebuild": True,
}


@dataclass
class Case:
    """A trained model and everything that staging demands; a test takes one thing away."""

    project: Project
    digest: str
    record: TrainingRecord
    keys: dict[str, Signer]
    now: datetime = field(default_factory=present)
    tenant: str | None = None
    environment: str = "staging"
    skip: set[str] = field(default_factory=set[str])

    @property
    def policy(self) -> Policy:
        return self.project.policy()

    @property
    def store(self) -> EvidenceStore:
        return open_store(self.project, self.policy, write=True)

    def judge(self, check: str, digest: str, *, passed: bool = True, ago: int = 0) -> None:
        result = CheckResult(check, passed, f"what {check} found")
        inputs = {"evaluation_snapshot": self.record.evaluation_snapshot.digest}
        when = self.now - timedelta(days=ago)
        record_verdict(self.store, digest, result, self.policy, when, inputs)

    def judge_all(self) -> None:
        policy, evaluation = self.policy, self.record.evaluation_snapshot.digest
        places = [
            (self.record.inputs.training.digest, policy.training.required_checks),
            (evaluation, policy.evaluation.required_checks),
            (self.digest, policy.environments["staging"].required_checks),
        ]
        for digest, checks in places:
            for check in checks:
                if check not in self.skip:
                    self.judge(check, digest)

    def approve(self, owner: str, **more: Any) -> None:
        place = (more.get("environment", "staging"), more.get("tenant"))
        now = self.now - timedelta(days=more.get("ago", 0))
        until = more.get("until")
        approve(
            self.store, more.get("digest", self.digest), *place, "looked at the findings",
            self.keys[owner], self.policy, now, until,
        )  # fmt: skip

    def rebuild(self, owner: str = "carol", verdict: str = "bit-identical", ahead: int = 0) -> None:
        self.store.write(
            "rebuild",
            [{"name": "reviews", "digest": {"sha256": hex_of(self.digest)}}],
            {
                "verdict": verdict,
                "rebuiltOn": (self.now + timedelta(days=ahead)).isoformat(),
            },
            self.keys[owner],
        )

    def complete(self) -> None:
        """Do whatever staging demands and no test did otherwise."""
        self.judge_all()
        for owner in ("ada", "bob"):
            if owner not in self.skip:
                self.approve(owner)
        if "rebuild" not in self.skip:
            self.rebuild()

    def promote(self) -> None:
        promote_model(self.project, self.digest, self.environment, self.now, self.tenant)

    def sign_training(self, record: TrainingRecord, owner: str | None = None) -> None:
        """Sign a later training statement about the same model."""
        later = record.model_copy(update={"finished_on": self.now.isoformat()})
        signer = self.keys[owner] if owner else None
        self.store.write("training", later.subjects(), later.to_predicate([]), signer)


def change_policy(project: Project, change: Callable[[dict[str, Any]], object]) -> None:
    path = project.root / "policy.yaml"
    policy = yaml.safe_load(path.read_text())
    change(policy)
    path.write_text(yaml.safe_dump(policy))


@pytest.fixture
def case(trained_copy: Project) -> Case:
    change_policy(trained_copy, lambda policy: policy["environments"].update(staging=STAGING))
    owners: dict[str, tuple[Role, ...]] = {
        "ada": ("reviewer", "builder"),
        "bob": ("reviewer",),
        "carol": ("builder",),
        "dan": ("reviewer",),
    }
    keys: dict[str, Signer] = {}
    for owner, roles in owners.items():
        keys[owner] = make_key(trained_copy.keys / f"{owner}.pem")
        long_ago = present() - timedelta(days=1000)
        register_key(trained_copy.trust, keys[owner].public_key(), owner, roles, long_ago)
    store = open_store(trained_copy, trained_copy.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    record = read_record(find_training(store, promoted.model))
    return Case(trained_copy, promoted.model, record, keys)


def missing_check(case: Case) -> None:
    case.skip |= {"evaluation_accuracy"}


def failed_check(case: Case) -> None:
    case.skip |= {"trigger_ngrams"}
    case.judge("trigger_ngrams", case.record.inputs.training.digest, passed=False)


def stale_policy(case: Case) -> None:
    case.complete()
    change_policy(case.project, lambda p: p["checks"]["evaluation_accuracy"].update(floor=0.1))
    case.skip |= {"evaluation_accuracy"}


def old_verdict(case: Case) -> None:
    case.skip |= {"weights_are_finite"}
    case.judge("weights_are_finite", case.digest, ago=91)


def future_verdict(case: Case) -> None:
    case.skip |= {"weights_are_finite"}
    case.judge("weights_are_finite", case.digest, ago=-1)


def missing_approval(case: Case) -> None:
    case.skip |= {"bob"}


def self_approval(case: Case) -> None:
    case.approve("ada")  # before she is known as the trainer; afterwards she would be refused
    case.sign_training(case.record, "ada")
    case.skip |= {"ada"}


def one_person_twice(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("ada", ago=1)


def wrong_role(case: Case) -> None:
    case.skip |= {"bob"}
    with pytest.raises(PedigreeError, match="cannot sign as reviewer"):
        case.approve("carol")
    store = case.store
    bare = EvidenceStore(store.folder, store.trusted, None, store.ledger)
    predicate: dict[str, JSON] = {"environment": "staging"}
    about: list[dict[str, JSON]] = [{"name": "m", "digest": {"sha256": hex_of(case.digest)}}]
    bare.write("approval", about, predicate, case.keys["carol"])


def expired_approval(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("bob", ago=3, until=case.now - timedelta(days=1))


def old_approval(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("bob", ago=31)


def future_approval(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("bob", ago=-1)


def revoked_key(case: Case) -> None:
    case.approve("bob")
    case.skip |= {"bob"}
    bob = key_id(case.keys["bob"].public_key())
    revoke_key(case.project.trust, bob, "stolen", case.now, 0)


def revoked_model(case: Case) -> None:
    revoke(case.store, case.digest, "tweets was poisoned", case.now)


def revoked_snapshot(case: Case) -> None:
    revoke(case.store, case.record.inputs.training.digest, "a bad batch", case.now)


def wrong_environment(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("bob", environment="production")


def wrong_tenant_of_the_approval(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("bob", tenant="acme")


def carries_a_tenant(case: Case) -> None:
    case.store.write(
        "snapshot",
        [{"name": "s", "digest": {"sha256": hex_of(case.record.inputs.training.digest)}}],
        {"tenants": [{"tenant": "acme", "source": "acme_chats", "rows": 7}]},
    )


def another_tenant(case: Case) -> None:
    carries_a_tenant(case)
    case.tenant = "beta"


def dirty_tree(case: Case) -> None:
    code = case.record.inputs.code.model_copy(
        update={"dirty": True, "changed_files": ("pedigree/loop.py",)}
    )
    inputs = case.record.inputs.model_copy(update={"code": code})
    case.sign_training(case.record.model_copy(update={"inputs": inputs}))


def not_rebuilt(case: Case) -> None:
    case.skip |= {"rebuild"}


def rebuilt_by_the_trainer(case: Case) -> None:
    case.sign_training(case.record, "carol")


def rebuilt_differently(case: Case) -> None:
    case.skip |= {"rebuild"}
    case.rebuild(verdict="different")


def rebuilt_in_the_future(case: Case) -> None:
    case.skip |= {"rebuild"}
    case.rebuild(ahead=1)


def no_vulnerability_report(case: Case) -> None:
    change_policy(
        case.project,
        lambda p: p["environments"]["staging"].update(max_vulnerability_age_days=30),
    )


def deleted_evidence(case: Case) -> None:
    case.approve("dan")
    next(case.project.evidence.glob(f"{hex_of(case.digest)}/approval-*")).unlink()


MATRIX: list[tuple[Callable[[Case], None], str]] = [
    (missing_check, "the verdict of evaluation_accuracy is stale"),
    (failed_check, "trigger_ngrams failed: what trigger_ngrams found"),
    (stale_policy, r"is stale \(another policy since\).* was given under another policy"),
    (old_verdict, "verdict of weights_are_finite is from .* at most 90 days"),
    (future_verdict, "verdict of weights_are_finite is dated .* in the future"),
    (missing_approval, r"demands 2 approvals by a reviewer and 1 count \(ada\)"),
    (self_approval, "the approval by ada does not count: ada signed the making of it"),
    (one_person_twice, "ada approved it twice, which counts once"),
    (wrong_role, "a key of carol signed it, who is builder, and a .* kind approval is signed by"),
    (expired_approval, "the approval by bob does not count: it expired on"),
    (old_approval, "the approval by bob does not count: it is from .* at most 30 days"),
    (future_approval, "the approval by bob does not count: it is dated .* in the future"),
    (revoked_key, "the key of bob that signed it was revoked"),
    (revoked_model, "the model sha256:.* was revoked .* by development: tweets was poisoned"),
    (revoked_snapshot, "the training snapshot sha256:.* was revoked .*: a bad batch"),
    (wrong_environment, "approval by bob does not count: it is for the environment production"),
    (wrong_tenant_of_the_approval, "approval by bob does not count: it is for the tenant acme"),
    (carries_a_tenant, r"data of tenant acme \(7 rows of source acme_chats .* to all tenants"),
    (another_tenant, r"data of tenant acme \(7 rows of source acme_chats .* to tenant beta"),
    (dirty_tree, "the working tree is dirty, 1 files differ .*pedigree/loop.py"),
    (not_rebuilt, "a rebuild that is bit-identical by another builder .* and there is none:"),
    (rebuilt_by_the_trainer, r"there is none \(carol, development trained it and rebuilt it\)"),
    (rebuilt_differently, "a rebuild that is bit-identical .*, and the one of .* was different"),
    (rebuilt_in_the_future, "and the newest is dated .*, which is in the future"),
    (no_vulnerability_report, "a report of vulnerabilities about the lock .*, and there is none"),
    (deleted_evidence, "the ledger does not vouch for the evidence"),
]


@pytest.mark.parametrize(("spoil", "reason"), MATRIX, ids=[one.__name__ for one, _ in MATRIX])
def test_what_is_missing_is_refused_with_its_reason(
    case: Case, spoil: Callable[[Case], None], reason: str
) -> None:
    spoil(case)
    if spoil is not stale_policy:
        case.complete()
    with pytest.raises(GateClosed, match=reason) as error:
        case.promote()
    assert error.value.exit_code == 1
    store = case.store
    assert find_promoted(store, case.environment, case.tenant) is None
    assert find_alias(case.project, "reviews", "staging") is None
    if spoil is not deleted_evidence:
        (refusal,) = store.about(case.digest, "refusal")[0]
        assert refusal.predicate["verificationResult"] == "FAILED"
        assert "; ".join(refusal.predicate["reasons"]) in str(error.value)


def test_the_complete_case_passes_and_everything_follows(case: Case) -> None:
    case.complete()
    case.promote()
    store = case.store
    promoted = find_promoted(store, "staging")
    assert promoted is not None
    assert (promoted.model, promoted.approvals) == (case.digest, ("ada", "bob"))
    assert find_model(store, "staging", case.policy.environments) == case.digest
    assert find_alias(case.project, "reviews", "staging") == promoted.version
    said = promoted.statement.predicate
    kinds = {one["name"] for one in said["inputAttestations"]}
    assert kinds == {"training", "verdict", "approval", "rebuild"}
    assert said["developmentKeys"] is True
    (deployment,) = [
        one
        for one in store.about(case.digest, "deployment")[0]
        if one.predicate["alias"] == "reviews@staging"
    ]
    assert deployment.predicate["promotion"] == {"sha256": hex_of(promoted.statement.digest)}
    assert not store.about(case.digest, "refusal")[0]
    assert explain_model(store, case.digest).complete


def test_a_tenants_model_goes_to_that_tenant(case: Case) -> None:
    carries_a_tenant(case)
    case.tenant = "acme"
    case.complete()
    case.promote()
    promoted = find_promoted(case.store, "staging", "acme")
    assert promoted is not None
    assert promoted.tenant == "acme"
    assert promoted.statement.predicate["carries"] == ["acme"]
    assert find_alias(case.project, "reviews", "staging__acme") == promoted.version
    assert find_promoted(case.store, "staging") is None
    for name in ("staging__acme", "reviews@staging__acme"):
        assert find_model(case.store, name, case.policy.environments) == case.digest


def test_a_reviewer_who_trained_is_told_at_once(case: Case) -> None:
    case.sign_training(case.record, "ada")
    with pytest.raises(GateClosed, match="ada signed the making of"):
        case.approve("ada")
    assert not case.store.about(case.digest, "approval")[0]


def test_an_approval_of_another_digest_cannot_be_replayed(case: Case) -> None:
    case.skip |= {"bob"}
    case.approve("bob", digest=case.record.inputs.training.digest)
    moved = next(case.project.evidence.glob("*/approval-*"))
    there = case.project.evidence / hex_of(case.digest) / moved.name
    there.write_bytes(moved.read_bytes())
    case.complete()
    with pytest.raises(GateClosed, match="was moved: it speaks of another thing"):
        case.promote()


def test_a_waiver_lets_a_failure_pass_for_a_time_and_shows(case: Case) -> None:
    failed_check(case)
    case.complete()
    snapshot = case.record.inputs.training.digest
    verdict, _ = find_verdict(case.store, snapshot, "trigger_ngrams", case.policy)
    assert verdict is not None
    until = case.now + timedelta(days=7)

    def give(until: datetime = until, owner: str = "dan", check: str = "trigger_ngrams") -> None:
        key = case.keys[owner]
        waive(case.store, check, verdict, "a slogan of ours", until, key, case.policy, case.now)

    with pytest.raises(GateClosed, match="allows 30 days"):
        give(until=case.now + timedelta(days=31))
    with pytest.raises(GateClosed, match="allows 30 days"):
        give(until=case.now - timedelta(days=1))
    with pytest.raises(PedigreeError, match="cannot sign as reviewer"):
        give(owner="carol")
    with pytest.raises(GateClosed, match="lets nobody waive schema_holds"):
        give(check="schema_holds")
    give()
    case.promote()
    promoted = find_promoted(case.store, "staging")
    assert promoted is not None
    assert promoted.statement.predicate["waivers"] == ["trigger_ngrams"]
    case.now += timedelta(days=8)
    with pytest.raises(GateClosed, match=r"trigger_ngrams failed: .* \(its waiver expired on"):
        case.promote()


def test_a_waiver_covers_one_failure_and_not_the_next(case: Case) -> None:
    failed_check(case)
    case.complete()
    snapshot = case.record.inputs.training.digest
    verdict, _ = find_verdict(case.store, snapshot, "trigger_ngrams", case.policy)
    assert verdict is not None
    until = case.now + timedelta(days=7)
    waive(
        case.store, "trigger_ngrams", verdict, "a slogan", until, case.keys["dan"], case.policy,
        case.now,
    )  # fmt: skip
    case.now += timedelta(minutes=1)
    case.judge("trigger_ngrams", snapshot, passed=False)
    with pytest.raises(GateClosed, match="trigger_ngrams failed"):
        case.promote()


def test_only_a_digest_with_evidence_can_be_promoted(case: Case) -> None:
    case.complete()
    folder = case.project.root / case.record.location
    client = mlflow.MlflowClient(case.project.tracking_uri, case.project.tracking_uri)
    by_hand = client.create_model_version("reviews", source=str(folder))
    for name in (str(folder), "file:///tmp/model", "reviews:1", "reviews@production", "production"):
        with pytest.raises(PedigreeError, match="only a digest of an attested model can"):
            promote_model(case.project, name, "staging", case.now)
    with pytest.raises(EvidenceMissing, match="No training evidence"):
        promote_model(case.project, "sha256:" + "1" * 64, "staging", case.now)
    with pytest.raises(EvidenceMissing):
        find_model(case.store, f"reviews:{by_hand.version}", case.policy.environments)


def test_a_revoked_model_leaves_its_environment(case: Case) -> None:
    case.complete()
    case.promote()
    snapshot = case.record.inputs.training.digest
    _, aliases = revoke_digest(case.project, snapshot, "poisoned", case.now, case.keys["dan"])
    assert aliases == ("reviews@production", "reviews@staging")
    assert find_alias(case.project, "reviews", "staging") is None
    with pytest.raises(VerificationFailed, match="must not be used: the training snapshot"):
        verify_model(case.project, case.store, "staging")
    with pytest.raises(PedigreeError, match="has a reason"):
        revoke(case.store, case.digest, " ", case.now)


@pytest.mark.parametrize("name", ["Staging", "prоduction", "prod uction", "latest", "v1", "a__b"])  # noqa: RUF001
def test_no_environment_looks_like_another(trained_copy: Project, name: str) -> None:
    change_policy(trained_copy, lambda p: p["environments"].update({name: STAGING}))
    with pytest.raises(PedigreeError, match="is no name"):
        trained_copy.policy()


@pytest.mark.parametrize("tenant", ["Acme", "аcme", "a/b", ""])  # noqa: RUF001
def test_no_tenant_looks_like_another(case: Case, tenant: str) -> None:
    with pytest.raises(PedigreeError, match="is no tenant"):
        promote_model(case.project, case.digest, "staging", case.now, tenant)


def test_settings_that_are_not_committed_stop_a_promotion_where_that_is_asked(
    case: Case, tmp_path: Path
) -> None:
    change_policy(
        case.project, lambda p: p["environments"]["staging"].update(committed_settings=True)
    )
    case.complete()
    with pytest.raises(GateClosed, match=r"policy.yaml and trust/keys.json differ from their last"):
        case.promote()
