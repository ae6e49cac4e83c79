"""Verdicts and the gate: what counts, what is stale, and what the refusal says."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pedigree.checks import CHECKS, find_check
from pedigree.digests import digest_bytes, sha256_hex
from pedigree.errors import GateClosed, PedigreeError
from pedigree.evidence.policy import Policy, load_policy
from pedigree.evidence.store import EvidenceStore
from pedigree.evidence.verdicts import find_verdict, record_verdict, require_passed, verdict_check
from pedigree.findings import CheckResult, Finding
from tests.conftest import NOW, REPOSITORY

POLICY = load_policy(REPOSITORY / "policy.yaml")
DIGEST, OTHER = digest_bytes(b"one"), digest_bytes(b"other")
CHECK = "evaluation_leakage"
KEY = Ed25519PrivateKey.generate()
LATER = NOW + timedelta(days=400)


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(tmp_path / "evidence", (KEY.public_key(),), KEY)


def outcome(name: str = CHECK, passed: bool = True, warn: bool = False) -> CheckResult:
    findings = (Finding(0, 1.0, "WARN", "odd", "g"),) if warn else ()
    return CheckResult(name, passed, f"What {name} found.", {"rows": 5}, findings)


def record(store: EvidenceStore, result: CheckResult, when: datetime = NOW, **more: Any) -> None:
    policy = more.pop("policy", POLICY)
    record_verdict(store, more.pop("digest", DIGEST), result, policy, when, **more)


def gate(
    store: EvidenceStore,
    required: Sequence[str] = (CHECK,),
    policy: Policy = POLICY,
    inputs: dict[str, str] | None = None,
) -> list[str]:
    passed = require_passed(store, DIGEST, required, policy, "training", LATER, inputs)
    return [verdict_check(one) for one in passed]


def refusal(store: EvidenceStore, *arguments: Any, **more: Any) -> str:
    with pytest.raises(GateClosed) as error:
        gate(store, *arguments, **more)
    assert error.value.exit_code == 1
    return str(error.value)


def another_policy() -> Policy:
    values = POLICY.model_dump()
    values["checks"]["evaluation_leakage"]["max_rows"] = 1
    return Policy.model_validate(values)


def test_a_verdict_says_what_was_checked_under_what_and_when(store: EvidenceStore) -> None:
    when = datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    statement = record_verdict(
        store, DIGEST, outcome(warn=True), POLICY, when, {"evaluation_snapshot": OTHER}
    )
    assert statement.content["predicateType"] == ("https://in-toto.io/attestation/test-result/v0.1")
    assert statement.subjects == (
        {"name": "snapshot", "digest": {"sha256": DIGEST.removeprefix("sha256:")}},
    )
    predicate = statement.predicate
    assert (predicate["result"], predicate["warnedTests"]) == ("WARNED", [CHECK])
    assert (predicate["passedTests"], predicate["failedTests"]) == ([], [])
    assert predicate["summary"] == f"What {CHECK} found."
    assert predicate["counts"] == {"rows": 5}
    assert predicate["checkedOn"] == "2026-01-02T03:04:05+00:00"
    configuration = {one["name"]: one["digest"]["sha256"] for one in predicate["configuration"]}
    assert configuration == {
        "policy": POLICY.digest().removeprefix("sha256:"),
        "check-code": find_check(CHECK).code_digest().removeprefix("sha256:"),
        "evaluation_snapshot": OTHER.removeprefix("sha256:"),
    }


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (outcome(), "PASSED"),
        (outcome(warn=True), "WARNED"),
        (outcome(passed=False), "FAILED"),
        (outcome(passed=False, warn=True), "FAILED"),
    ],
)
def test_what_a_result_says_is_what_its_verdict_says(
    store: EvidenceStore, result: CheckResult, says: str
) -> None:
    record(store, result)
    found, problem = find_verdict(store, DIGEST, CHECK, POLICY)
    assert found is not None
    assert (found.predicate["result"], problem) == (says, "")
    assert verdict_check(found) == CHECK


def test_passed_and_warned_verdicts_open_the_gate(store: EvidenceStore) -> None:
    record(store, outcome())
    record(store, outcome("schema_holds", warn=True))
    assert gate(store, [CHECK, "schema_holds"]) == [CHECK, "schema_holds"]


def test_a_missing_verdict_closes_the_gate(store: EvidenceStore) -> None:
    message = refusal(store)
    assert message.startswith(f"Training is refused for snapshot {DIGEST}: ")
    assert f"the verdict of {CHECK} is missing" in message
    assert "pedigree run --until checks" in message


def test_a_verdict_about_something_else_is_none_about_this(store: EvidenceStore) -> None:
    record(store, outcome(), digest=OTHER)
    record(store, outcome("schema_holds"))
    assert "is missing" in refusal(store)


def test_a_failed_verdict_closes_the_gate_with_its_summary(store: EvidenceStore) -> None:
    record(store, outcome(passed=False))
    message = refusal(store)
    assert f"{CHECK} failed: What {CHECK} found." in message
    assert DIGEST in message


def test_every_reason_is_named_at_once(store: EvidenceStore) -> None:
    record(store, outcome(passed=False))
    record(store, outcome("schema_holds"))
    record(store, outcome("near_duplicate_label_conflicts"), policy=another_policy())
    required = [
        CHECK, "schema_holds", "near_duplicate_label_conflicts", "snapshot_digest_matches",
    ]  # fmt: skip
    message = refusal(store, required)
    assert f"{CHECK} failed" in message
    assert "near_duplicate_label_conflicts is stale" in message
    assert "snapshot_digest_matches is missing" in message
    assert "schema_holds" not in message


@pytest.mark.parametrize("order", ["passed then failed", "failed then passed"])
def test_the_newest_verdict_counts(store: EvidenceStore, order: str) -> None:
    first = order.startswith("passed")
    record(store, outcome(passed=not first), NOW + timedelta(microseconds=1))
    record(store, outcome(passed=first), NOW)
    if first:
        assert "failed" in refusal(store)
    else:
        assert gate(store) == [CHECK]


def test_the_newest_counts_whatever_time_zone_it_was_recorded_in(store: EvidenceStore) -> None:
    east = timezone(timedelta(hours=9))
    record(store, outcome(), NOW)
    record(store, outcome(passed=False), (NOW + timedelta(minutes=1)).astimezone(east))
    record(store, outcome(), NOW - timedelta(hours=1))
    assert "failed" in refusal(store)


def test_a_changed_policy_makes_a_verdict_stale(store: EvidenceStore) -> None:
    record(store, outcome())
    message = refusal(store, policy=another_policy())
    assert f"the verdict of {CHECK} is stale (another policy since)" in message
    record(store, outcome(), policy=another_policy())
    assert gate(store, policy=another_policy()) == [CHECK]
    assert gate(store) == [CHECK]


def test_a_failure_under_another_policy_does_not_count_either(store: EvidenceStore) -> None:
    record(store, outcome(passed=False), NOW + timedelta(days=1), policy=another_policy())
    record(store, outcome())
    assert gate(store) == [CHECK]


def test_another_evaluation_snapshot_makes_a_verdict_stale(store: EvidenceStore) -> None:
    record(store, outcome(), inputs={"evaluation_snapshot": DIGEST})
    message = refusal(store, inputs={"evaluation_snapshot": OTHER})
    assert "is stale (another evaluation_snapshot since)" in message
    assert gate(store, inputs={"evaluation_snapshot": DIGEST}) == [CHECK]


def _write_verdict(store: EvidenceStore, **changes: Any) -> Path:
    """Write a verdict by hand, signed by the store's key."""
    configuration = changes.pop(
        "configuration",
        [
            {"name": "policy", "digest": {"sha256": POLICY.digest()[7:]}},
            {"name": "check-code", "digest": {"sha256": find_check(CHECK).code_digest()[7:]}},
        ],
    )
    predicate: dict[str, Any] = {
        "result": "PASSED",
        "configuration": configuration,
        "passedTests": [CHECK],
        "warnedTests": [],
        "failedTests": [],
        "summary": "By hand.",
        "counts": {},
        "checkedOn": NOW.isoformat(),
        **changes,
    }
    subjects: list[dict[str, Any]] = [{"name": "snapshot", "digest": {"sha256": DIGEST[7:]}}]
    return store.write("verdict", subjects, predicate).path


