"""Configurations of models and tokenizers: plain values, no code, no templates that reach out.

    {"auto_map": {"AutoModel": "modeling_x.XModel"}}    rejected: it names code to be run

A key or value that makes a library import something is rejected wherever it stands. Files whose
form is known (`config.json`, an index of shards, SentenceTransformers' modules) have a schema.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any

from pedigree.admission.content import is_templated
from pedigree.admission.imports import judge_import
from pedigree.admission.patterns import may_run_away
from pedigree.admission.sentencepiece_file import judge_charsmap
from pedigree.admission.strict_json import parse_json
from pedigree.admission.templates import judge_template
from pedigree.admission.texts import judge_text
from pedigree.admission.verdict import Report, Unreadable, show, words

_CODE_KEYS = words(
    "auto_map custom_pipelines trust_remote_code code_revision remote_code custom_code py/object "
    "py/reduce py/type __class__ __reduce__ __module__ _target_ _partial_ custom_objects "
    "registered_name module_class code_paths loader_module"
)
_TEMPLATE_KEYS = re.compile(r"(^|[._])(chat_)?template(s|_\w+)?$|jinja", re.I)
_INDEX = re.compile(r".*\.(safetensors|bin)\.index\.json\Z")
_FOLDER = re.compile(r"([A-Za-z0-9][\w-]*(\.[\w-]+)*)?", re.ASCII)
_MODULE_CLASS = re.compile(r"sentence_transformers(\.[a-z_]\w*)*\.[A-Z]\w*", re.ASCII)
_FLAGS = words("trust_remote_code remote_code custom_code _partial_")  # on as a number too
_VOCABULARY_KEYS = words(
    "vocab merges added_tokens_decoder added_tokens_encoder additional_special_tokens "
    "added_tokens extra_special_tokens bad_words_ids"
)
# Keys for the module and the class of a serialised object: those of Keras, skops and PEFT.
_DUNDER = ("__module__", "__class__")
_SERIALISED = (("module", "class_name"), _DUNDER, ("parent_library", "base_model_class"))
_LIBRARIES = words("transformers torch torchvision timm diffusers sentence_transformers")
# Where transformers takes `owner/repository` for a kernel of its hub, which it imports.
_CODE_PLACES = re.compile(r"_implementation(_internal)?$|(^|_)kernels?(_config|_mapping|$)")
_REPOSITORY = re.compile(r"^[^/:]+/[^/]+$")
_REPEATED = re.compile(r"\)[*+{]")
_LONGEST_PATTERN = 20_000
_PATTERN_KEYS = re.compile(r"(^|_)(regex|pattern|pat_str)$", re.I)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_DATA_ENDINGS = words(
    "json jsonl txt md model bin safetensors onnx gguf spm yaml yml csv tsv pt pth h5 npz npy"
)
_LARGEST = 10**8  # of a size: the largest vocabularies have some 10^6 words
_MOST_LAYERS = 10_000
_LONG_NAME = 32
_MAX_TEXTS = 500_000
_OBJECTS = words("config.json generation_config.json tokenizer_config.json adapter_config.json")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "architectures": (list, type(None)),
    "model_type": str,
    "torch_dtype": (str, type(None)),
    "dtype": (str, type(None)),
    "transformers_version": (str, type(None)),
    "id2label": (dict, type(None)),
    "label2id": (dict, type(None)),
}
# Sizes are numbers; of models of several parts, lists or tables of numbers.
_SIZES = {
    **dict.fromkeys(
        ["hidden_size", "vocab_size", "intermediate_size", "max_position_embeddings"], _LARGEST
    ),
    **dict.fromkeys(["num_hidden_layers", "num_attention_heads"], _MOST_LAYERS),
}


def judge_json(text: str, name: str, where: str, report: Report) -> Any:
    """Judge a JSON file by its name and its values; return the value, or None if it is broken."""
    try:
        value = parse_json(text)
        judge_values(value, where, report)
        _judge_form(value, name, where, report)
    except Unreadable as error:
        report.reject(where, "json", f"{error}.")
        return None
    return value


def _judge_form(value: Any, name: str, where: str, report: Report) -> None:
    if isinstance(value, dict) and _is_program(value):
        report.reject(where, "executable", "its content is a program (a notebook, or a package).")
    if name in _OBJECTS and not isinstance(value, dict):
        raise Unreadable("a configuration is an object, and this is none")
    if name == "config.json":
        _judge_model_config(value, where, report)
    elif is_index(name):
        shards_of(value, name)
    elif name == "modules.json":
        _judge_modules(value, where, report)


def _is_program(value: dict[str, Any]) -> bool:
    notebook = isinstance(value.get("cells"), list) and "nbformat" in value
    scripts = value.get("scripts")
    return notebook or (
        isinstance(scripts, dict)
        and bool(scripts)
        and ("dependencies" in value or "version" in value)
    )


def _judge_model_config(value: dict[str, Any], where: str, report: Report) -> None:
    for key, expected in _TYPES.items():
        found = value.get(key)
        if key in value and (not isinstance(found, expected) or isinstance(found, bool)):
            report.reject(
                where,
                "config_schema",
                f"{key!r} is {show(repr(found), 60)}: it has another type in every known model.",
            )
    for key, largest in _SIZES.items():
        if not _are_sizes(value.get(key), largest):
            report.reject(
                where,
                "config_schema",
                f"{key!r} is {show(repr(value[key]), 60)}: expected numbers up to {largest}.",
            )
    names = [value.get("model_type"), *(value.get("architectures") or [])]
    for item in names:
        plain = isinstance(item, str) and re.fullmatch(r"[A-Za-z0-9_.\-]{1,100}", item)
        if item is not None and not plain:
            report.reject(where, "config_schema", f"{show(repr(item), 60)} is no name of a model.")


def _are_sizes(value: Any, largest: int) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            waiting += item.values() if isinstance(item, dict) else item
        elif item is None:
            continue
        elif isinstance(item, bool | str) or not (-1 <= item <= largest and item == int(item)):
            return False
    return True


def _judge_modules(value: Any, where: str, report: Report) -> None:
    for module in value if isinstance(value, list) else [value]:
        kind = module.get("type") if isinstance(module, dict) else None
        path = module.get("path") if isinstance(module, dict) else None
        if not isinstance(path, str | None) or not _FOLDER.fullmatch(path or ""):
            report.reject(
                where, "module_path", f"it loads from {show(repr(path), 80)}: no folder beside it."
            )
        if not isinstance(kind, str) or not _MODULE_CLASS.fullmatch(kind):
            report.reject(
                where,
                "auto_map",
                f"it loads the class {show(repr(kind), 80)} by name: only those of "
                "sentence_transformers itself are allowed.",
            )


def is_index(name: str) -> bool:
    """Whether a file of this name says in which shard each tensor lies."""
    return _INDEX.match(name) is not None


def shards_of(value: Any, name: str) -> set[str]:
    """Return the files that an index of shards names; `name` says of which form they are.

    Raises:
        Unreadable: it is no such index, or it names something outside its folder.
    """
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise Unreadable("an index of shards has a weight_map, and this one has none")
    shards = set(map(str, weight_map.values()))
    form = name.split(".")[-3]
    for shard in shards:
        if not re.fullmatch(rf"[\w.-]+\.{form}", shard) or ".." in shard:
            raise Unreadable(
                f"it names the shard {show(shard)!r}: expected a .{form} file beside it"
            )
    return shards


def judge_values(value: Any, where: str, report: Report) -> None:
    """Judge every key and text of a parsed configuration."""
    count = 0
    for key, item, vocabulary in _texts(value):
        count += not vocabulary
        if count > _MAX_TEXTS:
            report.quarantine(
                where, "text_too_long", f"it has more than {_MAX_TEXTS} values: not all looked at."
            )
            return
        # A word of a vocabulary, and its number: `vocab.json` is nothing else.
        token = type(item) is int and (vocabulary or key not in _FLAGS)
        if key in _CODE_KEYS and not token and item not in (None, False, "", [], {}):
            report.reject(
                where,
                "auto_map",
                f"{show(key)!r} makes the loader import code that comes with the "
                f"model ({show(repr(item), 80)}).",
            )
        if isinstance(item, dict) and not vocabulary:
            _judge_class(item, where, report)
        if _CODE_PLACES.search(key) and not vocabulary:
            _judge_code_place(item, key, where, report)
        if not isinstance(item, str) or vocabulary:
            continue
        if key == "precompiled_charsmap":
            judge_charsmap(item, where, report)
            continue
        pattern = _PATTERN_KEYS.search(key) or _REPEATED.search(item)
        if pattern and len(item) <= _LONGEST_PATTERN and may_run_away(item):
            report.quarantine(
                where,
                "pattern",
                f"the pattern {show(item, 80)!r} repeats what repeats: it may not end.",
            )
        _judge_name(item, key, where, report)
        templated = _TEMPLATE_KEYS.search(key) is not None
        if templated or is_templated(item):
            judge_template(item, key, where, report, sure=templated)
        if not templated:
            judge_text(item, key, where, report)


def _judge_code_place(value: Any, key: str, where: str, report: Report) -> None:
    """Reject the name of a repository where an implementation is chosen: its code would be run."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            waiting += item.values() if isinstance(item, dict) else item
        elif isinstance(item, str) and _REPOSITORY.search(item):
            report.reject(
                where,
                "auto_map",
                f"{show(key)!r} makes the loader fetch and run the code of {show(item, 80)!r}.",
            )
            return


