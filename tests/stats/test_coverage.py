"""Do the intervals cover, and is what is certified true? Simulated with seed noise and with the choosing in it.

Nothing here is tuned to pass: the truth of every draw is known from ``planted.World``. Nominal: 97.5 % an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from planted import ALL, World, barely, ceiling, draw, flat
from rightrank.stats.decision import decide

if TYPE_CHECKING:
    from rightrank.stats.results import Decision

# Noise so large that a naive answer is often wrong: standard error of a contrast about 0.6 % of the gain, margin 1 %.
NOISY = World(lost=barely, examples=300, own=0.15, smooth=0.10)
WORLDS = {
    "barely": NOISY,
    "barely, three seeds": NOISY.but(seeds=3, rates=(3e-4, 1e-3, 2e-3), own=0.05),
    "flat": NOISY.but(lost=flat),
    "luck alone": NOISY.but(shared=0.2, own=0.005, smooth=0.005),
    "three seeds": NOISY.but(shared=0.2, own=0.005, smooth=0.005, seeds=3),
    "half the data": NOISY.but(sizes=(ALL // 4, ALL // 2), drift=0.002, own=0.05),
}
DRAWS = 100


@dataclass(frozen=True)
class Draws:
    """What happened in all draws of one world."""

    world: World
    decisions: tuple[Decision, ...]

    def rows(self) -> np.ndarray:
        """low, value, high and truth of every tuned rank."""
        found = []
        for decision in self.decisions:
            for p in decision.choices:
                if p.kind == "tuned" and p.gain_lost is not None:
                    truth = self.world.gain_lost(p.setting.rank, p.setting.learning_rate)
                    found.append((p.gain_lost.low, p.gain_lost.value, p.gain_lost.high, truth))
        return np.array(found)

    def false_certificates(self) -> int:
        """SETTLED or FLAT on a setting that truly loses more than the margin."""
        return sum(
            self.world.gain_lost(d.choice.rank, d.choice.learning_rate) > d.margin.percent + 1e-9
            for d in self.decisions
            if d.status in ("SETTLED", "FLAT") and d.margin is not None
        )


@pytest.fixture(scope="module")
def simulated() -> dict[str, Draws]:
    return {
        name: Draws(world, tuple(decide(draw(world, s), seed=s, replicates=200) for s in range(DRAWS)))
        for name, world in WORLDS.items()
    }


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_cover(simulated: dict[str, Draws], name: str) -> None:
    low, _, high, truth = simulated[name].rows().T
    assert np.mean((low <= truth + 1e-9) & (truth <= high + 1e-9)) >= 0.93


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_are_not_absurdly_wide(simulated: dict[str, Draws], name: str) -> None:
    low, value, high, truth = simulated[name].rows().T
    scatter = float(np.std(value - truth))
    assert np.median(high - low) < 2.5 * 3.92 * scatter


def test_false_certificates_are_rare(simulated: dict[str, Draws]) -> None:
    wrong = sum(d.false_certificates() for d in simulated.values())
    assert wrong <= 0.05 * DRAWS * len(WORLDS)
    settled = sum(d.status in ("SETTLED", "FLAT") for d in simulated["barely, three seeds"].decisions)
    assert settled > DRAWS // 2  # it is not by never certifying anything


def test_a_ceiling_is_rarely_seen_where_there_is_none(simulated: dict[str, Draws]) -> None:
    seen = sum(d.status == "CEILING" for all_ in simulated.values() for d in all_.decisions)
    assert seen <= 0.02 * DRAWS * len(WORLDS)


def test_the_worst_case_of_the_safe_setting_holds(simulated: dict[str, Draws]) -> None:
    held = [
        d.worst_case_percent is not None
        and all_.world.gain_lost(d.choice.rank, d.choice.learning_rate) <= d.worst_case_percent + 1e-9
        for all_ in simulated.values()
        for d in all_.decisions
    ]
    assert np.mean(held) >= 0.95


def test_no_rank_within_the_margin_is_ruled_out(simulated: dict[str, Draws]) -> None:
    wrong = 0
    for all_ in simulated.values():
        for d in all_.decisions:
            within = {
                r
                for r in all_.world.ranks
                if min(all_.world.gain_lost(r, lr) for lr in all_.world.rates) <= 1.0
            }
            wrong += bool(within & set(d.ruled_out))
    assert wrong <= 0.05 * DRAWS * len(WORLDS)


@pytest.mark.parametrize("lost", [flat, barely, ceiling])
def test_starved_draws_are_undecided(lost) -> None:
    world = World(lost=lost, examples=60, own=0.8, smooth=0.5, sizes=(ALL // 8, ALL // 4))
    found = [decide(draw(world, s), seed=s, replicates=200).status for s in range(25)]
    assert found.count("UNDECIDED") == 25


@pytest.mark.parametrize("frequency", [1.49, 1.50, 1.51])
def test_random_tokens_never_get_a_rank(frequency: float) -> None:
    """Training on random tokens ends at their frequencies: a huge gain over a confident base, none over the frequencies."""
    worlds = [World(lost=lost, base=9.0, frequency=frequency, examples=200) for lost in (flat, barely)]
    found = {decide(draw(w, s), seed=s, replicates=200).status for w in worlds for s in range(10)}
    assert found <= {"NO_GAIN", "UNDECIDED"}


def test_planted_rank_is_found_and_its_halves_are_not_taken() -> None:
    """Every halving below 16 loses four margins."""
    world = World(examples=600, own=0.05, seeds=2)
    chosen = [
        (d.status, d.choice.rank) for d in (decide(draw(world, s), seed=s, replicates=200) for s in range(20))
    ]
    assert all(rank >= 16 for _, rank in chosen)
    assert chosen.count(("SETTLED", 16)) >= 15
