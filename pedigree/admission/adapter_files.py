"""A LoRA adapter's folder, read strictly: what it declares, how it is built, and its tensors.

    adapter.yaml                what it is meant for, on which base, by whom, how it was trained
    adapter_config.json         PEFT's settings
    adapter_model.safetensors   pairs lora_A (rank x inputs) and lora_B (outputs x rank)

Only plain LoRA is understood. A variant that would change the weights in another way is refused:
what is not understood cannot be checked.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from pydantic import Field

from pedigree.admission.strict_json import parse_json
from pedigree.admission.verdict import Unreadable, show, words
from pedigree.errors import PedigreeError, VerificationFailed
from pedigree.settings import Settings, parse_settings, read_yaml

DECLARATION, CONFIG, WEIGHTS = "adapter.yaml", "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 1024
_PREFIX = "base_model.model."
# Settings that make of LoRA something else; each is off in a plain adapter.
_VARIANTS = sorted(
    words(
        "use_dora use_qalora use_bdlora layer_replication megatron_config target_parameters "
        "trainable_token_indices auto_mapping alora_invocation_tokens arrow_config corda_config "
        "eva_config kasa_config lora_ga_config monteclora_config velora_config lora_bias"
    )
)

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


class AdapterDeclaration(Settings):
    """What an adapter is said to be, in its `adapter.yaml`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    base: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="digest of the base model")
    scope: str = Field(min_length=1, description="what it is meant for")
    publisher: str = Field(min_length=1)
    training: str = Field(min_length=1, description="how and on what it was trained")
    licence: str = Field(min_length=1)


@dataclass(frozen=True)
class Lora:
    """A plain LoRA adapter: settings and shapes.

    Attributes:
        config: all of `adapter_config.json`.
        rank: of every pair, but for those in `ranks`.
        ranks: rank by pattern of module names.
        targets: last parts of the names of the modules that it changes.
        saved: modules that it replaces as a whole, such as a new classifier.
        shapes: shape of each tensor, by name.
    """

    config: dict[str, Any]
    rank: int
    ranks: dict[str, int]
    targets: tuple[str, ...]
    saved: tuple[str, ...]
    shapes: Shapes


def read_declaration(folder: Path) -> AdapterDeclaration:
    """Read `adapter.yaml`.

    Raises:
        PedigreeError: it is missing or not valid.
    """
    path = folder / DECLARATION
    return parse_settings(AdapterDeclaration, read_yaml(path), DECLARATION)


def read_lora(folder: Path) -> Lora:
    """Read settings and shapes of an adapter.

    Raises:
        PedigreeError: a file is missing.
        VerificationFailed: it is no plain LoRA adapter; the message says in what.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise PedigreeError(f"The adapter has no {name}: it is no LoRA folder.")
    try:
        config = cast(dict[str, Any], parse_json((folder / CONFIG).read_text(encoding="utf-8")))
    except (Unreadable, ValueError) as error:
        raise VerificationFailed(f"{CONFIG} cannot be read: {error}.") from None
    if config.get("peft_type") != "LORA":
        raise VerificationFailed(f"{CONFIG} is of {_shown(config, 'peft_type')}: expected LORA.")
    on = [name for name in _VARIANTS if config.get(name)]
    if on or config.get("bias", "none") != "none" or config.get("loftq_config"):
        what = ", ".join(on) or "bias or loftq_config"
        raise VerificationFailed(f"{CONFIG} uses {what}: only plain LoRA can be checked.")
    rank = _rank(config.get("r"), "r")
    patterns = cast(dict[str, Any], config.get("rank_pattern") or {})
    return Lora(
        config,
        rank,
        {name: _rank(value, name) for name, value in patterns.items()},
        _names(config, "target_modules"),
        _names(config, "modules_to_save"),
        read_shapes(folder / WEIGHTS),
    )


def _rank(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise VerificationFailed(
            f"The rank {show(name, 60)} is {show(repr(value), 40)}: expected 1 to {MAX_RANK}."
        )
    return value


def _names(config: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of module names; a pattern would name what nobody can list beforehand."""
    value = config.get(key) or []
    if not isinstance(value, list) or not all(
        isinstance(one, str) for one in cast(list[Any], value)
    ):
        raise VerificationFailed(f"{key} is {_shown(config, key)}: expected a list of names.")
    return tuple(dict.fromkeys(cast(list[str], value)))


def _shown(config: dict[str, Any], key: str) -> str:
    return show(repr(config.get(key)), 60)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a safetensors file that was scanned before."""
    with path.open("rb") as stream:
        size = struct.unpack("<Q", stream.read(8))[0]
        header = cast(dict[str, Any], json.loads(stream.read(size)))
    return {
        name: tuple(cast(list[int], entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def find_problems(lora: Lora, base: Shapes) -> list[str]:
    """Return a sentence for each way in which an adapter does not fit its base; none if it fits."""
    problems: list[str] = []
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in sorted(lora.shapes.items()):
        module, _, part = name.removeprefix(_PREFIX).rpartition(".lora_")
        if module and part in ("A.weight", "B.weight"):
            pairs.setdefault(module, {})[part[0]] = shape
        elif not _is_saved(name, lora.saved):
            problems.append(f"the tensor {show(name)} is of no target module.")
    if not pairs:
        problems.append("it has no pair of lora_A and lora_B.")
    for module, pair in pairs.items():
        problems += _judge_pair(module, pair, lora, base)
    used = {module.rpartition(".")[2] for module in pairs}
    for target in sorted(set(lora.targets) - used):
        problems.append(f"the target module {show(target)} has no tensors.")
    return problems


def _is_saved(name: str, saved: tuple[str, ...]) -> bool:
    parts = name.removeprefix(_PREFIX).split(".")
    return any(part in saved for part in parts[:-1])


def _judge_pair(
    module: str, pair: dict[str, tuple[int, ...]], lora: Lora, base: Shapes
) -> list[str]:
    if module.rpartition(".")[2] not in lora.targets:
        return [f"the module {show(module)} is no target module of {CONFIG}."]
    if set(pair) != {"A", "B"} or any(len(shape) != 2 for shape in pair.values()):
        return [f"the module {show(module)} has no whole pair of lora_A and lora_B."]
    found = _find_in_base(module, base)
    if found is None:
        return [f"the base has no module {show(module)}."]
    outputs, inputs = base[found][::-1] if lora.config.get("fan_in_fan_out") else base[found]
    rank = next(
        (value for name, value in lora.ranks.items() if f".{module}".endswith(f".{name}")),
        lora.rank,
    )
    expected = {"A": (rank, inputs), "B": (outputs, rank)}
    return [
        f"lora_{part} of {show(module)} is {list(pair[part])}: expected {list(expected[part])} "
        f"for rank {rank} and the base's {list(base[found])}."
        for part in ("A", "B")
        if pair[part] != expected[part]
    ]


def _find_in_base(module: str, base: Shapes) -> str | None:
    """Return the base's one matrix of this module; a head before the encoder may lead its name."""
    parts = module.split(".")
    for start in (0, 1):
        name = ".".join([*parts[start:], "weight"])
        if len(parts) > start and len(base.get(name, ())) == 2:
            return name
    longer = [
        name
        for name, shape in base.items()
        if name.endswith(f".{module}.weight")
        and len(shape) == 2
        and name.count(".") == len(parts) + 1
    ]
    return longer[0] if len(longer) == 1 else None
