"""Modules that were trained whole and lie beside an adapter (PEFT's ``modules_to_save``): read, and put into a model for a while."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from rightrank.bank.adapter_file import SAVE_AGAIN, SHOWN, WEIGHTS
from rightrank.data.wording import cleaned, quoted
from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

PREFIX = "base_model.model."


@dataclass(frozen=True)
class WholeModules:
    """Copies of some of the base's modules that belong to an adapter."""

    names: tuple[str, ...] = ()
    """As the adapter's config has them: last parts of module names."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By the parameter's name in the model: ``lm_head.weight``."""


def read_whole_modules(directory: str | Path, config: Mapping[str, Any]) -> WholeModules:
    """What of the adapter at ``directory`` belongs to its ``modules_to_save``. Raises ConfigurationError."""
    shown = cleaned(str(directory), SHOWN)
    names = config.get("modules_to_save") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"{shown} says modules_to_save is {quoted(names)}.", SAVE_AGAIN)
    if not names:
        return WholeModules()
    found: dict[str, Tensor] = {}
    try:
        with safe_open(Path(directory) / WEIGHTS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                module = key.removeprefix(PREFIX).rpartition(".")[0]
                if any(module == name or module.endswith(f".{name}") for name in names):
                    found[key.removeprefix(PREFIX)] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError, UnicodeError) as error:
        raise ConfigurationError(f"{shown}/{WEIGHTS} is damaged.", SAVE_AGAIN) from error
    return WholeModules(tuple(names), found)


@contextmanager
def in_place(model: nn.Module, whole: WholeModules) -> Iterator[None]:
    """Within this context the model computes with the saved modules; then with its own again.

    Weights that were tied to one of them stay as they are, as in PEFT. Raises ConfigurationError where they do not fit.
    """
    own: list[tuple[nn.Module, str, Any]] = []
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in whole.tensors.items():
        if name not in named or named[name].shape != tensor.shape:
            raise ConfigurationError(
                f"The adapter was saved with {cleaned(name)} of another model.",
                "Name the base model it was trained on.",
            )
    try:
        for name, tensor in whole.tensors.items():
            place, _, leaf = name.rpartition(".")
            module, before = model.get_submodule(place), named[name]
            own.append((module, leaf, before))
            put = tensor.to(before.device, before.dtype)
            module._parameters[leaf] = torch.nn.Parameter(put, requires_grad=False)
        yield
    finally:
        for module, leaf, before in own:
            module._parameters[leaf] = before
