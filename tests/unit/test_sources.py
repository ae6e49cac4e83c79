"""Declarations of sources: what is refused, and that a moved pin changes the pin alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pedigree.errors import PedigreeError
from pedigree.settings import parse_settings
from pedigree.sources import (
    Format,
    ScoreRange,
    Source,
    find_source,
    load_source,
    load_sources,
    write_pin,
)
from tests.conftest import REPOSITORY, declare_source

OLD, NEW = "b" * 64, "a" * 64
TEXT = """\
# Reviews, from the shop.
id: shop
uri: https://example.org/reviews.csv
sha256: {pin}
format: {{type: csv}}
columns: {{text: text}}   # no labels
licence: CC0-1.0
owner: "Zoë"
collector: tests
kind: web
zone: training
"""


def declared(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": "shop",
        "uri": "x.csv",
        "sha256": OLD,
        "format": {"type": "csv"},
        "columns": {"text": "text", "label": "label", "key": "id"},
        "labels": {"values": {"1": "positive", "0": "negative", "-1": "negative"}},
        "licence": "CC0-1.0",
        "owner": "tests",
        "collector": "tests",
        "kind": "curated",
        "zone": "training",
    }
    return {k: v for k, v in {**base, **changes}.items() if v is not None}


def read(**changes: Any) -> Source:
    return parse_settings(Source, declared(**changes), "shop.yaml")


def test_the_labels_of_a_source_are_named_once_each() -> None:
    labels = read().labels
    assert labels is not None
    assert labels.names == ["negative", "positive"]
    by_score = read(labels={"from_score": {"up": {"min": 1}, "down": {"max": 0}}}).labels
    assert by_score is not None
    assert by_score.names == ["down", "up"]


@pytest.mark.parametrize("source", sorted((REPOSITORY / "sources").glob("*.yaml")), ids=str)
def test_every_declared_source_is_pinned_and_says_who_answers_for_it(source: Path) -> None:
    one = load_source(source)
    assert one.sha256
    assert one.licence
    assert one.owner


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Shop"}, "id"),
        ({"id": "../shop"}, "id"),
        ({"sha256": "abc"}, "64 lower-case hex digits"),
        ({"sha256": "A" * 64}, "64 lower-case hex digits"),
        ({"licence": ""}, "licence"),
        ({"owner": None}, "owner: is missing"),
        ({"kind": "scraped"}, "or 'synthetic', found 'scraped'"),
        ({"guideline_version": 2}, "found 2, so put it in quotes"),
        ({"labels": {"values": {True: "a"}}}, "found True, so put it in quotes"),
        ({"zone": "test"}, "zone"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"lisence": "MIT"}, "lisence: there is no such setting, did you mean licence?"),
        ({"format": {"type": "xlsx"}}, "format.type"),
        ({"format": {"type": "jsonl", "columns": ["a"]}}, "CSV or TSV, not of jsonl"),
        ({"columns": {"label": "label"}}, "columns.text"),
        ({"labels": None}, "belong together"),
        ({"columns": {"text": "text"}}, "belong together"),
        ({"labels": {}}, "either 'values' or 'from_score'"),
        (
            {"labels": {"values": {"1": "a"}, "from_score": {"a": {"min": 1}}}},
            "either 'values' or 'from_score'",
        ),
        ({"labels": {"from_score": {"a": {}}}}, "'min', 'max' or both"),
        ({"labels": {"from_score": {"a": {"min": 2, "max": 1}}}}, "greater than max"),
        ({"labels": {"from_score": {"a": {"max": 0}, "b": {"min": 0}}}}, "'a' and 'b' overlap"),
        (
            {"ratings": {"member": "r", "format": {"type": "tsv"}, "key": "id", "values": "r"}},
            "second member",
        ),
        (
            {
                "member": "m",
                "columns": {"text": "text", "label": "label"},
                "ratings": {"member": "r", "format": {"type": "tsv"}, "key": "id", "values": "r"},
            },
            "joined by key",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused_by_the_name_of_the_key(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PedigreeError, match=r"shop\.yaml is not valid") as error:
        read(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ((None, 0.0), (0.5, None), False),
        ((None, 0.5), (0.5, None), True),
        ((0.0, 1.0), (0.2, 0.3), True),
        ((0.0, 1.0), (1.5, 2.0), False),
        ((None, 0.0), (None, -5.0), True),
    ],
)
def test_ranges_overlap_when_a_score_can_lie_in_both(
    one: tuple[float | None, float | None],
    other: tuple[float | None, float | None],
    overlap: bool,
) -> None:
    a, b = (ScoreRange(min=low, max=high) for low, high in (one, other))
    assert a.overlaps(b) is overlap
    assert b.overlaps(a) is overlap


def test_a_source_and_its_format_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read().sha256 = NEW  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        Format(type="csv").quoting = False  # type: ignore[misc]


def test_a_file_whose_name_is_not_the_id_is_refused(tmp_path: Path) -> None:
    path = declare_source(tmp_path, "shop", "x.csv", OLD)
    with pytest.raises(PedigreeError, match=r"rename the file to shop\.yaml"):
        load_source(path.rename(path.with_name("forum.yaml")))


def test_sources_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    for name in ("shop", "forum", "blog"):
        declare_source(tmp_path, name, "x.csv", OLD)
    assert list(load_sources(tmp_path / "sources")) == ["blog", "forum", "shop"]
    assert find_source(tmp_path / "sources", "forum").id == "forum"
    with pytest.raises(PedigreeError, match="known are blog, forum, shop"):
        find_source(tmp_path / "sources", "nope")


def test_a_folder_without_sources_is_no_empty_result(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match="declares no source"):
        load_sources(tmp_path)


def test_moving_a_pin_leaves_every_other_character_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT.format(pin=OLD), encoding="utf-8")
    write_pin(path, NEW)
    assert path.read_text(encoding="utf-8") == TEXT.format(pin=NEW)
    assert load_source(path).sha256 == NEW


def test_a_first_pin_is_put_below_the_uri(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT.format(pin=OLD).replace(f"sha256: {OLD}\n", ""), encoding="utf-8")
    assert load_source(path).sha256 is None
    write_pin(path, NEW)
    assert path.read_text(encoding="utf-8") == TEXT.format(pin=NEW)


def test_an_indented_line_that_looks_like_a_pin_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    text = "title: |\n  sha256: this is prose\n" + TEXT.format(pin="null")
    path.write_text(text, encoding="utf-8")
    write_pin(path, NEW)
    assert yaml.safe_load(path.read_text())["title"] == "sha256: this is prose\n"
    assert load_source(path).sha256 == NEW


def test_moving_a_pin_keeps_the_comment_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT.format(pin=f"{OLD}  # looked at by Zoë"), encoding="utf-8")
    write_pin(path, NEW)
    assert path.read_text(encoding="utf-8") == TEXT.format(pin=f"{NEW}  # looked at by Zoë")


def test_moving_a_pin_keeps_the_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_bytes(TEXT.format(pin=OLD).replace("\n", "\r\n").encode())
    write_pin(path, NEW)
    assert path.read_bytes() == TEXT.format(pin=NEW).replace("\n", "\r\n").encode()


FORMS = {
    "flow mapping": "{" + ", ".join(line for line in TEXT.format(pin=OLD).split("\n")[1:-1]) + "}",
    "quoted key": TEXT.format(pin=OLD).replace("sha256:", '"sha256":'),
    "space before the colon": TEXT.format(pin=OLD).replace("sha256:", "sha256 :"),
    "quoted uri, no pin": TEXT.format(pin=OLD)
    .replace("uri:", '"uri":')
    .replace(f"sha256: {OLD}\n", ""),
    "folded uri, no pin": TEXT.format(pin=OLD)
    .replace("uri: ", "uri: >-\n  ")
    .replace(f"sha256: {OLD}\n", ""),
    "pin on the next line": TEXT.format(pin=f"\n  {OLD}"),
    "two pins": TEXT.format(pin=OLD) + f"sha256: {OLD}\n",
}
FORMS["flow mapping"] = FORMS["flow mapping"].replace("   # no labels", "")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_pin_is_moved_in_every_form_of_yaml_or_the_file_is_left_alone(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(FORMS[form], encoding="utf-8")
    try:
        write_pin(path, NEW)
    except PedigreeError:
        assert path.read_text(encoding="utf-8") == FORMS[form]
    else:
        assert load_source(path).sha256 == NEW
