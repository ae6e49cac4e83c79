"""JSON as the standard has it: no name twice, no NaN, no trailing text, bounded depth.

Parsers differ in what they make of the rest, and where two readers differ, a check can be made to
look at one thing and a loader at another.
"""

import json
import math
from collections import Counter
from typing import Any, NoReturn

from pedigree.admission.verdict import Unreadable, show

_MAX_DEPTH = 64
_MAX_DIGITS = 400  # tokenizers write 1e30 as digits; nobody writes thousands
# The largest vocabularies have some 1,300,000; so many values take a gigabyte once they are parsed.
_MAX_VALUES = 6_000_000


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        Unreadable: it is no JSON, or not the same to every reader; the message is a clause.
    """
    if text.count(",") + text.count("[") + text.count("{") > _MAX_VALUES:
        raise Unreadable(f"it holds more than {_MAX_VALUES} values")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except RecursionError:
        raise Unreadable("it is nested too deep") from None
    except ValueError as error:
        raise Unreadable(f"it is no strict JSON: {show(str(error))}") from None
    _limit_depth(value)
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Unreadable(f"the name {show(twice)!r} is there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Unreadable(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Unreadable(f"{show(digits, 40)} is beyond what a number can be")
    return value


def _limit_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise Unreadable(f"it is nested more than {_MAX_DEPTH} deep")
