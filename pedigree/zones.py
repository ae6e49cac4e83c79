"""The zones of data: what a step that trains may not read.

Training, evaluation and production data lie in separate storage roots, and every snapshot says in
its manifest which zone it is of. A step says what it is, and the readers refuse the rest::

    with confined("training"):
        open_snapshot(evaluation, project.snapshots("evaluation"))     # GateClosed

Outside such a step anything may be read: checks compare training data with evaluation data.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from pedigree.errors import GateClosed

# What a step may read, by what it is. Curated documents are not divided yet, so they hold both.
READABLE = {
    "training": ("training",),
    "evaluation": ("training", "evaluation"),
    "production": ("production",),
}
_step: ContextVar[str | None] = ContextVar("step", default=None)


@contextmanager
def confined(zone: str) -> Generator[None]:
    """Let nothing be read, within this block, that a step of this zone may not see."""
    token = _step.set(zone)
    try:
        yield
    finally:
        _step.reset(token)


def require_readable(zone: str, what: str, step: str | None = None) -> None:
    """Refuse to read something of a zone that the step may not see.

    Args:
        zone: of what is read.
        what: its name, for the message.
        step: the reading step's zone; None for the one that `confined` set, if any did.

    Raises:
        GateClosed: the step may not read it.
    """
    step = step or _step.get()
    if step is not None and zone not in READABLE.get(step, ()):
        raise GateClosed(
            f"A {step} step may not read {what}, which is {zone} data: it may read "
            f"{' and '.join(READABLE.get(step, ())) or 'nothing'} data. Give it another input."
        )
