"""What `make demo-attacks` shows, and that it says so when there is nothing to show."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from demos import attacks
from demos.shown import Shown, render
from tests.conftest import REPOSITORY, run

SHOWN = Shown("An attack", "Something is done.", "Tool 1", "fine", True, "refused", True)


def _demonstrate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "demos.attacks", *arguments, cwd=REPOSITORY)


@pytest.mark.slow
def test_all_four_attacks_pass_the_stock_tools_and_are_caught_here() -> None:
    done = _demonstrate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("=> shown") == 4
    assert "Data and pipelines are up to date." in done.stdout
    assert "trained a model on 911 reviews" in done.stdout
    assert "Training is refused" in done.stdout
    assert done.stdout.count("VerificationFailed") == 2


@pytest.mark.slow
def test_an_attack_that_was_not_planted_is_not_shown() -> None:
    # Two of the four: each of the others trains a model.
    done = _demonstrate("tail", "collision", "--control")
    assert done.returncode == 1, done.stdout + done.stderr
    # Nothing broke: both sides let honest data pass.
    assert done.stdout.count("=> NOT SHOWN: Pedigree did not refuse anything") == 2, done.stdout
    assert "=> shown" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "shown"),
        ({"stock_is_silent": False}, "NOT SHOWN: Tool 1 did not let it pass"),
        ({"ours_refuses": False}, "NOT SHOWN: Pedigree did not refuse anything"),
        (
            {"stock_is_silent": False, "ours_refuses": False},
            "NOT SHOWN: Tool 1 did not let it pass and Pedigree did not refuse anything",
        ),
    ],
)
def test_an_attack_is_shown_when_the_tool_is_silent_and_we_are_not(
    changes: dict[str, bool], verdict: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shown = dataclasses.replace(SHOWN, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(attacks, "ATTACKS", {"one": lambda folder, plant: shown})
    monkeypatch.setattr(attacks, "_be_quiet", lambda: None)
    assert attacks.main([]) == (0 if verdict == "shown" else 1)
    assert f"=> {verdict}" in capsys.readouterr().out


def test_a_demonstration_that_breaks_has_shown_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path, plant: bool) -> Shown:
        raise RuntimeError("the tool is not there")

    monkeypatch.setattr(attacks, "ATTACKS", {"one": broken})
    monkeypatch.setattr(attacks, "_be_quiet", lambda: None)
    assert attacks.main([]) == 1
    assert "=> NOT SHOWN: RuntimeError: the tool is not there" in capsys.readouterr().out


def test_an_unknown_attack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        attacks.main(["nothing"])
    assert ended.value.code == 2
    assert "choose from tail, collision, weights, second-run" in capsys.readouterr().err


def test_both_sides_stand_beside_each_other_and_only_sha256_is_cut() -> None:
    sha256, md5 = "ab" * 32, "cd" * 16
    shown = dataclasses.replace(SHOWN, stock_says=f"line one\n{md5}", ours_says=f"sha256:{sha256}.")
    lines = render(shown, 100).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert any("line one" in line and "sha256:abababababab…." in line for line in lines)
    assert md5 in "\n".join(lines)
