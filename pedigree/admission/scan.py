"""One scan: what was received is judged, file by file, and then as a folder.

    scan = scan_path(Path("model/"))
    scan.outcome, [finding.reason for finding in scan.findings]

Work is bounded by counts and not by a clock, so the same bytes get the same verdict everywhere. A
scan that fails, or that stops at a limit, is a finding.
"""

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from pedigree.admission import (
    arrays,
    configs,
    containers,
    gguf_file,
    graphs,
    pickles,
    safetensors_file,
    sentencepiece_file,
    tree,
    zips,
)
from pedigree.admission.blobs import Blob
from pedigree.admission.content import also_a_zip, is_python, read_text, reads_as_code, recognise
from pedigree.admission.publishers import Publishers
from pedigree.admission.receiving import Received, receive
from pedigree.admission.signature_files import take_signature
from pedigree.admission.signatures import verify_signature
from pedigree.admission.templates import judge_template
from pedigree.admission.texts import judge_document, judge_text
from pedigree.admission.verdict import Limits, Report, Scan, ScannedFile, TooMuch, show
from pedigree.digests import sha256_hex

_COMPRESSED = frozenset(["gzip", "bzip2", "xz", "lzma", "zlib", "zfile"])
_UNOPENED = (" archive", " stream")
_TEMPLATE_NAME = re.compile(r"\.(jinja2?|j2|tmpl|template|tpl|txt)\Z", re.IGNORECASE)
_RUNS = (" executable", "bytecode", "script")
# Formats whose own readers know nothing of a zip behind them; archives are judged inside.
_NO_ZIP = frozenset(
    [
        *("npy", "onnx", "gguf", "hdf5", "json", "template", "script", "text", "sentencepiece"),
        *("tensorflow graph", "unknown data", "PNG image", "JPEG image", "GIF image"),
        "PDF document",
    ]
)


def scan_path(path: Path, store: Path | None = None, limits: Limits | None = None) -> Scan:
    """Receive a file or folder and judge the copy; nothing of it is run, whatever it is.

    Args:
        path: a file or a folder.
        store: where the copies are kept; None keeps none.
        limits: bounds of the work.

    Raises:
        PedigreeError: there is nothing at `path`, or no room for the copy.
    """
    if store is not None:
        return _scan_unpinned(receive(path, store), limits)
    with tempfile.TemporaryDirectory(prefix="pedigree-admission-") as folder:
        return _scan_unpinned(receive(path, Path(folder)), limits)


def _scan_unpinned(received: Received, limits: Limits | None) -> Scan:
    """Judge what was received where no publisher is known: a signature can only speak against."""
    received, files = take_signature(received)
    refused = verify_signature(received, files, Publishers(), None).findings
    scan = scan_received(received, limits)
    if not refused:
        return scan
    return replace(scan, outcome="rejected", findings=(*refused, *scan.findings))


def scan_received(received: Received, limits: Limits | None = None) -> Scan:
    """Judge what was received, by the copies in its store."""
    report = Report(limits or Limits())
    for problem in received.problems:
        add = report.reject if problem.outcome == "rejected" else report.quarantine
        add(problem.path, problem.rule, problem.reason)
    scanned: list[ScannedFile] = []
    shards: dict[str, set[str]] = {}
    for entry in received.files:
        scanner = _Scanner(report)
        handle = received.open(entry)
        try:
            kind = scanner.judge_file(Blob(handle), entry.path, received.folder)
        finally:
            os.close(handle)
        if scanner.shards is not None:
            shards[entry.path] = scanner.shards
        scanned.append(ScannedFile(show(entry.path, 1000), kind, entry.size, entry.sha256))
    if received.folder:
        tree.judge_whole(received.files, shards, report)
    elif not received.files and not report.findings:
        report.quarantine(received.name, "unreadable", "it was not looked at.")
    findings = tuple(report.findings)
    return Scan(report.outcome, received.digest, findings, tuple(scanned), report.unlisted)


def scan_bytes(data: bytes, name: str, limits: Limits | None = None) -> Scan:
    """Judge bytes in memory as a single file of this name."""
    report = Report(limits or Limits())
    kind = _Scanner(report).judge_file(Blob(data), name, in_folder=False)
    file = ScannedFile(show(name, 1000), kind, len(data), sha256_hex(data))
    return Scan(
        report.outcome, f"sha256:{file.sha256}", tuple(report.findings), (file,), report.unlisted
    )


