"""Declared sources: `sources/*.yaml`, one file a source, each pinned to the digest of its bytes.

This is where data enters. A source says where its bytes are, what they must hash to, how they
are read, who answers for them and what they may be used for::

    >>> source = load_source(Path("sources/amazon_reviews.yaml"))
    >>> source.kind, source.zone
    ('curated', 'training')
"""

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from pedigree.digests import digest_json
from pedigree.errors import PedigreeError
from pedigree.evidence.policy import NAME
from pedigree.files import write_atomically
from pedigree.settings import Settings, parse_settings, read_yaml

_NAME = r"^[a-z][a-z0-9_]{0,62}$"


class Format(Settings):
    """How bytes become rows. `columns` names the columns of a CSV or TSV that has no header."""

    type: Literal["csv", "tsv", "jsonl", "parquet"]
    columns: tuple[str, ...] | None = None
    quoting: bool = Field(default=True, description="CSV and TSV: a field may be in quotes")

    @model_validator(mode="after")
    def _columns_fit(self) -> "Format":
        if self.columns is not None and self.type not in ("csv", "tsv"):
            raise ValueError(f"'columns' names the columns of a CSV or TSV, not of {self.type}")
        return self


class Columns(Settings):
    """Which column holds what. Without `key`, a row is known by its text and occurrence."""

    text: str
    label: str | None = None
    key: str | None = None
    annotator: str | None = None
    collected_at: str | None = Field(
        default=None, description="ISO 8601 with a time zone, or seconds since 1970"
    )


class ScoreRange(Settings):
    """A closed range of scores; an open end has no bound."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> "ScoreRange":
        if self.min is None and self.max is None:
            raise ValueError("give 'min', 'max' or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")
        return self

    def overlaps(self, other: "ScoreRange") -> bool:
        """Tell whether a score can lie in both."""
        low = max(bound for bound in (self.min, other.min, float("-inf")) if bound is not None)
        high = min(bound for bound in (self.max, other.max, float("inf")) if bound is not None)
        return low <= high


class Labels(Settings):
    """The declared labels: by value, or by the range that a numeric score lies in.

    A value outside `values` is an error. A score in no range is a row without a clear label,
    which curation drops and accounts for.
    """

    values: dict[str, str] | None = Field(default=None, description="value in the file: label")
    from_score: dict[str, ScoreRange] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Labels":
        if (self.values is None) == (self.from_score is None):
            raise ValueError("give either 'values' or 'from_score'")
        ranges = list((self.from_score or {}).items())
        for i, (name, one) in enumerate(ranges):
            for other_name, other in ranges[i + 1 :]:
                if one.overlaps(other):
                    raise ValueError(f"the ranges of {name!r} and {other_name!r} overlap")
        return self

    @property
    def names(self) -> list[str]:
        """The labels that rows can carry, sorted."""
        return sorted(set((self.values or {}).values()) or set(self.from_score or {}))


class Ratings(Settings):
    """A second member of the same archive with each rater's score, as a JSON list a row."""

    member: str
    format: Format
    key: str
    values: str


