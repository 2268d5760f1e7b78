"""What the recorded runs say of a setting."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.estimates.checking import KEEP_WORST, MARGIN, judge
from rightrank.priors import grids
from rightrank.recipe import equivalent_learning_rate

HERE = grids.Likeness(1.0, ())


def test_near_the_best_in_hindsight_is_kept() -> None:
    found = judge((16, 32.0, 1e-3), HERE)
    assert found.verdict == "keep it"
    assert found.better is None
    assert found.cost is not None and found.cost.high <= KEEP_WORST
    assert (found.cost.mean, found.cost.sets) == (pytest.approx(0.87, abs=0.01), 5)


def test_the_guides_setting_on_a_small_model_depends_on_the_data() -> None:
    found = judge((16, 32.0, 2e-4), HERE)
    assert found.verdict == "cannot tell without measuring"
    assert found.better == (16, 32.0, 1e-3)  # the rank and alpha stay
    assert found.cost is not None and found.cost.sets == 3
    assert "on 3 of 5 recorded data sets" in found.reasons[0]


@pytest.mark.parametrize("rate", [1e-6, 0.09])
def test_far_outside_needs_no_measurement(rate: float) -> None:
    found = judge((16, 32.0, rate), HERE)
    assert found.verdict == "change these lines"
    assert found.cost is None
    assert found.better == (16, 32.0, 1e-3)


def test_ranks_that_were_never_recorded() -> None:
    found = judge((256, 256.0, 2e-4), HERE)
    assert (found.verdict, found.cost, found.better) == ("cannot tell without measuring", None, None)


def test_alpha_counts_through_the_product_with_the_rate() -> None:
    assert judge((16, 16.0, 2e-3), HERE).cost == judge((16, 32.0, 1e-3), HERE).cost
    half = judge((16, 16.0, 4e-4), HERE).better
    assert half == (16, 16.0, 2e-3)  # their alpha, and a rate that takes the same steps


def test_an_alpha_beyond_use_or_not_whole_is_replaced_as_well() -> None:
    assert judge((16, 160.0, 1e-6), HERE).better == (16, 32.0, 1e-3)
    assert judge((16, 45.25, 1e-6), HERE).better == (
        16,
        32.0,
        1e-3,
    )  # folded rsLoRA: trainers take whole alphas


def test_a_wide_model_is_never_told_to_keep_without_doubt() -> None:
    """The translation of learning rates may be off by a factor of two, which costs more than a margin on some data sets."""
    like = grids.likeness(2048, 500)
    found = judge((16, 32.0, 1e-3 * like.factor), like)
    assert found.verdict == "cannot tell without measuring"
    assert found.better is None
    assert "it may lose more than 2 %" in found.reasons[0]


def test_of_a_run_shorter_than_any_recorded_one_only_what_is_absurd_is_judged() -> None:
    short = grids.likeness(576, 24)
    found = judge((16, 32.0, 2e-4), short)
    assert (found.verdict, found.cost, found.better) == ("cannot tell without measuring", None, None)
    assert found.reasons == ()
    assert judge((16, 32.0, 1e-7), short).verdict == "change these lines"


@given(st.sampled_from([1, 4, 8, 16, 32, 64, 128]), st.floats(-5.5, -1.3), st.sampled_from([576, 2048]))
@settings(max_examples=60, deadline=None)
def test_verdicts_agree_with_the_records(rank: int, x: float, hidden: int) -> None:
    like = grids.likeness(hidden, 500)
    mine = (rank, 2.0 * rank, 10**x)
    found = judge(mine, like)
    if found.verdict == "keep it":
        assert found.cost is not None and found.cost.sets == 5 and found.cost.high <= KEEP_WORST
    if found.verdict == "change these lines" and found.cost is not None:
        assert found.better is not None
        other = found.better[0], equivalent_learning_rate(*found.better)
        more = grids.excess(rank, equivalent_learning_rate(*mine), other, like)
        assert more is not None and more[0] > MARGIN - 0.2  # the rate is rounded to two digits
