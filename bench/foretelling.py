"""Whether a data set's characteristics foretell its rank and learning rate better than one answer for all.

Every recorded size of a data set under a recipe is a case. What is foretold: the smallest equivalent rank (the middle, in doublings, of
those that it may be, ``bench.truth``) and the learning rate that was best (log10 at the project's own alpha, mean over ranks 8, 32 and
128 of the best on the grid). A whole data set is left out at a time; those of the lockbox are foretold and never learnt from.

Dimensions: N cases, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.characteristics import spectrum_of
from bench.rivals import AXES
from bench.tables import surfaces
from bench.truth import Truth
from rightrank.data.characteristics import Characteristics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from jaxtyping import Float

    from bench.tables import Surface

    Target = Callable[["Case"], float]

RATE_RANKS = (8, 32, 128)
"""Ranks recorded at every size, the smallest left out."""
SHRINKING = 4.0
"""A slope counts as if so many data sets had shown none. Chosen beforehand: half of what five sets show is believed."""
WITHOUT_WEIGHTS = ("rows_seen", "epochs", "tokens_a_row", "new_bytes", "new_bits_a_token", "distinct_share", "copied_share")  # fmt: skip
WITH_WEIGHTS = ("base_loss", "base_spread", "replicated", "beyond_edge", "signal_share")
MOST_FEATURES = 2
"""Chosen: a handful of data sets bears no more."""
TRIED = tuple((name,) for name in (*WITHOUT_WEIGHTS, *WITH_WEIGHTS))


@dataclass(frozen=True)
class Case:
    """One data set at one size under one recipe."""

    name: str
    lockbox: bool
    surface: Surface
    features: Mapping[str, float]
    trained_tokens: int

    @property
    def label(self) -> str:
        """Name, epochs and rows."""
        return f"{self.name}-{self.surface.epochs:g} {self.surface.whole}"

    @cached_property
    def truth(self) -> Truth:
        """On the rows that score."""
        return Truth(self.surface, np.flatnonzero(self.surface.sides()[1]))

    @cached_property
    def ranks(self) -> list[int]:
        """The smallest equivalent rank: all that it may be. Of those recorded: at some sizes 2, 8, 32 and 128 only."""
        return self.truth.smallest_ranks()

    @cached_property
    def doublings(self) -> float:
        """log2 of the middle of them."""
        return float(np.log2([min(self.ranks), max(self.ranks)]).mean())

    @cached_property
    def axis(self) -> float:
        """log10 of the best learning rate."""
        best = []
        for rank in RATE_RANKS:
            known = {x: level for (r, x), level in zip(self.truth.settings, self.truth.level_U, strict=True)
                     if r == rank and min(abs(x - grid) for grid in AXES) < 2e-3}  # fmt: skip
            best.append(min(known, key=lambda x: known[x]))
        return float(np.mean(best))


def cases(folder: Path, measured: Mapping[str, Any]) -> list[Case]:
    """All recorded sizes whose characteristics are known."""
    found = []
    for surface in surfaces(folder):
        known = measured["sets"].get(surface.name, {"sizes": {}})
        for size in surface.sizes:
            if str(size) in known["sizes"]:
                one = Characteristics(**known["sizes"][str(size)])
                features = one.features(surface.epochs) | with_weights(known)
                found.append(
                    Case(surface.name, surface.lockbox, at_size(surface, size), features, one.trained_tokens)
                )
    return found


def with_weights(known: Mapping[str, Any]) -> dict[str, float]:
    """Features that need the model's weights, of a data set, on its first rows; none where they were not measured."""
    if "spectra" not in known:
        return {}
    whole = spectrum_of(known)
    return {
        "base_loss": known["base"]["nats_a_token"],
        "base_spread": known["base"]["spread_tokens"],
        "replicated": float(np.log2(1 + whole["replicated"])),
        "beyond_edge": float(np.log2(1 + whole["beyond_edge"])),
        "signal_share": whole["signal_share"],
    }


