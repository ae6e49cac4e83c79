"""Where the cluster job reads and writes: a folder that every machine sees, or an object store.

A place is a path or a URI that pyarrow knows (`s3://`, `gs://`, `file://`)::

    >>> list_parquet(["/data/texts"])
    ['/data/texts/part-0.parquet', '/data/texts/part-1.parquet']
"""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pedigree.digests import JSON
from pedigree.errors import EvidenceMissing, PedigreeError
from pedigree.files import folder_written_atomically

RESULT = "result.json"
ROW = "row"
ROWS_A_BATCH = 1 << 16


@dataclass(frozen=True)
class Space:
    """A place that a job fills; nothing in it counts until `result.json` is there."""

    place: str

    def join(self, name: str) -> str:
        """Return where a file or folder of this space lies."""
        return f"{self.place}/{name}"

    def locate(self, path: str) -> str:
        """Return a file's URI in an object store, of which Daft leaves out the scheme."""
        scheme, found, _ = self.place.partition("://")
        return f"{scheme}://{path}" if found and "://" not in path else path

    def relative(self, path: str) -> str:
        """Return a file's name within this space."""
        bare = open_filesystem(path)[1]
        return bare.removeprefix(open_filesystem(self.place)[1]).lstrip("/")

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        filesystem, path = open_filesystem(self.join(name))
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        """Delete a folder and all in it, if it is there."""
        filesystem, path = open_filesystem(self.join(name))
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            filesystem.delete_dir(path)

    def list(self) -> list[str]:
        """Return every file in this space, by its name within it."""
        filesystem, path = open_filesystem(self.place)
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        return sorted(
            one.path.removeprefix(path).lstrip("/") for one in found if one.type == fs.FileType.File
        )


