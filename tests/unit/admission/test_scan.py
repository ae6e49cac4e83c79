import errno
import json
import os
import socket
import struct
import time
import warnings
from pathlib import Path

import pytest

from pedigree.admission import receiving
from pedigree.admission.receiving import receive
from pedigree.admission.scan import scan_bytes, scan_path, scan_received
from pedigree.digests import digest_manifest
from pedigree.errors import PedigreeError
from tests.unit.admission.artifacts import (
    hostile,
    model_folder,
    onnx_bytes,
    safetensors_bytes,
    tar_bytes,
)

CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|user|>{{ message['content'] "
    "| trim }}{% else %}{% generation %}{{ message.content.strip() }}{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def by_file(path: Path) -> dict[str, str]:
    scan = scan_path(path)
    assert scan.outcome == "rejected"
    found: dict[str, str] = {}
    for finding in scan.findings:
        found[finding.file] = found.get(finding.file, "") + finding.reason
    return found


def test_a_model_folder_is_admitted_and_named_by_its_bytes(tmp_path: Path) -> None:
    first = scan_path(model_folder(tmp_path / "a"))
    assert (first.outcome, first.findings) == ("admitted", ())
    second = scan_path(model_folder(tmp_path / "b"))
    assert second.digest == first.digest
    (tmp_path / "b" / "LICENSE").write_text("x")
    assert scan_path(tmp_path / "b").digest != first.digest
    assert json.loads(json.dumps(first.describe()))["state"] == "admitted"


def test_a_repository_that_brings_code_is_rejected_naming_each(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "x", "auto_map": {"AutoModel": "modeling_x.XModel"}})
    )
    (folder / "modeling_x.py").write_text("import torch\n")
    (folder / "setup.py").write_text("from setuptools import setup\nsetup()\n")
    (folder / "run.sh").write_text("#!/bin/sh\nid\n")
    (folder / "fast.so").write_bytes(b"\x7fELF" + bytes(60))
    (folder / ".gitattributes").write_text("* filter=x\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]\n")
    (folder / "pytorch_model.bin").write_bytes(hostile(tmp_path / "canary"))
    found = by_file(folder)
    named = {"config.json", "modeling_x.py", "setup.py", "run.sh", "fast.so", ".gitattributes"}
    assert named | {".git/config", "pytorch_model.bin"} <= set(found)
    assert "auto_map" in found["config.json"]
    assert "program" in found["fast.so"]
    assert "os.system" in found["pytorch_model.bin"]
    assert not (tmp_path / "canary").exists()


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(hostile(tmp_path / "canary", 2))
    (folder / "LICENSE").write_bytes(b"\x7fELF" + bytes(60))
    (folder / "README.md").write_text("import os\n\ndef run():\n    os.system('id')\n")
    (folder / "vocab.txt").write_text("#!/bin/sh\n")
    (folder / "tokenizer.json").write_bytes(hostile(tmp_path / "canary"))
    assert set(by_file(folder)) == {
        "model.safetensors", "LICENSE", "README.md", "vocab.txt", "tokenizer.json",
    }  # fmt: skip


