"""Four attacks that pass stock tools in silence, each with the tool's own output beside ours.

    make demo-attacks
    python -m demos.attacks weights        # one of them
    python -m demos.attacks --control      # nothing is planted: each must be reported as not shown

Each makes what it needs in a temporary folder and removes it. Nothing is fetched, and the project
that this is run from is not touched. The exit code is 0 when each attack was let through by the
stock tool and refused here, and 1 otherwise.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from demos.data_attacks import show_md5_collision, show_poisoned_tail
from demos.model_attacks import show_replaced_weights, show_second_run
from demos.shown import Shown, render
from pedigree.launching import QUIET

ATTACKS: dict[str, Callable[[Path, bool], Shown]] = {
    "tail": show_poisoned_tail,
    "collision": show_md5_collision,
    "weights": show_replaced_weights,
    "second-run": show_second_run,
}
WIDTH = 116


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the attacks; return 0 if each was shown, else 1."""
    parser = argparse.ArgumentParser(
        prog="demos.attacks", description="Show four attacks that pass stock tools."
    )
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--control", action="store_true", help="plant nothing")
    options = parser.parse_args(arguments)
    names: list[str] = options.attacks or list(ATTACKS)
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        parser.error(f"there is no attack {', '.join(unknown)}: choose from {', '.join(ATTACKS)}")
    _be_quiet()
    held = [_show(name, plant=not options.control) for name in names]
    print(f"{sum(held)} of {len(held)} attacks were shown.")
    return 0 if all(held) else 1


def _show(name: str, *, plant: bool) -> bool:
    """Show one attack in a folder of its own; whatever goes wrong, it was not shown."""
    started = time.monotonic()
    print(f"=== {name} {'=' * (WIDTH - len(name) - 5)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pedigree-attack-") as folder:
        try:
            shown = ATTACKS[name](Path(folder).resolve(), plant)
        except Exception as error:  # a tool that is broken has shown nothing
            print(f"=> NOT SHOWN: {type(error).__name__}: {error}\n", flush=True)
            return False
    print(shown.attack + ("" if plant else " (control: nothing is planted)"))
    print(f"{render(shown, WIDTH)} ({time.monotonic() - started:.0f} s)\n", flush=True)
    return shown.holds


def _be_quiet() -> None:
    """Turn telemetry off, and leave out what this shell says of another project or of its keys."""
    os.environ.update(QUIET, NO_COLOR="1")
    for name in list(os.environ):
        if name.startswith(("PEDIGREE_", "MLFLOW_TRACKING_", "MLFLOW_REGISTRY_", "DAGSTER_HOME")):
            del os.environ[name]
    logging.getLogger("alembic").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
