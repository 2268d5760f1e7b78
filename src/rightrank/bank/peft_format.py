"""Adapters as PEFT saves them: ``adapter_config.json`` beside ``adapter_model.safetensors``. Nothing is ever unpickled."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rightrank.bank.adapter_file import (
    SAVE_AGAIN,
    SHOWN,
    WEIGHTS,
    read_adapter_config,
    weight_dtype,
    weight_shapes,
)
from rightrank.bank.targets import target_suffixes
from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.targets import Target
    from rightrank.bank.whole_modules import WholeModules

__all__ = ["adapted_ranks", "export_adapter", "import_adapter", "read_adapter_config"]

PREFIX = "base_model.model."


def export_adapter(
    bank: AdapterBank,
    adapter: int,
    directory: str | Path,
    *,
    base_name: str,
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
    whole: WholeModules | None = None,
) -> Path:
    """Write one adapter of ``bank`` as a PEFT directory and return it, in ``dtype`` (None: that of the masters).

    Modules of other ranks go into ``rank_pattern``; their alpha into ``alpha_pattern``, so that the scale stays alpha / rank of the
    bank. ``whole``: modules saved with it. Raises ResourceError where it cannot be written.
    """
    folder = Path(directory)
    spec = bank.specs[adapter]
    tensors = {PREFIX + name: tensor for name, tensor in (whole.tensors if whole else {}).items()}
    for module in bank.modules:
        if module.ranks_K[adapter]:
            name = PREFIX + module.target.name
            halves = {"A": module.master_a[adapter], "B": module.master_b[adapter].t()}
            for half, numbers in halves.items():
                tensors[f"{name}.lora_{half}.weight"] = (
                    numbers.detach().to("cpu", dtype, copy=True).contiguous()
                )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = _config(bank, adapter, spec, base_name, dropout)
        if whole is not None and whole.names:
            config["modules_to_save"] = list(whole.names)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"The adapter cannot be written to {folder}.", "Free some space, or name another folder."
        ) from error
    return folder


def _config(
    bank: AdapterBank, adapter: int, spec: AdapterSpec, base_name: str, dropout: float
) -> dict[str, Any]:
    used = [module for module in bank.modules if module.ranks_K[adapter]]
    common = Counter(module.ranks_K[adapter] for module in used).most_common(1)[0][0]
    odd = {
        module.target.name: module.ranks_K[adapter] for module in used if module.ranks_K[adapter] != common
    }
    whole = len(used) == len(bank.modules)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": common,
        "lora_alpha": spec.alpha,
        "lora_dropout": dropout,
        "rank_pattern": odd,
        "alpha_pattern": dict.fromkeys(odd, spec.alpha),
        "target_modules": list(target_suffixes(bank.targets))
        if whole
        else [module.target.name for module in used],
        "fan_in_fan_out": any(target.transposed for target in bank.targets),
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def import_adapter(
    bank: AdapterBank, adapter: int, directory: str | Path, *, whole: WholeModules | None = None
) -> None:
    """Copy the PEFT adapter at ``directory`` into one adapter of ``bank``, whose ranks must be those of the file.

    The file's own scale is folded into B, so that the bank's alpha / rank gives the same update. ``whole``: modules saved with it that
    the caller looks after. Nothing is copied unless all of it fits. Raises ConfigurationError.
    """
    config = read_adapter_config(directory, whole_modules=whole is not None)
    shown = cleaned(str(directory), SHOWN)
    apart = {PREFIX + name for name in (whole.tensors if whole is not None else ())}
    shapes = {name: shape for name, shape in weight_shapes(directory).items() if name not in apart}
    _check_shapes(bank, adapter, shapes, shown)
    try:
        tensors = load_file(Path(directory) / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigurationError(f"{shown}/{WEIGHTS} is damaged.", SAVE_AGAIN) from error
    odd = next((name for name, tensor in tensors.items() if not _is_numbers(tensor)), None)
    if odd is not None:
        raise ConfigurationError(
            f"{shown} holds numbers that are infinite or none ({cleaned(odd, SHOWN)}).", "Train it again."
        )
    for index, module in enumerate(bank.modules):
        rank = module.ranks_K[adapter]
        if not rank:
            continue
        name = PREFIX + module.target.name
        scale = _scale(config, module.target.name, rank) / bank.specs[adapter].scale_of(index)
        with torch.no_grad():
            module.master_a[adapter].copy_(tensors[f"{name}.lora_A.weight"])
            module.master_b[adapter].copy_(tensors[f"{name}.lora_B.weight"].t() * scale)
    bank.refresh()


def adapted_ranks(
    directory: str | Path, targets: Sequence[Target], whole: WholeModules
) -> tuple[dict[str, int], torch.dtype]:
    """The rank of every layer of ``targets`` that the adapter at ``directory`` is on, by the layer's name, and its number format.

    Reads the header alone. Raises ConfigurationError where it is on anything else, but for ``whole``, or on nothing.
    """
    shown, known = cleaned(str(directory), SHOWN), {target.name for target in targets}
    ranks: dict[str, int] = {}
    for name, shape in weight_shapes(directory).items():
        layer, _, half = name.removeprefix(PREFIX).partition(".lora_")
        if half == "A.weight" and layer in known and len(shape) == 2 and shape[0] > 0:
            ranks[layer] = shape[0]
        elif name.removeprefix(PREFIX) not in whole.tensors and not (half == "B.weight" and layer in known):
            raise ConfigurationError(
                f"{shown} adapts {cleaned(layer, SHOWN)}, which is none of the decoder's linear layers here.",
                "Name the base model it was trained on; adapters of embeddings and output heads are not cut.",
            )
    if not ranks:
        raise ConfigurationError(f"{shown} adapts no layer.", SAVE_AGAIN)
    ordered = {target.name: ranks[target.name] for target in targets if target.name in ranks}
    return ordered, weight_dtype(directory)


def _is_numbers(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isfinite(tensor.float()).all())


def _check_shapes(bank: AdapterBank, adapter: int, shapes: dict[str, tuple[int, ...]], shown: str) -> None:
    left = dict(shapes)
    for module in bank.modules:
        name = PREFIX + module.target.name
        a, b = left.pop(f"{name}.lora_A.weight", None), left.pop(f"{name}.lora_B.weight", None)
        if (a is None) != (b is None):
            raise ConfigurationError(f"{shown} lacks half of {module.target.name}.", SAVE_AGAIN)
        rank = a[0] if a else 0
        if rank != module.ranks_K[adapter]:
            raise ConfigurationError(
                f"{shown} has rank {rank} at {module.target.name}, not {module.ranks_K[adapter]}.",
                "Give the bank the file's ranks.",
            )
        if rank and (a, b) != ((rank, module.target.width_in), (module.target.width_out, rank)):
            raise ConfigurationError(
                f"{shown} was trained on a model of other widths ({module.target.name}).",
                "Name the base model it was trained on.",
            )
    if left:
        raise ConfigurationError(
            f"{shown} adapts {cleaned(min(left), SHOWN)}, which a bank does not.",
            "Only LoRA adapters of the decoder's linear layers can be read.",
        )


def _scale(config: dict[str, Any], name: str, rank: int) -> float:
    """As PEFT looks it up: the first pattern that matches the end of the module's name counts."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    fitting = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    alpha = float(next(fitting, config.get("lora_alpha", 8)))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
