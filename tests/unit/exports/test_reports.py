"""Reports for regulators: filled from evidence, and plain about what evidence does not say."""

import dataclasses
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from pedigree.evidence.store import open_store
from pedigree.exports import annex_iv, gpai_summary
from pedigree.exports.facts import Facts, collect_facts
from pedigree.exports.reports import REPORTS, Report, name_file, write_report
from pedigree.project import Project
from pedigree.registry import find_promoted

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def facts(trained: Project) -> Facts:
    store = open_store(trained, trained.policy())
    promoted = find_promoted(store, "production")
    assert promoted is not None
    return collect_facts(store, promoted.model)


def _with_source(facts: Facts, **changes: object) -> Facts:
    """Return the facts with one source, which is as `changes` say."""
    answers: list[Any] = [dict(answer) for answer in facts.answers.answers]
    training = answers[2]["training"]
    answers[2]["training"] = {**training, "sources": [{**training["sources"][0], **changes}]}
    return dataclasses.replace(facts, answers=dataclasses.replace(facts.answers, answers=answers))


def _fields(text: str) -> dict[str, str]:
    """Return what stands below each heading of a field."""
    parts = re.split(r"^### (.*)$", text, flags=re.MULTILINE)
    bodies = [re.split(r"^## ", body, flags=re.MULTILINE)[0].strip() for body in parts[2::2]]
    return dict(zip(parts[1::2], bodies, strict=True))


@pytest.mark.parametrize("report", REPORTS)
def test_every_field_is_evidence_or_says_what_is_not_recorded(facts: Facts, report: Report) -> None:
    text = write_report(report, facts, NOW)
    fields = _fields(text)
    assert len(fields) > 15
    claims = {claim.digest for claim in facts.claims}
    for name, body in fields.items():
        assert "Not recorded: " in body or "Evidence: " in body, name
        said = body.split("Evidence: ")[0].split("Not recorded: ")[0].strip()
        assert bool(said) == ("Evidence: " in body), name
        if said:
            cited = set(re.findall(r"`(sha256:[0-9a-f]{64})`", body.split("Evidence: ")[1]))
            assert cited, name
            assert cited <= claims, name
        assert not re.search(r"\b(None|UNKNOWN|null|nan)\b(?! of the sources)", said), name
    assert "2026-01-02" in text
    silent = sum("Evidence: " not in body for body in fields.values())
    assert f"Of {len(fields)} fields evidence fills {len(fields) - silent};" in text
    assert "development key" in text


def test_annex_iv_has_its_nine_points_with_the_facts_of_the_model(facts: Facts) -> None:
    text = write_report("annex-iv", facts, NOW)
    assert re.findall(r"^## (\d)\.", text, flags=re.MULTILINE) == list("123456789")
    letters = re.findall(r"^### (\d\([a-h]\))", text, flags=re.MULTILINE)
    assert letters == [f"{point}({letter})" for point in (1, 2) for letter in "abcdefgh"]
    fields = _fields(text)
    record = facts.record
    assert f"`{record.model_digest}`" in fields["1(a) Intended purpose, provider, version"]
    method = next(body for name, body in fields.items() if name.startswith("2(a)"))
    assert record.inputs.code.commit is not None
    assert record.inputs.code.commit in method
    assert str(record.adapter_digest) in method
    data = next(body for name, body in fields.items() if name.startswith("2(d)"))
    assert "| forum | 128 | curated | tests | CC0-1.0 |" in data
    assert record.inputs.training.digest in data
    tests = next(body for name, body in fields.items() if name.startswith("2(g)"))
    assert facts.evaluation is not None
    assert f"Accuracy {facts.evaluation.predicate['accuracy']} on the 64 rows" in tests
    assert tests.count("| PASSED |") == len(facts.verdicts)
    assert "approved by no one" in fields["6 Relevant changes"]
    assert fields["8 Declaration"] == "Not recorded: the EU declaration of conformity."