def test_links_pipes_and_sockets_are_not_followed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "again").symlink_to(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")
    os.mkfifo(folder / "README.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "NOTICE"))
        assert set(by_file(folder)) == {"again", "config.json", "README.txt", "NOTICE"}
    (tmp_path / "link").symlink_to(folder)
    assert scan_path(tmp_path / "link").outcome == "rejected"


def test_odd_names_empty_folders_and_nothing_at_all(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "a\nb.safetensors").write_bytes(safetensors_bytes())
    (folder / "MODEL.safetensors").write_bytes(safetensors_bytes())
    found = by_file(folder)
    assert "control characters" in found["a\\nb.safetensors"]
    assert "same as" in found["model.safetensors"]
    (tmp_path / "empty").mkdir()
    assert "no file" in by_file(tmp_path / "empty")["."]
    with pytest.raises(PedigreeError, match="nothing to admit"):
        scan_path(tmp_path / "missing")
    with pytest.raises(PedigreeError, match="nothing to admit"):
        scan_path(Path("a\0b"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert scan_path(folder).outcome == "admitted"
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "model-2.safetensors" in by_file(folder)[index.name]
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    assert "beside it" in by_file(folder)[index.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_never_clean(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes())
    path.chmod(0)
    scan = scan_path(path)
    assert scan.outcome == "quarantined"
    assert "not looked at" in scan.findings[0].reason


def test_a_file_that_grows_while_it_is_read_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes())
    copy = os.copy_file_range

    def grow(*arguments: int) -> int:
        with path.open("ab") as stream:
            stream.write(bytes(1 << 20))
        return copy(*arguments)

    monkeypatch.setattr(os, "copy_file_range", grow)
    assert "changed while it was read" in by_file(path)["model.safetensors"]


def test_many_files_are_taken_at_once_with_the_same_result_and_no_file_left_open(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "m"
    for number in range(60):
        part = folder / f"{number % 7}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{number}.txt").write_text(f"{number}\n" * (60 - number))
        if number % 9 == 0:
            (part / f"link-{number}").symlink_to("/etc/passwd")
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    received = [receive(folder, tmp_path / f"store-{n}") for n in range(3)]
    if opened:
        assert len(list(Path("/proc/self/fd").iterdir())) <= opened
    assert len({one.digest for one in received}) == 1
    assert received[0].digest == digest_manifest(received[0].files)
    paths = [entry.path for entry in received[0].files]
    assert paths == sorted(paths)
    assert len(paths) == 60
    problems = [problem.path for problem in received[0].problems]
    assert problems == sorted(problems)
    assert len(problems) == 7


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_it_and_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    folder = model_folder(tmp_path / "m")

    def fail(*_arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(receiving, "_copy", fail)
    if error == errno.ENOSPC:
        with pytest.raises(PedigreeError, match="disk is full"):
            receive(folder, tmp_path / "store")
        return
    received = receive(folder, tmp_path / "store")
    assert received.files == ()
    assert {problem.rule for problem in received.problems} == {"unreadable"}
    assert scan_received(received).outcome != "admitted"


def test_the_copy_is_what_is_scanned(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes())
    received = receive(path, tmp_path / "store")
    path.write_bytes(hostile(tmp_path / "canary"))
    scan = scan_received(received)
    assert scan.outcome == "admitted"
    copy = tmp_path / "store" / received.digest.removeprefix("sha256:")
    assert copy.read_bytes() == safetensors_bytes()
    assert not copy.stat().st_mode & 0o222


def test_a_scanner_that_fails_is_never_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("pedigree.admission.safetensors_file.judge_safetensors", fail)
    assert scan_bytes(safetensors_bytes(), "a.safetensors").outcome == "quarantined"


@pytest.mark.parametrize(
    "text",
    [
        CHAT,
        "{{ bos_token }}{% for m in messages[1:] %}{{ m['role'].title() + ': ' }}{% endfor %}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{% set ns = namespace(i=0) %}{{ f(ns.i) }}"
        "{{ tools | tojson(indent=4) }}{{ raise_exception('no') }}",
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join }}",
    ],
)
def test_templates_of_published_models_are_admitted(text: str) -> None:
    data = json.dumps({"chat_template": text}).encode()
    assert scan_bytes(data, "tokenizer_config.json").findings == ()
    assert scan_bytes(text.encode(), "chat_template.jinja").outcome == "admitted"


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}", "{{ ''['__class__'] }}", "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
        "{{ ''['__cla' ~ 'ss__'] }}", "{{ x['_' * 2 + 'class'] }}", "{{ x | attr('y') }}",
        "{{ cycler.next }}", "{{ self }}", "{% include 'x' %}", "{% import 'x' as y %}",
        "{{ messages | map('attr', 'x') }}", "{{ messages | map(attribute='_x') }}",
        "{{ open('/etc/passwd') }}", "{{ x.popen('id') }}", "{{ '{0.x}'.format(y) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000000 }}", "{% if %}", "{{ (x or y)() }}", "{{ x | map(attribute=y) }}",
    ],
)  # fmt: skip
def test_templates_that_reach_out_are_rejected(text: str) -> None:
    for name, data in {
        "tokenizer_config.json": json.dumps({"chat_template": text}),
        "chat_template.json": json.dumps({"chat_template": [{"name": "a", "template": text}]}),
        "chat_template.jinja": text,
    }.items():
        assert scan_bytes(data.encode(), name).outcome == "rejected", name