def test_other_code_of_the_check_makes_a_verdict_stale(store: EvidenceStore) -> None:
    policy = {"name": "policy", "digest": {"sha256": POLICY.digest()[7:]}}
    code = {"name": "check-code", "digest": {"sha256": "0" * 64}}
    _write_verdict(store, configuration=[policy, code])
    assert "is stale (another check-code since)" in refusal(store)


@pytest.mark.parametrize("configuration", [[], [{"name": "policy", "digest": {"sha256": ""}}]])
def test_a_verdict_that_does_not_say_under_what_is_stale(
    store: EvidenceStore, configuration: list[Any]
) -> None:
    _write_verdict(store, configuration=configuration)
    assert "is stale" in refusal(store)


def test_a_verdict_of_an_unknown_key_is_unsigned(store: EvidenceStore) -> None:
    stranger = Ed25519PrivateKey.generate()
    record(EvidenceStore(store.folder, (stranger.public_key(),), stranger), outcome())
    message = refusal(store)
    assert f"the verdict of {CHECK} is not signed by a trusted key" in message
    assert "no trusted key signed it" in message


@pytest.mark.parametrize("content", ["garbage", "unsigned", "turned from failed to passed"])
def test_a_file_that_nobody_signed_opens_no_gate(store: EvidenceStore, content: str) -> None:
    path = _write_verdict(store, result="FAILED", passedTests=[], failedTests=[CHECK])
    envelope = json.loads(path.read_bytes())
    data = b"garbage"
    if content == "unsigned":
        data = json.dumps({**envelope, "signatures": []}).encode()
    elif content.startswith("turned"):
        honest = _write_verdict(store)
        passed = json.loads(honest.read_bytes())
        honest.unlink()
        data = json.dumps({**passed, "signatures": envelope["signatures"]}).encode()
    path.unlink()
    path.with_name(f"verdict-{sha256_hex(data)}.dsse.json").write_bytes(data)
    assert "is not signed by a trusted key" in refusal(store)


