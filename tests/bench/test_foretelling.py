"""Characteristics against surfaces whose truth is known: what is learnt from what, and that noise is not kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench.characteristics import gradient_rank, nearest_rank
from bench.foretelling import SHRINKING, Case, at_size, chosen_features, fit, left_out, misses
from bench.invented import Truth as Planted
from bench.invented import invented
from bench.rivals import Purse, by_gradient, rank_by_rows
from bench.told import PLAIN, THIRTY_TWO, Told, prior, rule, summary
from bench.truth import Truth

from bench import foretelling
from bench import told as told_by


def case(name: str, x: float, y: float, *, lockbox: bool = False, noise: float = 0.0) -> Any:
    return SimpleNamespace(name=name, features={"x": x, "noise": noise}, y=y, lockbox=lockbox)


def y(one: Any) -> float:
    return float(one.y)


LINEAR = [case(name, x, 1 + 2 * x) for name, x in (("a", -1.0), ("b", 1.0))]


def test_a_slope_is_shrunk_as_if_four_more_sets_had_shown_none() -> None:
    line = fit(LINEAR, ("x",), y)
    assert line.level == 1.0
    assert line.slope_F[0] == pytest.approx(2 * 2 / (2 + SHRINKING))
    assert line.of({"x": 1.0}) == pytest.approx(1 + 2 / 3)
    assert line.of({"x": 50.0}) == line.of({"x": 1.0})  # nothing is carried beyond what was learnt from


def test_sets_weigh_the_same_however_many_cases_they_have() -> None:
    assert fit([case("a", 0, 0.0)] * 9 + [case("b", 0, 1.0)], (), y).level == pytest.approx(0.5)


def test_nothing_is_learnt_from_the_set_foretold_nor_from_the_lockbox() -> None:
    every = [*LINEAR, case("b", 3, 99.0), case("c", 0, 5.0), case("locked", 0, 1e6, lockbox=True)]
    assert {one.name for one in left_out(every, every[1])} == {"a", "c"}
    assert misses(every, (), y)[1] == pytest.approx((-1 + 5) / 2 - 3)
    assert misses(every, (), y)[-1] == pytest.approx(np.mean([-1, (3 + 99) / 2, 5]) - 1e6)


def test_a_characteristic_is_kept_where_it_tells_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    told = [case(str(i), x := rng.normal(), 3 * x, noise=rng.normal()) for i in range(8)]
    assert chosen_features(told, ["noise", "x"], y) == ("x",)
    assert chosen_features(told, ["noise"], y) == ()


def test_each_of_rank_and_rate_ships_by_characteristics_only_where_that_missed_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six sets: the characteristic tells the learning rate and nothing of the rank, on which the rule that uses it is made to miss."""
    xs = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]
    every: Any = [case(f"set {i}", x, 0.0) for i, x in enumerate(xs)]
    scored: list[Any] = []
    for i, one in enumerate(every):
        one.doublings, one.axis, one.ranks = float(2 + i % 2), -3 + 0.3 * one.features["x"], [1, 256]
        names = {rule(by_rank=r, by_rate=t): (r, t) for r in (False, True) for t in (False, True)}
        for who, (by_rank, by_rate) in {**names, THIRTY_TWO: (False, True), PLAIN: (False, False)}.items():
            told = Told(one, who, 64 if by_rank else 4, one.axis + (0.05 if by_rate else 0.3))
            told.__dict__["lost"] = 1.0 + i / 10 + (0.5 if who == rule(by_rank=False, by_rate=True) else 0)
            scored.append(told)
    monkeypatch.setattr(told_by, "WITHOUT_WEIGHTS", ("x", "noise"))
    ships = prior(every, scored)
    assert ships["rank"]["features"] == {}
    assert ships["rank"]["level"] == 2.5
    assert list(ships["learning_rate"]["features"]) == ["x"]
    assert ships["learning_rate"]["off"] == {"mean": 0.05, "worst": 0.05}
    assert ships["lost"]["foretold"]["lost"] == 1.75
    assert ships["lost"]["r=32"]["lost"] == 1.25
    assert ships["less_lost_than_r_32"] == {"mean": -0.5, "standard_error": 0.0}


def test_a_size_is_a_surface_of_its_own() -> None:
    surface = invented(Planted(misfit=0.0, noise=0.0), scored=60)
    small = at_size(surface, surface.sizes[-1])
    assert small.whole == surface.sizes[-1]
    assert set(small.examples_C.tolist()) == {small.whole}
    assert small.tokens_of_a_run < surface.tokens_of_a_run
    levels = small.level_C(np.ones(len(small.tokens_E)))
    truth = Truth(small, np.arange(len(small.tokens_E)))
    assert truth.level_U.min() == pytest.approx(levels.min(), rel=0.02)


def test_what_is_foretold_of_a_planted_surface() -> None:
    planted = Planted(misfit=0.0, noise=0.0)
    surface = invented(planted, scored=400)
    one = Case("x", False, at_size(surface, surface.whole), {}, 1)
    assert all(planted.lost(r, x, surface.whole, surface.whole) > -5 for r, x in one.truth.settings)
    assert one.doublings == np.log2([min(one.ranks), max(one.ranks)]).mean()
    best = []
    for rank in foretelling.RATE_RANKS:
        axes = [x for r, x in one.truth.settings if r == rank]
        best.append(min(axes, key=lambda x: planted.lost(rank, x, surface.whole, surface.whole)))
    assert one.axis == pytest.approx(np.mean(best), abs=0.17)  # a half-decade in one of three ranks


def test_misses_in_doublings_and_means_over_sets() -> None:
    def told(name: str, rank: int, lost: float) -> Told:
        known: Any = SimpleNamespace(name=name, doublings=2.0, ranks=[2, 8], axis=-3.0)
        one = Told(known, "who", rank, -2.5)
        one.__dict__["lost"] = lost
        return one

    some = [told("a", 32, 1.0), told("a", 4, 3.0), told("b", 1, 5.0)]
    assert [one.rank_miss for one in some] == [3.0, 0.0, -2.0]
    assert [one.outside for one in some] == [2.0, 0.0, 1.0]
    found = summary(some)
    assert found["doublings_off"] == pytest.approx((1.5 + 2) / 2)
    assert (found["lost"], found["lost_worst"], found["decades_off"]) == (3.5, 5.0, 0.5)


def test_rules_by_hand() -> None:
    assert [rank_by_rows(n) for n in (999, 1_000, 10_000, 100_000)] == [8, 16, 32, 64]
    assert [nearest_rank(x) for x in (-3.0, 1.4, 4.6, 20.0)] == [1, 2, 32, 256]
    known = {"spectra": [{"rows": 32, "beyond_edge": 3.0}, {"rows": 128, "beyond_edge": 40.0}]}
    assert gradient_rank(known) == 32


def test_the_gradients_rank_is_left_out_where_it_was_not_measured() -> None:
    surface = invented(Planted(), scored=20)
    purse = Purse(replace(surface, name="never measured"), np.arange(10), 1.0)
    assert by_gradient(-3.0)(purse) is None
