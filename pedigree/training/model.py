"""Models as folders: built from a base or from scratch, saved as safetensors, loaded back.

A folder is what Hugging Face users expect (config.json, model.safetensors, tokenizer files), with
the LoRA adapter beside the merged weights in `adapter/`. Nothing in it names a path of a machine.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pedigree.errors import PedigreeError
from pedigree.params import TrainingParams

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
WEIGHTS = "model.safetensors"
_HEAD_SIZE = 32
ADAPTER = "adapter"


def build_model(params: TrainingParams, base: Path, labels: Sequence[str]) -> Any:
    """Return the model to train: LoRA on the base, or a small encoder with fresh weights.

    Call `seed_everything` before: the classifier, LoRA matrices and fresh weights are drawn.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config: Any = transformers.AutoConfig.from_pretrained(base, local_files_only=True)
    _require_fit(params, config)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    if params.method == "scratch":
        config.hidden_size = params.hidden_size
        config.intermediate_size = 4 * params.hidden_size
        config.num_hidden_layers = params.layers
        config.num_attention_heads = max(1, params.hidden_size // _HEAD_SIZE)
        return transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation="sdpa"
        )
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, config=config, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
    )
    import peft

    lora = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules=list(params.lora_targets),
        modules_to_save=["classifier"],
    )
    try:
        return peft.get_peft_model(model, lora)
    except ValueError as error:
        raise PedigreeError(
            f"train.lora_targets {params.lora_targets} do not fit the base model ({error}): name "
            "modules that it has."
        ) from None


def _require_fit(params: TrainingParams, config: Any) -> None:
    """Refuse parameters that no model of this base can have.

    Raises:
        PedigreeError: texts would be longer than the base's positions, or heads do not divide.
    """
    positions = int(getattr(config, "max_position_embeddings", params.max_tokens))
    if params.max_tokens > positions:
        raise PedigreeError(
            f"train.max_tokens is {params.max_tokens}, but the base has {positions} positions: "
            "lower it."
        )
    if params.method == "scratch" and params.hidden_size % max(1, params.hidden_size // _HEAD_SIZE):
        raise PedigreeError(
            f"train.hidden_size is {params.hidden_size}, which attention heads of {_HEAD_SIZE} do "
            f"not divide: use a multiple of {_HEAD_SIZE}."
        )


def save_model(model: Any, params: TrainingParams, base: Path, base_digest: str, out: Path) -> None:
    """Write a trained model into the folder `out`: merged weights, adapter, config, tokenizer."""
    if params.method == "lora":
        _save_adapter(model, base_digest, out / ADAPTER)
        model = model.merge_and_unload()
    save_tensors(model.state_dict(), out / WEIGHTS)
    config = cast(dict[str, Any], model.config.to_dict())
    config.pop("_name_or_path", None)
    config["architectures"] = [type(model).__name__]
    _write_json(config, out / "config.json")
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)


def _save_adapter(model: Any, base_digest: str, out: Path) -> None:
    import peft

    out.mkdir()
    save_tensors(peft.get_peft_model_state_dict(model), out / "adapter_model.safetensors")
    config = cast(dict[str, Any], model.peft_config["default"].to_dict())
    config["base_model_name_or_path"] = base_digest
    config["inference_mode"] = True
    _write_json(config, out / "adapter_config.json")


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write tensors as safetensors, in the order of their names.

    Raises:
        OSError: the disk is full, as for any other file (safetensors has an error of its own).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number.group(1)), str(error)) from None


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write JSON that is the same in every process: sets (peft keeps some) have no order."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            items = cast(Mapping[str, Any], item)
            return {str(key): plain(items[key]) for key in items}
        if isinstance(item, set | frozenset):
            return sorted(plain(one) for one in cast(set[Any], item))
        if isinstance(item, list | tuple):
            return [plain(one) for one in cast(list[Any], item)]
        return item if isinstance(item, str | int | float | bool | None) else str(item)

    path.write_text(json.dumps(plain(value), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_classifier(folder: Path) -> Any:
    """Load a model folder for prediction. It trusts the bytes: verify the folder first."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
    )
    return model.eval()


def tokenize(folder: Path, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return each text's token ids, truncated to `max_tokens`, unpadded."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def pad_batch(token_ids: Sequence[Sequence[int]], rows: Sequence[int], device: Any) -> Any:
    """Return (input_ids, attention_mask), both (len(rows), longest) int64, padded with 0."""
    import torch

    longest = max(len(token_ids[row]) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for i, row in enumerate(rows):
        length = len(token_ids[row])
        ids[i, :length] = torch.tensor(token_ids[row])
        mask[i, :length] = 1
    return ids.to(device), mask.to(device)