@pytest.mark.parametrize(
    "value",
    [
        {"auto_map": {"AutoModel": "x.Y"}}, {"a": {"b": [{"auto_map": {"A": "b"}}]}},
        {"trust_remote_code": True}, {"_target_": "os.system"}, {"py/object": "x"},
        {"x": "import os; os.system('id')"}, {"x": "rm -rf /"}, {"hidden_size": "2"},
        {"model_type": "../x"}, {"architectures": ["a b"]},
    ],
)  # fmt: skip
def test_configurations_that_bring_code_are_rejected(value: object) -> None:
    assert scan_bytes(json.dumps(value).encode(), "config.json").outcome == "rejected"


def test_json_that_readers_understand_differently_is_rejected() -> None:
    long = '{"a":' + "9" * 5000 + "}"
    for text in ('{"a":1,"a":2}', '{"a":NaN}', "{} x", "[" * 100 + "]" * 100, long):
        assert scan_bytes(text.encode(), "config.json").outcome == "rejected", text[:20]


def test_texts_made_to_keep_a_pattern_busy_end_soon() -> None:
    began = time.process_time()
    for piece in ("{", '"', "{{", "{% ", "<", "```\n", "$(a", "curl -a ", "def f()", "import "):
        text = piece * (300_000 // len(piece))
        for name, data in {"README.md": text, "config.json": json.dumps({"x": text})}.items():
            scan_bytes(data.encode(), name)
    assert time.process_time() - began < 20


def test_a_vocabulary_may_be_large_and_hold_any_word() -> None:
    words = {f"w{i}": i for i in range(200_000)} | {"auto_map": 1, "{{": 2, "__class__": 3}
    data = json.dumps({"model": {"vocab": words, "merges": [["a", "b"]] * 200_000}}).encode()
    assert scan_bytes(data, "tokenizer.json").findings == ()


def test_onnx_gguf_and_others() -> None:
    assert scan_bytes(onnx_bytes(), "m.onnx").findings == ()
    assert "com.evil.Relu" in scan_bytes(onnx_bytes(b"com.evil"), "m").findings[0].reason
    assert scan_bytes(onnx_bytes(external=True), "m").findings[0].rule == "onnx_external_data"

    def gguf(text: str) -> bytes:
        key, value = b"tokenizer.chat_template", text.encode()
        entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
        return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry

    assert scan_bytes(gguf(CHAT), "m.gguf").outcome == "admitted"
    assert scan_bytes(gguf("{{ x.__class__ }}"), "m.gguf").outcome == "rejected"
    assert scan_bytes(gguf(CHAT)[:-3], "m.gguf").outcome == "rejected"
    keras = b"\x89HDF\r\n\x1a\n" + b'{"class_name": "%s"}'
    assert scan_bytes(keras % b"Lambda", "m.h5").outcome == "rejected"
    assert scan_bytes(keras % b"Dense", "m.h5").outcome == "quarantined"
    assert scan_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(40), "m.7z").outcome == "quarantined"
    assert scan_bytes(tar_bytes({"../x": b"a"}), "m.tar").outcome == "rejected"


@pytest.mark.parametrize("left", range(4, 31))
def test_a_zip_that_ends_within_a_member_header_is_rejected_and_not_a_failure(left: int) -> None:
    """Its directory is lost, so every member's own header is looked for, also the last, cut one."""
    header = b"PK\x03\x04" + bytes(range(1, 27))
    scan = scan_bytes(b"PK\x03\x04" + bytes(26) + b"plain" + header[:left], "a.bin")
    assert scan.outcome == "rejected"
    assert [finding.rule for finding in scan.findings if finding.rule == "scan_failed"] == []


def test_a_header_of_numpy_that_python_warns_of_prints_nothing() -> None:
    header = b"{'descr': 0in [], 'fortran_order': False, 'shape': (1,), }\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        scan = scan_bytes(data, "a.npy")
    assert seen == []
    assert scan.outcome == "rejected"
    assert [finding.rule for finding in scan.findings] == ["npy"]
