"""Layers that read the same tensor, as query, key and value do, computed together: found by running the model, not by their names.

Whichever layer of a group is called first with a tensor computes all of them; the others hand out what was computed for that very
tensor. A layer that is called with another one computes the group anew: slower, and as right.

Dimensions: M tokens of all adapters together, I numbers in, O numbers out of all layers of a group.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import psutil
import torch

from rightrank.bank.base_model import decoder_of
from rightrank.bank.flat import are_one
from rightrank.bank.forward import frozen, replace_forward
from rightrank.bank.fused import add_lora, linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.base_model import BaseModel

JOINED = 0.01
"""Share of the device's memory that copies of weights may take, all layers of a group in one matrix. Assumed: worth it for small models
alone, whose products wait for memory."""


@dataclass
class Seat:
    """A layer's place in its group: what was computed for it already, and of which input."""

    x: Tensor | None = None
    y: Tensor | None = None


class Group:
    """Layers that read one tensor, with the adapters of ``bank`` on them: the targets numbered ``members``, in ascending order."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        members: tuple[int, ...],
        bank: AdapterBank,
        working: Float[Tensor, " P"],
        *,
        joined: bool,
    ) -> None:
        """``joined``: multiply by one copy of all their weights instead of one by one."""
        self.layers = tuple(layers)
        self.seats = tuple(Seat() for _ in layers)
        self.widths = [bank.targets[index].width_out for index in members]
        self.numbers = (working, bank.flat_gradient)
        self.tables = bank.layout(members).tables
        # Whatever depends on the number of adapters, their ranks or a row's tokens is a variable of the compiled code.
        for tensor in self.numbers + tuple(self.tables):
            torch._dynamo.mark_dynamic(tensor, 0)
        self.own = _are_plain(layers)
        self.forwards = [layer.forward for layer in layers]
        if self.own:
            self.weights, self.bias = _weights(layers, joined), _bias(layers)

    def attach(self, stack: ExitStack) -> None:
        """Compute together until ``stack`` closes."""
        for layer, seat in zip(self.layers, self.seats, strict=True):
            layer._rightrank = (self, seat)  # type: ignore[assignment]
            stack.callback(delattr, layer, "_rightrank")
            replace_forward(layer, _product.__get__(layer), stack)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Of every layer."""
        rows_MI = x.flatten(0, -2)
        if self.own:
            y_MO = linear(rows_MI, self.weights, self.bias, self.widths, *self.numbers, self.tables)[0]
            dtype = y_MO.dtype
        else:
            ys = [forward(x).flatten(0, -2) for forward in self.forwards]
            dtype, inner = ys[0].dtype, self.numbers[0].dtype
            y_MO = add_lora([y.to(inner) for y in ys], rows_MI.to(inner), *self.numbers, self.tables)[0]
        parts: Sequence[Tensor] = [y_MO]
        if len(self.layers) > 1:
            # No views for autograd, or no layer's output could be changed in place; nothing else reads the whole.
            parts = torch.unsafe_split_with_sizes(y_MO, self.widths, 1)
        return [part.unflatten(0, x.shape[:-1]).to(dtype) for part in parts]


def _product(self: Any, x: Tensor) -> Tensor:
    """``forward`` of a layer of a group."""
    group, mine = self._rightrank
    if mine.x is x:
        y: Tensor = mine.y
        mine.x = mine.y = None
        return y
    ys = group.outputs(x)
    for seat, y in zip(group.seats, ys, strict=True):
        if seat is mine:
            own = y
        else:
            seat.x, seat.y = x, y
    return own


def _are_plain(layers: Sequence[nn.Module]) -> bool:
    """Whether their products are matrix products with their weights as they lie."""
    return all(type(layer) is torch.nn.Linear for layer in layers)


def _weights(layers: Sequence[Any], joined: bool) -> list[Tensor]:
    weights = [layer.weight for layer in layers]
    if not joined or len(weights) == 1:
        return weights
    # As a parameter, a compiler takes its shape for fixed.
    return [torch.nn.Parameter(torch.cat(weights), requires_grad=False)]


def _bias(layers: Sequence[Any]) -> Tensor | None:
    """Of all layers; zeros where one has none and another has."""
    if all(layer.bias is None for layer in layers):
        return None
    if len(layers) == 1:
        return layers[0].bias  # type: ignore[no-any-return]
    biases = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers
    ]
    return torch.nn.Parameter(torch.cat(biases), requires_grad=False)


def groups_on(base: BaseModel, bank: AdapterBank, working: Float[Tensor, " P"]) -> list[Group]:
    """Every layer of ``base`` that has adapters, in one group each. ``working`` as ``StaticForward`` takes it."""
    named = dict(base.model.named_modules())
    chosen = members_of(bank, base.shared_inputs)
    layers = [[named[bank.targets[index].name] for index in members] for members in chosen]
    joined = _may_join(layers, base.device)
    return [
        Group(own, members, bank, working, joined=joined) for own, members in zip(layers, chosen, strict=True)
    ]


def members_of(bank: AdapterBank, shared: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """Numbers of the targets of each group; those that have adapters are in one each.

    ``shared``: names of layers that read one tensor. They stay single where their adapters do not lie together.
    """
    number = {target.name: index for index, target in enumerate(bank.targets)}
    adapted = {index for index in number.values() if any(spec.rank_of(index) for spec in bank.specs)}
    found = []
    for names in shared:
        members = tuple(sorted({number[name] for name in names if name in number} & adapted))
        if len(members) > 1 and are_one(members, bank.targets, bank.specs, bank.plan):
            found.append(members)
    grouped = {index for members in found for index in members}
    return sorted([*found, *((index,) for index in adapted - grouped)])


@torch.no_grad()
def shared_inputs(model: Any, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Which of the layers of these ``names`` a pass calls one after the other with the very same tensor.

    Layers that a pass calls more than once are left out.
    """
    calls: list[tuple[str, Tensor, int]] = []  # which keeps the tensors, so that none takes another's place

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs:
                calls.append((name, inputs[0], inputs[0]._version))

        return hook

    modules = dict(model.named_modules())
    device = model.get_input_embeddings().weight.device
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        for name in names:
            stack.callback(modules[name].register_forward_pre_hook(note(name)).remove)
        decoder_of(model)(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    once = [name for name, *_ in calls]
    runs = groupby(calls, key=lambda call: (id(call[1]), call[2]))
    found = (tuple(name for name, *_ in run if once.count(name) == 1) for _, run in runs)
    return tuple(run for run in found if len(run) > 1)


def _may_join(groups: Sequence[Sequence[Any]], device: torch.device) -> bool:
    """Whether copies of these groups' weights are small enough to be made."""
    on_gpu = device.type == "cuda"
    whole = torch.cuda.mem_get_info(device)[1] if on_gpu else psutil.virtual_memory().total
    copied = [layer for layers in groups if len(layers) > 1 and _are_plain(layers) for layer in layers]
    wanted: int = sum(layer.weight.nbytes for layer in copied)
    return wanted <= JOINED * whole
