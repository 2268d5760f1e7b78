"""Recorded loss surfaces as compact files, and what can be asked of them.

    python -m bench.tables DIR bench/surfaces

makes one ``NAME-EPOCHS.npz`` of every data set and recipe that ``bench.record`` left under DIR. Losses are kept as 16-bit numbers of 7
bits of mantissa: half a percent of one row's loss, and 0.005 % of the mean of 500. ``bench.record`` goes on from such a file as well.

Dimensions: C runs, E held-out examples (those that decide first, then those that score), B bootstrap replicates.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.design import RATES, SETS
from rightrank.probe.loss_table import Configuration, LossTable, Pack, PackResult
from rightrank.recipe import Recipe, equivalent_learning_rate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from rightrank.probe.loss_table import Role

FOLDER = Path(__file__).parent / "surfaces"
KEPT_BITS = 7


@dataclass(frozen=True)
class Surface:
    """All runs of one data set under one recipe."""

    name: str
    epochs: float
    batch_size: int
    sizes: tuple[int, ...]
    """Training examples, descending."""
    train_tokens: tuple[int, ...]
    """Of one pass over each size."""
    trained_tokens: tuple[int, ...]
    decide: int
    """The first so many held-out examples decide."""
    rank_C: Int[np.ndarray, " C"]
    alpha_C: Float[np.ndarray, " C"]
    learning_rate_C: Float[np.ndarray, " C"]
    seed_C: Int[np.ndarray, " C"]
    examples_C: Int[np.ndarray, " C"]
    loss_CE: Float[np.ndarray, "C E"]
    """Nats summed per example; NaN where not evaluated, infinite where the run diverged."""
    right_CE: Int[np.ndarray, "C E"]
    """Greedy-right trained tokens; -1 where not evaluated."""
    tokens_E: Int[np.ndarray, " E"]
    lengths_E: Int[np.ndarray, " E"]
    base_loss_E: Float[np.ndarray, " E"]
    base_right_E: Int[np.ndarray, " E"]
    frequency_loss_E: Float[np.ndarray, " E"]
    about: dict[str, Any]
    """Recipe, versions, device and command."""

    @property
    def whole(self) -> int:
        """Training examples of the largest size."""
        return self.sizes[0]

    @property
    def lockbox(self) -> bool:
        """Whether nothing may be tuned on it."""
        return self.name in SETS and SETS[self.name].lockbox

    @property
    def recipe(self) -> Recipe:
        """What it was recorded under."""
        return Recipe(epochs=self.epochs, batch_size=self.batch_size)

    @property
    def tokens_of_a_run(self) -> float:
        """Tokens that one run on all the data trains through an adapter."""
        return self.epochs * self.train_tokens[0]

    @cached_property
    def axis_C(self) -> Float[np.ndarray, " C"]:
        """log10 of the learning rate at the project's own alpha that takes the same first steps."""
        return np.log10(
            [
                equivalent_learning_rate(int(r), a, lr)
                for r, a, lr in zip(self.rank_C, self.alpha_C, self.learning_rate_C, strict=True)
            ]
        )

    def level_C(self, weights_E: Float[np.ndarray, " E"]) -> Float[np.ndarray, " C"]:
        """Nats a token of every run over examples that count ``weights_E`` times each; NaN where one of them was not evaluated."""
        here = weights_E > 0
        total = float(weights_E[here] @ self.tokens_E[here])
        return np.asarray(self.loss_CE[:, here] @ weights_E[here]) / total

    def sides(self) -> tuple[Bool[np.ndarray, " E"], Bool[np.ndarray, " E"]]:
        """Examples that decide, examples that score."""
        decide_E = np.arange(len(self.tokens_E)) < self.decide
        return decide_E, ~decide_E


_RUNS = ("rank_C", "alpha_C", "learning_rate_C", "seed_C", "examples_C")
_EXAMPLES = ("tokens_E", "lengths_E", "base_loss_E", "base_right_E", "frequency_loss_E")
_PLAIN = ("name", "epochs", "batch_size", "sizes", "train_tokens", "trained_tokens", "decide", "about")


def rounded(values: np.ndarray) -> np.ndarray:
    """Half-precision numbers of ``KEPT_BITS`` bits of mantissa, rounded to the nearest; infinite and NaN stay."""
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    near = np.ldexp(np.rint(np.ldexp(mantissa, KEPT_BITS + 1)), exponent - KEPT_BITS - 1)
    return np.where(np.isfinite(values), near, values).astype(np.float16)


def save(surface: Surface, path: Path) -> None:
    """Write ``surface``; where a run was not scored nothing is kept of that side."""
    decide = surface.decide
    scored_C = ~np.isnan(surface.loss_CE[:, decide:]).all(1)
    arrays: dict[str, Any] = {name: getattr(surface, name) for name in (*_RUNS, *_EXAMPLES)}
    arrays |= {
        "decide_loss": rounded(surface.loss_CE[:, :decide]),
        "score_loss": rounded(surface.loss_CE[scored_C, decide:]),
        "decide_right": surface.right_CE[:, :decide].astype(np.int16),
        "score_right": surface.right_CE[scored_C, decide:].astype(np.int16),
        "scored_C": scored_C,
        "facts": np.frombuffer(json.dumps({n: getattr(surface, n) for n in _PLAIN}).encode(), np.uint8),
    }
    for name in ("base_loss_E", "frequency_loss_E"):
        arrays[name] = arrays[name].astype(np.float32)
    np.savez_compressed(path, **arrays)


