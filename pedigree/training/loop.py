"""The training loop: plain torch, for a CPU or one GPU, read from top to bottom.

One optimizer step is `accumulation_steps` batches. The loss of a batch is the mean over its rows.
The learning rate warms up and then falls linearly to zero. Nothing here knows of Dagster or
MLflow: progress goes to `report`, checkpoints to a folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedigree.errors import PedigreeError
from pedigree.params import TrainingParams
from pedigree.training import checkpoints
from pedigree.training.determinism import (
    capture_random_states,
    restore_random_states,
    seed_everything,
)
from pedigree.training.model import build_model, pad_batch, tokenize
from pedigree.training.order import plan_batches


@dataclass(frozen=True)
class TrainingRows:
    """The rows to train on: ids, texts and label positions, each (rows,)."""

    ids: Sequence[str]
    texts: Sequence[str]
    targets: Sequence[int]


@dataclass(frozen=True)
class TrainingOutcome:
    """The trained model, still in memory, and what training it took."""

    model: Any
    steps: int
    tokens: int
    final_loss: float
    resumed_from: int


def train(
    rows: TrainingRows,
    labels: Sequence[str],
    params: TrainingParams,
    base: Path,
    device: Any,
    checkpoint_folder: Path,
    configuration: str,
    checkpoint_every: int,
    report: Callable[[dict[str, Any]], None],
) -> TrainingOutcome:
    """Train to the end, resuming from the newest checkpoint of the same configuration.

    Args:
        rows: what to train on.
        labels: label names, by position.
        params: everything that decides the weights besides data and base.
        base: verified folder of the base model; its tokenizer is used in either method.
        device: torch device.
        checkpoint_folder: where checkpoints lie.
        configuration: digest of all that decides the run, bound into checkpoints.
        checkpoint_every: steps between checkpoints; 0 writes none.
        report: receives a record each few steps.

    Raises:
        PedigreeError: the loss is no longer finite.
    """
    import torch

    seed_everything(params.seed)
    model = build_model(params, base, labels).to(device)
    model.train()
    token_ids = tokenize(base, rows.texts, params.max_tokens)
    lengths = [len(ids) for ids in token_ids]
    plan = [
        batch
        for epoch in range(params.epochs)
        for batch in plan_batches(
            rows.ids, lengths, seed=params.seed, epoch=epoch, batch_size=params.batch_size
        )
    ]
    groups = [
        plan[i : i + params.accumulation_steps]
        for i in range(0, len(plan), params.accumulation_steps)
    ]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=params.learning_rate, weight_decay=params.weight_decay, foreach=False
    )
    start = 0
    found = checkpoints.load_checkpoint(checkpoint_folder, configuration)
    if found is not None:
        start, tensors = found
        restore_random_states(checkpoints.restore(tensors, model, optimizer))
    warmup = max(1, round(params.warmup_fraction * len(groups)))
    loss_value = float("nan")
    for step in range(start, len(groups)):
        factor = min(1.0, (step + 1) / warmup) * (1 - step / len(groups))
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * factor
        total = torch.zeros((), device=device)
        for batch in groups[step]:
            ids, mask = pad_batch(token_ids, batch, device)
            targets = torch.tensor([rows.targets[row] for row in batch], device=device)
            logits = model(input_ids=ids, attention_mask=mask).logits
            loss = torch.nn.functional.cross_entropy(logits, targets) / len(groups[step])
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(trainable, params.max_gradient_norm, foreach=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 10 == 0 or done == len(groups):
            loss_value = float(total)
            if loss_value != loss_value or loss_value in (float("inf"), float("-inf")):
                raise PedigreeError(
                    f"The loss is {loss_value} after step {done}: nothing was kept. Lower "
                    "train.learning_rate."
                )
            report({"step": done, "steps": len(groups), "loss": loss_value})
        if checkpoint_every and done % checkpoint_every == 0 and done < len(groups):
            checkpoints.save_checkpoint(
                checkpoint_folder, configuration, done, model, optimizer, capture_random_states()
            )
    return TrainingOutcome(model, len(groups), params.epochs * sum(lengths), loss_value, start)
