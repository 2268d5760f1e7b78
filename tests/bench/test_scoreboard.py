"""The scoreboard on surfaces whose truth is known: prices, regrets, and that no chooser sees the rows that judge it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench.fit_valley import WIDE, left_out, observed
from bench.invented import Truth as Planted
from bench.invented import invented
from bench.replay import Runs, replay, run_price
from bench.rivals import Purse, rivals, tune_rate
from bench.scores import Score, against, probe_scored, score_probe, score_rivals, summary
from bench.tables import Surface, save
from bench.truth import Truth

from bench import scoreboard
from rightrank.stats.rungs import Setting
from rightrank.stats.valley import fit

if TYPE_CHECKING:
    from pathlib import Path

PLANTED = Planted(misfit=0.0, noise=0.0)


@pytest.fixture(scope="module")
def surface() -> Surface:
    return invented(PLANTED, scored=400)


def truth(surface: Surface) -> Truth:
    return Truth(surface, np.flatnonzero(surface.sides()[1]))


def test_regret_is_the_planted_loss_above_the_best_recorded_one(surface: Surface) -> None:
    told = truth(surface)
    planted = {s: PLANTED.lost(s[0], s[1], surface.whole, surface.whole) for s in told.settings}
    for setting, lost in planted.items():
        assert told.regret_percent(*setting) == pytest.approx(lost - min(planted.values()), rel=0.05, abs=0.5)


def test_what_was_not_recorded_lies_between_its_neighbours(surface: Surface) -> None:
    told = truth(surface)
    for rank, axis in ((32, -2.85), (32, -3.25), (24, -3.0)):
        lost = PLANTED.lost(rank, axis, surface.whole, surface.whole)
        best = min(PLANTED.lost(r, x, surface.whole, surface.whole) for r, x in told.settings)
        assert told.regret_percent(rank, axis) == pytest.approx(lost - best, abs=0.6)


def test_other_seeds_that_were_not_recorded_differ_as_recorded_ones_do() -> None:
    noisy = invented(Planted(misfit=0.0, noise=0.5), scored=100)
    runs, decide_E = Runs(noisy), noisy.sides()[0]
    first = runs.run(4, -3.0, 1600).loss_E[decide_E].sum()
    other = runs.run(4, -3.0, 1600, seed=1)
    assert not other.recorded
    assert 1e-5 < abs(other.loss_E[decide_E].sum() / first - 1) < 0.05


def test_a_probe_keeps_to_its_budget_and_more_of_it_finds_more(surface: Surface) -> None:
    found = {budget: score_probe(surface, budget) for budget in (1.0, 4.0)}
    for budget, score in found.items():
        assert score is not None
        assert 0.5 * budget < score.cost_runs <= budget
    assert found[4.0].best_point_percent <= 0.5  # type: ignore[union-attr]
    assert score_probe(surface, 0.01) is None


def test_a_probe_does_not_see_the_rows_that_judge_it(surface: Surface) -> None:
    """With the losses of the other scoring rows replaced by noise, it says the same."""
    decide_E, score_E = (np.flatnonzero(side) for side in surface.sides())
    shown_E = np.concatenate([decide_E, score_E[: len(score_E) // 2]])
    spoilt = surface.loss_CE.copy()
    spoilt[:, score_E[len(score_E) // 2 :]] = np.random.default_rng(0).uniform(
        0, 99, spoilt[:, score_E[len(score_E) // 2 :]].shape
    )
    both = [
        replay(s, 1.0, shown_E=shown_E, decide_rows=len(decide_E))
        for s in (surface, replace(surface, loss_CE=spoilt))
    ]
    assert both[0] is not None and both[1] is not None
    assert both[0].decision.choices == both[1].decision.choices


def test_rivals_keep_to_their_budget(surface: Surface) -> None:
    others = [truth(invented(Planted.drawn(seed), scored=50)) for seed in (1, 2)]
    decide_E = np.flatnonzero(surface.sides()[0])
    for name, rival in rivals(others).items():
        named = rival(Purse(surface, decide_E, 1.0))
        assert named is not None, name
        assert named.cost <= 1.0 or "any price" in name
    assert {"r=8, alpha=2r, 2e-4", "successive halving", "best fixed setting of the other sets"} <= set(
        rivals(others)
    )


def test_tuning_one_rank_finds_its_best_rate_where_money_is_no_matter(surface: Surface) -> None:
    named = tune_rate(32)(Purse(surface, np.flatnonzero(surface.sides()[0]), 20.0))
    assert named is not None and named.rank == 32
    told = truth(surface)
    best = min((told.regret_percent(r, x), x) for r, x in told.settings if r == 32)
    assert told.regret_percent(32, named.axis) == pytest.approx(best[0], abs=0.2)


def test_the_price_of_a_run_is_its_share_of_the_rows(surface: Surface) -> None:
    assert [run_price(surface, n) for n in surface.sizes] == [1.0, 0.5, 0.25, 0.125]


def a_score(**changes: object) -> Score:
    plain = {
        "surface": "a-3", "data_set": "a", "epochs": 3.0, "lockbox": False, "budget": 1.0, "who": "rightrank", "rank": 16,
        "best_point_percent": 0.4, "standard_error_percent": 0.1, "recommended_percent": 0.8, "margin_percent": 1.0,
        "cost_runs": 0.9, "smallest_ranks": (8,), "status": "SETTLED", "covered": 5, "intervals": 6,
    }  # fmt: skip
    return Score(**{**plain, **changes})  # type: ignore[arg-type]


class Flat:
    """A truth in which everything loses the same."""

    def __init__(self, lost: float) -> None:
        self.lost = lost

    def regret_percent(self, *_: object) -> float:
        return self.lost

    def standard_error_percent(self, *_: object) -> float:
        return 0.1

    def smallest_ranks(self, *_: object) -> list[int]:
        return [16]


@pytest.mark.parametrize(
    ("status", "named", "lost"),
    [("UNDECIDED", 32, 0.3), ("UNDECIDED", 16, 0.7), ("SETTLED", 32, 0.7)],
)
def test_what_the_rows_that_decide_chose_alone_is_judged_by_all_others(
    surface: Surface, status: str, named: int, lost: float
) -> None:
    best, choice = Setting(32, 38.0, 1e-3), Setting(named, 38.0 if named == 32 else 32.0, 1e-3)
    decision = SimpleNamespace(foreseen=best, choice=choice, status=status, margin=None, choices=())
    found = SimpleNamespace(
        decision=decision, evidence=SimpleNamespace(rank_C=[32]), axis_C=[-3.0], cost_runs=1.0, interpolated_share=0.0
    )  # fmt: skip
    scored = probe_scored(surface, 1.0, found, Flat(0.3), Flat(0.7))  # type: ignore[arg-type]
    assert (scored.best_point_percent, scored.recommended_percent) == (0.3, lost)


def test_a_summary_of_three_scores() -> None:
    scores = [
        a_score(),
        a_score(
            data_set="b",
            surface="b-3",
            best_point_percent=1.0,
            recommended_percent=2.0,
            smallest_ranks=(64, 128),
        ),
        a_score(
            surface="a-1",
            status="UNDECIDED",
            best_point_percent=0.2,
            covered=6,
            guides_covered=3,
            guides=4,
        ),
    ]
    found = summary(scores)
    assert found["best_point_regret_pct"]["mean"] == pytest.approx(1.6 / 3)
    assert found["best_point_regret_pct"]["worst"] == 1.0
    # data sets count once: 0.3 and 1.0
    assert found["best_point_regret_pct"]["standard_error"] == pytest.approx(0.35)
    assert found["recommended_within_margin_pct"] == pytest.approx(200 / 3)
    assert found["answered_pct"] == pytest.approx(200 / 3)
    assert found["settled_wrong_pct"] == 50.0
    assert (found["guide_interval_coverage_pct"], found["guide_intervals"]) == (75.0, 4)
    assert summary(scores[:2])["guide_interval_coverage_pct"] is None
    assert found["interval_coverage_pct"] == pytest.approx(100 * 16 / 18)
    assert found["rank_within_2x_pct"] == pytest.approx(200 / 3)
    assert summary([]) == {"surfaces": 0}


@pytest.mark.parametrize(
    ("rank", "smallest", "within"),
    [(16, (8,), True), (16, (4,), False), (4, (16, 32), False), (4, (8, 64), True)],
)
def test_within_twice_counts_both_ways(rank: int, smallest: tuple[int, ...], within: bool) -> None:
    assert a_score(rank=rank, smallest_ranks=smallest).rank_within_2x is within


def test_rivals_are_compared_on_the_surfaces_that_both_know() -> None:
    ours = [a_score(), a_score(data_set="b", surface="b-3", best_point_percent=0.5)]
    theirs = [a_score(best_point_percent=1.4), a_score(data_set="b", surface="b-3", best_point_percent=1.1)]
    assert against(ours, theirs) == {"mean": pytest.approx(0.8), "standard_error": pytest.approx(0.2)}
    assert against(ours, theirs[:1]) is None


def test_the_board_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("nl2bash", "klingon", "scitldr")):
        save(invented(Planted.drawn(seed), name=name, scored=100, seed=seed), tmp_path / f"{name}-3.npz")
    monkeypatch.setattr("sys.argv", ["scoreboard", "--json", "--folder", str(tmp_path), "--resampled", "3"])
    scoreboard.main()
    found = json.loads(capsys.readouterr().out)
    wanted = {"best_point_regret_pct", "recommended_within_margin_pct", "mean_cost_runs", "interval_coverage_pct",
              "settled_wrong_pct", "answered_pct", "rank_within_2x_pct", "lockbox", "frontier", "baselines"}  # fmt: skip
    assert wanted <= set(found)
    assert found["surfaces"] == 2 and found["lockbox"]["surfaces"] == 1
    assert found["frontier"]["4"]["mean_cost_runs"] <= 4.0
    assert found["resampled"]["surfaces"] == 2


def test_the_prior_of_a_set_is_learnt_from_the_others(tmp_path: Path) -> None:
    for seed, name in enumerate(("nl2bash", "klingon", "banking77")):
        drawn = replace(Planted.drawn(seed), theta=(-2.0 - seed, *Planted.drawn(seed).theta[1:]))
        save(invented(drawn, name=name, scored=50), tmp_path / f"{name}-3.npz")
    assert left_out(tmp_path, "nl2bash").mean_P[0] == pytest.approx(-3.5, abs=0.3)
    assert left_out(tmp_path, "banking77").mean_P[0] == pytest.approx(-2.5, abs=0.3)


def test_a_surface_is_fitted_closely(surface: Surface) -> None:
    valley = fit(observed(surface), surface.whole, WIDE)
    assert valley.best_axis(32, surface.whole)[0] == pytest.approx(PLANTED.best_axis(32), abs=0.1)
    assert not math.isnan(float(valley.theta_P.sum()))


def test_scores_of_rivals_name_their_surface(surface: Surface) -> None:
    scores = score_rivals(surface, 1.0, [])
    assert {s.surface for s in scores} == {"nl2bash-3"} and {s.budget for s in scores} == {1.0}
