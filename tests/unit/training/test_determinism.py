"""What a training process may see, and what is pinned before torch is imported."""

import random

import numpy as np
import pytest
import torch

from pedigree.errors import PedigreeError
from pedigree.params import TrainingParams
from pedigree.training.determinism import (
    capture_random_states,
    keep_pins,
    prepare,
    restore_random_states,
    seed_everything,
    worker_environment,
)

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s",
    "MLFLOW_TRACKING_TOKEN": "s",
    "HTTPS_PROXY": "s",
    "LD_PRELOAD": "s",
    "PYTHONPATH": "/elsewhere",
    "PYTHONSTARTUP": "s",
}


def test_no_secret_and_nothing_that_loads_code_reaches_training() -> None:
    environment = worker_environment(TrainingParams(), {**SECRETS, "PATH": "/bin", "LANG": "C"})
    assert not set(environment) & set(SECRETS)
    assert environment["PATH"] == "/bin"


def test_strict_mode_pins_instructions_and_threads_and_fast_mode_only_threads() -> None:
    strict = worker_environment(TrainingParams(threads=3, cpu_capability="avx2"))
    assert strict["OMP_NUM_THREADS"] == strict["MKL_NUM_THREADS"] == "3"
    assert strict["ATEN_CPU_CAPABILITY"] == "avx2"
    assert strict["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    fast = worker_environment(TrainingParams(mode="fast"))
    assert "ATEN_CPU_CAPABILITY" not in fast
    assert fast["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_record_can_pin_but_not_smuggle() -> None:
    recorded = worker_environment(TrainingParams())
    assert keep_pins({**recorded, **SECRETS}) == recorded


def test_every_random_state_is_put_back() -> None:
    def draw() -> tuple[float, float, list[float]]:
        return random.random(), float(np.random.random()), torch.rand(3).tolist()

    seed_everything(5)
    draw()
    states = capture_random_states()
    first = draw()
    assert draw() != first
    restore_random_states(states)
    assert draw() == first


def test_a_gpu_that_is_not_there_is_no_reason_to_train_on_something_else() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(PedigreeError, match="torch finds no GPU here"):
        prepare(TrainingParams(device="cuda"))
