"""What is recorded, and how it is carried to a setting, a model and a run that were not."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.priors import grids
from rightrank.recipe import alpha_for, equivalent_learning_rate

SAME = grids.Likeness(1.0, ())


def recorded(rank: int, learning_rate: float) -> float:
    """Equivalent learning rate of a grid point, whose scale was 8 / sqrt(rank): alpha was 8 sqrt(rank)."""
    return equivalent_learning_rate(rank, 8 * math.sqrt(rank), learning_rate)


def named(name: str) -> grids.RecordedSet:
    return next(one for one in grids.records().sets if one.name == name)


def test_recorded_points_come_back_as_recorded() -> None:
    """As FINDINGS' table of gain lost has them."""
    for name, rank, rate, lost in (
        ("nl2bash", 16, 3e-4, 6.3),
        ("nl2bash", 16, 1e-3, 1.9),
        ("klingon", 16, 1e-3, 0.9),
        ("medquad", 16, 1e-3, 1.1),
        ("nl2bash", 32, 3e-3, 0.0),
        ("gsm8k", 64, 1e-3, 0.9),
    ):
        assert named(name).lost(rank, recorded(rank, rate)) == pytest.approx(lost, abs=0.06)


def test_between_ranks_and_learning_rates_it_is_interpolated() -> None:
    two = named("medquad")
    low, high = two.lost(16, recorded(16, 1e-3)), two.lost(16, recorded(16, 3e-3))
    middle = math.sqrt(recorded(16, 1e-3) * recorded(16, 3e-3))
    assert two.lost(16, middle) == pytest.approx((low + high) / 2)
    rate = recorded(16, 2e-3)
    between = two.lost(23, rate)
    share = math.log(23 / 16) / math.log(2)
    assert between == pytest.approx((1 - share) * two.lost(16, rate) + share * two.lost(32, rate))


def test_a_parabola_through_three_rates() -> None:
    one = grids.RecordedSet(
        "made up",
        100,
        100,
        10.0,
        100,
        0.5,
        (8, 16),
        np.array([[-4.0, -3, -2]] * 2),
        np.array([[4.0, 1, 6]] * 2),
    )
    assert one.lost(8, 10**-3.5) == pytest.approx(np.polyval(np.polyfit([-4, -3, -2], [4, 1, 6], 2), -3.5))
    assert one.lost(8, 10**-4.3) == pytest.approx(4 + 0.3 * 3)  # beyond the end: the line
    assert one.lost(8, 10**-4.6) is None
    assert one.lost(32, 1e-3) is None


def test_two_recorded_rates_are_not_carried_beyond_their_ends() -> None:
    assert named("gsm8k").lost(16, recorded(16, 0.9e-3)) is None


def test_the_best_single_point_in_hindsight() -> None:
    """FINDINGS: r=32 at 1e-3 lost 0.80 on average and 1.7 at worst."""
    rate, price = grids.best_learning_rate(32, SAME) or (0.0, None)
    assert rate == pytest.approx(recorded(32, 1e-3), rel=1e-3)
    assert price is not None
    assert (price.mean, price.high, price.sets) == (
        pytest.approx(0.80, abs=0.01),
        pytest.approx(1.72, abs=0.01),
        5,
    )


def test_a_wider_model_wants_a_lower_rate_and_is_less_sure() -> None:
    like = grids.likeness(2048, 500)
    assert like.factor == pytest.approx((576 / 2048) ** 0.78)
    assert len(like.unlike) == 1
    here, there = grids.price(16, 1e-3, SAME), grids.price(16, 1e-3 * like.factor, like)
    assert here is not None and there is not None
    assert there.mean == pytest.approx(here.mean)
    assert there.low <= here.low and there.high > here.high + 1
    assert grids.likeness(576, 500) == grids.Likeness(1.0, ())


