"""Progress of a worker: a bar on a terminal, structured lines in Dagster's log."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from tqdm import tqdm

_LOG_EVERY = 50


@contextmanager
def following(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, what: str
) -> Generator[Callable[[dict[str, Any]], None]]:
    """Yield what a worker's progress records are given to."""
    with tqdm(desc=what, unit="step", disable=not sys.stderr.isatty(), leave=False) as bar:

        def follow(record: dict[str, Any]) -> None:
            step, steps = int(record.get("step", 0)), int(record.get("steps", 0))
            bar.total = steps
            bar.update(step - bar.n)
            if step and (step % _LOG_EVERY == 0 or step == steps):
                shown = {name: value for name, value in record.items() if name != "event"}
                pairs = " ".join(
                    f"{name}={value:.4f}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in shown.items()
                )
                context.log.info(f"{what}: {pairs}")

        yield follow
