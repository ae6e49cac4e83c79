"""How a settings file is read: YAML into a frozen pydantic model, with errors as sentences."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from pedigree.errors import PedigreeError


class Settings(BaseModel):
    """A frozen model that refuses a key it does not know (a typo must not be a silent default).

    Numbers are finite: NaN and infinity have no canonical JSON, so no digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: of two values, a reader sees the one that does not count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping in a YAML file.

    Raises:
        PedigreeError: the file is missing, cannot be read, is no YAML, has a key twice or holds no
            mapping.
    """
    try:
        content = cast(object, _Loader(path.read_text(encoding="utf-8")).get_single_data())
    except FileNotFoundError:
        raise PedigreeError(
            f"{path} is missing: create it, or run the command in the project's folder."
        ) from None
    except OSError as error:
        raise PedigreeError(
            f"{path} cannot be read ({error.strerror}): expected a YAML file there. Put one in its "
            "place and run again."
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: also 2026-02-30
        detail = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise PedigreeError(f"{path} is not valid YAML ({detail}): correct the file.") from None
    if not isinstance(content, dict):
        raise PedigreeError(f"{path} must hold a mapping of settings: found {_show(content)}.")
    return {str(key): value for key, value in content.items()}


def parse_settings(model: type[Model], values: object, where: str) -> Model:
    """Validate `values` as `model`; each problem names its key.

    Raises:
        PedigreeError: a key is unknown or missing, or a value has the wrong form.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_describe(item, model) for item in error.errors())
        raise PedigreeError(
            f"{where} is not valid: {problems}. Correct it and run again."
        ) from None


def _describe(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """Return one problem: the path of its key, what was found and, of a typo, what was meant."""
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]") or "the whole"
    found = cast(object, problem["input"])
    if problem["type"] == "missing":
        return f"{where}: is missing"
    if problem["type"] == "extra_forbidden":
        known = _names(cast(object, model.model_json_schema()))
        near = difflib.get_close_matches(str(problem["loc"][-1]), sorted(known), n=1)
        return f"{where}: there is no such setting" + (f", did you mean {near[0]}?" if near else "")
    said = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if problem["type"] == "value_error" or isinstance(found, dict | list):
        return f"{where}: {said}"
    # YAML reads 123, 1e5, no and 2026-01-31 as something else than text.
    quoted = (
        ", so put it in quotes" if problem["type"] == "string_type" and found is not None else ""
    )
    return f"{where}: {said}, found {_show(found)}{quoted}"


def _names(schema: object) -> set[str]:
    """Return the names of all settings of a JSON schema, nested ones too."""
    if isinstance(schema, list):
        return {name for one in cast(list[object], schema) for name in _names(one)}
    if not isinstance(schema, dict):
        return set()
    parts = cast(dict[str, object], schema)
    own = set(cast(dict[str, object], parts.get("properties", {})))
    return own.union(*(_names(part) for part in parts.values()))


def _show(value: object) -> str:
    """Return a found value in words, at most a line of it."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
