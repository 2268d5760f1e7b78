"""What must not change a decision, and tables that hold next to nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planted import RANKS, World, draw, take
from rightrank.stats.decision import decide

if TYPE_CHECKING:
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision

CLEAR = World(seed_share=0.0005, seeds=2, examples=600)
"""Little noise, known to be little: two seeds everywhere."""


def quick(evidence: Evidence, **more: object) -> Decision:
    return decide(evidence, replicates=300, **more)  # type: ignore[arg-type]


def summary(decision: Decision) -> tuple[object, ...]:
    prices = [(p.kind, p.setting, p.verdict, p.gain_lost) for p in decision.choices]
    return decision.status, decision.choice, decision.worst_case_percent, prices, decision.gain


def close(one: Decision, other: Decision) -> None:
    assert (one.status, one.choice) == (other.status, other.choice)
    for a, b in zip(one.choices, other.choices, strict=True):
        assert (a.kind, a.setting, a.verdict) == (b.kind, b.setting, b.verdict)
        if a.gain_lost is not None and b.gain_lost is not None:
            ends = (b.gain_lost.low, b.gain_lost.value, b.gain_lost.high)
            assert (a.gain_lost.low, a.gain_lost.value, a.gain_lost.high) == pytest.approx(ends, abs=1e-6)


SMALL = World(seeds=2, examples=100, ranks=(4, 16, 64))


def test_the_same_seed_gives_the_same_answer_to_the_last_digit() -> None:
    evidence = draw(SMALL)
    assert summary(quick(evidence)) == summary(quick(evidence))
    assert summary(quick(evidence)) != summary(quick(evidence, seed=1))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**31))
def test_order_of_runs_and_examples_does_not_matter(order: int) -> None:
    evidence = draw(SMALL)
    rng = np.random.default_rng(order)
    mixed = take(evidence, rng.permutation(len(evidence.rank_C)), rng.permutation(len(evidence.tokens_E)))
    close(quick(mixed), quick(evidence))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0.01, 100))
def test_units_of_loss_do_not_matter(scale: float) -> None:
    evidence = draw(SMALL)
    changed = {
        name: scale * getattr(evidence, name) for name in ("loss_CE", "base_loss_E", "frequency_loss_E")
    }
    close(quick(replace(evidence, **changed)), quick(evidence))


def test_the_same_run_twice_is_one_run() -> None:
    evidence = draw(SMALL)
    twice = take(evidence, np.concatenate([np.arange(len(evidence.rank_C))] * 2))
    close(quick(twice), quick(evidence))


def test_irrelevant_candidates_do_not_drag_the_answer() -> None:
    world = CLEAR.but(seeds=1)
    useless = (*((r, lr) for r in RANKS for lr in (1e-5, 1e-4, 3e-2)), (2, 1e-3), (1, 1e-3))
    plain, more = quick(draw(world)), quick(draw(world.but(extra=useless)))
    assert (plain.status, plain.choice.rank) == ("SETTLED", 16)
    assert (more.status, more.choice) == (plain.status, plain.choice)
    assert more.worst_case_percent == pytest.approx(plain.worst_case_percent, abs=1e-9)
    fewer = quick(draw(world.but(ranks=(8, 16, 32, 64, 128))))
    assert (fewer.status, fewer.choice) == (plain.status, plain.choice)


# --- next to nothing


def everything_diverged(evidence: Evidence) -> Evidence:
    return replace(evidence, loss_CE=np.full_like(evidence.loss_CE, np.inf))


def nothing_evaluated(evidence: Evidence) -> Evidence:
    return replace(evidence, loss_CE=np.full_like(evidence.loss_CE, np.nan))


def no_base(evidence: Evidence) -> Evidence:
    return replace(evidence, base_loss_E=np.full_like(evidence.base_loss_E, np.nan))


def no_gain_at_all(evidence: Evidence) -> Evidence:
    same = np.tile(evidence.base_loss_E, (len(evidence.rank_C), 1))
    return replace(evidence, loss_CE=same)


def all_diverged_but_one(evidence: Evidence) -> Evidence:
    loss_CE = np.full_like(evidence.loss_CE, np.inf)
    loss_CE[0] = evidence.loss_CE[0]
    return replace(evidence, loss_CE=loss_CE)


def everything_zero(evidence: Evidence) -> Evidence:
    zeros = {name: 0 * getattr(evidence, name) for name in ("loss_CE", "base_loss_E", "frequency_loss_E")}
    return replace(evidence, **zeros)


@pytest.mark.parametrize("examples", [2, 3, 100])
@pytest.mark.parametrize(
    "change",
    [everything_diverged, nothing_evaluated, no_base, no_gain_at_all, all_diverged_but_one, everything_zero, lambda e: e,
     lambda e: take(e, np.arange(1)), lambda e: take(e, np.flatnonzero(e.rank_C == 4)),
     lambda e: replace(e, scores_E=np.ones_like(e.scores_E)), lambda e: replace(e, scores_E=np.zeros_like(e.scores_E)),
     lambda e: replace(e, tokens_E=0 * e.tokens_E), lambda e: replace(e, all_examples=1)],
)  # fmt: skip
def test_next_to_nothing_certifies_nothing(examples: int, change) -> None:
    found = quick(change(draw(World(examples=examples))), yours=(16, 16.0, 2e-4))
    assert found.status in ("UNDECIDED", "NO_GAIN") or examples == 100
    assert found.choice.rank in RANKS
    assert found.reasons
    numbers = [
        found.worst_case_percent,
        *(p.gain_lost.value for p in found.choices if p.gain_lost),
    ]
    assert all(n is None or np.isfinite(n) for n in numbers)
    ends = [end for p in found.choices if p.gain_lost for end in (p.gain_lost.low, p.gain_lost.high)]
    assert all(np.isfinite(end) == found.trusted for end in ends)


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="no finished run"):
        quick(take(draw(SMALL), np.arange(0)))
