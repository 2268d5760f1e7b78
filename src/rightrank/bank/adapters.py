"""K adapters over one frozen base: their numbers, where these lie, and how they start.

The masters are one flat float32 vector an adapter (float64 over a float64 base), so that clipping, AdamW and export see plain tensors.
The products read a working copy in the base's dtype in which the adapters lie side by side along the rank, so that one grouped matrix
product serves them all.

Dimensions: K adapters, R rows of all their ranks together (each padded to a multiple of ``ROW_MULTIPLE``), I numbers in, O numbers out.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from rightrank.bank.flat import ALIGNED, layout_of, plan_flat
from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.flat import Layout
    from rightrank.bank.targets import Target

# Grouped matrix products want each group's edge on a 16-byte boundary: 8 numbers of bfloat16. Padding is zero in A and B and stays so.
ROW_MULTIPLE = 8


@dataclass(frozen=True)
class AdapterSpec:
    """What tells one adapter of a bank from its neighbours."""

    rank: int
    alpha: float
    learning_rate: float
    seed: int = 0
    """Of the initial A."""
    ranks: tuple[int, ...] | None = None
    """Rank of every target in turn, where they differ; 0 leaves a module without an adapter."""

    def rank_of(self, target: int) -> int:
        """Rank at the ``target``-th module."""
        return self.rank if self.ranks is None else self.ranks[target]

    def scale_of(self, target: int) -> float:
        """alpha / rank, as PEFT's plain LoRA scales the update."""
        rank = self.rank_of(target)
        return self.alpha / rank if rank else 0.0


