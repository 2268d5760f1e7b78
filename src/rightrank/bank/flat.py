"""All adapters of a bank in one flat vector each of masters, gradients, moments and working copies, adapter by adapter.

One vector an adapter lies in makes clipping, AdamW and export plain; one vector for all makes them one pass. Each adapter begins on a
multiple of ``BLOCK`` numbers, so that a block of the update belongs to one adapter alone, and each matrix on a multiple of 8.

Dimensions: K adapters, G layers of a group, P numbers of all adapters, R rows of all ranks together, W numbers a row, N tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

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


class Side(NamedTuple):
    """Where every adapter's matrix of one kind lies: its As of a group's layers, one under the other, or its B of one of them.

    Behind the K adapters stands one more of rank 0, and behind the tiles one of no rows: compilers take a dimension of length 1 for a
    constant.
    """

    places_K: Int[Tensor, " K+1"]
    """Where each adapter's matrix [rank, W] begins in the flat vectors; B lies transposed."""
    starts_K2: Int[Tensor, "K+1 2"]
    """Column of the matrix's first row in h, and its rank."""
    tiles_N4: Int[Tensor, "N+1 4"]
    """Adapter, first row, rank, column of the first row of all, for every tile of at most ``ROWS_A_TILE`` rows."""


class Layout(NamedTuple):
    """A group of G layers that read one tensor: where their adapters lie, as tensors alone, so that compilers see only shapes."""

    scale_R: Float[Tensor, " R"]
    """Of every row, as long as h is wide: each adapter's ranks in all the layers, rounded up to ``ALIGNED``."""
    a: Side
    b: tuple[Side, ...]
    """One a layer."""

    @classmethod
    def of(cls, tables: Sequence[Tensor]) -> Layout:
        """The layout that ``tables`` are of."""
        a, *b = (Side(*tables[start : start + 3]) for start in range(1, len(tables), 3))
        return cls(tables[0], a, tuple(b))

    @property
    def tables(self) -> list[Tensor]:
        """All its tensors in a row: what operators take."""
        return [self.scale_R, *self.a, *(table for side in self.b for table in side)]


def adapters_in(tables: Sequence[Tensor]) -> int:
    """Number of adapters that a layout's ``tables`` are made for."""
    return tables[1].shape[0] - 1


@dataclass(frozen=True)
class FlatPlan:
    """The lengths and places of everything, in numbers."""

    begins_K: tuple[int, ...]
    lengths_K: tuple[int, ...]
    total: int
    places: tuple[tuple[tuple[int, int], ...], ...]
    """For every target, for every adapter: where A and where B begins."""


def plan_flat(targets: Sequence[Target], specs: Sequence[AdapterSpec], aligned: int = ALIGNED) -> FlatPlan:
    """Lay adapters one behind the other, every matrix on a multiple of ``aligned`` numbers.

    First the As of all targets, then the Bs: As of one width that follow each other are one matrix.
    """
    places: list[list[tuple[int, int]]] = [[] for _ in targets]
    begins, lengths, at = [], [], 0
    for spec in specs:
        begins.append(at)
        firsts = []
        for index, target in enumerate(targets):
            firsts.append(at)
            at = _up(at + spec.rank_of(index) * target.width_in, aligned)
        for index, target in enumerate(targets):
            places[index].append((firsts[index], at))
            at = _up(at + spec.rank_of(index) * target.width_out, aligned)
        lengths.append(at - begins[-1])
        at = _up(at, BLOCK)
    return FlatPlan(tuple(begins), tuple(lengths), at, tuple(tuple(pairs) for pairs in places))


def _up(place: int, step: int) -> int:
    return -(-place // step) * step


def are_one(
    members: Sequence[int], targets: Sequence[Target], specs: Sequence[AdapterSpec], plan: FlatPlan
) -> bool:
    """Whether every adapter's As of these targets, in ascending order, lie as one matrix."""
    return all(
        targets[one].width_in == targets[other].width_in
        and plan.places[one][k][0] + spec.rank_of(one) * targets[one].width_in == plan.places[other][k][0]
        for one, other in pairwise(members)
        for k, spec in enumerate(specs)
    )


def layout_of(
    members: Sequence[int], specs: Sequence[AdapterSpec], plan: FlatPlan, device: torch.device
) -> Layout:
    """The layout of the targets numbered ``members``, whose As ``are_one``."""
    ranks_KG = [[spec.rank_of(index) for index in members] for spec in specs]
    ranks_K = [sum(ranks_G) for ranks_G in ranks_KG]
    *columns_K, width = [0, *accumulate(_up(rank, ALIGNED) for rank in ranks_K)]
    scales: list[float] = []
    for spec, ranks_G in zip(specs, ranks_KG, strict=True):
        for index, rank in zip(members, ranks_G, strict=True):
            scales += [spec.scale_of(index)] * rank
        scales += [0.0] * (_up(len(scales), ALIGNED) - len(scales))
    a = _side([a for a, _ in plan.places[members[0]]], columns_K, ranks_K, width, device)
    b = []
    for g, index in enumerate(members):
        starts = [column + sum(ranks_G[:g]) for column, ranks_G in zip(columns_K, ranks_KG, strict=True)]
        places = [b for _, b in plan.places[index]]
        b.append(_side(places, starts, [ranks_G[g] for ranks_G in ranks_KG], width, device))
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    return Layout(torch.tensor(scales, device=device, dtype=dtype), a, tuple(b))


def _side(
    places: Sequence[int], columns: Sequence[int], ranks: Sequence[int], width: int, device: torch.device
) -> Side:
    tiles = [
        (k, row, rank, column)
        for k, (rank, column) in enumerate(zip(ranks, columns, strict=True))
        for row in range(0, rank, ROWS_A_TILE)
    ]
    starts = [*zip(columns, ranks, strict=True), (width, 0)]
    return Side(
        torch.tensor([*places, 0], device=device),
        torch.tensor(starts, device=device, dtype=torch.int32),
        torch.tensor([*tiles, (0, 0, 0, 0)], device=device, dtype=torch.int32),
    )
