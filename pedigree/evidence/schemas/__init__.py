"""The JSON Schema (2020-12) of each kind of statement, as files beside this one.

    pedigree/evidence/schemas/approval.json     a whole in-toto Statement, predicate included

Predicates of our own types are closed: a field that the schema does not name is refused. Those of
SLSA and in-toto have the standard's fields typed and are open, as their consumers must ignore what
they do not know. A new kind of statement needs its file here, named as in `PREDICATES`; a field
that is added to a kind later is not `required`, or older statements would be refused.

    >>> read_schema("approval")["properties"]["predicateType"]
    {'const': 'urn:pedigree:predicate:approval:v1'}
"""

import json
from importlib.resources import files
from typing import Any, cast

from pedigree.errors import PedigreeError


def read_schema(kind: str) -> dict[str, Any]:
    """Return the schema of a kind of statement.

    Raises:
        PedigreeError: there is none; the message lists the kinds.
    """
    known = list_kinds()
    if kind not in known:
        raise PedigreeError(f"{kind!r} is no kind of statement: known are {', '.join(known)}.")
    return cast(dict[str, Any], json.loads((files(__name__) / f"{kind}.json").read_bytes()))


def list_kinds() -> list[str]:
    """Return every kind that has a schema, sorted."""
    names = [entry.name for entry in files(__name__).iterdir()]
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