class Source(Settings):
    """One source of documents, as declared. Its pin is what decides; the rest says who and how."""

    id: str = Field(pattern=_NAME)
    title: str = ""
    uri: str = Field(description="file, http(s), s3, gs, hf or package: URI; may hold one *")
    sha256: str | None = Field(
        default=None, description="of the file; of the manifest where the URI names several"
    )
    member: str | None = Field(
        default=None, description="path inside an archive; '!' enters an archive in the archive"
    )
    format: Format
    columns: Columns
    labels: Labels | None = None
    ratings: Ratings | None = None
    licence: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    collector: str = Field(min_length=1)
    kind: Literal["curated", "web", "user", "log", "rag", "synthetic"]
    zone: Literal["training", "evaluation", "production"]
    label_batch: str | None = None
    guideline_version: str | None = None
    tenant: str | None = Field(default=None, description="the client who supplied it, if one did")
    max_bytes: int = Field(default=2_000_000_000, gt=0, description="refuse to read more than this")

    @field_validator("sha256")
    @classmethod
    def _is_sha256(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
            raise ValueError(f"{value!r} is not a sha256: expected 64 lower-case hex digits")
        return value

    @field_validator("tenant")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(NAME, value):
            raise ValueError(f"{value!r} is no name: expected lower-case ASCII, such as 'acme'")
        return value

    @field_validator("ratings")
    @classmethod
    def _ratings_need_a_member(cls, value: Ratings | None, info: ValidationInfo) -> Ratings | None:
        if value is not None and info.data.get("member") is None:
            raise ValueError("ratings are read from a second member: give 'member' too")
        return value

    @model_validator(mode="after")
    def _label_is_whole(self) -> "Source":
        if (self.columns.label is None) != (self.labels is None):
            raise ValueError("'columns.label' and 'labels' belong together: give both or neither")
        if self.ratings is not None and self.columns.key is None:
            raise ValueError("ratings are joined by key: give 'columns.key'")
        return self


# What people never wrote to be learned from: denied until a reviewer says why it may be.
DENIED_KINDS = ("log", "rag")


def digest_declaration(source: "Source") -> str:
    """Return the digest of a whole declaration, pin included: what an approval of it is about."""
    return digest_json(source.model_dump(mode="json"))


def load_source(path: Path) -> Source:
    """Read one source file.

    Raises:
        PedigreeError: it is not valid, or its name differs from the source's id.
    """
    source = parse_settings(Source, read_yaml(path), str(path))
    if path.stem != source.id:
        raise PedigreeError(
            f"{path} declares the source {source.id!r}: a source's file carries its id, so rename "
            f"the file to {source.id}.yaml or correct the id."
        )
    return source


def load_sources(folder: Path) -> dict[str, Source]:
    """Read every `*.yaml` of a folder; sources by id, in the order of their ids.

    Raises:
        PedigreeError: a file is not valid, or there is none.
    """
    sources = {path.stem: load_source(path) for path in sorted(folder.glob("*.yaml"))}
    if not sources:
        raise PedigreeError(
            f"{folder} declares no source: add a file like {folder}/my_source.yaml."
        )
    return sources


def find_source(folder: Path, source_id: str) -> Source:
    """Return one source by its id.

    Raises:
        PedigreeError: there is none of that id.
    """
    sources = load_sources(folder)
    if source_id not in sources:
        raise PedigreeError(f"There is no source {source_id!r}: known are {', '.join(sources)}.")
    return sources[source_id]


def write_pin(path: Path, sha256: str) -> None:
    """Set the pin in a source's file and leave every other character as it is.

    Raises:
        PedigreeError: the file is not valid, or its form of YAML lets no pin be put in; the file
            is left alone.
    """
    expected = {**read_yaml(path), "sha256": sha256}
    parse_settings(Source, expected, str(path))
    text = path.read_bytes().decode("utf-8")  # read_text would change the ends of lines
    try:
        changed = _with_pin(text, sha256)
        fits = yaml.safe_load(changed) == expected
    except (yaml.YAMLError, ValueError):
        fits, changed = False, text
    if not fits:
        raise PedigreeError(
            f"The pin in {path} cannot be moved without changing more than the pin: expected "
            "'sha256' once, with its value on one line, or a line with 'uri' to put it below. "
            f"Nothing was changed: set it by hand, to '{sha256}'."
        )
    write_atomically(path, changed.encode("utf-8"))


def _with_pin(text: str, sha256: str) -> str:
    """Return the text with the new pin in place of the old one, or else below the uri."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    nodes = {key.value: value for key, value in reversed(pairs) if isinstance(key.value, str)}
    if "sha256" in nodes:
        start, end = nodes["sha256"].start_mark.index, nodes["sha256"].end_mark.index
        space = " " if text[:start].endswith(":") else ""
        return f"{text[:start]}{space}{sha256}{text[end:]}"
    if "uri" not in nodes:
        raise ValueError("no line to put the pin below")
    mark = nodes["uri"].end_mark  # of a folded uri, already the start of the next line
    below = mark.index if mark.column == 0 else text.find("\n", mark.index) + 1
    newline = "\r\n" if "\r\n" in text else "\n"
    if not below:
        return f"{text}{newline}sha256: {sha256}{newline}"
    return f"{text[:below]}sha256: {sha256}{newline}{text[below:]}"
