"""A trained adapter taken apart into singular directions, and put together again with fewer of them.

What an adapter adds to a layer is W = scale · B A. It is never formed: with thin QR factors B = Q R and Aᵀ = P S, its singular values are
those of the small matrix scale · R Sᵀ (r × r), and its singular vectors are Q and P times that matrix's. Of all matrices of rank k the sum
of the first k directions is the nearest to W (Eckart and Young 1936).

Dimensions: M layers, r rank in the file, D directions of a layer (at most r), O numbers out, I numbers in.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.targets import Target

SEARCH_STEPS = 60
"""Halvings of an interval: to the last bit that matters."""


@dataclass(frozen=True)
class Update:
    """What the adapter adds to one layer: left · diag(size) · right."""

    target: Target
    left_OD: Float[Tensor, "O D"]
    size_D: Float[Tensor, " D"]
    """Singular values, the largest first."""
    right_DI: Float[Tensor, "D I"]

    @property
    def directions(self) -> int:
        """How many there are: the most that a cut can keep."""
        return len(self.size_D)

    @cached_property
    def balanced(self) -> tuple[Float[Tensor, "D I"], Float[Tensor, "D O"]]:
        """(√size · right, (left · √size)ᵀ): of equal size each. What a cut keeps are the first rows of both."""
        root_D = self.size_D.sqrt()
        return root_D[:, None] * self.right_DI, (self.left_OD * root_D).t().contiguous()

    def on(self, device: torch.device) -> Update:
        """The same, there."""
        return Update(self.target, *(x.to(device) for x in (self.left_OD, self.size_D, self.right_DI)))


@dataclass(frozen=True)
class Cut:
    """How much of an adapter is kept."""

    ranks: tuple[int, ...]
    """Directions of every layer in turn; more than it has are zeros."""
    factor: float = 1.0
    """By which the whole update is multiplied."""

    @property
    def rank(self) -> int:
        """The largest of its ranks: what a server must allow for."""
        return max(self.ranks)

    def parameters(self, targets: Sequence[Target]) -> int:
        """Numbers in the adapter that is left."""
        widths = (target.width_in + target.width_out for target in targets)
        return sum(rank * width for rank, width in zip(self.ranks, widths, strict=True))


@torch.no_grad()
def take_apart(bank: AdapterBank, adapter: int) -> tuple[Update, ...]:
    """The singular directions of one adapter of ``bank``, layer by layer, on the CPU, in the precision of the bank's masters.

    Computed in float64; as many layers side by side as PyTorch may use threads, since one is too small for more than a thread.
    """
    spec = bank.specs[adapter]

    def one(m: int) -> Update:
        module = bank.modules[m]
        a_rI, b_Or = module.master_a[adapter], module.master_b[adapter].t()
        return decomposed(module.target, a_rI, b_Or, spec.scale_of(m))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return tuple(pool.map(one, range(len(bank.modules))))
    finally:
        torch.set_num_threads(threads)


def decomposed(
    target: Target, a_rI: Float[Tensor, "r I"], b_Or: Float[Tensor, "O r"], scale: float
) -> Update:
    """The singular directions of scale · B A."""
    kept = a_rI.dtype
    q_OD, r_Dr = torch.linalg.qr(b_Or.detach().double())
    p_ID, s_Dr = torch.linalg.qr(a_rI.detach().double().t())
    small_left, size_D, small_right = torch.linalg.svd(scale * (r_Dr @ s_Dr.t()), full_matrices=False)
    # A factor wider than its layer leaves fewer directions than ranks.
    left, right = q_OD @ small_left, small_right @ p_ID.t()
    return Update(target, *(t.to("cpu", kept).contiguous() for t in (left, size_D, right)))


def uniform(updates: Sequence[Update], rank: int) -> tuple[int, ...]:
    """``rank`` in every layer, or all that it has."""
    return tuple(min(rank, update.directions) for update in updates)


# Ranks of single layers that cost as much as one rank for all. ``bench/cuts.py`` compares them: one threshold gains up to 1.3 % of the
# gain at rank 16's size, on five sets 0.3 % in the mean (bench/LOG.md); ``rightrank cut --by-layer`` offers it.


def by_size(updates: Sequence[Update], parameters: int) -> tuple[int, ...]:
    """At most ``parameters`` numbers: one threshold on the singular values of all layers; each keeps what lies above it."""
    return _largest_within(updates, parameters, [u.size_D.double().numpy() for u in updates])


def by_energy_per_number(updates: Sequence[Update], parameters: int) -> tuple[int, ...]:
    """At most ``parameters`` numbers: the directions that explain most of the squared update for each number they take."""
    worth = [u.size_D.double().numpy() ** 2 / (u.target.width_in + u.target.width_out) for u in updates]
    return _largest_within(updates, parameters, worth)


def by_share_of_energy(updates: Sequence[Update], parameters: int) -> tuple[int, ...]:
    """At most ``parameters`` numbers: every layer keeps the same share of its own squared update."""
    left_out = []
    for update in updates:
        energy = update.size_D.double().numpy() ** 2
        before = np.cumsum(energy) - energy
        left_out.append(1.0 - before / max(float(energy.sum()), 1e-300))
    return _largest_within(updates, parameters, left_out)


def _largest_within(
    updates: Sequence[Update], parameters: int, worth: Sequence[np.ndarray]
) -> tuple[int, ...]:
    """The lowest threshold on ``worth`` (falling within a layer) that keeps at most ``parameters`` numbers; at least one direction."""
    widths = np.array([u.target.width_in + u.target.width_out for u in updates])

    def kept(threshold: float) -> np.ndarray:
        return np.array([int(np.count_nonzero(w > threshold)) for w in worth])

    low, high = -1.0, max(float(w[0]) for w in worth if len(w))
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if kept(middle) @ widths <= parameters else (middle, high)
    ranks = kept(high)
    if not ranks.any():
        ranks[int(np.argmax([w[0] if len(w) else -1.0 for w in worth]))] = 1
    return tuple(int(rank) for rank in ranks)


@torch.no_grad()
def bank_of_cuts(
    updates: Sequence[Update],
    cuts: Sequence[Cut],
    *,
    device: torch.device,
    dtype: torch.dtype,
    products: bool = True,
) -> AdapterBank:
    """A bank that holds the ``cuts`` side by side, with balanced factors: A = √size · right, B = left · √size.

    ``products``: with what plain steps multiply by, which captured ones do not need.

    Where a cut has one rank for all layers its alpha is that rank, so that the scale is 1; otherwise each layer's own alpha / rank is
    taken out of its B.
    """
    targets = [update.target for update in updates]
    specs = [AdapterSpec(cut.rank, alpha=cut.rank, learning_rate=0.0, ranks=cut.ranks) for cut in cuts]
    bank = AdapterBank(targets, specs, device=device, dtype=dtype, start=False, products=products)
    into, kept, shrunk, shares = [], [], [], []
    for m, (module, update) in enumerate(zip(bank.modules, updates, strict=True)):
        a_DI, b_DO = update.balanced
        for k, cut in enumerate(cuts):
            if rank := min(cut.ranks[m], update.directions):
                into += [module.master_a[k][:rank], module.master_b[k][:rank]]
                kept += [a_DI[:rank], b_DO[:rank]]
                if (share := cut.factor / specs[k].scale_of(m)) != 1.0:
                    shrunk.append(into[-1])
                    shares.append(share)
    torch._foreach_copy_(into, kept)
    if shrunk:
        torch._foreach_mul_(shrunk, shares)
    bank.refresh()
    return bank
