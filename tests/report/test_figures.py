"""Figures are data before they are pictures: what they show is asserted here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from report.samples import STATUSES, figure, sample
from rightrank.recipe import alpha_for
from rightrank.report.axes import linear_ticks, rate_ticks
from rightrank.report.chart import map_chart, rank_chart
from rightrank.report.figures import map_figure, rank_figure

GOLDEN = Path(__file__).with_name("golden_figures.json")


def test_figures_of_a_settled_answer_are_the_recorded_ones() -> None:
    answer = sample("SETTLED")
    found = {"rank": asdict(rank_figure(answer)), "map": asdict(map_figure(answer))}
    assert json.loads(json.dumps(found)) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_curve_is_the_tuned_options_by_rank_and_marks_what_was_not_measured() -> None:
    curve = rank_figure(sample("SETTLED")).tuned
    assert [p.rank for p in curve] == [4, 8, 16, 32, 64, 128]
    assert [p.rank for p in curve if p.chosen] == [16]
    assert [p.rank for p in curve if p.measured] == [128]
    assert (curve[0].value, curve[0].low, curve[0].high) == (2.4, 1.6, 3.2)


def test_the_own_config_comes_before_the_guides() -> None:
    assert [p.kind for p in rank_figure(sample("SETTLED")).others] == ["yours", "guide", "guide"]


def test_the_band_is_a_margin_on_either_side_of_the_best() -> None:
    assert rank_figure(sample("SETTLED")).band == (-1.0, 1.0)


def test_without_a_gain_losses_are_shown_against_the_base_and_no_margin() -> None:
    answer = sample("NO_GAIN")
    shown = rank_figure(answer)
    assert shown.measure == "loss"
    assert shown.base == answer.base_loss.value
    assert shown.band is None
    assert shown.tuned[0].value == answer.options[0].loss.value


def test_one_awful_guide_does_not_flatten_the_curve() -> None:
    low, high = rank_figure(sample("SETTLED")).view
    assert low < -1.0  # the band is inside
    assert 4.0 < high < 14.8  # the interval of "yours" is inside, the guide that loses 14.8 % is not


def test_every_rank_of_a_steep_curve_is_shown() -> None:
    assert rank_figure(sample("CEILING")).view[1] > 24.1 + 1.2


def test_seeds_are_averaged_and_larger_runs_hide_smaller_ones() -> None:
    points = {(p.rank, p.learning_rate): p for p in map_figure(sample("SETTLED")).points}
    best = points[8, 6e-4]
    assert (best.runs, best.examples, best.full) == (2, 1350, True)
    assert best.value == pytest.approx((1.4 + 1.5) / 2)
    assert best.level == 1
    aside = points[8, 1.2e-3]
    assert (aside.runs, aside.examples, aside.full) == (1, 675, False)


def test_a_run_that_diverged_has_no_value() -> None:
    (lost,) = [p for p in map_figure(sample("SETTLED")).points if p.diverged]
    assert (lost.rank, lost.value, lost.level) == (128, None, None)


def test_a_config_with_another_alpha_stands_where_its_first_steps_are_as_large() -> None:
    (yours,) = [p for p in map_figure(sample("SETTLED")).points if p.rank == 32 and p.guide]
    assert yours.learning_rate == pytest.approx(2e-4 * 16 / alpha_for(32), rel=5e-3)


def test_levels_are_counted_in_margins() -> None:
    answer = sample("SETTLED")
    point = answer.points[0]
    for lost, level in ((0.0, 0), (1.0, 0), (1.1, 1), (3.1, 2), (10.1, 3)):
        single = replace(answer, points=(replace(point, gain_lost=figure(lost, "%")),))
        assert map_figure(single).points[0].level == level


def test_ticks_are_round() -> None:
    assert linear_ticks(-1.2, 4.3) == [-1, 0, 1, 2, 3, 4]
    assert linear_ticks(0, 30) == [0, 5, 10, 15, 20, 25, 30]
    assert rate_ticks(9e-5, 1.1e-3) == [1e-4, 2e-4, 5e-4, 1e-3]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("width", [380, 1000])
def test_charts_are_valid_svg_with_every_mark_inside(status: str, width: int) -> None:
    answer = sample(status)  # type: ignore[arg-type]
    for chart in (rank_chart(rank_figure(answer), "a", width), map_chart(map_figure(answer), "b", width)):
        svg = ElementTree.fromstring(chart)
        _, _, right, bottom = (float(n) for n in svg.attrib["viewBox"].split())
        labels = svg.findall("text")
        assert labels
        for label in labels:
            assert 0 <= float(label.attrib["x"]) <= right
            assert 0 <= float(label.attrib["y"]) <= bottom
        places = [p.attrib["transform"] for p in svg.findall("path") if "transform" in p.attrib]
        for place in places:
            x, y = place.removeprefix("translate(").removesuffix(")").split()
            assert 0 <= float(x) <= right
            assert 0 <= float(y) <= bottom


def test_charts_say_in_words_what_they_show() -> None:
    svg = ElementTree.fromstring(rank_chart(rank_figure(sample("SETTLED")), "a"))
    assert svg.attrib["role"] == "img"
    named = {svg.find("title").attrib["id"], svg.find("desc").attrib["id"]}  # type: ignore[union-attr]
    assert set(svg.attrib["aria-labelledby"].split()) == named
    assert "r=16: 0.1 % of the gain lost [-0.5, 0.7], extrapolated, the choice" in svg.findtext("desc", "")


def test_labels_of_choices_at_one_rank_are_kept_apart() -> None:
    answer = sample("SETTLED")
    guide = next(option for option in answer.options if option.kind == "guide")
    crowd = tuple(replace(guide, learning_rate=rate * 1e-4) for rate in (1, 2, 3, 4))
    svg = ElementTree.fromstring(rank_chart(rank_figure(replace(answer, options=crowd)), "a"))
    places = [
        (float(t.attrib["x"]), float(t.attrib["y"])) for t in svg.findall("text") if "guide" in (t.text or "")
    ]
    assert len(places) == 4
    heights = sorted(y for _, y in places)
    assert all(b - a >= 12 for a, b in pairwise(heights))


def test_an_answer_without_runs_or_options_can_be_drawn() -> None:
    empty = replace(sample("UNDECIDED"), options=(), points=())
    assert "<svg" in rank_chart(rank_figure(empty), "a")
    assert "<svg" in map_chart(map_figure(empty), "b")
