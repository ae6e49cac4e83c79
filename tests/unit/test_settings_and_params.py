"""Settings files: a typo is an error with the name of its key, and never a traceback."""

from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import Field

from pedigree.digests import digest_json
from pedigree.errors import PedigreeError
from pedigree.evidence.policy import load_policy
from pedigree.params import Params, load_params
from pedigree.settings import Settings, parse_settings, read_yaml
from tests.conftest import REPOSITORY

PARAMS = """\
base_model: tiny
split: {seed: 3}
train: {epochs: 3, learning_rate: 0.01}
profiles:
  full:
  demo:
    split: {max_rows: 100}
    train: {epochs: 1}
  other: {base_model: large, train: {method: scratch}}
"""
POLICY = """\
training: {required_checks: [schema_holds]}
evaluation: {required_checks: [schema_holds]}
environments: {production: {required_checks: [weights_are_finite]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def load(file: Path, text: str, profile: str | None = None) -> Params:
    file.write_text(text, encoding="utf-8")
    return load_params(file, profile)


class Inner(Settings):
    size: int = Field(ge=1)


class Outer(Settings):
    name: str
    inner: tuple[Inner, ...] = ()


def test_every_problem_is_listed_by_the_path_of_its_key() -> None:
    values = {"nam": "x", "inner": [{"size": 1}, {"size": 0}, {"size": "big"}]}
    with pytest.raises(PedigreeError, match=r"x\.yaml is not valid") as error:
        parse_settings(Outer, values, "x.yaml")
    message = str(error.value)
    for part in (
        "name: is missing",
        "nam: there is no such setting, did you mean name?",
        "inner.1.size: it should be greater than or equal to 1, found 0",
        "inner.2.size: it should be a valid integer",
    ):
        assert part in message
    assert message.endswith("Correct it and run again.")


def test_what_is_no_mapping_at_all_is_named_as_the_whole() -> None:
    with pytest.raises(PedigreeError, match="the whole: "):
        parse_settings(Outer, [1, 2], "x.yaml")


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold a mapping"),
        (b"- a\n- b\n", "must hold a mapping"),
        (b"just text", "must hold a mapping"),
        (b"a: [1, 2", "not valid YAML"),
        (b"a: b: c", "not valid YAML"),
        (b"\ta: 1", "not valid YAML"),
        (b"a: caf\xe9", "not valid YAML"),
        (b"a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"? [a]\n: 1", "not valid YAML"),
        (b"approvals: 2\nb: {approvals: 1}\napprovals: 0", "'approvals' stands twice at line 3"),
        (b"a: {b: [{c: 1, 'c': 2}]}", "'c' stands twice at line 1, column 16"),
    ],
)
def test_a_file_that_is_no_mapping_of_yaml_is_refused(
    file: Path, content: bytes, message: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(PedigreeError, match=message) as error:
        read_yaml(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_told_to_be_created(file: Path) -> None:
    with pytest.raises(PedigreeError, match="is missing: create it"):
        read_yaml(file)


@pytest.mark.parametrize("text", ["a: 2026-02-30", "a: 2026-01-01 25:00:00"])
def test_a_date_that_does_not_exist_is_refused_with_a_sentence(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(PedigreeError, match="not valid YAML"):
        read_yaml(file)


def test_a_folder_in_place_of_the_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError):
        read_yaml(tmp_path)


def test_a_profile_changes_what_it_names_and_nothing_else(file: Path) -> None:
    plain = load(file, PARAMS)
    assert (plain.train.epochs, plain.train.learning_rate, plain.split.max_rows) == (3, 0.01, None)
    assert load(file, PARAMS, "full") == plain
    demo = load(file, PARAMS, "demo")
    assert (demo.train.epochs, demo.train.learning_rate, demo.split.seed) == (1, 0.01, 3)
    assert demo.split.max_rows == 100
    other = load(file, PARAMS, "other")
    assert (other.base_model, other.train.method, other.train.epochs) == ("large", "scratch", 3)


def test_the_files_own_profile_holds_where_none_is_given(file: Path) -> None:
    text = PARAMS + "profile: demo\n"
    assert load(file, text).train.epochs == 1
    assert load(file, text, "full").train.epochs == 3


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        (PARAMS, "dmeo", "no profile 'dmeo': it has demo, full, other"),
        ("base_model: a\n", "demo", "no profile 'demo': it has none"),
        ("base_model: a\nprofiles:\n", "demo", "no profile 'demo': it has none"),
        (PARAMS + "profile: nope\n", None, "no profile 'nope'"),
        (
            PARAMS.replace("max_rows", "max_row"),
            "demo",
            "split.max_row: there is no such setting, did you mean max_rows?",
        ),
        (PARAMS.replace("epochs: 1", "epochs: 0"), "demo", "train.epochs"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_by_name(
    file: Path, text: str, profile: str | None, message: str
) -> None:
    with pytest.raises(PedigreeError, match=message):
        load(file, text, profile)


@pytest.mark.parametrize(
    "text",
    [
        "train: {epochs: 1}",
        "base_model: a\nmodel_name: Not Good",
        "base_model: a\ntrain: null",
        "base_model: a\ntrain: {learning_rate: 0}",
        "base_model: a\ntrain: {learning_rate: .nan}",
        "base_model: a\ntrain: {learning_rate: 1e-4x}",
        "base_model: a\ntrain: {warmup_fraction: 1}",
        "base_model: a\ntrain: {mode: quick}",
        "base_model: a\ntrain: {epoch: 1}",
        "base_model: a\nsplit: {evaluation_fraction: 1}",
        "base_model: a\nsplit: {evaluation_fraction: 0}",
        "base_model: a\nsplit: {max_rows: 1}",
        "base_model: a\ncuration: {min_characters: 0}",
    ],
)
def test_parameters_out_of_range_are_refused(file: Path, text: str) -> None:
    with pytest.raises(PedigreeError, match="is not valid"):
        load(file, text)


@pytest.mark.parametrize("change", ["demo: 5", "demo: [1]", "demo: fast"])
def test_a_profile_that_is_no_mapping_is_refused_with_a_sentence(file: Path, change: str) -> None:
    with pytest.raises(PedigreeError, match="demo"):
        load(file, f"base_model: a\nprofiles: {{{change}}}\n", "demo")


@pytest.mark.parametrize("own", ["1", "[demo]", "{a: b}"])
def test_a_profile_named_by_no_string_is_refused_or_found(file: Path, own: str) -> None:
    with suppress(PedigreeError):
        load(file, f"base_model: a\nprofile: {own}\nprofiles: {{1: {{train: {{epochs: 1}}}}}}\n")


def test_an_infinite_parameter_is_refused_before_anything_is_digested(file: Path) -> None:
    try:
        params = load(file, "base_model: a\ntrain: {learning_rate: .inf}")
    except PedigreeError:
        return
    digest_json(params.train.model_dump(mode="json"))


def test_the_repositorys_own_files_and_every_profile_are_valid() -> None:
    profiles = read_yaml(REPOSITORY / "params.yaml")["profiles"]
    assert isinstance(profiles, dict)
    for name in [None, *profiles]:
        load_params(REPOSITORY / "params.yaml", name)
    load_policy(REPOSITORY / "policy.yaml")


def test_a_policy_is_known_by_what_it_says_and_not_by_how_it_is_written(file: Path) -> None:
    file.write_text(POLICY)
    first = load_policy(file).digest()
    file.write_text(
        "# the same, with defaults spelled out\n"
        "checks: {evaluation_leakage: {max_rows: 0}}\n"
        'evaluation: {"required_checks": ["schema_holds"]}\n' + "\n".join(POLICY.splitlines()[::2])
    )
    assert load_policy(file).digest() == first
    file.write_text(POLICY + "checks: {evaluation_leakage: {max_rows: 1}}\n")
    assert load_policy(file).digest() != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[weights_are_finite]", "[]", "environments.production.required_checks"),
        ("training: {required_checks: [schema_holds]}", "training: {}", "required_checks"),
        ("training: {required_checks: [schema_holds]}", "", "training: is missing"),
        ("[weights_are_finite]", "[a, a]", "a check is listed twice"),
        (
            "environments",
            "enviroments",
            "enviroments: there is no such setting",
        ),
        ("[weights_are_finite]}", "[a], approvals: -1}", "approvals"),
        ("training", "keys: {accept_all: true}\ntraining", "accept_all"),
        (
            "training",
            "checks: {near_duplicate_label_conflicts: {natural_share: 0}}\ntraining",
            "natural_share",
        ),
    ],
)
def test_a_policy_that_would_let_all_through_or_has_a_typo_is_refused(
    file: Path, old: str, new: str, message: str
) -> None:
    file.write_text(POLICY.replace(old, new, 1))
    with pytest.raises(PedigreeError, match="is not valid") as error:
        load_policy(file)
    assert message in str(error.value)


def test_a_policy_accepts_no_development_key_unless_it_says_so(file: Path) -> None:
    file.write_text(POLICY)
    assert load_policy(file).keys.accept_development_keys is False