def _judge_class(value: dict[str, Any], where: str, report: Report) -> None:
    """Judge a serialised object by its class: reject one of a module that runs things."""
    for of_module, of_class in _SERIALISED:
        module, name = value.get(of_module), value.get(of_class)
        if not isinstance(module, str) or not isinstance(name, str):
            continue
        judged = judge_import(module, name, called=of_module == "module")
        if judged.verdict == "dangerous":
            full = show(f"{module}.{name}", 80)
            report.reject(where, "auto_map", f"it makes {full} ({judged.why}).")
        elif of_module == "parent_library":
            if module.partition(".")[0] not in _LIBRARIES:
                report.reject(
                    where, "auto_map", f"it imports {show(module, 80)}, no known library."
                )
        elif of_module != "module":
            report.quarantine(
                where, "serialised_objects", "it describes objects of Python, which a loader makes."
            )


def _judge_name(text: str, key: str, where: str, report: Report) -> None:
    """Quarantine the full name of what runs things: some keys are imported by their loader."""
    if len(text) > 200 or not _DOTTED.fullmatch(text):
        return
    module, _, name = text.rpartition(".")
    judged = judge_import(module, name, called=False)
    known = module.partition(".")[0] in sys.stdlib_module_names or "." in module
    if judged.verdict == "dangerous" and known and name not in _DATA_ENDINGS:
        report.quarantine(
            where,
            "import_by_name",
            f"{show(key)!r} names {show(text, 80)} ({judged.why}): a loader may import it.",
        )


