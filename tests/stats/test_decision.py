"""Statuses, safe settings, the accuracy guard, prices, and inputs that hold next to nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from planted import ALL, BASE, GAIN, RANKS, World, ceiling, draw, flat, take
from rightrank.stats.decision import decide
from rightrank.stats.results import NO_INTERVAL

if TYPE_CHECKING:
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision, Price

CLEAR = World(seed_share=0.0005, seeds=2, examples=600)
"""Little noise, known to be little: two seeds everywhere."""


def quick(evidence: Evidence, **more: object) -> Decision:
    return decide(evidence, replicates=300, **more)  # type: ignore[arg-type]


def row(decision: Decision, kind: str, rank: int) -> Price:
    return next(p for p in decision.choices if p.kind == kind and p.setting.rank == rank)


def with_accuracy(evidence: Evidence, rank: int, share: float) -> Evidence:
    """``share`` of what was right at ``rank`` is wrong."""
    right_CE = evidence.right_CE.copy()
    mine = evidence.rank_C == rank
    right_CE[mine] = (right_CE[mine] * (1 - share)).astype(int)
    return replace(evidence, right_CE=right_CE)


def test_settled() -> None:
    found = quick(draw(CLEAR))
    assert (found.status, found.choice.rank, found.choice.learning_rate) == ("SETTLED", 16, 1e-3)
    assert found.worst_case_percent is not None
    assert found.worst_case_percent <= found.margin.percent == 1.0  # type: ignore[union-attr]
    assert found.ruled_out == (4, 8)
    assert [row(found, "tuned", r).verdict for r in (4, 8)] == ["worse", "worse"]
    assert {row(found, "tuned", r).verdict for r in RANKS[2:]} == {"best", "as good"}
    lost = row(found, "tuned", 4).gain_lost
    assert lost is not None
    assert lost.low < 8.0 < lost.high
    assert lost.value == pytest.approx(8.0, abs=0.6)


def test_levels_and_margin_by_hand() -> None:
    found = quick(draw(CLEAR.but(shared=0.0, smooth=0.0, own=0.0, seed_share=0.0)))
    assert found.base_loss is not None
    assert found.base_loss.value == pytest.approx(BASE)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(GAIN)
    assert found.margin is not None
    assert found.margin.one_percent_of_gain.value == pytest.approx(0.015)
    assert found.margin.ten_percent_more_data is not None
    assert found.margin.ten_percent_more_data.value == pytest.approx(0.2 * np.log(1.1))
    assert found.margin.nats == pytest.approx(0.015)
    slow = quick(draw(CLEAR.but(shared=0.0, smooth=0.0, own=0.0, seed_share=0.0, per_log_examples=0.05)))
    assert slow.margin is not None
    assert slow.margin.nats == pytest.approx(0.05 * np.log(1.1))
    assert slow.margin.percent == pytest.approx(100 * 0.05 * np.log(1.1) / GAIN)


def test_margin_ignores_what_more_data_buys_where_that_is_not_sure() -> None:
    found = quick(draw(CLEAR.but(per_log_examples=0.0)))
    assert found.margin is not None
    assert found.margin.ten_percent_more_data is None
    assert found.margin.percent == 1.0


def test_flat_takes_the_smallest() -> None:
    found = quick(draw(CLEAR.but(lost=flat)))
    assert (found.status, found.choice.rank) == ("FLAT", 4)
    assert found.ruled_out == ()


@pytest.mark.parametrize("lowest", [1, 2])
def test_there_is_no_smaller_rank_than_one(lowest: int) -> None:
    for world in (
        CLEAR.but(lost=flat, ranks=(lowest, 4, 16, 64)),
        CLEAR.but(lost=flat, ranks=(lowest, 2 * lowest, 3 * lowest)),
    ):
        found = quick(draw(world))
        assert (found.status, found.choice.rank) in {("FLAT", lowest), ("SETTLED", lowest)}
        assert any("still smaller" in reason for reason in found.reasons) == (lowest > 1)


def test_flat_needs_a_range_of_ranks() -> None:
    found = quick(draw(CLEAR.but(lost=flat, ranks=(8, 16, 24, 32))))
    assert found.status == "SETTLED"


def test_ceiling() -> None:
    found = quick(draw(CLEAR.but(lost=ceiling)))
    assert (found.status, found.choice.rank) == ("CEILING", 128)
    assert "doubling it would gain another" in found.reasons[0]


def test_gains_that_shrink_by_half_a_doubling_need_not_go_on() -> None:
    # 6.2 %, 3.1 %, 1.6 % of the gain for the last doublings: the next is worth 0.8 %, less than the margin.
    found = quick(draw(CLEAR.but(lost=lambda r: 2.0 / r)))
    assert (found.status, found.choice.rank) == ("SETTLED", 128)


@pytest.mark.parametrize("best", [-4.5, -1.5])
def test_best_learning_rate_at_an_edge_certifies_nothing(best: float) -> None:
    found = quick(draw(CLEAR.but(best_log_rate=best)))
    assert found.status == "UNDECIDED"
    assert "lowest" in found.reasons[-1] if best < -3 else "highest" in found.reasons[-1]


def test_a_harmless_edge_is_accepted() -> None:
    # Hardly any curvature: the step from 1e-3 to 3e-3 gains 0.01 % of the gain, and so would the next at most.
    found = quick(draw(CLEAR.but(best_log_rate=-2.0, curvature=0.0002)))
    assert found.status == "SETTLED"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"starved": True}, "35 optimiser steps"),
        ({"all_examples": 2 * ALL}, "not known"),
    ],
)
def test_what_forbids_a_certificate(change: dict[str, object], why: str) -> None:
    evidence = draw(CLEAR.but(sizes=(ALL,)))
    assert quick(evidence).status == "SETTLED"  # all data were trained on: one size is enough
    found = quick(replace(evidence, **change))  # type: ignore[arg-type]
    assert found.status == "UNDECIDED"
    assert any(why in reason for reason in found.reasons)
    # Runs too short to be trusted bound nothing; a missing size only widens the bound.
    assert (found.worst_case_percent is None) == ("starved" in change)
    assert found.ruled_out == () or "starved" not in change


def test_runs_too_short_to_rely_on_have_no_intervals_and_no_verdicts() -> None:
    """Nor is a learning rate advised that none of them had."""
    evidence = draw(CLEAR.but(sizes=(ALL // 4, ALL // 2)))
    assert any(price.verdict == "worse" for price in quick(evidence).choices)
    found = quick(replace(evidence, starved=True))
    assert {price.verdict for price in found.choices} <= {"best", "cannot tell"}
    assert all(math.isnan(p.gain_lost.low) for p in found.choices if p.gain_lost is not None)
    run = {
        (int(r), float(a), float(x))
        for r, a, x in zip(evidence.rank_C, evidence.alpha_C, evidence.learning_rate_C, strict=True)
    }
    assert (found.choice.rank, found.choice.alpha, found.choice.learning_rate) in run


@pytest.mark.parametrize("few", [{"examples": 24}, {"sizes": (ALL // 4, ALL // 2)}])
def test_what_was_not_run_has_a_price_with_an_interval_or_none(few: dict[str, Any]) -> None:
    """Such a price once moved from 37.5 to 13.0 % by a few more runs, without a word of how unsure it was."""
    evidence = draw(CLEAR.but(**few, extra=((32, 1e-4),)))
    evidence = replace(evidence, starved="sizes" in few)
    found = quick(evidence, yours=(32, 38.0, 1e-4))
    unrun = [price for price in found.choices if price.kind == "guide"]
    assert unrun and all(
        (p.source, p.loss, p.gain_lost, p.why_not) == (None, None, None, NO_INTERVAL) for p in unrun
    )
    mine = row(found, "yours", 32)
    assert mine.gain_lost is not None and mine.source != "derived"
    trusted = quick(draw(CLEAR.but(sizes=(ALL // 4, ALL // 2))))
    assert all(
        p.gain_lost.low < p.gain_lost.value < p.gain_lost.high
        for p in trusted.choices
        if p.source == "derived" and p.gain_lost is not None
    )


def test_nothing_is_promised_where_there_is_nothing_to_compare_with() -> None:
    alone = quick(draw(CLEAR.but(ranks=(16,))))
    assert alone.status == "UNDECIDED"
    assert alone.worst_case_percent is None and alone.ruled_out == ()


def test_two_ranks_are_too_few() -> None:
    found = quick(draw(CLEAR.but(ranks=(16, 64))))
    assert found.status == "UNDECIDED"
    assert "Only 2 ranks" in found.reasons[0]


def test_noise_leaves_it_undecided_and_says_what_would_decide() -> None:
    found = quick(draw(World(shared=1.0, smooth=0.2, own=0.4, examples=200, seeds=3)))
    assert found.status == "UNDECIDED"
    assert found.worst_case_percent is not None
    assert found.worst_case_percent > 1.0
    assert found.best == row(found, "tuned", found.best.rank).setting
    own = row(found, "tuned", found.best.rank).gain_lost
    assert own is not None
    assert own.high > 1.0  # the best itself is not sure to be as good as the best
    assert found.deciding is not None
    shares = found.deciding.share_examples + found.deciding.share_seeds + found.deciding.share_extrapolation
    assert shares == pytest.approx(1.0)
    assert found.deciding.helps_most == "held-out examples"
    assert found.deciding.held_out_needed is not None
    assert found.deciding.held_out_needed > found.deciding.held_out_now == 100


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_tells_ranks_apart_the_smallest_that_may_be_as_good_is_named(seed: int) -> None:
    """Not the one whose interval happens to end lowest by a hair; nor one that may lose a margin more than that."""
    found = quick(draw(World(lost=flat, shared=1.0, smooth=0.1, own=0.2, examples=200, seeds=2), seed=seed))
    assert found.status == "UNDECIDED" and found.margin is not None
    lost = {
        p.setting.rank: p.gain_lost for p in found.choices if p.kind == "tuned" and p.gain_lost is not None
    }
    lowest = min(one.high for one in lost.values() if one.low <= 0)
    near = [rank for rank, one in lost.items() if one.low <= 0 and one.high <= lowest + found.margin.percent]
    assert found.choice.rank == min(near)
    assert found.worst_case_percent == lost[found.choice.rank].high


def test_needed_examples_follow_the_square_root() -> None:
    found = quick(draw(World(shared=1.0, smooth=0.3, own=0.6, examples=400, seeds=3))).deciding
    assert found is not None
    square = found.half_width_percent**2  # in units of the margin, which is 1 %
    by_hand = found.held_out_now * found.share_examples * square / (1 - found.share_seeds * square)
    assert found.held_out_needed == pytest.approx(by_hand, abs=1.5)
    assert found.all_times == pytest.approx(square)
    assert (found.seeds_now, found.seeds_needed) == (3, None)  # the examples alone are too much


def test_base_saturated_gains_nothing() -> None:
    found = quick(draw(CLEAR.but(base=1.45)))
    assert (found.status, found.choice.rank) == ("NO_GAIN", 4)
    assert "base model does as well" in found.reasons[0]
    assert found.worst_case_percent is None
    assert found.ruled_out == ()


@pytest.mark.parametrize("frequency", [1.45, 1.505])
def test_random_tokens_gain_nothing_however_confident_the_base(frequency: float) -> None:
    found = quick(draw(CLEAR.but(base=9.0, frequency=frequency)))
    assert found.status == "NO_GAIN"
    assert "how often each token occurs" in found.reasons[0]


@pytest.mark.parametrize("base", [1.45, 1.6])
def test_a_gain_that_is_merely_unsure_is_undecided(base: float) -> None:
    found = quick(draw(World(base=base, shared=0.3, smooth=1.0, own=1.0, examples=60)))
    assert found.status == "UNDECIDED"
    assert any("not yet sure that training gains" in reason for reason in found.reasons)
    assert found.worst_case_percent is None


def test_starved_is_undecided_even_without_gain() -> None:
    assert quick(replace(draw(CLEAR.but(base=1.4)), starved=True)).status == "UNDECIDED"


def test_accuracy_guard() -> None:
    evidence = draw(CLEAR.but(lost=flat))
    found = quick(with_accuracy(evidence, 4, 0.10))
    assert (found.status, found.choice.rank) == ("SETTLED", 8)
    assert row(found, "tuned", 4).verdict == "worse"
    assert any("fewer completions or tokens right" in reason for reason in found.reasons)
    right = row(found, "tuned", 4).tokens_right
    expected = 100 * np.mean([1 - 0.10]) * 0.8
    assert right is not None
    assert right.value == pytest.approx(expected, abs=3)


def test_accuracy_that_is_not_known_guards_nothing_and_is_said() -> None:
    evidence = draw(CLEAR)
    found = quick(replace(evidence, right_CE=np.full_like(evidence.right_CE, -1)))
    assert found.status == "SETTLED"
    assert row(found, "tuned", 16).exact is None
    assert any("loss alone" in warning for warning in found.warnings)


def test_exact_by_hand() -> None:
    evidence = draw(CLEAR)
    right_CE = evidence.right_CE.copy()
    scored = np.flatnonzero(evidence.scores_E)
    right_CE[:, scored] = 0
    right_CE[:, scored[:75]] = evidence.tokens_E[scored[:75]]
    exact = row(quick(replace(evidence, right_CE=right_CE)), "tuned", 16).exact
    assert exact is not None
    assert exact.value == pytest.approx(25.0)
    assert exact.low < 25 < exact.high


def test_guides_are_derived_or_measured_and_yours_is_priced_likewise() -> None:
    world = CLEAR.but(smooth=0.0, own=0.01)
    found = quick(draw(world), yours=(16, 16.0, 3e-4))
    assert [p.setting.rank for p in found.choices if p.kind == "guide"] == [8, 16, 32, 64, 128]
    guide = row(found, "guide", 16)
    assert (guide.setting.alpha, guide.setting.learning_rate, guide.source) == (32.0, 2e-4, "derived")
    assert guide.gain_lost is not None
    assert guide.gain_lost.value == pytest.approx(world.gain_lost(16, 2e-4), abs=0.5)
    assert guide.gain_lost.low < guide.gain_lost.value < guide.gain_lost.high
    yours = row(found, "yours", 16)
    assert yours.gain_lost is not None
    assert yours.gain_lost.value == pytest.approx(world.gain_lost(16, 1.5e-4), abs=0.5)
    run = quick(draw(world.but(extra=((16, 2e-4),))), yours=(512, 16.0, 3e-4))
    assert row(run, "guide", 16).source == "measured"
    assert (row(run, "yours", 512).source, row(run, "yours", 512).loss) == (None, None)
    assert "outside" in str(row(run, "yours", 512).why_not)


def test_a_run_far_away_tells_no_price() -> None:
    """Between runs as beyond them, nothing is derived more than half a decade from the nearest."""
    far = CLEAR.but(smooth=0.0, own=0.01, extra=((16, 1e-6),))
    alone = row(quick(draw(far.but(rates=(1e-3, 3e-3)))), "guide", 16)
    assert (alone.source, alone.loss) == (None, None) and "near" in str(alone.why_not)
    near = [row(quick(draw(world)), "guide", 16) for world in (far, far.but(extra=()))]
    assert [price.source for price in near] == ["derived", "derived"]
    assert near[0].loss.value == pytest.approx(near[1].loss.value, abs=1e-9)  # type: ignore[union-attr]


def test_without_scores_the_choosing_examples_score_and_that_is_said() -> None:
    evidence = draw(CLEAR)
    loss_CE = evidence.loss_CE.copy()
    loss_CE[:, evidence.scores_E] = np.nan
    found = quick(replace(evidence, loss_CE=loss_CE))
    assert found.choice.rank == 16
    assert any("choose" in warning for warning in found.warnings)


def test_a_rank_dropped_on_the_way_stays_in_the_table() -> None:
    evidence = draw(CLEAR)
    found = quick(take(evidence, np.flatnonzero((evidence.rank_C > 4) | (evidence.examples_C < ALL))))
    assert (found.status, found.choice.rank) == ("SETTLED", 16)
    assert (row(found, "tuned", 4).source, row(found, "tuned", 4).verdict) == ("extrapolated", "worse")
    assert found.ruled_out == (4, 8)


def test_scores_at_the_largest_size_only() -> None:
    evidence = draw(CLEAR)
    loss_CE = evidence.loss_CE.copy()
    loss_CE[np.ix_(evidence.examples_C < ALL, evidence.scores_E)] = np.nan
    found = quick(replace(evidence, loss_CE=loss_CE))
    assert (found.status, found.choice.rank) == ("SETTLED", 16)
    assert found.warnings == ()
    half = quick(replace(evidence, loss_CE=loss_CE, all_examples=2 * ALL))
    assert half.extrapolated
    assert row(half, "tuned", 16).source == "extrapolated"


def test_every_run_has_a_point() -> None:
    evidence = draw(CLEAR)
    loss_CE = evidence.loss_CE.copy()
    loss_CE[3] = np.inf
    found = quick(replace(evidence, loss_CE=loss_CE))
    assert len(found.runs) == len(evidence.rank_C)
    assert (found.runs[3].decide_loss, found.runs[3].gain_lost) == (None, None)
    decide_E = ~evidence.scores_E
    by_hand = evidence.loss_CE[5, decide_E].sum() / evidence.tokens_E[decide_E].sum()
    assert found.runs[5].decide_loss == pytest.approx(by_hand)


def test_drift_is_told_or_not() -> None:
    steep = quick(draw(CLEAR.but(lost=flat, drift=0.02)))
    assert steep.drift.rank_slope is not None
    assert steep.drift.rank_slope.low > 0
    assert steep.drift.sentences[0].startswith("More data favours higher ranks")
    assert "would be better" in steep.drift.sentences[2]
    level = quick(draw(CLEAR.but(lost=flat)))
    assert level.drift.sentences[0].startswith("Whether more data favours")
    single = quick(draw(CLEAR.but(sizes=(ALL,))))
    assert single.drift.sentences == ("How more data would move the answer cannot be told from these runs.",)


def test_no_word_of_the_workshop_reaches_the_reader() -> None:
    worlds = (
        CLEAR,
        CLEAR.but(lost=flat),
        CLEAR.but(lost=ceiling),
        CLEAR.but(base=1.5),
        World(examples=40, own=1.0),
    )
    for world in worlds:
        found = quick(draw(world))
        said = " ".join((*found.reasons, *found.drift.sentences, *found.warnings)).lower()
        assert not any(word in said for word in ("bank", "pack", "rung", "surface", "regret", "nan", "inf "))


# --- what must not matter


@pytest.mark.parametrize("seed", range(6))
def test_where_nothing_bounds_the_worst_case_the_lowest_loss_is_the_best_guess(seed: int) -> None:
    """Ten noisy rows: intervals reach anywhere, and the setting whose happens to end lowest may be an awful one."""
    found = quick(draw(World(examples=20, own=3.0, smooth=2.0, seeds=1), seed=seed))
    assert (found.status, found.worst_case_percent) == ("UNDECIDED", None)
    losses = {p.setting: p.loss.value for p in found.choices if p.kind == "tuned" and p.loss is not None}
    assert found.choice == min(losses, key=lambda setting: losses[setting])


def test_of_too_few_rows_neither_interval_nor_verdict_is_given() -> None:
    few = quick(draw(CLEAR.but(examples=24, extra=((16, 1e-4),))), yours=(16, 32.0, 1e-4))
    mine = row(few, "yours", 16)
    assert not few.trusted
    assert few.status == "UNDECIDED"
    assert {p.verdict for p in few.choices} <= {"best", "cannot tell"}
    assert mine.gain_lost is not None and mine.gain_lost.value > 5  # what was seen is still said
    assert np.isnan([mine.gain_lost.low, mine.gain_lost.high]).all()
    assert few.base_loss is not None and np.isnan(few.base_loss.low)
    assert (few.worst_case_percent, few.resolvable_difference_percent, few.drift.sentences) == (
        None,
        None,
        (),
    )
    enough = quick(draw(CLEAR))
    assert enough.trusted and enough.base_loss is not None and np.isfinite(enough.base_loss.low)
