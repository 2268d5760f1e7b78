"""What is said of the controls is no surer than it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rightrank.cuts.result import CutResult
from rightrank.cuts.words import reasons
from rightrank.errors import DataError
from samples_of_cuts import a_cut, line


def said(half):
    lines = (
        line("r=16", "whole", 16, 1.5, 0.0, "best"),
        line("whole × 0.8", "scaled", 16, 1.3, -20.0, "cannot tell", factor=0.8, half=half),
    )
    return " ".join(reasons("SETTLED", lines[0], lines[0], lines))


def test_a_control_that_is_better_is_told_as_surely_as_it_is_known():
    assert "scaled by 0.8 the adapter gains 20.0 % more" in said(half=5.0)
    assert "scaled by 0.8 the adapter may gain 20.0 % more" in said(half=30.0)


def test_an_answer_without_the_line_that_it_chose_is_damaged():
    assert CutResult.from_json(a_cut().to_json()) == a_cut()
    for changes in ({"choice": "r=5"}, {"best": "r=5"}, {"lines": a_cut().lines[:2]}):
        with pytest.raises(DataError, match="damaged"):
            CutResult.from_json(replace(a_cut(), **changes).to_json())
