"""The training loop on a tiny real model: the same bits again, also after an interruption."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.params import TrainingParams
from pedigree.training.loop import TrainingOutcome, TrainingRows, train
from tests.conftest import review_rows

LABELS = ("negative", "positive")
CONFIGURATION = "sha256:" + "c" * 64
PARAMS = TrainingParams(
    epochs=2,
    batch_size=8,
    learning_rate=0.01,
    max_tokens=32,
    lora_rank=2,
    threads=1,
    cpu_capability="default",
)
STEPS = 20  # 80 rows in batches of 8, twice


class Interrupted(Exception):
    """What stops a training from outside."""


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    with zipfile.ZipFile(tiny_base) as archive:
        archive.extractall(folder)
    return folder


def rows(count: int = 80) -> TrainingRows:
    table = review_rows(count)
    return TrainingRows(
        [key for key, _, _ in table],
        [text for _, text, _ in table],
        [LABELS.index(label) for _, _, label in table],
    )


Train = Callable[..., TrainingOutcome]


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Train:
    """Return a function that trains in a folder of checkpoints."""

    def start(
        folder: str = "checkpoints",
        params: TrainingParams = PARAMS,
        every: int = 0,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        configuration: str = CONFIGURATION,
        data: TrainingRows | None = None,
    ) -> TrainingOutcome:
        return train(
            data or rows(),
            LABELS,
            params,
            base,
            torch.device("cpu"),
            tmp_path / folder,
            configuration,
            every,
            report,
        )

    return start


def weights(outcome: TrainingOutcome) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in outcome.model.named_parameters()}


def same(one: TrainingOutcome, other: TrainingOutcome) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["lora", "scratch"])
def test_two_trainings_give_the_same_bits_and_another_seed_others(run: Train, method: str) -> None:
    params = PARAMS.model_copy(update={"method": method, "hidden_size": 32})
    first = run("a", params)
    assert (first.steps, first.resumed_from) == (STEPS, 0)
    torch.rand(5)  # whatever the process drew before does not matter
    assert same(first, run("b", params))
    assert not same(first, run("c", params.model_copy(update={"seed": 1})))


def test_the_order_of_the_rows_that_are_given_changes_nothing(run: Train) -> None:
    data = rows()
    turned = TrainingRows(data.ids[::-1], data.texts[::-1], data.targets[::-1])
    assert same(run("a"), run("b", data=turned))


@pytest.mark.parametrize("every", [1, 5, 7])
@pytest.mark.parametrize("method", ["lora", "scratch"])
def test_an_interrupted_training_ends_with_the_bits_of_an_undisturbed_one(
    run: Train, tmp_path: Path, every: int, method: str
) -> None:
    params = PARAMS.model_copy(update={"method": method, "hidden_size": 32, "lora_dropout": 0.3})
    undisturbed = run("undisturbed", params)

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 10:
            raise Interrupted

    with pytest.raises(Interrupted):
        run("cut", params, every, stop)
    last = 9 // every * every  # step 10 is reported before it could be saved
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [f"step-{last:08d}"]
    torch.manual_seed(12345)  # another process would have other random states
    resumed = run("cut", params, every)
    assert resumed.resumed_from == last
    assert same(resumed, undisturbed)
    assert resumed.final_loss == undisturbed.final_loss
    assert (resumed.steps, resumed.tokens) == (undisturbed.steps, undisturbed.tokens)


def test_writing_checkpoints_changes_no_bit(run: Train) -> None:
    assert same(run("with", every=3), run("without"))


def test_a_checkpoint_of_another_configuration_is_refused(run: Train) -> None:
    run("one", every=5)
    with pytest.raises(VerificationFailed, match="belongs to the configuration"):
        run("one", every=5, configuration="sha256:" + "d" * 64)


def test_a_changed_checkpoint_is_refused(run: Train, tmp_path: Path) -> None:
    run("one", every=5)
    (state,) = (tmp_path / "one").rglob("state.safetensors")
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    with pytest.raises(VerificationFailed, match="is refused"):
        run("one", every=5)


def test_a_loss_that_is_no_number_ends_training_with_advice(run: Train) -> None:
    with pytest.raises(PedigreeError, match=r"The loss is nan after step 10.*learning_rate"):
        run(params=PARAMS.model_copy(update={"learning_rate": 1e20}))


def test_accumulated_steps_take_several_batches(run: Train) -> None:
    params = PARAMS.model_copy(update={"accumulation_steps": 3})
    outcome = run("a", params)
    assert outcome.steps == 7  # 20 batches in groups of 3, the last of 2
    assert same(outcome, run("b", params))


def test_progress_is_reported_each_ten_steps_and_at_the_end(run: Train) -> None:
    records: list[dict[str, Any]] = []
    outcome = run(report=records.append, data=rows(72))
    assert [(one["step"], one["steps"]) for one in records] == [(10, 18), (18, 18)]
    assert records[-1]["loss"] == outcome.final_loss


def test_the_first_loss_is_the_cross_entropy_of_the_untrained_model(run: Train, base: Path) -> None:
    """One batch of all rows, one step, no dropout: the loss by hand from the model's logits."""
    params = PARAMS.model_copy(
        update={"epochs": 1, "batch_size": 80, "lora_dropout": 0.0, "learning_rate": 1e-30}
    )
    data = rows()
    outcome = run(params=params, data=data)
    assert outcome.steps == 1
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(pad_id=0)
    encoded = tokenizer.encode_batch(list(data.texts))
    model = outcome.model.eval()
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([one.ids for one in encoded]),
            attention_mask=torch.tensor([one.attention_mask for one in encoded]),
        ).logits.double()
    chosen = logits.log_softmax(-1)[range(80), list(data.targets)]
    # The base has dropout of its own in training, so the two agree only roughly.
    assert outcome.final_loss == pytest.approx(-float(chosen.mean()), abs=0.1)
    assert outcome.tokens == sum(sum(one.attention_mask) for one in encoded)


def test_training_learns_what_there_is_to_learn(run: Train) -> None:
    outcome = run(params=PARAMS.model_copy(update={"epochs": 15, "lora_rank": 8}))
    assert outcome.final_loss < 0.5  # a guess has ln 2 = 0.69


def test_only_adapter_and_classifier_are_trained(run: Train) -> None:
    before = weights(run("a", PARAMS.model_copy(update={"learning_rate": 1e-30})))
    after = weights(run("b"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("lora_" in name or "classifier" in name for name in changed)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "scratch", "hidden_size": 100},
        {"lora_targets": ["nope"]},
    ],
    ids=["odd hidden size", "unknown target"],
)
def test_parameters_that_no_model_can_have_are_refused_with_a_sentence(
    run: Train, changes: dict[str, Any]
) -> None:
    with pytest.raises(PedigreeError):
        run(params=PARAMS.model_copy(update=changes))


def test_more_tokens_than_the_base_has_positions_are_refused_with_a_sentence(run: Train) -> None:
    data = rows()
    long = TrainingRows(data.ids, [text * 10 for text in data.texts], data.targets)
    with pytest.raises(PedigreeError):
        run(params=PARAMS.model_copy(update={"max_tokens": 512}), data=long)
