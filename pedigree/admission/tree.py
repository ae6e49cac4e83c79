"""Which files a model's folder may hold: an allowlist of names, each with the content it must have.

Every other file is named and rejected, `.git*` included: a loader finds files by name, so one that
nobody asked for (`modeling_x.py`) can become the one that is loaded. A pickled checkpoint is
quarantined: it can be converted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.admission.verdict import Report, show, words
from pedigree.digests import FileEntry

_PICKLED = "pickled weights"
_JSON = frozenset({"json"})
_TEXT = frozenset({"text", "template", "json"})
_JSON_NAMES = words(
    "config generation_config tokenizer tokenizer_config special_tokens_map added_tokens vocab "
    "preprocessor_config processor_config image_processor_config video_preprocessor_config "
    "chat_template adapter_config modules config_sentence_transformers normalizer entity_vocab "
    "quantize_config quantization_config feature_extractor_config params target_vocab vocab-src "
    "vocab-tgt byte_maps word_shape word_pronunciation emoji trainer_state all_results "
    "train_results eval_results"
)


@dataclass(frozen=True)
class Allowed:
    """A pattern of file names, and the kinds of content that such a file may have."""

    role: str
    pattern: re.Pattern[str]
    kinds: frozenset[str]


def _allow(role: str, pattern: str, kinds: frozenset[str]) -> Allowed:
    # ASCII only: a letter of another script may look like the one that a loader looks for.
    return Allowed(role, re.compile(pattern, re.ASCII), kinds)


ALLOWED: tuple[Allowed, ...] = (
    _allow("weights", r"\w[\w.-]*\.safetensors", frozenset({"safetensors"})),
    _allow("weights", r"\w[\w.-]*\.onnx", frozenset({"onnx"})),
    _allow("weights", r"\w[\w.-]*\.gguf", frozenset({"gguf"})),
    _allow(_PICKLED, r"\w[\w.-]*\.(bin|pt|pth|ckpt)", frozenset({"pickle", "zip"})),
    _allow("index", r"\w[\w.-]*\.(safetensors|bin)\.index\.json", _JSON),
    _allow("configuration", rf"({'|'.join(_JSON_NAMES)}|sentence_\w+_config)\.json", _JSON),
    _allow("template", r"chat_template\.jinja|\w+\.jinja", frozenset({"template", "text"})),
    _allow("vocabulary", r"(merges|vocab|bpe|sentencepiece\.bpe|dict)\.txt|bpe\.codes", _TEXT),
    _allow("vocabulary", r"tokenizer\.model", frozenset({"sentencepiece", "text"})),
    _allow("vocabulary", r"\w[\w.-]*\.(model|spm)", frozenset({"sentencepiece"})),
    _allow("declaration", r"adapter\.yaml", frozenset({"text"})),
    _allow(
        "document",
        r"(README|LICEN[CS]E|NOTICE|COPYING|MODEL_CARD|USE_POLICY|CITATION|CHANGELOG|AUTHORS)"
        r"[\w-]*(\.[A-Z][\w-]*|(\.\w[\w-]*)?\.(md|txt|rst|cff))?",
        _TEXT,
    ),
)
_FOLDER = re.compile(r"[A-Za-z0-9][\w.-]{0,99}\Z", re.ASCII)


def find_allowed(name: str) -> Allowed | None:
    """Return which allowed file a name (without folders) stands for."""
    for allowed in ALLOWED:
        if allowed.pattern.fullmatch(name):
            return allowed
    return None


def judge_place(path: str, kind: str, report: Report) -> None:
    """Judge whether a file of this content may stand at this path of a model's folder."""
    *folders, name = path.split("/")
    if not path.isprintable() or "\\" in path or len(path) > 255:
        report.reject(path, "tree_names", "its name has control characters, or is too long.")
        return
    for folder in folders:
        if not _FOLDER.match(folder):
            report.reject(path, "tree_extra", f"no model needs the folder {show(folder)!r}.")
            return
    allowed = find_allowed(name)
    if allowed is None:
        report.reject(
            path,
            "tree_extra",
            f"it is none of the files that a model may have (its content: {kind}): leave it out.",
        )
    elif kind not in allowed.kinds:
        expected = " or ".join(sorted(allowed.kinds))
        report.reject(
            path,
            "tree_content",
            f"a file of this name holds {expected}, and this one holds {kind}.",
        )
    elif allowed.role == _PICKLED:
        # A library takes it where it finds no safetensors, and some take it first.
        report.quarantine(
            path, "tree_pickled", "weights in a pickled form: leave it out, or have it converted."
        )


def judge_whole(files: Sequence[FileEntry], shards: dict[str, set[str]], report: Report) -> None:
    """Judge the folder as a whole: something in it, no two names alike, no shard missing."""
    if not files:
        report.reject(".", "tree_empty", "the folder holds no file: there is nothing to admit.")
    folded: dict[str, str] = {}
    for entry in files:
        other = folded.setdefault(entry.path.casefold(), entry.path)
        if other != entry.path:
            report.reject(
                entry.path, "tree_names", f"on some file systems it is the same as {show(other)!r}."
            )
    paths = {entry.path for entry in files}
    for index, named in shards.items():
        folder = index.rpartition("/")[0]
        for shard in sorted(named):
            if (f"{folder}/{shard}" if folder else shard) not in paths:
                report.reject(index, "tree_missing", f"it names {show(shard)!r}, which is missing.")