def load(path: Path) -> Surface:
    """What ``save`` wrote. Raises ValueError or KeyError where that is something else."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    facts = json.loads(bytes(arrays.pop("facts")))
    scored_C = arrays.pop("scored_C")
    loss_CE = np.full((len(scored_C), len(arrays["tokens_E"])), np.nan)
    right_CE = np.full(loss_CE.shape, -1, dtype=np.int64)
    decide = facts["decide"]
    for wide_CE, what in ((loss_CE, "loss"), (right_CE, "right")):
        wide_CE[:, :decide] = arrays.pop(f"decide_{what}")
        wide_CE[scored_C, decide:] = arrays.pop(f"score_{what}")
    for name in ("sizes", "train_tokens", "trained_tokens"):
        facts[name] = tuple(facts[name])
    return Surface(**facts, **arrays, loss_CE=loss_CE, right_CE=right_CE)


def surfaces(folder: Path = FOLDER) -> list[Surface]:
    """All that are kept, in the order of the design."""
    order = list(SETS)
    found = [load(path) for path in sorted(folder.glob("*.npz"))]
    return sorted(found, key=lambda s: (order.index(s.name) if s.name in order else 99, -s.epochs))


def read_recorded(place: Path) -> Surface:
    """One data set under one recipe, as ``bench.record`` left it."""
    table = LossTable.opened(place)
    facts = json.loads((place / "facts.json").read_text())
    runs = [(c, pack.examples) for pack in table.packs for c in pack.configurations]
    assert table.base is not None, f"{place} holds no measurement of the untrained model"
    sizes = sorted({n for _, n in runs}, reverse=True)
    return Surface(
        name=facts["name"],
        epochs=facts["epochs"],
        batch_size=facts["batch_size"],
        sizes=tuple(sizes),
        train_tokens=tuple(facts["train_tokens"][str(n)] for n in sizes),
        trained_tokens=tuple(facts["trained_tokens"][str(n)] for n in sizes),
        decide=facts["decide"],
        rank_C=np.array([c.rank for c, _ in runs]),
        alpha_C=np.array([float(c.alpha) for c, _ in runs]),
        learning_rate_C=np.array([c.learning_rate for c, _ in runs]),
        seed_C=np.array([c.seed for c, _ in runs]),
        examples_C=np.array([n for _, n in runs]),
        loss_CE=np.concatenate([r.loss_KE for r in table.results]),
        right_CE=np.concatenate([r.right_KE for r in table.results]),
        tokens_E=np.array(facts["tokens"]),
        lengths_E=np.array(facts["lengths"]),
        base_loss_E=table.base.loss_KE[0],
        base_right_E=table.base.right_KE[0],
        frequency_loss_E=np.array(facts["frequency_loss"]),
        about={**table.about, "seconds": round(table.seconds, 1)},
    )


def restore(surface: Surface, table: LossTable) -> None:
    """Write the runs of ``surface`` into an empty ``table``, to go on from: a pack of every size and seed."""
    table.set_base(_result(surface.base_loss_E[None], surface.base_right_E[None]))
    for size in surface.sizes:
        for seed in np.unique(surface.seed_C):
            runs = np.flatnonzero((surface.examples_C == size) & (surface.seed_C == seed))
            if not len(runs):
                continue
            configurations = tuple(_configuration(surface, int(c)) for c in runs)
            pack = Pack(table.next_number, int(size), configurations, with_score=True)
            table.begin(pack)
            table.finish(pack, _result(surface.loss_CE[runs], surface.right_CE[runs]))


def _configuration(surface: Surface, c: int) -> Configuration:
    rate = float(surface.learning_rate_C[c])
    role: Role = "rank" if rate in RATES else "guide"
    return Configuration(
        int(surface.rank_C[c]), float(surface.alpha_C[c]), rate, int(surface.seed_C[c]), role
    )


def _result(loss_KE: np.ndarray, right_KE: np.ndarray) -> PackResult:
    """What is kept of a pack: losses, and that they took no time again."""
    return PackResult(loss_KE, right_KE, (None,) * len(loss_KE), 0, 0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recorded", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    total = 0
    for facts in sorted(chosen.recorded.glob("*/*/facts.json")):
        if not LossTable.opened(facts.parent).packs:
            continue
        surface = read_recorded(facts.parent)
        path = chosen.out / f"{surface.name}-{surface.epochs:g}.npz"
        save(surface, path)
        total += path.stat().st_size
        print(f"{path}: {len(surface.rank_C)} runs, {path.stat().st_size / 1e6:.2f} MB")
    print(f"{total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