def test_garbage_beside_a_good_verdict_closes_nothing(store: EvidenceStore) -> None:
    path = _write_verdict(store)
    path.with_name("verdict-x.dsse.json").write_bytes(b"garbage")
    assert gate(store) == [CHECK]


def test_a_verdict_that_was_copied_from_another_subject_opens_no_gate(
    store: EvidenceStore,
) -> None:
    record(store, outcome(), digest=OTHER)
    (path,) = store.folder.rglob("*.json")
    target = store.folder / DIGEST[7:] / path.name
    target.parent.mkdir()
    target.write_bytes(path.read_bytes())
    assert "speaks of another thing" in refusal(store)


def test_no_required_checks_refuse_and_do_not_let_all_through(store: EvidenceStore) -> None:
    record(store, outcome())
    assert "requires no check for training" in refusal(store, [])


def test_a_check_that_does_not_exist_is_bad_input(store: EvidenceStore) -> None:
    with pytest.raises(PedigreeError, match="no check 'nope': known are") as error:
        gate(store, [CHECK, "nope"])
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_check_names_files_that_are_there(name: str) -> None:
    check = find_check(name)
    assert check.code_digest().startswith("sha256:")
    assert check.code
    assert all((REPOSITORY / "pedigree" / file).is_file() for file in check.code)
    assert check.claim


def test_the_time_of_a_verdict_is_utc(store: EvidenceStore) -> None:
    record(store, outcome(), NOW.astimezone(timezone(timedelta(hours=-5))))
    found, _ = find_verdict(store, DIGEST, CHECK, POLICY)
    assert found is not None
    assert datetime.fromisoformat(found.predicate["checkedOn"]).tzinfo == UTC


def test_the_refusal_is_made_of_sentences(store: EvidenceStore) -> None:
    assert "is missing. Run the checks" in refusal(store)


def test_the_refusal_keeps_the_name_of_the_environment(store: EvidenceStore) -> None:
    with pytest.raises(GateClosed, match=r"^Promotion to prod-EU is refused"):
        require_passed(store, DIGEST, [CHECK], POLICY, "promotion to prod-EU", LATER)
