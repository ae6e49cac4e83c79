"""Small files of each format, made here; hostile ones would touch a canary if loaded."""

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path


def safetensors_bytes(
    header: dict[str, object] | bytes | None = None, data: bytes = bytes(16)
) -> bytes:
    """Return a safetensors file of one 2x2 tensor, or with another header or data."""
    if header is None:
        header = {"weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def text_op(text: str) -> bytes:
    """Return the opcode that pushes a short text."""
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def call(module: str, name: str, argument: str, protocol: int = 4) -> bytes:
    """Return a pickle that calls `module.name(argument)`, as protocol 0, 2 or 4 writes it."""
    if protocol == 0:
        return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()
    if protocol == 2:
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + text_op(argument) + b"\x85R."
    parts = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() + b"\x94" for t in (module, name))
    return b"\x80\x04" + parts + b"\x93\x94" + text_op(argument) + b"\x85R."


def hostile(canary: Path, protocol: int = 4) -> bytes:
    """Return a pickle that would make the file `canary`."""
    return call("os", "system", f"touch {canary}", protocol)


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """Return a tar of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def protobuf_field(number: int, value: int | bytes) -> bytes:
    """Return one field of a protocol buffer; lengths below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def onnx_bytes(domain: bytes = b"", external: bool = False) -> bytes:
    """Return an ONNX model of one node and one tensor."""
    node = protobuf_field(1, b"x") + protobuf_field(2, b"y") + protobuf_field(4, b"Relu")
    node += protobuf_field(7, domain) if domain else b""
    tensor = protobuf_field(1, 1) + protobuf_field(2, 1) + protobuf_field(8, b"w")
    if external:
        tensor += protobuf_field(13, protobuf_field(1, b"location") + protobuf_field(2, b"../x"))
        tensor += bytes([14 << 3, 1])
    graph = protobuf_field(1, node) + protobuf_field(5, tensor)
    opset = protobuf_field(2, 14)
    return protobuf_field(1, 7) + protobuf_field(7, graph) + protobuf_field(8, opset)


def model_folder(folder: Path) -> Path:
    """Write a model folder that is admitted."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 2}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"{{": 0, "a": 1}}}))
    (folder / "vocab.txt").write_text("[PAD]\nimport\n")
    (folder / "README.md").write_text(
        "# A model\n\n```python\nimport os\ndef f():\n    pass\n```\n"
    )
    (folder / "LICENSE").write_text("Apache License\n")
    return folder