@pytest.mark.parametrize(
    ("like", "said"),
    [
        (grids.likeness(576, 24), "your run has 24 steps; the recorded runs had 300 to 600"),
        (grids.likeness(576, 2401), "your run has 2,401 steps; the recorded runs had 300 to 600"),
        (grids.likeness(4096, 500), "your model is 7.1 times as wide as the recorded one"),
        (
            grids.likeness(576, 500, trained_tokens_a_row=900),
            "your rows have 900 trained tokens each; the recorded ones had 6 to 145",
        ),
        (grids.likeness(576, 500, epochs=20), "your run has 20 epochs; the recorded runs had 3"),
        (grids.likeness(576, 500, batch_size=3), "your batch has 3 rows; the recorded ones had 16"),
    ],
)
def test_what_is_unlike_all_that_was_recorded_is_named(like: grids.Likeness, said: str) -> None:
    assert like.outside == (said,)
    assert like.other_run == ("wide" not in said)


def test_within_four_times_of_what_was_recorded_there_is_an_estimate() -> None:
    for steps, tokens, epochs, batch in ((75, 1.5, 0.75, 4), (2400, 580, 12, 64)):
        like = grids.likeness(576, steps, trained_tokens_a_row=tokens, epochs=epochs, batch_size=batch)
        assert like.outside == ()


def test_excess_is_paired_set_by_set() -> None:
    mine, its = (16, recorded(16, 3e-4)), (16, recorded(16, 1e-3))
    found = grids.excess(*mine, its, SAME)
    assert found is not None
    assert found == (pytest.approx(0.58 - 0.91, abs=0.01), pytest.approx(6.32 - 1.92, abs=0.01), 3)


def test_more_held_out_rows_tell_more_apart() -> None:
    low, high = grids.resolvable(300)
    assert high == pytest.approx(1.96 * 0.93)  # nl2bash: 300 held-out examples
    assert grids.resolvable(1200) == (pytest.approx(low / 2), pytest.approx(high / 2))


def test_the_most_similar_set_is_by_trained_tokens_a_row() -> None:
    assert grids.most_like(20).name == "nl2bash"
    assert grids.most_like(130).name == "gsm8k"
    assert grids.most_like(0.5).name == "klingon"


@given(st.integers(1, 200), st.floats(-6, -1), st.sampled_from([576, 2048, 8192]), st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_a_price_is_a_range_around_its_mean(rank: int, x: float, hidden: int, steps: int) -> None:
    like = grids.likeness(hidden, steps)
    price = grids.price(rank, 10**x, like)
    if price is not None:
        assert 0 <= price.low <= price.mean + 1e-9 and price.mean <= price.high + 1e-9
        assert 1 <= price.sets <= 5
    if rank > 128:
        assert price is None


def test_the_file_is_what_the_script_makes_of_raw_tables() -> None:
    """Two ranks, two rates, three held-out examples, by hand."""
    path = Path(__file__).parents[2] / "bench" / "make_priors.py"
    spec = importlib.util.spec_from_file_location("make_priors", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.BASE_LOSS["toy"] = 3.0
    run = {
        "kind": "full",
        "n": 50,
        "steps": 10,
        "ranks": [1, 2, 1, 2],
        "lrs": [1e-3, 1e-3, 3e-3, 3e-3],
        "ntok": [2, 2, 2],
        "ex": [[3, 3, 6], [2, 2, 2], [4, 4, 4], [2.1, 1.9, 2.3]],  # losses 2, 1, 2, 1.05
    }
    made = script.summary("toy", {"runs": [run]})
    assert made["lost_percent_RL"] == [[50.0, 50.0], [0.0, 2.5]]
    # The one rival is 0.1, -0.1 and 0.3 above the best; around their mean of 0.1: 0, -0.2 and 0.2; over 6 tokens and a gain of 2.
    assert made["paired_error_percent"] == pytest.approx(100 * math.sqrt(0.08) / 6 / 2, abs=1e-3)
    kept = json.loads((path.parents[1] / "src/rightrank/priors/recorded.json").read_text())
    assert set(kept["sets"][0]) == set(made)
    assert alpha_for(16) == 32
