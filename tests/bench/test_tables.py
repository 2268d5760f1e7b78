"""Recorded surfaces on disk: what is kept, and how much rounding costs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench.invented import invented
from bench.tables import Surface, load, rounded, save

from bench import tables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def surface() -> Surface:
    return invented(scored=200)


def test_what_is_saved_is_read_again(surface: Surface, tmp_path: Path) -> None:
    scored = surface.loss_CE.copy()
    scored[surface.examples_C < 800, surface.decide :] = np.nan
    scored[3] = np.inf
    part = replace(surface, loss_CE=scored)
    save(part, tmp_path / "x.npz")
    again = load(tmp_path / "x.npz")
    for field in fields(Surface):
        mine, its = getattr(part, field.name), getattr(again, field.name)
        if field.name == "loss_CE":
            assert np.array_equal(np.isnan(mine), np.isnan(its)) and np.array_equal(
                np.isinf(mine), np.isinf(its)
            )
            known = np.isfinite(mine)
            assert its[known] == pytest.approx(mine[known], rel=2**-8, abs=1e-4)
        elif field.name == "right_CE":
            assert np.array_equal(mine[~np.isnan(scored)], its[~np.isnan(scored)])
        elif isinstance(mine, np.ndarray):
            assert its == pytest.approx(mine, rel=1e-6)
        else:
            assert its == mine


def test_rounding_moves_a_mean_by_next_to_nothing(surface: Surface) -> None:
    decide_E = surface.sides()[0].astype(float)
    kept = replace(surface, loss_CE=rounded(surface.loss_CE).astype(float))
    moved = kept.level_C(decide_E) / surface.level_C(decide_E) - 1
    assert np.abs(moved).max() < 3e-4


def test_rounding_is_to_the_nearest_and_keeps_what_is_no_number() -> None:
    values = np.array([1.0, 1.003, 1.005, 255.0, np.inf, np.nan])
    assert rounded(values)[:4].tolist() == [1.0, 1.0, 1.0078125, 255.0]
    assert np.isinf(rounded(values)[4]) and np.isnan(rounded(values)[5])


def test_surfaces_come_in_the_order_of_the_design(tmp_path: Path) -> None:
    for name, epochs in (("scitldr", 3.0), ("nl2bash", 1.0), ("nl2bash", 3.0)):
        save(invented(name=name, epochs=epochs, scored=50), tmp_path / f"{name}-{epochs:g}.npz")
    found = tables.surfaces(tmp_path)
    assert [(s.name, s.epochs, s.lockbox) for s in found] == [
        ("nl2bash", 3.0, False),
        ("nl2bash", 1.0, False),
        ("scitldr", 3.0, True),
    ]