@dataclass
class Module:
    """One target's slice of the bank: working copies in the base's dtype, and views into every adapter's masters and gradients."""

    target: Target
    ranks_K: tuple[int, ...]
    row_ends_K: Tensor
    """int32: where each adapter's rows end in the working copies."""
    scale_R: Float[Tensor, " R"]
    a_RI: Float[Tensor, "R I"]
    b_RO: Float[Tensor, "R O"]
    """B transposed, so that an adapter's part is contiguous."""
    master_a: list[Tensor]
    """Views [r, I] into the flat masters, one an adapter."""
    master_b: list[Tensor]
    grad_a: list[Tensor]
    grad_b: list[Tensor]

    def rows(self, adapter: int) -> slice:
        """Rows of the working copies that hold ``adapter``, padding left out."""
        start = 0 if adapter == 0 else self._ends[adapter - 1]
        return slice(start, start + self.ranks_K[adapter])

    def __post_init__(self) -> None:
        # Not read off row_ends_K, for which the host would wait.
        self._ends = list(accumulate(-(-rank // ROW_MULTIPLE) * ROW_MULTIPLE for rank in self.ranks_K))


class AdapterBank:
    """The adapters' numbers. ``refresh`` copies the masters into the working copies after every update."""

    def __init__(
        self,
        targets: Sequence[Target],
        specs: Sequence[AdapterSpec],
        *,
        device: torch.device,
        dtype: torch.dtype,
        start: bool = True,
        products: bool = True,
    ) -> None:
        """``start``: begin where training begins; otherwise all is zero until it is written.

        ``products``: keep the working copies that ``Forward`` multiplies with; graphs have one of their own.
        """
        check_ranks(targets, specs)
        self.targets = tuple(targets)
        self.specs = tuple(specs)
        self.device = device
        self.dtype = dtype
        master_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        # Only kernels care where a matrix begins.
        self.plan = plan_flat(targets, specs, ALIGNED if device.type == "cuda" else 1)
        self.flat_master = torch.zeros(self.plan.total, dtype=master_dtype, device=device)
        self.flat_gradient = torch.zeros_like(self.flat_master)
        self.masters = self._split(self.flat_master)
        self.gradients = self._split(self.flat_gradient)
        for master, gradient in zip(self.masters, self.gradients, strict=True):
            master.grad = gradient  # where AdamW looks for it
        self._products = products
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self.modules = self._lay_out()
        if start:
            self.initialise()

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Each adapter's part of a flat vector."""
        spans = zip(self.plan.begins_K, self.plan.lengths_K, strict=True)
        return [flat[begin : begin + length] for begin, length in spans]

    def layout(self, members: tuple[int, ...]) -> Layout:
        """Where the adapters of these targets, which read one tensor, lie in the flat vectors. It lives as long as the bank."""
        if members not in self._layouts:
            self._layouts[members] = layout_of(members, self.specs, self.plan, self.device)
        return self._layouts[members]

    def _lay_out(self) -> list[Module]:
        modules = []
        for index, target in enumerate(self.targets):
            ranks = tuple(spec.rank_of(index) for spec in self.specs)
            padded = [-(-rank // ROW_MULTIPLE) * ROW_MULTIPLE for rank in ranks]
            scale = torch.zeros(sum(padded), dtype=self.dtype)
            views: dict[str, list[Tensor]] = {"master_a": [], "master_b": [], "grad_a": [], "grad_b": []}
            for k, spec in enumerate(self.specs):
                start = sum(padded[:k])
                scale[start : start + ranks[k]] = spec.scale_of(index)
                places = self.plan.places[index][k]
                for kind, width, place in zip("ab", (target.width_in, target.width_out), places, strict=True):
                    span = slice(place, place + ranks[k] * width)
                    views[f"master_{kind}"].append(self.flat_master[span].view(ranks[k], width))
                    views[f"grad_{kind}"].append(self.flat_gradient[span].view(ranks[k], width))
            ends = torch.tensor(padded, dtype=torch.int64).cumsum(0).to(self.device, torch.int32)
            rows = sum(padded) if self._products else 0
            a_RI = torch.zeros(rows, target.width_in, device=self.device, dtype=self.dtype)
            b_RO = torch.zeros(rows, target.width_out, device=self.device, dtype=self.dtype)
            modules.append(Module(target, ranks, ends, scale.to(self.device), a_RI, b_RO, **views))
        working = [
            (copy[module.rows(k)], masters[k])
            for module in modules
            for copy, masters in ((module.a_RI, module.master_a), (module.b_RO, module.master_b))
            for k in range(len(self.specs))
            if module.ranks_K[k] and self._products
        ]
        self._working, self._sources = [pair[0] for pair in working], [pair[1] for pair in working]
        return modules

    def initialise(self) -> None:
        """A as PEFT starts it, uniform in ±1/sqrt(width in); B zero.

        Adapters of one seed start nested: a smaller A is the top of a larger one.
        """
        for index, module in enumerate(self.modules):
            most: dict[int, int] = {}
            for spec, rank in zip(self.specs, module.ranks_K, strict=True):
                most[spec.seed] = max(rank, most.get(spec.seed, 0))
            width = module.target.width_in
            drawn = {
                seed: initial_a(width, rank, seed=seed, target=index).to(self.device, self.flat_master.dtype)
                for seed, rank in most.items()
                if rank
            }
            for k, spec in enumerate(self.specs):
                module.master_b[k].zero_()
                if module.ranks_K[k]:
                    module.master_a[k].copy_(drawn[spec.seed][: module.ranks_K[k]])
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the working copies up to the masters."""
        if self._working:
            torch._foreach_copy_(self._working, self._sources)

    def zero_gradients(self) -> None:
        """Forget the last step's gradients."""
        for gradient in self.gradients:
            gradient.zero_()

    @torch.no_grad()
    def silence(self, adapter: int) -> None:
        """Set a diverged adapter to zero, so that it computes finite numbers and disturbs no neighbour."""
        self.masters[adapter].zero_()
        self.gradients[adapter].zero_()
        self.refresh()


def initial_a(width_in: int, rank: int, *, seed: int, target: int) -> Float[Tensor, "rank I"]:
    """First ``rank`` rows of the one random matrix that belongs to ``seed`` and the ``target``-th module.

    Uniform in ±1/sqrt(width_in): PEFT's kaiming_uniform_(a=sqrt(5)). Drawn in blocks of equal size, so that the rows of a smaller rank
    are bitwise the first rows of a larger one.
    """
    digest = hashlib.sha256(f"rightrank A {seed} {target}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    block = 8
    drawn = [
        torch.rand(block, width_in, generator=generator, dtype=torch.float64)
        for _ in range(-(-rank // block))
    ]
    return (torch.cat(drawn)[:rank] * 2 - 1) / math.sqrt(width_in)


def adapter_parameters(targets: Sequence[Target], spec: AdapterSpec) -> int:
    """Numbers in one adapter."""
    return sum(spec.rank_of(i) * (target.width_in + target.width_out) for i, target in enumerate(targets))


def check_ranks(targets: Sequence[Target], specs: Sequence[AdapterSpec]) -> None:
    """Raise ConfigurationError for a rank that no module is wide enough for, or that is not positive."""
    widest = max(target.max_rank for target in targets)
    for spec in specs:
        if spec.ranks is not None and (len(spec.ranks) != len(targets) or min(spec.ranks) < 0):
            raise ConfigurationError(
                f"{len(spec.ranks)} ranks from {min(spec.ranks, default=0)} up for {len(targets)} modules.",
                "Give every module one, 0 where it gets no adapter.",
            )
        largest = max(spec.rank_of(i) for i in range(len(targets)))
        if largest > widest:
            raise ConfigurationError(
                f"Rank {largest} is beyond the width of every module of this model ({widest}).",
                f"Try ranks up to {widest}.",
            )
        if largest < 1:
            raise ConfigurationError(f"Rank {largest} is no rank.", "Give a whole number of at least 1.")
