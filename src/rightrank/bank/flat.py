"""All adapters of a bank in one flat vector each of masters, gradients, moments and working copies, adapter by adapter.

One vector an adapter lies in makes clipping, AdamW and export plain; one vector for all makes them one pass. Each adapter begins on a
multiple of ``BLOCK`` numbers, so that a block of the update belongs to one adapter alone, and each matrix on a multiple of 8.

Dimensions: K adapters, P numbers of all adapters, R rows of all ranks together, N tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from rightrank.bank.adapters import AdapterSpec
    from rightrank.bank.targets import Target

BLOCK = 1024
ALIGNED = 8
ROWS_A_TILE = 32


class Layout(NamedTuple):
    """Where one target's matrices lie, as tensors alone, so that compilers see nothing of it but shapes.

    Behind the K adapters stands one more of rank 0, and behind the tiles one of no rows: compilers take a dimension of length 1 for a
    constant.
    """

    places_2K: Int[Tensor, "2 K+1"]
    """Where each adapter's A [rank, I], and its B transposed to [rank, O], begin in the flat vectors."""
    starts_K2: Int[Tensor, "K+1 2"]
    """Column of the adapter's first row in h, and its rank."""
    tiles_N4: Int[Tensor, "N+1 4"]
    """Adapter, first row, rank, column of its first row, for every tile of at most ``ROWS_A_TILE`` rows."""
    scale_K: Float[Tensor, " K+1"]
    rows_R: Float[Tensor, " R"]
    """As long as h is wide: all ranks, each rounded up to ``ALIGNED``. Its values mean nothing."""


def adapters_in(layout: Sequence[Tensor]) -> int:
    """Number of adapters that a layout is made for."""
    return layout[3].shape[0] - 1


@dataclass(frozen=True)
class FlatPlan:
    """The lengths and places of everything, in numbers."""

    begins_K: tuple[int, ...]
    lengths_K: tuple[int, ...]
    total: int
    places: tuple[tuple[tuple[int, int], ...], ...]
    """For every target, for every adapter: where A and where B begins."""


def plan_flat(targets: Sequence[Target], specs: Sequence[AdapterSpec], aligned: int = ALIGNED) -> FlatPlan:
    """Lay adapters one behind the other, every matrix on a multiple of ``aligned`` numbers."""
    places: list[list[tuple[int, int]]] = [[] for _ in targets]
    begins, lengths, at = [], [], 0
    for spec in specs:
        begins.append(at)
        for index, target in enumerate(targets):
            rank = spec.rank_of(index)
            a, at = at, _up(at + rank * target.width_in, aligned)
            b, at = at, _up(at + rank * target.width_out, aligned)
            places[index].append((a, b))
        lengths.append(at - begins[-1])
        at = _up(at, BLOCK)
    return FlatPlan(tuple(begins), tuple(lengths), at, tuple(tuple(pairs) for pairs in places))


def _up(place: int, step: int) -> int:
    return -(-place // step) * step


def layout_of(index: int, specs: Sequence[AdapterSpec], plan: FlatPlan, device: torch.device) -> Layout:
    """The ``index``-th target's layout."""
    ranks = [*(spec.rank_of(index) for spec in specs), 0]
    columns = [0, *accumulate(_up(rank, ALIGNED) for rank in ranks[:-1])]
    tiles = [
        (k, row, rank, column)
        for k, (rank, column) in enumerate(zip(ranks, columns, strict=True))
        for row in range(0, rank, ROWS_A_TILE)
    ]

    def put(values: Sequence[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, device=device, dtype=dtype)

    return Layout(
        places_2K=put([*plan.places[index], (0, 0)], torch.int64).T.contiguous(),
        starts_K2=put(list(zip(columns, ranks, strict=True)), torch.int32),
        tiles_N4=put([*tiles, (0, 0, 0, 0)], torch.int32),
        scale_K=put(
            [*(spec.scale_of(index) for spec in specs), 0.0],
            torch.float64 if device.type == "cpu" else torch.float32,
        ),
        rows_R=torch.empty(columns[-1], device=device),
    )