class _Scanner:
    """Judges one file, and whatever is within it."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.shards: set[str] | None = None

    def judge_file(self, blob: Blob, path: str, in_folder: bool) -> str:
        """Judge one received file; return its kind. Never raises for what is in it."""
        kind = "not recognised"
        name = path.rpartition("/")[2]
        try:
            kind = recognise(blob, name, self.report)
            if in_folder:
                tree.judge_place(path, kind, self.report)
            self._judge(blob, kind, name, path, 0)
            if kind in ("text", "template", "json"):
                self._judge_role(blob, kind, name, path, in_folder)
        except TooMuch as error:
            self.report.reject(
                path,
                "too_much",
                f"{error}: this is a bomb, or too much to be judged; the rest was not looked at.",
            )
        except Exception as error:
            # Whatever a hostile file may make of a parser, it is not clean.
            self.report.quarantine(
                path,
                "scan_failed",
                f"the scan ended with {type(error).__name__}, so it was not looked at in full.",
            )
        return kind

    def _judge(self, blob: Blob, kind: str, name: str, where: str, depth: int) -> None:
        if depth > self.report.limits.depth:
            raise TooMuch(f"archives or pickles nested more than {self.report.limits.depth} deep")

        def judge_member(content: Blob, inner: str) -> None:
            self._judge_member(content, inner, depth + 1)

        if kind == "pickle":
            pickles.judge_pickles(
                blob, where, self.report, lambda c, w: self._judge_constant(c, w, depth + 1)
            )
        elif kind == "zip":
            zips.judge_zip(blob, where, self.report, judge_member)
        elif kind in _COMPRESSED:
            containers.judge_compressed(blob, kind, where, self.report, judge_member)
        elif kind == "tar":
            containers.judge_tar(blob, where, self.report, judge_member)
        elif kind == "npy":
            arrays.judge_npy(blob, where, self.report, judge_member)
        else:
            self._judge_plain(blob, kind, name, where)
        if kind.endswith(_UNOPENED):
            pickles.search_for_pickles(blob, where, self.report, judge_member)
        if kind in _NO_ZIP and also_a_zip(blob):
            self.report.reject(
                where, "polyglot", f"it is {kind} and a zip file as well: readers differ."
            )
            zips.judge_zip(blob, where, self.report, judge_member)

    def _judge_plain(self, blob: Blob, kind: str, name: str, where: str) -> None:
        """Judge what holds no other files."""
        if kind == "safetensors":
            safetensors_file.judge_safetensors(blob, where, self.report)
        elif kind == "json":
            self._judge_json(blob, name, where)
        elif kind == "template":
            allowed = tree.find_allowed(name)
            if allowed is not None and allowed.role in ("document", "vocabulary"):
                return  # braces as BibTeX and word lists have them: nobody renders these
            judge_template(read_text(blob, self.report) or "", name, where, self.report)
        elif kind == "onnx":
            graphs.judge_onnx(blob, where, self.report)
        elif kind == "gguf":
            gguf_file.judge_gguf(blob, where, self.report)
        elif kind == "tensorflow graph":
            graphs.judge_tensorflow(blob, where, self.report)
        elif kind == "hdf5":
            graphs.judge_hdf5(blob, where, self.report)
        elif kind == "empty file":
            self.report.reject(where, "empty", "it has no bytes: there is nothing to admit.")
        elif kind.endswith(_RUNS):
            self.report.reject(where, "executable", f"its content is a program ({kind}).")
        elif kind == "sentencepiece":
            sentencepiece_file.judge_sentencepiece(blob, where, self.report)
        elif kind != "text":
            self.report.quarantine(
                where,
                "unknown_format",
                f"its content ({kind}) is no allowed format, and it was not looked into.",
            )

    def _judge_json(self, blob: Blob, name: str, where: str) -> None:
        text = read_text(blob, self.report)
        value = configs.judge_json((text or "").removeprefix("\ufeff"), name, where, self.report)
        if configs.is_index(name) and value is not None:
            self.shards = configs.shards_of(value, name)
        if '"class_name"' in (text or "") and zips.find_lambda((text or "").encode()):
            self.report.reject(
                where, "keras_lambda", "it holds a Keras Lambda layer, which is code."
            )

    def _judge_role(self, blob: Blob, kind: str, name: str, path: str, in_folder: bool) -> None:
        """Judge a text by what its name says that it is for; elsewhere a text is no model."""
        allowed = tree.find_allowed(name)
        if kind == "json":
            if allowed is None and not in_folder and not name.lower().endswith(".json"):
                self.report.quarantine(path, "unknown_format", "it is JSON and no model format.")
            return
        text = read_text(blob, self.report) or ""
        # A list of words may have lines that are Python's; as a whole it does not parse.
        lines = allowed is None or allowed.role == "document"
        if is_python(text) or (lines and reads_as_code(text)):
            self.report.reject(path, "executable", "its content is a program (Python).")
        elif allowed is not None and allowed.role in ("document", "declaration"):
            judge_document(text, path, self.report)
        elif allowed is None and not in_folder:
            if kind == "template":
                judge_text(text, name, path, self.report)
            if kind == "text" or not _TEMPLATE_NAME.search(name):
                self.report.quarantine(path, "unknown_format", "it is a text and no model format.")

    def _judge_member(self, blob: Blob, where: str, depth: int) -> None:
        name = where.rpartition("!")[2].rpartition("/")[2]
        if blob.size == 0:
            return
        kind = recognise(blob, name, self.report)
        numbers = _is_storage(where) and kind in ("pickle", "unknown data", "zlib", "text")
        if numbers and (kind != "pickle" or not pickles.acts_as_pickle(blob, self.report)):
            return  # raw numbers of a checkpoint, whatever they begin like
        self._judge(blob, kind, name, where, depth)

    def _judge_constant(self, blob: Blob, where: str, depth: int) -> None:
        """Judge what hides in a constant of a pickle, if it would act once it is loaded."""
        kind = recognise(blob, "", self.report)
        if kind == "pickle":
            if pickles.acts_as_pickle(blob, self.report):
                self._judge(blob, kind, "", where, depth)
        elif kind in _COMPRESSED or kind in ("zip", "tar"):
            inner = _Scanner(
                Report(self.report.limits, [], self.report.opcodes, self.report.expanded)
            )
            inner._judge(blob, kind, "", where, depth)
            self.report.opcodes, self.report.expanded = inner.report.opcodes, inner.report.expanded
            # Bytes that only look like an archive are no finding; what is within them is.
            found = inner.report.findings
            if any(f.rule.endswith("_malformed") for f in found[:1]):
                found = [f for f in found if f.rule.startswith("pickle_")]
            for finding in found:
                self.report.add(finding)


def _is_storage(where: str) -> bool:
    parts = where.rpartition("!")[2].split("/")
    return len(parts) >= 2 and parts[-2] in ("data", "storages", "tensors")
