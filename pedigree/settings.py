"""How a settings file is read: YAML into a frozen pydantic model, with errors as sentences."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pedigree.errors import PedigreeError


class Settings(BaseModel):
    """A frozen model that refuses a key it does not know (a typo must not be a silent default).

    Numbers are finite: NaN and infinity have no canonical JSON, so no digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping in a YAML file.

    Raises:
        PedigreeError: the file is missing, cannot be read, is no YAML or holds no mapping.
    """
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        detail = " ".join(str(error).split())
        raise PedigreeError(f"{path} is not valid YAML ({detail}): correct the file.") from None
    if not isinstance(content, dict):
        raise PedigreeError(f"{path} must hold a mapping of settings: found {content!r}.")
    return {str(key): value for key, value in content.items()}


def parse_settings(model: type[Model], values: object, where: str) -> Model:
    """Validate `values` as `model`; each problem names its key.

    Raises:
        PedigreeError: a key is unknown or missing, or a value has the wrong form.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the whole'}: {item['msg']}"
            for item in error.errors()
        )
        raise PedigreeError(
            f"{where} is not valid: {problems}. Correct it and run again."
        ) from None
