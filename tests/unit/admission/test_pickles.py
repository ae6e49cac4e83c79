import base64
import bz2
import collections
import functools
import gzip
import io
import logging
import lzma
import operator
import pickle
import pickletools
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.admission.scan import scan_bytes, scan_path
from pedigree.admission.verdict import Limits
from tests.unit.admission.artifacts import call, hostile, tar_bytes, text_op, zip_bytes


def reasons(data: bytes, name: str = "a.pkl") -> tuple[str, str]:
    scan = scan_bytes(data, name)
    return scan.outcome, " ".join(finding.reason for finding in scan.findings)


@pytest.mark.parametrize("protocol", range(6))
def test_harmless_pickles_are_quarantined_as_code_and_not_called_hostile(protocol: int) -> None:
    value = {"a": [1, 2.5, None, True], "b": collections.OrderedDict(x={1, 2}), "c": np.arange(6.0)}
    outcome, reason = reasons(pickle.dumps(value, protocol))
    assert outcome == "quarantined"
    assert "imports are all on the allowlist" in reason
    assert "collections.OrderedDict" in reason


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "eval"),
        ("builtins", "getattr"), ("operator", "attrgetter"), ("functools", "partial"),
        ("pickle", "loads"), ("torch.hub", "load"), ("pip", "main"), ("torch", "load"),
        ("numpy", "load"), ("pandas", "read_pickle"),
        ("logging", "FileHandler"), ("some_package.tools", "run"),
    ],
)  # fmt: skip
def test_what_runs_code_is_rejected_by_name(protocol: int, module: str, name: str) -> None:
    outcome, reason = reasons(call(module, name, "id", protocol))
    assert outcome == "rejected"
    assert f"{module.replace('__builtin__', 'builtins')}.{name}" in reason


def test_an_unknown_class_is_quarantined_for_being_unknown() -> None:
    outcome, reason = reasons(b"\x80\x02csklearn.svm\nSVC\n)\x81.")
    assert outcome == "quarantined"
    assert "nobody has reviewed" in reason
    assert "sklearn.svm.SVC" in reason


def test_a_name_is_found_through_the_memo_and_below_a_dropped_value() -> None:
    memo = b"\x80\x04" + text_op("system") + b"\x94" + text_op("os") + b"\x9400h\x01h\x00\x93)R."
    dropped = b"\x80\x02cos\nsystem\n" + text_op("id") + b"\x85R0}."
    for data in (memo, dropped):
        outcome, reason = reasons(data)
        assert outcome == "rejected"
        assert "os.system" in reason


def test_other_ways_to_call_are_seen() -> None:
    instance = b"(" + text_op("id") + b"ios\nsystem\n."
    construct = b"(cos\nsystem\n" + text_op("id") + b"o."
    extension = b"\x80\x02\x82\x01)R."
    state = b"\x80\x02ccollections\nOrderedDict\n}b."
    computed = b"\x80\x02ccollections\nOrderedDict\n)R)R."
    not_a_name = b"\x80\x04K\x01K\x02\x93."
    for data in (instance, construct, extension, state, computed, not_a_name):
        assert reasons(data)[0] == "rejected", data


def test_what_hides_in_a_constant_is_judged() -> None:
    inner = call("os", "system", "touch x")
    for content in (inner, gzip.compress(inner), zlib.compress(inner), zip_bytes({"a": inner})):
        raw = pickle.dumps({"x": content}, 4)
        text = pickle.dumps({"x": base64.b64encode(content).decode()}, 4)
        digits = pickle.dumps({"x": content.hex()}, 2)
        for data in (raw, text, digits):
            outcome, reason = reasons(data)
            assert (outcome, "os.system" in reason) == ("rejected", True), content[:4]