def at_size(surface: Surface, size: int) -> Surface:
    """As if the data set had no more rows than ``size``."""
    at = surface.sizes.index(size)
    here_C = surface.examples_C == size
    runs = {name: getattr(surface, name)[here_C]
            for name in ("rank_C", "alpha_C", "learning_rate_C", "seed_C", "examples_C", "loss_CE", "right_CE")}  # fmt: skip
    kept = {name: (getattr(surface, name)[at],) for name in ("sizes", "train_tokens", "trained_tokens")}
    return replace(surface, **kept, **runs)


@dataclass(frozen=True)
class Line:
    """A ridge on standardised features, the data sets weighing the same however many cases they have."""

    names: tuple[str, ...]
    level: float
    mean_F: Float[np.ndarray, " F"]
    spread_F: Float[np.ndarray, " F"]
    slope_F: Float[np.ndarray, " F"]
    """Of one standard deviation of the feature."""
    least_F: Float[np.ndarray, " F"]
    most_F: Float[np.ndarray, " F"]

    def of(self, features: Mapping[str, float]) -> float:
        """What it foretells; a feature beyond all that was learnt from counts as the nearest that was."""
        x_F = np.clip([features[name] for name in self.names], self.least_F, self.most_F)
        return self.level + float(((x_F - self.mean_F) / self.spread_F) @ self.slope_F)


def fit(known: Sequence[Case], names: tuple[str, ...], target: Target) -> Line:
    """By least squares, slopes shrunk towards none. No names: the mean of the data sets."""
    weight_N = np.array([1 / sum(c.name == case.name for c in known) for case in known])
    y_N = np.array([target(case) for case in known])
    level = float(weight_N @ y_N / weight_N.sum())
    x_NF = np.array([[case.features[name] for name in names] for case in known]).reshape(len(known), -1)
    mean_F = weight_N @ x_NF / weight_N.sum()
    spread_F = np.maximum(np.sqrt(weight_N @ (x_NF - mean_F) ** 2 / weight_N.sum()), 1e-6)
    z_NF = (x_NF - mean_F) / spread_F
    gram_FF = (z_NF.T * weight_N) @ z_NF + SHRINKING * np.eye(len(names))
    slope_F = np.linalg.solve(gram_FF, (z_NF.T * weight_N) @ (y_N - level))
    return Line(names, level, mean_F, spread_F, slope_F, x_NF.min(0), x_NF.max(0))


def left_out(every: Sequence[Case], case: Case) -> list[Case]:
    """What may be learnt from where ``case`` is foretold: neither its data set nor the lockbox."""
    return [c for c in every if c.name != case.name and not c.lockbox]


def misses(every: Sequence[Case], names: tuple[str, ...], target: Target) -> Float[np.ndarray, " N"]:
    """Foretold less true, every data set left out in turn."""
    lines = {c.name: fit(left_out(every, c), names, target) for c in {c.name: c for c in every}.values()}
    return np.array([lines[c.name].of(c.features) - target(c) for c in every])


def chosen_features(known: Sequence[Case], among: Sequence[str], target: Target) -> tuple[str, ...]:
    """Characteristics added one by one, that of the smallest misses within ``known`` (sets left out in turn) first.

    None is added where misses do not fall by more than a standard error over the sets.
    """
    found: tuple[str, ...] = ()
    miss_S = by_set(known, np.abs(misses(known, found, target)))
    while len(found) < MOST_FEATURES:
        tried = [(*found, name) for name in among if name not in found]
        scored = [(by_set(known, np.abs(misses(known, names, target))), names) for names in tried]
        least_S, names = min(scored, key=lambda one: float(one[0].mean()))
        better_S = miss_S - least_S
        if better_S.mean() <= better_S.std(ddof=1) / len(better_S) ** 0.5:
            break
        found, miss_S = names, least_S
    return found


def by_set(every: Sequence[Case], value_N: Float[np.ndarray, " N"]) -> Float[np.ndarray, " S"]:
    """Means over the cases of each data set, in order of first appearance."""
    names = list(dict.fromkeys(c.name for c in every))
    return np.array(
        [np.mean([v for c, v in zip(every, value_N, strict=True) if c.name == name]) for name in names]
    )


def doublings(case: Case) -> float:
    """What is foretold of the rank."""
    return case.doublings


def axis(case: Case) -> float:
    """What is foretold of the learning rate."""
    return case.axis
