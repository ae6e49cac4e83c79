"""Graphs of other frameworks: ONNX, TensorFlow, and Keras in HDF5.

An ONNX model is data as long as its operators are the standard's own and its tensors are in it.
TensorFlow and Keras graphs can call back into Python and touch files, so they are never admitted;
those that do are rejected, naming the operator.
"""

import re
from dataclasses import dataclass, field

from pedigree.admission.blobs import Blob
from pedigree.admission.protobuf import BYTES, Field, read_fields
from pedigree.admission.verdict import Report, TooMuch, Unreadable, show

_STANDARD_DOMAINS = frozenset(
    ["", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "ai.onnx.preview"]
)
# Field numbers of onnx.proto: where messages lie within messages.
_ONNX: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_MAX_DEPTH = 32
_MAX_FIELDS = 3_000_000  # in all: the largest graphs have some 100,000 nodes
# Operators through which a TensorFlow graph leaves the graph.
_REACHING_OUT = re.compile(
    rb"(EagerPyFunc|PyFuncStateless|PyFunc|NumpyFunction|ReadFile|WriteFile|MatchingFiles|"
    rb"LoadLibrary|LoadOpLibrary|ShellExecute|PrintV2File|DebugIdentityV3|WriteRawProtoSummary)"
)
_KERAS_LAMBDA = re.compile(rb'"class_name"\s*:\s*"(\w*Lambda\w*)"')
_KERAS_CODE = re.compile(rb'"(?:module|function_type)"\s*:\s*"(builtins|os|subprocess|lambda)"')


@dataclass
class _Found:
    """What a walk found: operators of other domains, functions made of operators, and so on."""

    operators: set[str] = field(default_factory=set[str])
    functions: set[str] = field(default_factory=set[str])
    external: set[str] = field(default_factory=set[str])
    fields: int = 0


def judge_onnx(blob: Blob, where: str, report: Report) -> None:
    """Judge an ONNX model: standard operators only, every tensor in the file."""
    found = _Found()
    try:
        _walk_onnx(blob, "model", 0, found)
    except Unreadable as error:
        report.reject(where, "onnx_malformed", f"it cannot be read as ONNX ({error}).")
        return
    unknown = found.operators - found.functions
    if unknown:
        names = ", ".join(show(name) for name in sorted(unknown)[:8])
        report.reject(
            where, "onnx_custom_operators", f"it needs operators that are not ONNX's own: {names}."
        )
    if found.external:
        names = ", ".join(show(name) for name in sorted(found.external)[:8])
        report.reject(
            where, "onnx_external_data", f"tensors lie in other files or places: {names}."
        )


def _walk_onnx(blob: Blob, kind: str, depth: int, found: _Found) -> None:
    if depth > _MAX_DEPTH:
        raise Unreadable(f"graphs more than {_MAX_DEPTH} deep")
    fields = list(read_fields(blob))
    found.fields += len(fields)
    if found.fields > _MAX_FIELDS:
        raise TooMuch(f"more than {_MAX_FIELDS} fields of an ONNX model")
    if kind == "node":
        domain = _text(fields, 7, blob)
        if domain not in _STANDARD_DOMAINS:
            found.operators.add(f"{domain}.{_text(fields, 4, blob)}")
    elif kind == "function":
        found.functions.add(f"{_text(fields, 10, blob)}.{_text(fields, 1, blob)}")
    elif kind == "tensor" and any(f.number == 13 or (f.number == 14 and f.value) for f in fields):
        # data_location (14) 1 is EXTERNAL; external_data (13) names the file.
        found.external.add(_text(fields, 8, blob) or "a tensor without a name")
    for item in fields:
        inner = _ONNX[kind].get(item.number)
        if inner is not None:
            if item.wire != BYTES:
                raise Unreadable(f"field {item.number} of a {kind} has another type than ONNX's")
            _walk_onnx(item.blob(blob), inner, depth + 1, found)


def _text(fields: list[Field], number: int, blob: Blob) -> str:
    """Return the last field of this number as text: that is the one that readers take."""
    texts = [item.blob(blob) for item in fields if item.number == number and item.wire == BYTES]
    return texts[-1].read(0, 1000).decode("utf-8", "replace") if texts else ""


def judge_tensorflow(blob: Blob, where: str, report: Report) -> None:
    """Quarantine a TensorFlow graph; reject one with operators that reach outside it."""
    found: set[str] = set()
    for chunk in blob.chunks(overlap=64):
        found.update(match.decode() for match in _REACHING_OUT.findall(chunk))
    if found:
        report.reject(
            where,
            "tensorflow_operators",
            f"its graph reaches outside itself: {', '.join(sorted(found))}.",
        )
        return
    report.quarantine(
        where,
        "tensorflow",
        "a TensorFlow graph is a program and no allowed format; no operator was "
        "found that reaches outside it.",
    )


def judge_hdf5(blob: Blob, where: str, report: Report) -> None:
    """Quarantine an HDF5 file, whose attributes may be compressed; reject a visible Lambda."""
    found: set[str] = set()
    for chunk in blob.chunks(overlap=256):
        found.update(match.decode() for match in _KERAS_LAMBDA.findall(chunk))
        found.update(match.decode() for match in _KERAS_CODE.findall(chunk))
    if found:
        report.reject(
            where,
            "keras_lambda",
            f"its Keras configuration holds code: {', '.join(sorted(found))}.",
        )
        return
    report.quarantine(
        where,
        "hdf5",
        "HDF5 is no allowed format, and what it holds could not be looked at in full; "
        "no Lambda layer was found in plain sight.",
    )
