"""What a demonstration showed: what the stock tool said of an attack, and what Pedigree said.

>>> print(render(shown, 116))
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """One attack, what both sides said, and whether that is what was to be shown.

    Attributes:
        attack: its title.
        planted: what was done, in a sentence or two.
        stock: the stock tool and its version.
        stock_says: its own output.
        stock_is_silent: the attack went past it.
        ours_says: Pedigree's own output.
        ours_refuses: Pedigree stopped it.
    """

    attack: str
    planted: str
    stock: str
    stock_says: str
    stock_is_silent: bool
    ours_says: str
    ours_refuses: bool

    @property
    def verdict(self) -> str:
        """``shown``, or ``NOT SHOWN`` with the reason."""
        reasons = [
            *([] if self.stock_is_silent else [f"{self.stock} did not let it pass"]),
            *([] if self.ours_refuses else ["Pedigree did not refuse anything"]),
        ]
        return f"NOT SHOWN: {' and '.join(reasons)}" if reasons else "shown"

    @property
    def holds(self) -> bool:
        """Whether the stock tool let the attack pass and Pedigree did not."""
        return self.stock_is_silent and self.ours_refuses


def render(shown: Shown, width: int) -> str:
    """Return both outputs side by side, wrapped to `width` characters, with the verdict below.

    Of each sha256, the first 12 digits are printed.
    """
    column = (width - 3) // 2
    left = _wrap(shown.stock_says, column)
    right = _wrap(shown.ours_says, column)
    rows = max(len(left), len(right))
    left += [""] * (rows - len(left))
    right += [""] * (rows - len(right))
    lines = [
        *textwrap.wrap(shown.planted, width),
        "",
        f"{f'{shown.stock} says':<{column}} | Pedigree says",
        f"{'-' * column}-+-{'-' * column}",
        *(f"{a:<{column}} | {b}".rstrip() for a, b in zip(left, right, strict=True)),
        "",
        f"=> {shown.verdict}",
    ]
    return "\n".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)
    wrapped: Sequence[list[str]] = [
        textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
        for line in text.strip().splitlines()
    ]
    return [line for lines in wrapped for line in lines]