def test_a_pickled_tensor_is_quarantined_and_one_that_hides_code_rejected() -> None:
    import torch

    honest = pickle.dumps(torch.zeros(2))
    assert reasons(honest)[0] == "quarantined"
    inner = pickle.dumps(1, 2) + call("os", "system", "id", 2)
    hiding = (
        b"\x80\x03ctorch.storage\n_load_from_bytes\nC" + bytes([len(inner)]) + inner + b"\x85R."
    )
    assert "os.system" in reasons(hiding)[1]


def test_a_second_pickle_after_the_first_is_judged() -> None:
    assert reasons(pickle.dumps(1) + call("os", "system", "id"))[0] == "rejected"
    assert "3 bytes after it" in reasons(pickle.dumps(1) + b"\xff\xff\xff")[1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00N.",  # a frame longer than the file
        b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00K\x01.",  # an opcode beyond its frame
        b"\x80\x04\x95\x04\x00\x00\x00\x00\x00\x00\x00N.NN",  # STOP before the frame's end
        b"\x80\x02K\x01r\xff\xff\xff\xff.",  # a memo of 32 GB
        b"\x80\x03cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.",  # 16 TB
        b"\x80\x02" + b"(" * 5 + b".",
        b"\x80\x02h\x05.",
        b"\x80\x02.",
        b"\x80\x06N.",
        b"\x80\x02]" + b"q\x00" + b"X\xff\xff\xff\x7fa.",
        b"\x80\x02N",
    ],
)
def test_what_is_no_whole_pickle_is_rejected(data: bytes) -> None:
    outcome, reason = reasons(data)
    assert outcome == "rejected"
    assert "cannot be parsed" in reason


def test_tuples_that_unfold_without_end_are_rejected() -> None:
    bomb = b"\x80\x02K\x01" + b"2\x86" * 60 + b"."
    assert "unfold" in reasons(bomb)[1]


def test_a_call_of_what_unfolds_without_end_is_judged_at_once() -> None:
    assert reasons(b"\x80\x02K\x01" + b"2\x86" * 36 + b")R}b.")[0] == "rejected"


