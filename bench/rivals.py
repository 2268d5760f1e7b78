"""What else people do: each rival sees what its budget pays for, on the rows that decide, and names one setting.

A setting is a rank and the log10 of its learning rate at the project's own alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.characteristics import KEPT, gradient_rank, read
from bench.design import RATES
from bench.replay import FORWARD_SHARE, HIDDEN, Runs, run_price
from rightrank.probe.settings import GUIDE_LEARNING_RATE, prior_learning_rate
from rightrank.recipe import equivalent_learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Int

    from bench.tables import Surface
    from bench.truth import Truth

AXES = tuple(round(math.log10(rate), 4) for rate in RATES)
JUDGED_ROWS = 250
"""Rows that a rival judges a run by."""
PARAMETERS_PER_RANK = 305_280  # SmolLM2-135M, all linear layers: the sum of their widths in and out


class Named(NamedTuple):
    """A rival's answer and its price in runs."""

    rank: int
    axis: float
    cost: float


@dataclass
class Purse:
    """Measures runs while there is money: nats a token on the rows that decide."""

    surface: Surface
    rows_E: Int[np.ndarray, " E"]
    budget: float
    cost: float = 0.0
    seen: dict[tuple[int, float, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._runs = Runs(self.surface)
        self._judges_E = self.rows_E[:JUDGED_ROWS]

    def price(self, size: int) -> float:
        """Of one run, judged."""
        judged = float(self.surface.lengths_E[self._judges_E].sum()) * FORWARD_SHARE
        return run_price(self.surface, size) + judged / self.surface.tokens_of_a_run

    def affords(self, size: int, runs: int = 1) -> bool:
        """Whether so many runs are still paid for."""
        return self.cost + runs * self.price(size) <= self.budget + 1e-9

    def loss(self, rank: int, axis: float, size: int) -> float:
        """Train and judge; infinite where there is no money left."""
        key = (rank, axis, size)
        if key not in self.seen:
            if not self.affords(size):
                return math.inf
            self.cost += self.price(size)
            loss_E = self._runs.run(rank, axis, size).loss_E[self._judges_E]
            self.seen[key] = float(loss_E.sum()) / float(self.surface.tokens_E[self._judges_E].sum())
        return self.seen[key]

    def named(self, rank: int, axis: float) -> Named:
        """The answer at what was spent."""
        return Named(rank, axis, self.cost)


def guide(rank: int) -> Callable[[Purse], Named | None]:
    """alpha = 2r, 2e-4, as most guides print."""
    axis = math.log10(equivalent_learning_rate(rank, 2.0 * rank, GUIDE_LEARNING_RATE))
    return lambda purse: Named(rank, axis, 0.0)


def fixed(rank: int, axis: float) -> Callable[[Purse], Named | None]:
    """One setting for all data."""
    return lambda purse: Named(rank, axis, 0.0)


def best_fixed(others: Sequence[Truth]) -> tuple[int, float]:
    """The setting that loses least on average over other data sets."""
    grid = [(rank, axis) for rank in (4, 8, 16, 32, 64, 128) for axis in AXES]
    lost = {point: np.mean([truth.regret_percent(*point) for truth in others]) for point in grid}
    return min(grid, key=lambda point: float(lost[point]))


def by_rows(purse: Purse) -> Named | None:
    """Fewer than 1,000 rows: 8; 10,000: 16; 100,000: 32; else 64. At the guides' alpha and learning rate."""
    return guide(rank_by_rows(purse.surface.whole))(purse)


def rank_by_rows(rows: int) -> int:
    """The usual thresholds."""
    return 8 if rows < 1_000 else 16 if rows < 10_000 else 32 if rows < 100_000 else 64


def by_gradient(axis: float) -> Callable[[Purse], Named | None]:
    """As many ranks as the untrained model's gradient has directions beyond the Marchenko-Pastur edge of its noise, at the best fixed
    learning rate of the other sets. From what ``bench.characteristics`` kept; one pass over the first rows, not counted as cost."""

    def choose(purse: Purse) -> Named | None:
        known = read()["sets"].get(purse.surface.name, {}) if KEPT.exists() else {}
        return Named(gradient_rank(known), axis, 0.0) if "spectra" in known else None

    return choose


def capacity(axis: float) -> Callable[[Purse], Named | None]:
    """The smallest rank whose adapter has a parameter for every trained token, at the best fixed learning rate of the other sets."""

    def choose(purse: Purse) -> Named | None:
        needed = purse.surface.trained_tokens[0] * purse.surface.epochs / PARAMETERS_PER_RANK
        ranks = sorted(set(purse.surface.rank_C.tolist()))
        return Named(next((r for r in ranks if r >= needed), ranks[-1]), axis, 0.0)

    return choose


def tune_rate(rank: int) -> Callable[[Purse], Named | None]:
    """One rank, the whole budget on its learning rate: three rates and what lies beyond an edge on the smallest rows that half of the
    budget pays for, then the best two on the most rows that the rest pays for, and the better of them."""

    def choose(purse: Purse) -> Named | None:
        start = min(AXES, key=lambda axis: abs(axis - math.log10(prior_learning_rate(HIDDEN))))
        at = AXES.index(start)
        tried = sorted({max(0, at - 1), at, min(len(AXES) - 1, at + 1)})
        ascending = sorted(purse.surface.sizes)
        fits = [n for n in ascending if purse.affords(n, len(tried))]
        if not fits:
            return None
        scout = max([n for n in fits if len(tried) * purse.price(n) <= purse.budget / 2] or fits[:1])
        losses = {i: purse.loss(rank, AXES[i], scout) for i in tried}
        while (best := min(losses, key=losses.__getitem__)) in (min(losses), max(losses)):
            further = best - 1 if best == min(losses) else best + 1
            if not 0 <= further < len(AXES) or not purse.affords(scout):
                break
            losses[further] = purse.loss(rank, AXES[further], scout)
        final = _duel(purse, [(rank, AXES[i]) for i in sorted(losses, key=losses.__getitem__)[:2]], scout)
        return purse.named(*(final or (rank, AXES[best])))

    return choose


def _duel(purse: Purse, points: Sequence[tuple[int, float]], above: int) -> tuple[int, float] | None:
    """The better of ``points`` on the most rows, more than ``above``, that are paid for; None where none are."""
    sizes = [n for n in purse.surface.sizes if n > above and purse.affords(n, len(points))]
    if not sizes:
        return None
    return min(points, key=lambda point: purse.loss(*point, max(sizes)))


def random_search(seed: int) -> Callable[[Purse], Named | None]:
    """Settings drawn at random from ranks 4 to 128 and the grid of rates, each on all the data; at least two of them."""

    def choose(purse: Purse) -> Named | None:
        rng = np.random.default_rng(seed)
        grid = [(rank, axis) for rank in (4, 8, 16, 32, 64, 128) for axis in AXES[1:5]]
        sizes = [n for n in purse.surface.sizes if purse.affords(n, 2)]
        if not sizes:
            return None
        order = [grid[i] for i in rng.permutation(len(grid))]
        count = int((purse.budget - purse.cost) / purse.price(sizes[0]))
        points = order[: max(2, count)]
        return purse.named(*min(points, key=lambda point: purse.loss(*point, sizes[0])))

    return choose


def halving(purse: Purse) -> Named | None:
    """Successive halving: eight settings on the fewest rows, the better half on twice as many, …"""
    points = [(rank, axis) for rank in (8, 16, 32, 64) for axis in (AXES[2], AXES[3])]
    size, named = None, None
    for size in sorted(purse.surface.sizes):
        while points and not purse.affords(size, len(points)):
            points = points[: len(points) // 2]
        if not points:
            break
        points = sorted(points, key=lambda point: purse.loss(*point, size))
        named, points = points[0], points[: max(1, len(points) // 2)]
    return None if named is None else purse.named(*named)


def whole_grid(purse: Purse) -> Named | None:
    """Every recorded rank and rate on all the data, whatever it costs: the best that choosing by the deciding rows can do."""
    free = Purse(purse.surface, purse.rows_E, math.inf)
    s = purse.surface
    here_C = (s.examples_C == s.whole) & (s.seed_C == 0) & np.isfinite(s.loss_CE[:, 0])
    points = [(int(s.rank_C[c]), float(s.axis_C[c])) for c in np.flatnonzero(here_C)]
    return free.named(*min(points, key=lambda point: free.loss(*point, s.whole)))


def small_grid(purse: Purse) -> Named | None:
    """Ranks 2, 8, 32, 128 at every recorded rate on an eighth of the rows (or the fewest recorded)."""
    s = purse.surface
    size = min(s.sizes)
    free = Purse(s, purse.rows_E, math.inf)
    here_C = (s.examples_C == size) & (s.seed_C == 0) & np.isfinite(s.loss_CE[:, 0])
    points = [(int(s.rank_C[c]), float(s.axis_C[c])) for c in np.flatnonzero(here_C)]
    return free.named(*min(points, key=lambda point: free.loss(*point, size)))


def rivals(others: Sequence[Truth]) -> dict[str, Callable[[Purse], Named | None]]:
    """All of them by name. ``others``: the surfaces of other data sets, for those that learn from them."""
    found: dict[str, Callable[[Purse], Named | None]] = {
        f"r={r}, alpha=2r, 2e-4": guide(r) for r in (8, 16, 64)
    }
    found["rows decide the rank"] = by_rows
    if others:
        rank, axis = best_fixed(others)
        found["best fixed setting of the other sets"] = fixed(rank, axis)
        found["a parameter for every token"] = capacity(axis)
        found["gradient directions beyond the edge"] = by_gradient(axis)
    found |= {f"r={r}, budget on its learning rate": tune_rate(r) for r in (32, 64)}
    found |= {
        "random search": random_search(0),
        "successive halving": halving,
        "the grid on the fewest rows, at any price": small_grid,
        "the grid on all rows, at any price": whole_grid,
    }
    return found