def test_what_was_not_done_is_said(facts: Facts) -> None:
    params = facts.record.inputs.params.model_copy(update={"method": "scratch"})
    code = facts.record.inputs.code.model_copy(update={"dirty": True})
    inputs = facts.record.inputs.model_copy(update={"params": params, "code": code})
    record = facts.record.model_copy(update={"inputs": inputs, "isolation": {}})
    answers = [dict(one) for one in facts.answers.answers]
    answers[4] |= {"environments": [], "revoked": ["model is revoked: <poison>"]}
    bare = dataclasses.replace(
        facts,
        record=record,
        evaluation=None,
        promotions=(),
        answers=dataclasses.replace(facts.answers, answers=answers),
    )
    text = write_report("annex-iv", bare, NOW)
    assert "never evaluated" in text
    assert "released to no environment" in text
    assert "differed from its commit" in text
    assert "Revoked: model is revoked: \\<poison\\>" in text
    assert "confinement of the training process: not recorded" in text
    fields = _fields(text)
    assert fields[
        "3 Capabilities and limits, accuracy for groups of persons, expected accuracy"
    ] == ("Not recorded: accuracy for the persons or groups on which the system is used.")
    assert "None: trained from scratch." in write_report("gpai-summary", bare, NOW)


@pytest.mark.parametrize(
    ("kind", "uri", "section"),
    [
        ("curated", "https://example.org/a.csv", "2.1"),
        ("curated", "package:a==1/a.tar.gz", "2.1"),
        ("curated", "s3://ours/a.csv", "2.6"),
        ("curated", "inbox/a.csv", "2.6"),
        ("web", "inbox/a.csv", "2.3"),
        ("user", "inbox/a.csv", "2.4"),
        ("log", "inbox/a.csv", "2.4"),
        ("synthetic", "https://example.org/a.csv", "2.5"),
        ("rag", "inbox/a.csv", "2.6"),
    ],
)
def test_a_source_stands_in_one_section_of_the_summary(
    facts: Facts, kind: str, uri: str, section: str
) -> None:
    changed = _with_source(facts, kind=kind, uri=uri, source="the_one")
    fields = _fields(write_report("gpai-summary", changed, NOW))
    listed = [name.split(" ")[0] for name, body in fields.items() if "| the\\_one |" in body]
    assert listed == [section]


def test_the_summary_has_the_sections_of_the_template(facts: Facts) -> None:
    text = write_report("gpai-summary", facts, NOW)
    assert re.findall(r"^## (\d)\.", text, flags=re.MULTILINE) == list("123")
    numbers = list(dict.fromkeys(re.findall(r"^### ([\d.]+) ", text, flags=re.MULTILINE)))
    assert numbers == [
        "1.1", "1.2", "1.3", "2.1", "2.2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6",
        "3.1", "3.2", "3.3",
    ]  # fmt: skip
    assert f"{facts.record.tokens} tokens" in text
    assert "less than 1 billion tokens" in text


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (10**9 - 1, "less than 1 billion tokens"),
        (10**9, "1 billion to 10 trillion tokens"),
        (10**13, "1 billion to 10 trillion tokens"),
        (10**13 + 1, "more than 10 trillion tokens"),
    ],
)
def test_the_ranges_of_the_template(facts: Facts, tokens: int, said: str) -> None:
    record = facts.record.model_copy(update={"tokens": tokens})
    text = write_report("gpai-summary", dataclasses.replace(facts, record=record), NOW)
    assert f"repetitions included: {said}." in text


def test_markup_in_names_stays_text(facts: Facts) -> None:
    evil = "x | y\n## 9. Forged\n<script>alert(1)</script> [a](http://b)"
    for report in REPORTS:
        text = write_report(report, _with_source(facts, licence=evil, collector=evil), NOW)
        assert "<script>" not in text
        assert "\n## 9. Forged" not in text
        assert "](http://b" not in text.replace("\\](", "")


def test_names_and_titles(facts: Facts) -> None:
    assert [name_file(one) for one in REPORTS] == ["report-annex-iv.md", "report-gpai-summary.md"]
    assert write_report("annex-iv", facts, NOW).startswith(f"# {annex_iv.TITLE}\n")
    assert write_report("gpai-summary", facts, NOW).startswith(f"# {gpai_summary.TITLE}\n")
