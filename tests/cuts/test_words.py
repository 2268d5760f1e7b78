"""What is said of the controls is no surer than it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rightrank.cuts.result import CutResult
from rightrank.cuts.words import headline, plan_line, reasons
from rightrank.errors import DataError
from rightrank.report.cut import lead, left_out, rows, spared
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


def test_a_shrunk_cut_is_named_as_one_and_the_table_stays_short():
    shrunk = line("r=4 × 0.8", "cut", 4, 1.4, 0.0, "best", factor=0.8)
    dropped = line("r=2 × 0.8", "cut", 2, 1.8, 20.0, "worse", rows=64, factor=0.8)
    control = line("whole × 0.8", "scaled", 16, 1.41, 0.3, "as good", factor=0.8)
    lines = (a_cut().lines[0], dropped, a_cut().lines[1], shrunk, a_cut().lines[2], control)
    result = replace(a_cut(), lines=lines, choice="r=4 × 0.8", best="r=4 × 0.8")
    assert [row.label for row in rows(result)] == ["r=2", "r=4", "r=4 × 0.8", "r=16 (whole)", "whole × 0.8"]
    assert lead(result) == "Cut r=16 → r=4 × 0.8"
    assert headline("SETTLED", shrunk, lines).startswith("Cut to rank 4 and multiply the update by 0.8:")
    assert "holds the factor" in (spared(result) or "")
    said = " ".join(reasons("SETTLED", shrunk, shrunk, lines))
    assert "The shrunk adapter is better than what was trained" in said and "Not cut but scaled" not in said


def test_the_whole_adapter_shrunk_spares_nothing_and_says_so():
    control = line("whole × 0.8", "scaled", 16, 1.4, 0.0, "best", factor=0.8)
    result = replace(a_cut(), lines=(*a_cut().lines[:3], control), choice="whole × 0.8", best="whole × 0.8")
    assert lead(result) == "Keep r=16 × 0.8" and "MB" not in (spared(result) or "")
    assert headline("SETTLED", control, result.lines).startswith(
        "Keep rank 16 and multiply the update by 0.8:"
    )


def test_of_several_controls_one_line_is_shown():
    more = line("whole × 0.5", "scaled", 16, 1.9, 40.0, "worse", factor=0.5, rows=64)
    result = replace(a_cut(), lines=(*a_cut().lines, more))
    assert [row.label for row in rows(result)][-1] == "whole × 0.7"
    assert left_out(result) == "1 of 5 versions, all shrunk, were dropped early and are left out."
    assert left_out(replace(result, tried=10)).startswith("6 of 10 versions")
    assert left_out(a_cut()) == ""


def test_a_second_decimal_shows_on_which_side_of_the_margin_a_number_lies():
    near = line("r=8", "cut", 8, 1.51, 0.64, "cannot tell")  # up to 1.04 %
    result = replace(a_cut(), lines=(*a_cut().lines[:2], near, *a_cut().lines[2:]))
    shown = {row.label: row.gain_lost for row in rows(result)}
    assert shown["r=8"] == "0.64 % [0.24, 1.04]" and shown["r=16 (whole)"] == "1.6 % [1.2, 2.0]"
    exact = replace(near, gain_lost=replace(near.gain_lost, high=1.0))
    lines = (*a_cut().lines[:2], exact, *a_cut().lines[2:])
    assert rows(replace(result, lines=lines))[2].gain_lost == "0.6 % [0.2, 1.0]"
    told = " ".join(reasons("UNDECIDED", near, a_cut().lines[1], result.lines))
    assert "r=8 is safest: it loses at most 1.04 % of the gain" in told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ((1, 20), "less than a minute"),
        ((20, 150), "up to 2 min"),
        ((130, 140), "2 min"),
        ((130, 700), "2 to 12 min"),
    ],
)
def test_the_plan_says_a_time_as_one_would(seconds: tuple[float, float], told: str) -> None:
    assert plan_line(13, 1200, seconds).endswith(f"fewer where those tell: {told}.")
