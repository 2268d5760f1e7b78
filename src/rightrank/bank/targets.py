"""Which weights get an adapter: every linear map of the decoder, as PEFT's ``target_modules="all-linear"`` chooses them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rightrank.bank.module_kinds import Kind, kind_of
from rightrank.data.wording import listed, quoted
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


# Layers whose weight Mamba's fused kernels read without calling the layer, so that an adapter on it would do nothing. PEFT refuses them
# (its list, version 0.21).
PASSED_BY = dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"), ("out_proj",))

# Names that PEFT takes for fused experts wherever a model has some (its mapping for transformers 5, version 0.21): it can put no adapter
# on a shared expert or a dense layer that is called so.
NAMES_OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


@dataclass(frozen=True)
class Target:
    """One linear map that gets an adapter: ``width_in`` numbers in, ``width_out`` numbers out."""

    name: str
    """Dotted module name inside the model, as in its ``named_modules()``."""
    width_in: int
    width_out: int
    transposed: bool = False
    """The weight lies [in, out], as in GPT-2's Conv1D; PEFT calls it ``fan_in_fan_out``."""
    shares_suffix: bool = False
    """A module that gets no adapter ends in the same word: one of a vision tower, say."""

    kind: Kind | None = None
    """What it is part of; None: neither attention nor MLP."""

    @property
    def suffix(self) -> str:
        """Last part of the name, as PEFT's ``target_modules`` takes it: ``q_proj``."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def peft_name(self) -> str:
        """What PEFT's ``target_modules`` takes to find it and nothing else: the last part of the name, or the whole of it."""
        return self.name if self.shares_suffix else self.suffix

    @property
    def max_rank(self) -> int:
        """Above this rank B·A has no more freedom than the weight itself."""
        return min(self.width_in, self.width_out)


def find_targets(model: nn.Module) -> tuple[Target, ...]:
    """Every linear map of the decoder except the output head, in the model's own order.

    nn.Linear and what derives from it (bitsandbytes' 4- and 8-bit layers), and GPT-2's Conv1D. What text never passes, such as a vision
    tower, is left out, and so is what PEFT can put no adapter on (``PASSED_BY``, ``NAMES_OF_EXPERTS``). Fused experts are no linear
    layers. Raises ModelError where there is none.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    decoder = getattr(model, "get_decoder", lambda: model)() or model
    inside = {id(module) for module in decoder.modules()}
    passed_by: tuple[str, ...] = PASSED_BY.get(getattr(getattr(model, "config", None), "model_type", ""), ())
    if any(parameter.ndim == 3 and ".experts." in name for name, parameter in decoder.named_parameters()):
        passed_by = NAMES_OF_EXPERTS
    found = []
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if module is head or id(module) not in inside or name.rsplit(".", 1)[-1] in passed_by:
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
    names = {target.name for target in found}
    others = {name.rsplit(".", 1)[-1] for name in modules if name not in names}
    return tuple(
        replace(target, shares_suffix=target.suffix in others, kind=kind_of(modules, target.name))
        for target in found
    )


def chosen(targets: Sequence[Target], modules: Sequence[str] | None) -> tuple[Target, ...]:
    """The targets whose names end in one of ``modules``; all where None. Raises ModelError for a name that the model does not have."""
    if modules is None:
        return tuple(targets)

    def named(target: Target, module: str) -> bool:  # as PEFT matches a list
        return target.name == module or target.name.endswith(f".{module}")

    absent = next((name for name in modules if not any(named(target, name) for target in targets)), None)
    if absent is not None:
        known = sorted({target.suffix for target in targets})
        raise ModelError(f"The model has no linear layer named {quoted(absent)}.", f"It has {listed(known)}.")
    return _without_others([t for t in targets if any(named(t, module) for module in modules)], targets)


def of_kind(targets: Sequence[Target], kind: Kind) -> tuple[Target, ...]:
    """The targets that are part of attention, or of the MLP."""
    return _without_others([target for target in targets if target.kind == kind], targets)


def _without_others(kept: Sequence[Target], targets: Sequence[Target]) -> tuple[Target, ...]:
    """``kept`` of ``targets``, which know where the last part of their names finds any of the others."""
    names = {target.name for target in kept}
    others = {target.suffix for target in targets if target.name not in names}
    return tuple(replace(t, shares_suffix=t.shares_suffix or t.suffix in others) for t in kept)


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
    """What goes into PEFT's ``target_modules``: distinct last parts of the names, in the order of first appearance.

    Whole names where the last part would find other modules as well.
    """
    return tuple(dict.fromkeys(target.peft_name for target in targets))