def open_filesystem(place: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path within it.

    Raises:
        PedigreeError: nothing here can open such a URI.
    """
    if "://" not in place:
        return fs.LocalFileSystem(), str(Path(place).absolute())
    try:
        return fs.FileSystem.from_uri(place)
    except (ValueError, pa.ArrowInvalid, OSError) as error:
        raise PedigreeError(
            f"{place} cannot be opened ({error}): expected a path, or a URI such as "
            "s3://bucket/folder. Correct it and run again."
        ) from None


@contextmanager
def open_space(output: str) -> Generator[Space]:
    """Yield a space that becomes `output` when the block ends without an error.

    In a folder everything is written beside `output`, which appears at once. An object store
    cannot rename: there what was written is deleted again after an error, and a reader goes by
    `result.json`, which is written last.

    Raises:
        PedigreeError: there is something at `output` already.
    """
    filesystem, path = open_filesystem(output)
    if filesystem.get_file_info(path).type != fs.FileType.NotFound and Space(output).list():
        raise PedigreeError(
            f"{output} is there already: expected a new place for the result. Name another one, or "
            "delete it."
        )
    if isinstance(filesystem, fs.LocalFileSystem):
        if Path(path).is_dir():
            Path(path).rmdir()
        with folder_written_atomically(Path(path)) as partial:
            yield Space(str(partial))
        return
    space = Space(output.rstrip("/"))
    try:
        yield space
    except BaseException:
        filesystem.delete_dir_contents(path, missing_dir_ok=True)
        raise


def read_result(output: str) -> dict[str, JSON]:
    """Return what `result.json` of a finished job says.

    Raises:
        EvidenceMissing: there is none: the job did not end, or wrote elsewhere.
    """
    filesystem, path = open_filesystem(f"{output.rstrip('/')}/{RESULT}")
    try:
        with filesystem.open_input_stream(path) as stream:
            return cast(dict[str, JSON], json.loads(stream.read()))
    except (FileNotFoundError, ValueError) as error:
        raise EvidenceMissing(
            f"{output} holds no whole result ({error}): the job did not end, or wrote elsewhere. "
            "Look at the job's log and run it again."
        ) from None


def open_table(output: str, name: str) -> pa.Table:
    """Return a table of a finished job: documents, pairs or conflicts.

    Only files that the result names are read: a worker that was lost may have left others.
    """
    tables = cast(dict[str, list[str]], read_result(output)["tables"])
    filesystem, root = open_filesystem(output)
    return pa.concat_tables(
        pq.ParquetFile(f"{root}/{file}", filesystem=filesystem).read() for file in tables[name]
    )


def list_parquet(places: Sequence[str]) -> list[str]:
    """Return the Parquet files at `places` in order: files as named, those of a folder by name.

    Raises:
        PedigreeError: a place does not exist, or none of them holds a Parquet file.
    """
    files: list[str] = []
    for place in places:
        filesystem, path = open_filesystem(place)
        scheme = "" if isinstance(filesystem, fs.LocalFileSystem) else place.split("://")[0] + "://"
        found = filesystem.get_file_info(path)
        if found.type == fs.FileType.NotFound:
            raise PedigreeError(
                f"{place} does not exist: expected a Parquet file, or a folder of them, that every "
                "machine of the job can read. Correct --input and run again."
            )
        if found.type == fs.FileType.File:
            files.append(scheme + path)
            continue
        inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        names = sorted(one.path for one in inside if one.type == fs.FileType.File)
        files += [scheme + name for name in names if _is_data(name.removeprefix(path))]
    if not files:
        raise PedigreeError(
            f"{', '.join(places)} holds no Parquet file: expected names that end in .parquet. "
            "Correct --input and run again."
        )
    return files


def _is_data(name: str) -> bool:
    parts = name.strip("/").split("/")
    return name.endswith(".parquet") and not any(part.startswith((".", "_")) for part in parts)


def read_schemas(files: Sequence[str], columns: Sequence[str]) -> pa.Schema:
    """Return the types of `columns`, the same in every file.

    Raises:
        PedigreeError: a file is no Parquet, lacks a column, or has it with another type.
    """
    schemas: list[pa.Schema] = []
    for file in files:
        filesystem, path = open_filesystem(file)
        try:
            schema = pq.read_schema(path, filesystem=filesystem)
        except (pa.ArrowInvalid, OSError) as error:
            raise PedigreeError(
                f"{file} cannot be read as Parquet ({error}): replace the file or leave it out."
            ) from None
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise PedigreeError(
                f"{file} has no column {missing[0]!r}: it has {', '.join(schema.names) or 'none'}. "
                "Name the column that is meant and run again."
            )
        chosen = pa.schema([schema.field(name).remove_metadata() for name in columns])
        schemas.append(chosen)
        if chosen.types != schemas[0].types:
            raise PedigreeError(
                f"{file} has the types {chosen.types} where {files[0]} has {schemas[0].types}: "
                f"expected the same in every file for {', '.join(columns)}. Write the files with "
                "one schema."
            )
    return schemas[0]


def number_rows(files: Sequence[str], columns: Sequence[str], target: str) -> str:
    """Write `columns` of all files as one, with each row's position as the column `row`.

    One pass by one process, a batch in memory at a time. Where that is too slow, name a column
    that identifies the rows instead.
    """
    filesystem, path = open_filesystem(target)
    filesystem.create_dir(path.rpartition("/")[0])
    schema = read_schemas(files, columns).insert(0, pa.field(ROW, pa.int64()))
    position = 0
    with pq.ParquetWriter(path, schema, filesystem=filesystem) as writer:
        for batch in _read_batches(files, columns):
            numbers = pa.array(range(position, position + batch.num_rows), pa.int64())
            writer.write_batch(
                pa.RecordBatch.from_arrays([numbers, *batch.columns], schema=schema), ROWS_A_BATCH
            )
            position += batch.num_rows
    return target


def _read_batches(files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for file in files:
        filesystem, path = open_filesystem(file)
        with filesystem.open_input_file(path) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(ROWS_A_BATCH, columns=list(columns)):
                yield batch.select(list(columns))
