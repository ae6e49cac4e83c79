"""Configurations of models and tokenizers: plain values, no code, no templates that reach out.

    {"auto_map": {"AutoModel": "modeling_x.XModel"}}    rejected: it names code to be run

A key or value that makes a library import something is rejected wherever it stands. Files whose
form is known (`config.json`, an index of shards, SentenceTransformers' modules) have a schema.
"""

import re
from collections.abc import Iterator
from typing import Any

from pedigree.admission.content import is_templated
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
_VOCABULARY_KEYS = words(
    "vocab merges added_tokens_decoder added_tokens_encoder additional_special_tokens "
    "added_tokens extra_special_tokens bad_words_ids id2label label2id"
)
_MAX_TEXTS = 500_000
_OBJECTS = words("config.json generation_config.json tokenizer_config.json adapter_config.json")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "architectures": (list, type(None)),
    "model_type": str,
    "hidden_size": int,
    "vocab_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "max_position_embeddings": int,
    "torch_dtype": (str, type(None)),
    "dtype": (str, type(None)),
    "transformers_version": (str, type(None)),
    "id2label": dict,
    "label2id": dict,
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
    if name in _OBJECTS and not isinstance(value, dict):
        raise Unreadable("a configuration is an object, and this is none")
    if name == "config.json":
        _judge_model_config(value, where, report)
    elif is_index(name):
        shards_of(value, name)
    elif name == "modules.json":
        _judge_modules(value, where, report)


def _judge_model_config(value: dict[str, Any], where: str, report: Report) -> None:
    for key, expected in _TYPES.items():
        found = value.get(key)
        if key in value and (not isinstance(found, expected) or isinstance(found, bool)):
            report.reject(
                where,
                "config_schema",
                f"{key!r} is {show(repr(found), 60)}: it has another type in every known model.",
            )
    names = [value.get("model_type"), *(value.get("architectures") or [])]
    for item in names:
        plain = isinstance(item, str) and re.fullmatch(r"[A-Za-z0-9_.\-]{1,100}", item)
        if item is not None and not plain:
            report.reject(where, "config_schema", f"{show(repr(item), 60)} is no name of a model.")


def _judge_modules(value: Any, where: str, report: Report) -> None:
    for module in value if isinstance(value, list) else [value]:
        kind = module.get("type") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
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
        token = vocabulary and isinstance(item, int)  # a word of a vocabulary, and its number
        if key in _CODE_KEYS and not token and item not in (None, False, "", [], {}):
            report.reject(
                where,
                "auto_map",
                f"{show(key)!r} makes the loader import code that comes with the "
                f"model ({show(repr(item), 80)}).",
            )
        if not isinstance(item, str) or vocabulary:
            continue
        templated = _TEMPLATE_KEYS.search(key) is not None
        if templated or is_templated(item):
            judge_template(item, key, where, report, sure=templated)
        if not templated:
            judge_text(item, key, where, report)


def _texts(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield (key, value, whether it is of a vocabulary) for all that a configuration holds.

    Tokens of a vocabulary may be any text: they are never shown, formatted or run.
    """
    waiting: list[tuple[str, Any, bool]] = [("", value, False)]
    while waiting:
        key, item, vocabulary = waiting.pop()
        if isinstance(item, dict):
            if key:
                yield key, item, vocabulary
            for name, inner in item.items():
                if not name.isprintable() and not vocabulary and name not in _VOCABULARY_KEYS:
                    raise Unreadable(f"the name {show(name)!r} has control characters")
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
