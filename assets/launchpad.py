"""The Launchpad's forms: the library's own parameter models, with `params.yaml` as defaults.

A parameter is defined once, in `pedigree.params`. Here it becomes an asset's configuration, so that
the Launchpad shows it and a run can change it::

    >>> config = as_config("Training", params.train)
    >>> read_config(config(epochs=2), TrainingParams).epochs
    2
"""

from typing import Any, TypeVar

import dagster as dg
import pydantic
from pydantic.fields import FieldInfo

from pedigree.settings import Settings, parse_settings

Model = TypeVar("Model", bound=Settings)


def as_config(name: str, values: Settings) -> type[dg.Config]:
    """Return a Dagster configuration class with the fields and values of `values` as defaults."""
    model = type(values)
    fields: dict[str, Any] = {
        key: (
            field.annotation,
            FieldInfo(default=getattr(values, key), description=field.description),
        )
        for key, field in model.model_fields.items()
    }
    return pydantic.create_model(name, __base__=dg.Config, **fields)


def read_config(config: dg.Config, model: type[Model]) -> Model:
    """Return the parameters that a run was configured with, validated.

    Raises:
        PedigreeError: a value is out of range.
    """
    values = {key: getattr(config, key) for key in model.model_fields}
    return parse_settings(model, values, "The run's configuration")
