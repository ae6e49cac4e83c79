"""Checkpoints: what is put in comes out bit for bit, or not at all."""

import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.training.checkpoints import load_checkpoint, restore, save_checkpoint
from pedigree.training.determinism import (
    capture_random_states,
    restore_random_states,
    seed_everything,
)

CONFIGURATION = "sha256:" + "c" * 64
META, STATE = "checkpoint.json", "state.safetensors"


def make(seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return a model with a frozen layer and an optimizer that has made two steps."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()


def save(folder: Path, number: int = 7, seed: int = 0) -> tuple[Any, Any]:
    model, optimizer = make(seed)
    save_checkpoint(folder, CONFIGURATION, number, model, optimizer, capture_random_states())
    return model, optimizer


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [
        one[name] for one in optimizer.state_dict()["state"].values() for name in sorted(one)
    ]
    return [*(p.detach().clone() for p in model.parameters() if p.requires_grad), *moments]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_a_model_and_its_optimizer_come_back_bit_for_bit_and_go_on_alike(tmp_path: Path) -> None:
    model, optimizer = save(tmp_path)
    found = load_checkpoint(tmp_path, CONFIGURATION)
    assert found is not None
    assert found[0] == 7
    fresh, fresh_optimizer = make(seed=1)
    fresh.load_state_dict({**fresh.state_dict(), **{
        name: value for name, value in model.state_dict().items() if name.startswith("0.")
    }})  # fmt: skip
    assert not equal(state_of(fresh, fresh_optimizer), state_of(model, optimizer))
    states = restore(found[1], fresh, fresh_optimizer)
    assert equal(state_of(fresh, fresh_optimizer), state_of(model, optimizer))
    restore_random_states(states)
    step(fresh, fresh_optimizer)
    restore_random_states(states)
    step(model, optimizer)
    assert equal(state_of(fresh, fresh_optimizer), state_of(model, optimizer))


def test_frozen_parameters_are_not_stored(tmp_path: Path) -> None:
    save(tmp_path)
    found = load_checkpoint(tmp_path, CONFIGURATION)
    assert found is not None
    assert {name for name in found[1] if name.startswith("model/")} == {
        "model/1.weight",
        "model/1.bias",
    }


def test_every_random_state_comes_back(tmp_path: Path) -> None:
    seed_everything(5)
    save(tmp_path)

    def draws() -> tuple[float, list[float], list[float]]:
        return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()

    expected = draws()
    assert draws() != expected
    found = load_checkpoint(tmp_path, CONFIGURATION)
    assert found is not None
    restore_random_states(restore(found[1], *make()))
    assert draws() == expected


def test_there_is_none_where_none_was_written(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, CONFIGURATION) is None
    assert load_checkpoint(tmp_path / "none", CONFIGURATION) is None
    (tmp_path / ".partial-0123").mkdir()
    assert load_checkpoint(tmp_path, CONFIGURATION) is None


def test_the_newest_is_kept_and_loaded(tmp_path: Path) -> None:
    save(tmp_path, 9, seed=1)
    model, optimizer = save(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    found = load_checkpoint(tmp_path, CONFIGURATION)
    assert found is not None
    assert found[0] == 10
    fresh = make(seed=2)
    restore(found[1], *fresh)
    assert equal(state_of(*fresh), state_of(model, optimizer))


def test_one_of_another_configuration_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    other = "sha256:" + "d" * 64
    with pytest.raises(VerificationFailed, match=f"configuration {CONFIGURATION}.* is {other}"):
        load_checkpoint(tmp_path, other)
    assert load_checkpoint(tmp_path, CONFIGURATION) is not None


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / META
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _flip(folder: Path, position: int) -> None:
    data = bytearray((folder / STATE).read_bytes())
    data[position] ^= 1
    (folder / STATE).write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a changed byte at the end": lambda f: _flip(f, -1),
    "a changed byte at the beginning": lambda f: _flip(f, 0),
    "no state": lambda f: (f / STATE).unlink(),
    "no meta": lambda f: (f / META).unlink(),
    "an extra file": lambda f: (f / "more").write_bytes(b"x"),
    "a link": lambda f: (f / STATE).symlink_to((f / STATE).rename(f.parent / "elsewhere")),
    "empty meta": lambda f: (f / META).write_bytes(b""),
    "meta of nothing": lambda f: (f / META).write_bytes(b"{}"),
    "a malformed file entry": lambda f: _edit(f, files=[{"path": "x"}]),
    "no files": lambda f: _edit(f, files=[]),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_a_damaged_checkpoint_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    save(tmp_path / "checkpoints")
    (folder,) = (tmp_path / "checkpoints").iterdir()
    DAMAGE[name](folder)
    with pytest.raises(VerificationFailed) as error:
        load_checkpoint(tmp_path / "checkpoints", CONFIGURATION)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", ["[]", "5", "null", '{"configuration":"x","step":1,"files":5}'])
def test_a_meta_file_of_another_form_is_refused_with_a_way_out(
    tmp_path: Path, content: str
) -> None:
    save(tmp_path)
    (tmp_path / "step-00000007" / META).write_text(content)
    with pytest.raises(VerificationFailed):
        load_checkpoint(tmp_path, CONFIGURATION)


def test_a_changed_step_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 7)
    _edit(tmp_path / "step-00000007", step=8)
    with pytest.raises(VerificationFailed):
        load_checkpoint(tmp_path, CONFIGURATION)


def test_an_extra_file_is_refused_whatever_its_name(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "step-00000007" / "checkpoint.json.bak").write_bytes(b"x")
    with pytest.raises(VerificationFailed):
        load_checkpoint(tmp_path, CONFIGURATION)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 7)
    (tmp_path / "step-00000007").rename(tmp_path / "step-00000009")
    with pytest.raises(VerificationFailed):
        load_checkpoint(tmp_path, CONFIGURATION)


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 1000 bytes, as a quota or a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    save(tmp_path, 7)
    before = (tmp_path / "step-00000007" / STATE).read_bytes()
    model, optimizer = make()
    states = capture_random_states()
    with pytest.raises(Exception, match=r"full|too large"), full_disk():
        save_checkpoint(tmp_path, CONFIGURATION, 8, model, optimizer, states)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert (tmp_path / "step-00000007" / STATE).read_bytes() == before


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    model, optimizer = make()
    states = capture_random_states()
    with pytest.raises(PedigreeError, match="The disk is full"), full_disk():
        save_checkpoint(tmp_path, CONFIGURATION, 8, model, optimizer, states)


def test_two_saves_of_one_state_have_the_same_bytes(tmp_path: Path) -> None:
    model, optimizer = make()
    states = capture_random_states()
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, CONFIGURATION, 1, model, optimizer, states)
    a, b = ((tmp_path / name / "step-00000001") for name in ("a", "b"))
    assert (a / STATE).read_bytes() == (b / STATE).read_bytes()
    assert (a / META).read_bytes() == (b / META).read_bytes()
