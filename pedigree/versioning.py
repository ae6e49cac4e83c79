"""Data under DVC: track, restore, push and pull (the only module that imports dvc).

md5 is DVC's address, sha256 is the trust decision: DVC takes the other half of an md5 collision
for up to date, so what is restored here is opened with `snapshots.open_snapshot`, which verifies.

    >>> track(project_root, snapshot.path).md5
    '6c8f…​.dir'
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.settings import Settings, read_yaml


class DvcPointer(Settings):
    """What a `.dvc` file says of its one output: DVC's own address of the data."""

    path: str
    md5: str
    size: int
    nfiles: int | None = None


@contextmanager
def _repository(root: Path) -> Generator[Any]:
    import logging

    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    # Set after the imports, which set it themselves: DVC explains git on each `add`.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with Repo(str(root)) as repository:
            yield repository
    except NotDvcRepoError:
        raise PedigreeError(f"{root} is no DVC repository: run `dvc init` there.") from None
    except LockError:
        raise PedigreeError(
            f"The DVC repository {root} is locked by another process: wait until it has ended (or "
            f"remove {root / '.dvc/tmp/lock'} if none runs), then run again. Nothing was kept."
        ) from None
    except DvcException as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise PedigreeError(f"DVC refused: {error}{cause}.") from None


def track(root: Path, path: Path) -> DvcPointer:
    """Put a file or folder into DVC's cache and write its pointer `<path>.dvc`.

    Raises:
        PedigreeError: the repository is locked, or DVC refuses.
    """
    pointer = read_pointer(root, path)
    with _repository(root) as repository:
        if pointer is None or not _is_cached(repository, pointer):
            repository.add(str(path))
            pointer = read_pointer(root, path)
    if pointer is None:
        raise PedigreeError(f"DVC wrote no pointer for {path}.")
    return pointer


def _is_cached(repository: Any, pointer: DvcPointer) -> bool:
    """Tell whether DVC's cache holds the object and, of a folder, every file."""
    cache = repository.cache.local
    if not cache.exists(pointer.md5):
        return False
    if not pointer.md5.endswith(".dir"):
        return True
    listing = json.loads(Path(cache.oid_to_path(pointer.md5)).read_bytes())
    return all(cache.exists(entry["md5"]) for entry in listing)


def read_pointer(root: Path, path: Path) -> DvcPointer | None:
    """Return what the pointer of `path` says, or None where there is none."""
    file = path.with_name(path.name + ".dvc")
    if not file.is_file():
        return None
    outs = cast(list[dict[str, Any]], read_yaml(file).get("outs"))
    out = outs[0]
    return DvcPointer(
        path=path.relative_to(root).as_posix(),
        md5=out["md5"],
        size=out["size"],
        nfiles=out.get("nfiles"),
    )


def write_pointer(root: Path, pointer: DvcPointer) -> Path:
    """Write the `.dvc` file that a record describes, so that `restore` can fetch the data."""
    import yaml

    path = root / pointer.path
    file = path.with_name(path.name + ".dvc")
    file.parent.mkdir(parents=True, exist_ok=True)
    out: dict[str, Any] = {"md5": pointer.md5, "size": pointer.size}
    if pointer.nfiles is not None:
        out["nfiles"] = pointer.nfiles
    file.write_text(yaml.safe_dump({"outs": [{**out, "hash": "md5", "path": path.name}]}))
    return file


def restore(root: Path, pointer: DvcPointer) -> Path:
    """Bring the data of a pointer back into the workspace, from the cache or the default remote.

    Raises:
        EvidenceMissing: neither has it.
        PedigreeError: the repository is locked.
    """
    from dvc.exceptions import CheckoutError, DvcException
    from dvc.lock import LockError

    present = read_pointer(root, root / pointer.path)
    file = write_pointer(root, pointer)
    with _repository(root) as repository:
        try:
            if _is_cached(repository, pointer):
                repository.checkout(targets=[str(file)], force=True)
            else:
                repository.pull(targets=[str(file)], force=True)
        except LockError:
            raise
        except (CheckoutError, DvcException) as error:
            if present is None:
                file.unlink()
            raise EvidenceMissing(
                f"{pointer.path} (md5 {pointer.md5}) is neither in DVC's cache nor in its remote "
                f"({' '.join(str(error).split())}): push it from where it was made with `dvc push`."
            ) from None
    return root / pointer.path


def push(root: Path, path: Path) -> int:
    """Push the data of one pointer to the default remote; return how many files went."""
    with _repository(root) as repository:
        return cast(int, repository.push(targets=[str(path) + ".dvc"]))
