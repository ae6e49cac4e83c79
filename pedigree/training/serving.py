"""What `mlflow.pyfunc.load_model` uses to open a logged model.

MLflow itself verifies nothing: load through `pedigree.verification.load_verified_model` wherever it
matters what is served.
"""

import json
from pathlib import Path
from typing import Any

from pedigree.training.evaluation import predict


class TextClassifier:
    """A model folder behind MLflow's `predict`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.labels = {int(key): str(value) for key, value in config["id2label"].items()}

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Return a label for each text; `model_input` has a column `text` or is a list of texts."""
        texts = list(model_input["text"] if hasattr(model_input, "columns") else model_input)
        found = predict(self.folder, texts, int((params or {}).get("max_tokens", 256)), "cpu")
        return [self.labels[position] for position in found]


def _load_pyfunc(path: str) -> TextClassifier:  # pyright: ignore[reportUnusedFunction]
    return TextClassifier(Path(path))
