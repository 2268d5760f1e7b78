"""The design of the recorded surfaces: what is trained next, and where it ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench.design import (
    FEW_RANKS,
    FIRST_RATES,
    RANKS,
    RATES,
    SETS,
    DataSet,
    Point,
    between,
    near_best,
    next_points,
    ranks_at,
)
from bench.tables import read_recorded, save
from hypothesis import given
from hypothesis import strategies as st

from bench import design, record
from rightrank.bank.base_model import load_base
from rightrank.executors.worker import Worker
from rightrank.probe.loss_table import LossTable
from rightrank.recipe import Recipe
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path


@given(st.integers(0, 5), st.sampled_from(RANKS))
def test_rates_are_added_until_the_best_lies_inside_or_at_the_end_of_all(best: int, rank: int) -> None:
    level: dict[Point, float] = {}
    rounds = 0
    while points := next_points(level, [rank]):
        assert not set(points) & set(level)
        level |= {point: abs(RATES.index(point.rate) - best) for point in points}
        rounds += 1
    assert rounds <= 3
    tried = sorted(RATES.index(point.rate) for point in level)
    assert min(level, key=lambda point: level[point]).rate == RATES[best]
    assert best in (0, 5) or tried[0] < best < tried[-1]
    assert set(FIRST_RATES) <= {point.rate for point in level}


def test_ranks_are_extended_each_by_itself() -> None:
    losses = {8: (3, 2, 1), 32: (2, 1, 2)}
    level = {
        Point(rank, FIRST_RATES[i]): loss for rank, three in losses.items() for i, loss in enumerate(three)
    }
    assert next_points(level, (8, 32)) == [Point(8, 1e-2)]


def test_points_for_seeds_are_near_the_best_and_the_same_every_time() -> None:
    level = {
        Point(rank, rate): 1 + 0.002 * i
        for i, (rank, rate) in enumerate((r, x) for r in RANKS for x in RATES)
    }
    chosen = near_best(level, 2.0, seed=5)
    assert chosen == near_best(level, 2.0, seed=5)
    assert 6 <= len(set(chosen)) <= 7, "six drawn, and the best"
    assert all(level[point] <= 1.03 for point in chosen)
    assert near_best({Point(8, 1e-3): 1.0}, 2.0, 0) == [Point(8, 1e-3)]


def test_the_best_point_is_among_those_that_get_other_seeds() -> None:
    level = {Point(r, 1e-3): 1.0 + i / 1000 for i, r in enumerate((1, 2, 4, 8, 16, 32, 64, 128, 256))}
    assert all(Point(1, 1e-3) in near_best(level, 2.0, seed) for seed in range(20))


def test_between_lies_a_quarter_of_a_decade_from_the_best_and_asks_for_no_more() -> None:
    level = {Point(32, rate): abs(i - 1) for i, rate in enumerate(FIRST_RATES)}
    assert between(level) == [Point(32, 5.6e-4), Point(32, 1.8e-3)]
    finer = level | dict.fromkeys(between(level), -1.0)
    assert next_points(finer, [32]) == [], "what lies between is no edge"
    assert between(finer) == between(level)


@pytest.mark.parametrize(
    ("name", "rows", "epochs", "sizes"),
    [
        ("nl2bash", 10_607, 3, [3200, 800, 1600, 400]),
        ("nl2bash", 10_607, 1, [3200, 800, 1600]),
        ("mbpp", 474, 3, [474, 237]),
        ("medquad", 5_000, 3, [1600, 400, 800, 200]),
        ("medquad", 5_000, 1, [1600, 800]),
    ],
)
def test_sizes_of_under_fifty_steps_are_left_out(
    name: str, rows: int, epochs: float, sizes: list[int]
) -> None:
    assert SETS[name].sizes(rows, Recipe().given(epochs=epochs)) == sizes
    assert ranks_at(sizes[0], sizes[0]) == RANKS
    assert ranks_at(sizes[0] // 2, sizes[0]) == FEW_RANKS


def test_a_recipe_of_too_few_steps_at_all_rows_is_not_recorded() -> None:
    assert SETS["mbpp"].sizes(474, Recipe().given(epochs=1)) == []


def test_a_set_is_recorded_and_not_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(design, "RANKS", (2, 8))
    monkeypatch.setattr(design, "FEW_RANKS", (8,))
    monkeypatch.setattr(design, "GUIDE_RANKS", (4,))
    monkeypatch.setattr(design, "FEWEST_STEPS", 2)
    base = load_base(save_model(tmp_path / "model"))
    save_rows(tmp_path / "rows.jsonl", small_rows(80))
    one = DataSet("small", "rows.jsonl", None, 64)
    place = (base.tokenizer, one, tmp_path, tmp_path / "out", 2.0)
    assert record.record(Worker(base), *place, until=math.inf)
    table = LossTable.opened(tmp_path / "out" / "small" / "2")
    trained = {(pack.examples, c.rank, c.seed) for pack in table.packs for c in pack.configurations}
    assert {(64, 2, 0), (64, 8, 0), (16, 2, 0), (32, 8, 0)} <= trained
    assert (32, 2, 0) not in trained
    assert {seed for size, _, seed in trained if size == 64} == {0, 1, 2}
    packs = len(table.packs)
    assert record.record(Worker(base), *place, until=0.0), "all of it is there"
    assert len(LossTable.opened(tmp_path / "out" / "small" / "2").packs) == packs
    assert not record.record(Worker(base), *place[:-1], 3.0, until=0.0)

    # A compact table of it is as good to go on from.
    surfaces = tmp_path / "surfaces"
    surfaces.mkdir()
    recorded = read_recorded(tmp_path / "out" / "small" / "2")
    save(recorded, surfaces / "small-2.npz")
    monkeypatch.setattr(record, "FOLDER", surfaces)
    assert record.record(Worker(base), *place[:3], tmp_path / "again", 2.0, until=0.0), (
        "nothing is trained again"
    )
    assert read_recorded(tmp_path / "again" / "small" / "2").loss_CE == pytest.approx(
        recorded.loss_CE[np.lexsort((recorded.seed_C, -recorded.examples_C))], rel=2**-7
    )
    assert not record.record(Worker(base), *place[:3], tmp_path / "other", 3.0, until=0.0)
