"""Tables in the Dagster UI show what a document says and do nothing that it wants."""

import html

import pytest

from assets.metadata import draw_funnel, tabulate

HOSTILE = [
    "a | b",
    "\\| ends the cell",
    "![x](http://attacker/pixel.png)",
    "[click](http://attacker)",
    "http://attacker/path",
    "<img src=x onerror=alert(1)>",
    "`code` **bold** _it_ ~~no~~",
    "line\none more | line",
    "&lt;script&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_text(text: str) -> None:
    shown = str(tabulate([{"text": text, "n": 1}]).value).splitlines()
    assert len(shown) == 3
    cells = shown[2].split("|")
    assert len(cells) == 4
    assert not set(cells[1]) & set("<>[]()!`*_~\\:")
    assert html.unescape(cells[1]).strip() == " ".join(text.split())


def test_the_funnel_is_a_picture_inside_the_page() -> None:
    value = str(draw_funnel([("read", 10), ("after no_label", 8)]).value)
    assert value.startswith("![rows left after each step](data:image/png;base64,iVBOR")
