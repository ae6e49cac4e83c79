"""The trial run: does a worker start, read its input and answer at this level?"""

from pedigree.sandbox.inner import WorkerRequest


def count_bytes(request: WorkerRequest) -> int:
    """Return how many bytes came in."""
    return len(request.payload)
