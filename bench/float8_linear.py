"""A frozen linear layer whose products run in 8-bit floats, with a scale for every row of both factors: nothing is shared by adapters.

y = x Wᵀ and dx = dy W; x and dy are rounded to e4m3 as they come, W once along each of its dimensions. Products are accumulated in
float32 and given in bfloat16.

Dimensions: M tokens, I numbers in, O numbers out.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
LEAST = 1e-12
"""Of a row's largest number, so that a row of zeros has a scale."""


def rounded(rows_MI: Tensor) -> tuple[Tensor, Tensor]:
    """(in 8 bits [M, I], scale [M, 1])."""
    scale_M1 = rows_MI.abs().amax(1, keepdim=True).float().clamp_min(LEAST) / LARGEST
    return (rows_MI.float() / scale_M1).clamp(-LARGEST, LARGEST).to(E4M3), scale_M1


def product(rows_MI: Tensor, weight_OI: Tensor, scale_O1: Tensor) -> Tensor:
    """rows · weightᵀ in bfloat16."""
    rows8_MI, scale_M1 = _compiled()(rows_MI)
    return torch._scaled_mm(
        rows8_MI,
        weight_OI.t(),
        scale_a=scale_M1,
        scale_b=scale_O1.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


@cache
def _compiled() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(rounded, dynamic=True)


@torch.library.custom_op("rightrank_bench::float8_product", mutates_args=())
def float8_product(x_MI: Tensor, weight: Tensor, scale: Tensor, back: Tensor, back_scale: Tensor) -> Tensor:
    """Opaque: a compiler that traces through it fails in its autograd (torch 2.13)."""
    return product(x_MI, weight, scale)


@float8_product.register_fake
def _(x_MI: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
    return x_MI.new_empty(x_MI.shape[0], weight.shape[0])


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, dy_MO: Tensor) -> tuple[Tensor | None, ...]:
    weight, scale, back, back_scale = ctx.saved_tensors
    return float8_product(dy_MO.contiguous(), back, back_scale, weight, scale), None, None, None, None


float8_product.register_autograd(_backward, setup_context=_save)


class Float8Linear(torch.nn.Linear):
    """In the place of a frozen ``nn.Linear`` without a bias."""

    def __init__(self, layer: nn.Linear) -> None:
        assert layer.bias is None
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, bias=False)
        # Parameters, since a compiler takes their shapes for fixed.
        weight_OI = layer.weight.detach()
        self.weight, self.scale = _kept(weight_OI)
        self.back, self.back_scale = _kept(weight_OI.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """As the layer did; x is [..., I]."""
        y_MO = float8_product(x.flatten(0, -2), self.weight, self.scale, self.back, self.back_scale)
        return y_MO.unflatten(0, x.shape[:-1])


def _kept(weight: Tensor) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(part.contiguous(), requires_grad=False) for part in rounded(weight)]


@contextmanager
def in_float8(model: Any, names: Sequence[str]) -> Iterator[None]:
    """The linear layers of these ``names`` replaced; the model's own come back afterwards."""
    own = {name: model.get_submodule(name) for name in names}
    try:
        for name, layer in own.items():
            model.set_submodule(name, Float8Linear(layer))
        yield
    finally:
        for name, layer in own.items():
            model.set_submodule(name, layer)
