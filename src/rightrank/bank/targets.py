"""Which weights get an adapter: every linear map of the decoder, as PEFT's ``target_modules="all-linear"`` chooses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Target:
    """One linear map that gets an adapter: ``width_in`` numbers in, ``width_out`` numbers out."""

    name: str
    """Dotted module name inside the model, as in its ``named_modules()``."""
    width_in: int
    width_out: int
    transposed: bool = False
    """The weight lies [in, out], as in GPT-2's Conv1D; PEFT calls it ``fan_in_fan_out``."""

    @property
    def suffix(self) -> str:
        """Last part of the name, as PEFT's ``target_modules`` takes it: ``q_proj``."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def max_rank(self) -> int:
        """Above this rank B·A has no more freedom than the weight itself."""
        return min(self.width_in, self.width_out)


def find_targets(model: nn.Module) -> tuple[Target, ...]:
    """Every linear map except the output head, in the model's own order.

    nn.Linear and what derives from it (bitsandbytes' 4- and 8-bit layers), and GPT-2's Conv1D. Raises ModelError where there is none.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = []
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            found.append(Target(name, module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            wide_in, wide_out = module.weight.shape
            found.append(Target(name, wide_in, wide_out, transposed=True))
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no linear layers that a LoRA adapter could sit on.",
            "Name a causal language model of transformers.",
        )
    return tuple(found)


def not_adapted(model: nn.Module, targets: tuple[Target, ...]) -> tuple[str, ...]:
    """Names of weight matrices that get no adapter (embeddings, head, fused experts), layer numbers folded into ``*``."""
    adapted = {target.name for target in targets}
    names = {
        ".".join("*" if part.isdigit() else part for part in name.split("."))
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and name.rpartition(".")[0] not in adapted
    }
    return tuple(sorted(names))


def target_suffixes(targets: tuple[Target, ...]) -> tuple[str, ...]:
    """Distinct last parts of the names, in the order of first appearance: what goes into PEFT's ``target_modules``."""
    return tuple(dict.fromkeys(target.suffix for target in targets))