def _texts(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield (key, value, whether it is of a vocabulary) for all that a configuration holds.

    Tokens of a vocabulary may be any text: they are never shown, formatted or run.
    """
    waiting: list[tuple[str, Any, bool]] = [("", value, False)]
    while waiting:
        key, item, vocabulary = waiting.pop()
        if isinstance(item, dict):
            yield key, item, vocabulary
            described = all(isinstance(item.get(name), str) for name in _DUNDER)
            for name, inner in item.items():
                if described and name in _DUNDER:
                    continue  # judged together
                word = vocabulary or type(inner) is int
                if not word and not name.isprintable():
                    raise Unreadable(f"the name {show(name)!r} has control characters")
                if not word and len(name) > _LONG_NAME:
                    yield "", name, False  # no setting has such a name: it is a text
                inside = vocabulary or (name in _VOCABULARY_KEYS and not isinstance(inner, str))
                # Templates by name, or as a list of {name, template}: each is one.
                named = key == "chat_template" and isinstance(inner, str) and name != "name"
                waiting.append((key if named else name, inner, inside))
        elif isinstance(item, list):
            if key in _CODE_KEYS:
                yield key, item, vocabulary
            waiting += [(key, inner, vocabulary) for inner in item]
        else:
            yield key, item, vocabulary
