"""A pickled checkpoint becomes safetensors inside the sandbox; a malicious one never runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from pedigree.errors import PedigreeError
from pedigree.sandbox import (
    Isolation,
    run_sandboxed,
)

HERE = "tests.unit.sandbox.small_workers"
CONVERT = "pedigree.sandbox.workers.load_weights:convert"
OUTPUT = "model.safetensors"


def test_a_checkpoint_is_converted_inside_the_sandbox(tmp_path: Path, isolation: Isolation) -> None:
    import torch
    from safetensors.torch import load_file

    tied = torch.randn(4, 3)
    weights = {"w": tied, "tied": tied, "turned": tied.t(), "half": torch.ones(5).bfloat16()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "model.pt")
    result = run_sandboxed(
        CONVERT, read_only=[tmp_path / "model.pt"], output=tmp_path / "out", outputs=[OUTPUT],
        isolation=isolation,
    )  # fmt: skip
    converted = load_file(tmp_path / "out" / OUTPUT)
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    assert converted["half"].dtype == torch.bfloat16
    assert result.value == {"tensors": 4, "dequantised": 0}


def test_quantised_weights_come_out_dequantised_and_say_so(
    tmp_path: Path, isolation: Isolation
) -> None:
    import torch
    from safetensors import safe_open

    exact = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
    quantised = torch.quantize_per_tensor(exact, 0.25, 0, torch.qint8)
    torch.save({"q": quantised, "b": torch.ones(2)}, tmp_path / "model.pt")
    result = run_sandboxed(
        CONVERT, read_only=[tmp_path / "model.pt"], output=tmp_path / "out", outputs=[OUTPUT],
        isolation=isolation,
    )  # fmt: skip
    assert result.value == {"tensors": 2, "dequantised": 1}
    with safe_open(tmp_path / "out" / OUTPUT, "pt") as converted:
        assert converted.metadata() == {"format": "pt", "dequantised": "1 of 2 tensors"}
        assert torch.equal(converted.get_tensor("q"), exact)


def _malicious(canary: Path, through: bytes) -> bytes:
    """A protocol 0 pickle that runs `touch CANARY`, written by hand: nothing here pickles."""
    return b"c" + through + b"\n(Vtouch " + str(canary).encode() + b"\ntR."


@pytest.mark.parametrize("through", [b"os\nsystem", b"builtins\nexec"])
def test_a_malicious_pickle_never_runs(
    through: bytes, tmp_path: Path, isolation: Isolation
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "model.pt").write_bytes(_malicious(canary, through))
    with pytest.raises(PedigreeError, match="failed in the sandbox"):
        run_sandboxed(
            CONVERT, read_only=[tmp_path / "model.pt"], output=tmp_path / "out",
            outputs=[OUTPUT], isolation=isolation,
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


def test_a_pickle_that_gets_past_the_loader_is_held_by_the_sandbox(
    tmp_path: Path, isolation: Isolation
) -> None:
    canary = tmp_path / "canary"
    attack = _malicious(canary, b"os\nsystem")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = run_sandboxed(f"{HERE}:unpickle_anything", payload=attack, isolation=isolation)
    assert result.value == str(127 << 8)  # system()'s word for "no process could be started"
    assert not canary.exists()
    # The control: the same bytes do run where there is no sandbox.
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], input=attack, check=True)
    assert canary.exists()
