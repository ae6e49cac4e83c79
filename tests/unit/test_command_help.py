"""What `--help` says: enough to use a command without looking elsewhere."""

# pyright: reportPrivateUsage=false
import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pedigree.cli import _build_parser
from pedigree.tracing import KINDS

README = (Path(__file__).parents[2] / "README.md").read_text()


def _parsers(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name.strip(), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            listed = {choice.dest: choice.help for choice in action._choices_actions}
            for child, one in action.choices.items():
                assert listed.get(child), f"{name} {child} is not in the list of commands"
                yield from _parsers(one, f"{name} {child}")


COMMANDS = dict(_parsers(_build_parser()))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_each_argument_says_what_it_is(name: str) -> None:
    parser = COMMANDS[name]
    assert parser.description
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, f"{name} {action.dest}"
    assert parser.format_help()


@pytest.mark.parametrize("name", COMMANDS)
def test_all_but_run_take_json(name: str) -> None:
    options = {option for action in COMMANDS[name]._actions for option in action.option_strings}
    assert ("--json" in options) == (name not in ("", "run", "keys"))


def test_the_readme_lists_every_command_and_no_other() -> None:
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`pedigree ([a-z]+)", table))
    assert listed >= {name for name in COMMANDS if name and " " not in name}
    assert listed <= set(COMMANDS)


def test_help_names_every_kind_that_can_be_traced() -> None:
    text = COMMANDS["trace"].format_help()
    assert all(re.search(rf"\b{kind}\b", text) for kind in KINDS)


def test_the_exit_codes_are_in_the_help() -> None:
    text = " ".join(COMMANDS[""].format_help().split())
    for code in ("0 it holds", "1 a check", "2 the request", "3 evidence"):
        assert code in text