def test_every_truncation_of_a_hostile_pickle_is_refused(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        data = hostile(tmp_path / "canary", protocol)
        for end in range(len(data)):
            assert scan_bytes(data[:end], "a.pkl").outcome != "admitted"
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_compressed_pickles_are_judged(compress, tmp_path: Path) -> None:
    outcome, reason = reasons(compress(hostile(tmp_path / "canary")), "model.joblib")
    assert outcome == "rejected"
    assert "os.system" in reason
    assert reasons(compress(pickle.dumps([1])), "model.joblib")[0] == "quarantined"


def test_archives_within_archives_are_judged_and_fifty_are_too_many(tmp_path: Path) -> None:
    data = hostile(tmp_path / "canary")
    nested = zip_bytes({"a.tar": tar_bytes({"b.gz": gzip.compress(data)})})
    assert "os.system" in reasons(nested, "a.zip")[1]
    for _ in range(50):
        data = zip_bytes({"a.zip": data})
    outcome, reason = reasons(data, "a.zip")
    assert outcome == "rejected"
    assert "nested more than" in reason


def test_a_torch_checkpoint_and_torchscript_are_told_apart() -> None:
    checkpoint = {
        "m/data.pkl": pickle.dumps({}, 2),
        "m/data/0": b"\x80\x02\xff\xff",
        "m/version": b"3",
    }
    outcome, reason = reasons(zip_bytes(checkpoint), "m.pt")
    assert outcome == "quarantined"
    assert "PyTorch checkpoint" in reason
    outcome, reason = reasons(zip_bytes({**checkpoint, "m/code/x.py": b"x"}), "m.pt")
    assert outcome == "rejected"
    assert "TorchScript" in reason


def test_real_torch_files_of_both_formats_are_quarantined(tmp_path: Path) -> None:
    import torch

    for new in (True, False):
        path = tmp_path / f"{new}.pt"
        torch.save({"w": torch.zeros(3, 4)}, path, _use_new_zipfile_serialization=new)
        scan = scan_path(path)
        assert scan.outcome == "quarantined"
        assert any("on the allowlist" in finding.reason for finding in scan.findings)


def test_real_joblib_files_are_quarantined(tmp_path: Path) -> None:
    import joblib

    value = {"a": np.arange(1000.0).reshape(10, 100), "b": np.array(["x", None], dtype=object)}
    for compress in (0, 3, ("bz2", 3), ("xz", 3)):
        path = tmp_path / "m.joblib"
        joblib.dump(value, path, compress=compress)
        scan = scan_path(path)
        assert scan.outcome == "quarantined", scan.findings
        assert any("on the allowlist" in finding.reason for finding in scan.findings)


def test_numpy_files() -> None:
    def save(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    numbers = save(np.zeros((2, 3), dtype=[("a", "<f8"), ("b", "<i4", (2,))]))
    assert reasons(numbers, "a.npy")[0] == "quarantined"
    assert "follow" in reasons(numbers + b"x", "a.npy")[1]
    objects = save(np.array([1, "a"], dtype=object))
    assert "array of objects" in reasons(objects, "a.npy")[1]
    start = objects.index(b"\x80")
    assert "os.system" in reasons(objects[:start] + call("os", "system", "id"), "a.npy")[1]
    assert reasons(zip_bytes({"a.npy": numbers}), "a.npz")[0] == "quarantined"


def test_a_zip_whose_two_directories_differ_is_rejected(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.pkl": hostile(tmp_path / "canary")}))
    wrong_checksum = bytearray(data)
    wrong_checksum[wrong_checksum.index(b"PK\x01\x02") + 16] ^= 1
    encrypted_flag = bytearray(data)
    for mark in (b"PK\x01\x02", b"PK\x03\x04"):
        at = encrypted_flag.index(mark)
        encrypted_flag[at + (8 if mark[2] == 1 else 6)] |= 1
    no_directory = data[: data.index(b"PK\x01\x02")]
    for broken in (wrong_checksum, encrypted_flag, no_directory):
        outcome, reason = reasons(bytes(broken), "a.zip")
        assert outcome == "rejected"
        assert "os.system" in reason


def test_bombs_end_at_the_limit() -> None:
    limits = Limits(small=1 << 20, expanded=32 << 20, opcodes=10_000)
    zeros = bytes(8 << 20)
    for data in (gzip.compress(zeros), zip_bytes({"a": zeros}), bz2.compress(zeros)):
        scan = scan_bytes(data, "a.bin", limits)
        assert scan.outcome == "rejected"
        assert any(finding.rule == "too_much" for finding in scan.findings)
    long = scan_bytes(b"\x80\x02" + b"N0" * 20_000 + b"N.", "a.pkl", limits)
    assert "opcodes" in long.findings[0].reason


@given(st.binary(max_size=200))
def test_any_bytes_get_a_verdict_and_none_is_admitted_as_a_pickle(data: bytes) -> None:
    scan = scan_bytes(data, "a.pkl")
    assert scan.outcome in ("quarantined", "rejected") or scan.files[0].kind == "json"
    assert all(finding.rule != "scan_failed" for finding in scan.findings)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@given(_VALUES, st.integers(0, 5))
def test_plain_values_are_quarantined_in_every_protocol(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert scan_bytes(data, "a.pkl").outcome == "quarantined"


@given(_VALUES, st.integers(2, 5), st.data())
def test_what_genops_cannot_parse_is_rejected(value: object, protocol: int, data) -> None:
    raw = bytearray(pickle.dumps(value, protocol))
    at = data.draw(st.integers(2, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        list(pickletools.genops(bytes(raw)))
    except Exception:
        assert scan_bytes(bytes(raw), "a.pkl").outcome == "rejected"


def name_op(module: str, name: str) -> bytes:
    return text_op(module) + text_op(name) + b"\x93"


def test_what_libraries_write_of_times_settings_and_methods_is_not_called_hostile() -> None:
    import pandas as pd
    from scipy import interpolate, stats

    values = [
        pd.Timestamp("2020-01-01", tz="Europe/Berlin"), pd.NaT, pd.Timedelta("1d"),
        np.array(["a"], dtype=np.dtypes.StringDType()), np.poly1d([1, 2]),
        re.compile("a+"), logging.getLogger("a"), ValueError("a"), type(None),
        collections.ChainMap(), operator.itemgetter(1), functools.partial(np.clip, a_min=0),
        {"key": len},
        stats.loguniform(1, 2), stats.gaussian_kde([1, 2, 3.0]),
        interpolate.interp1d([1, 2], [3, 4]),
    ]  # fmt: skip
    for value in values:
        for protocol in (2, 4):
            assert reasons(pickle.dumps(value, protocol))[0] == "quarantined", value


def test_whole_modules_of_torch_are_quarantined_in_both_formats() -> None:
    import torch

    layer = torch.nn.TransformerEncoderLayer(8, 2, activation=torch.nn.functional.gelu)
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(layer, buffer, _use_new_zipfile_serialization=new)
        assert reasons(buffer.getvalue(), "a.pt")[0] == "quarantined"


def test_what_is_referred_to_may_not_be_called() -> None:
    start = b"\x80\x04"
    path = name_op("pathlib", "Path") + text_op("canary") + b"\x85R"
    method = name_op("builtins", "getattr") + path + text_op("touch") + b"\x86R"
    of_class = name_op("builtins", "getattr") + name_op("pathlib", "Path") + text_op("touch")
    partial = name_op("functools", "partial") + name_op("package.tools", "run") + b"\x85R"
    assert reasons(start + partial + b".")[0] == "quarantined"
    for data in (
        method + b")R", method + b")\x81", of_class + b"\x86R" + path + b"\x85R",
        partial + b")R", name_op("functools", "partial") + name_op("os", "system") + b"\x85R",
        name_op("builtins", "getattr") + path + text_op("__init__") + b"\x86R",
        name_op("torch._tensor", "_rebuild_from_type_v2") + b"(" + method + b"tR",
        name_op("torch._tensor", "_rebuild_from_type_v2") + b"(" + name_op("a.b", "c") + b"tR",
        name_op("builtins", "type") + b"(" + text_op("a") + b")}tR",
        name_op("torch", "hub.load"), name_op("torch", "load") + b")R",
    ):  # fmt: skip
        assert reasons(start + data + b".")[0] == "rejected", data


def test_an_array_in_a_file_may_be_a_type_and_not_be_opened() -> None:
    opened = b"(" + text_op("canary") + text_op("uint8") + text_op("w+") + b"t"
    kind = name_op("numpy", "memmap")
    for data in (
        kind + opened + b"R", kind + opened + b"\x81", kind + opened + b"}\x92",
        name_op("copyreg", "__newobj__") + b"(" + kind + text_op("canary") + b"tR",
    ):  # fmt: skip
        assert "numpy.memmap" in reasons(b"\x80\x04" + data + b".")[1]
        assert reasons(b"\x80\x04" + data + b".")[0] == "rejected"
    rebuilt = name_op("numpy._core.multiarray", "_reconstruct") + kind + b"K\x00\x85C\x01b\x87R."
    assert reasons(b"\x80\x04" + rebuilt)[0] == "quarantined"


def test_what_a_pickle_piles_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pedigree.admission.pickle_state._MAX_HELD", 1000)
    assert "stack holds more" in reasons(b"\x80\x04" + b"]" * 1001 + b".")[1]
    assert "memo holds more" in reasons(b"\x80\x04" + b"]\x940" * 1001 + b"N.")[1]
    assert reasons(b"\x80\x04" + b"]0" * 2000 + b"N.")[0] == "quarantined"
