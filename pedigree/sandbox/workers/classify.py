"""Classify texts with a model that nobody vouches for; only ever within the sandbox.

Weights are read as the request says: safetensors, or a pickled checkpoint with torch's restricted
unpickler. Configuration and tokenizer are read from a folder; no code that a model brings is run.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pedigree.sandbox.inner import WorkerRequest

OUTPUT = "predictions.json"
BATCH = 16


def classify(request: WorkerRequest) -> int:
    """Write label and score of each text to the output `predictions.json`; return their number.

    The payload is JSON: `texts`, `max_tokens` and `weights` (`safetensors` or `pickle`); the two
    paths to read are the file with the weights, and the folder with config.json and
    tokenizer.json. Raises ValueError if the weights are not those of such a model.
    """
    if request.output is None or len(request.read_only) != 2:
        raise ValueError("weights, a folder with a configuration, and an output are needed")
    _do_without_caches_and_threads(request.output)
    asked = json.loads(request.payload)
    weights, folder = request.read_only
    model = _build(folder, _read_weights(weights, asked["weights"]))
    found = _predict(model, folder, asked["texts"], asked["max_tokens"])
    (request.output / OUTPUT).write_text(json.dumps(found))
    return len(found)


def _do_without_caches_and_threads(existing: Path) -> None:
    """Let libraries work that make folders for caches, or threads: here neither can be made."""
    tempfile.tempdir = str(existing)
    os.putenv("TOKENIZERS_PARALLELISM", "false")
    os.makedirs = lambda *_arguments, **_options: None  # pyright: ignore[reportAttributeAccessIssue]


def _read_weights(path: Path, form: str) -> dict[str, Any]:
    if form == "safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    from pedigree.sandbox.workers.load_weights import load_state

    return {k: v for k, v in load_state(path).items() if isinstance(v, torch.Tensor)}


def _build(folder: Path, state: dict[str, Any]) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    model: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights are not those of this configuration: {text}") from None
    return model.eval()


def _predict(model: Any, folder: Path, texts: list[str], max_tokens: int) -> list[Any]:
    import torch
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding()
    found: list[Any] = []
    for start in range(0, len(texts), BATCH):
        encoded = [tokenizer.encode(text) for text in texts[start : start + BATCH]]
        longest = max(len(one.ids) for one in encoded)
        ids = torch.zeros((len(encoded), longest), dtype=torch.int64)
        mask = torch.zeros((len(encoded), longest), dtype=torch.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            mask[row, : len(one.ids)] = torch.tensor(one.attention_mask)
        with torch.inference_mode():
            shares = model(input_ids=ids, attention_mask=mask).logits.softmax(-1)
        for share in shares:
            best = int(share.argmax())
            label = str(model.config.id2label.get(best, best))
            found.append({"label": label, "score": round(float(share[best]), 6)})
    return found
