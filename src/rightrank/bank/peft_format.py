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

from rightrank.bank.targets import target_suffixes
from rightrank.errors import ConfigurationError, ResourceError, UnsafeModelError

if TYPE_CHECKING:
    from rightrank.bank.adapters import AdapterBank, AdapterSpec

PREFIX = "base_model.model."
# What changes the forward pass beyond alpha / rank · B·A.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "trainable_token_indices",
    "lora_bias",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
)
# Others (PiSSA, OLoRA, CorDA, LoftQ) change the base's own weights as well.
_STARTS_THAT_KEEP_THE_BASE = ("gaussian", "orthogonal", "eva")


def export_adapter(
    bank: AdapterBank, adapter: int, directory: str | Path, *, base_name: str, dropout: float = 0.0
) -> Path:
    """Write one adapter of ``bank`` as a PEFT directory and return it.

    Modules of other ranks go into ``rank_pattern``; their alpha into ``alpha_pattern``, so that the scale stays alpha / rank of the
    bank. Raises ResourceError where it cannot be written.
    """
    folder = Path(directory)
    spec = bank.specs[adapter]
    tensors = {}
    for module in bank.modules:
        if module.ranks_K[adapter]:
            name = PREFIX + module.target.name
            tensors[f"{name}.lora_A.weight"] = module.master_a[adapter].detach().cpu().clone().contiguous()
            tensors[f"{name}.lora_B.weight"] = (
                module.master_b[adapter].detach().t().cpu().clone().contiguous()
            )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = _config(bank, adapter, spec, base_name, dropout)
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


def read_adapter_config(directory: str | Path) -> dict[str, Any]:
    """``adapter_config.json`` of a LoRA adapter that a bank can hold. Raises ConfigurationError or UnsafeModelError."""
    folder = Path(directory)
    if not (folder / "adapter_model.safetensors").is_file():
        if (folder / "adapter_model.bin").is_file():
            raise UnsafeModelError(
                f"{folder} holds pickled weights, which can run code when loaded.",
                "Save the adapter as safetensors first.",
            )
        raise ConfigurationError(
            f"{folder} holds no adapter_model.safetensors.", "Name the folder that PEFT saved."
        )
    try:
        config: Any = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{folder}/adapter_config.json cannot be read.", "Save the adapter again."
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigurationError(f"{folder} is no LoRA adapter.", "Only LoRA adapters can be read.")
    start = config.get("init_lora_weights")
    unknown = [key for key in _UNSUPPORTED if config.get(key)]
    if isinstance(start, str) and start.lower() not in _STARTS_THAT_KEEP_THE_BASE:
        unknown.append(f"init_lora_weights={start}")
    if unknown:
        raise ConfigurationError(
            f"{folder} uses {unknown[0]}, which is not supported.", "Only plain LoRA adapters can be read."
        )
    return config


def import_adapter(bank: AdapterBank, adapter: int, directory: str | Path) -> None:
    """Copy the PEFT adapter at ``directory`` into one adapter of ``bank``, whose ranks must be those of the file.

    The file's own scale is folded into B, so that the bank's alpha / rank gives the same update. Raises ConfigurationError.
    """
    config = read_adapter_config(directory)
    try:
        tensors = load_file(Path(directory) / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{directory}/adapter_model.safetensors is damaged.", "Save the adapter again."
        ) from error
    for index, module in enumerate(bank.modules):
        name = PREFIX + module.target.name
        a, b = tensors.pop(f"{name}.lora_A.weight", None), tensors.pop(f"{name}.lora_B.weight", None)
        rank = 0 if a is None or b is None else a.shape[0]
        if rank != module.ranks_K[adapter]:
            raise ConfigurationError(
                f"{directory} has rank {rank} at {module.target.name}, not {module.ranks_K[adapter]}.",
                "Give the bank the file's ranks.",
            )
        if a is None or b is None:
            continue
        if a.shape != (rank, module.target.width_in) or b.shape != (module.target.width_out, rank):
            raise ConfigurationError(
                f"{directory} was trained on a model of other widths ({module.target.name}).",
                "Name the base model it was trained on.",
            )
        with torch.no_grad():
            module.master_a[adapter].copy_(a)
            module.master_b[adapter].copy_(
                b.t() * (_scale(config, module.target.name, rank) / bank.specs[adapter].scale_of(index))
            )
    if tensors:
        raise ConfigurationError(
            f"{directory} adapts {min(tensors)}, which a bank does not.",
            "Only LoRA adapters of the decoder's linear layers can be read.",
        )
    bank.refresh()


def _scale(config: dict[str, Any], name: str, rank: int) -> float:
    """As PEFT looks it up: the first pattern that matches the end of the module's name counts."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    fitting = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    alpha = float(next(fitting, config.get("lora_alpha", 8)))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
