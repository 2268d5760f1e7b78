"""Figures are data before they are pictures: what they show is asserted here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from report.samples import STATUSES, figure, sample
from rightrank.recipe import alpha_for
from rightrank.recommendation import Check, MeasuredPoint
from rightrank.report.charts import map_chart, rank_chart, rate_ticks
from rightrank.report.facts import epochs_seen
from rightrank.report.figures import map_figure, rank_figure
from rightrank.report.trends import epoch_figure, size_figure

GOLDEN = Path(__file__).with_name("golden_figures.json")


def test_figures_of_a_settled_answer_are_the_recorded_ones() -> None:
    answer = sample("SETTLED")
    found = {
        "rank": asdict(rank_figure(answer)),
        "map": asdict(map_figure(answer)),
        "size": asdict(size_figure(answer)),
    }
    assert json.loads(json.dumps(found)) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_curve_is_the_tuned_options_by_rank_and_marks_what_was_not_measured() -> None:
    curve = rank_figure(sample("SETTLED")).tuned
    assert [p.rank for p in curve] == [4, 8, 16, 32, 64, 128]
    assert [p.rank for p in curve if p.chosen] == [16]
    assert [p.rank for p in curve if p.measured] == [128]
    assert (curve[0].value, curve[0].low, curve[0].high) == (2.4, 1.6, 3.2)


def test_the_guides_are_a_line_for_each_learning_rate_and_the_own_config_stands_alone() -> None:
    answer = sample("SETTLED")
    guide = next(option for option in answer.options if option.kind == "guide")
    more = (*answer.options, replace(guide, rank=64), replace(guide, rank=8))
    shown = rank_figure(replace(answer, options=more))
    assert [p.label for p in shown.yours] == ["yours r=32 a=16 2e-4"]
    assert [(line.learning_rate, [p.rank for p in line.points]) for line in shown.guides] == [
        (1e-4, [8]),
        (2e-4, [8, 16, 64]),
    ]


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
    assert rate_ticks(9e-5, 1.1e-3) == [1e-4, 2e-4, 5e-4, 1e-3]


def looked_at(points: tuple[MeasuredPoint, ...]) -> tuple[MeasuredPoint, ...]:
    """The first run of r=16 with looks at it: best at epoch 1.5, then overfitting."""
    looks = (
        Check(0.5, 1.30, 1.4, figure(0.07, "nats a token", 0.01)),
        Check(1.5, 1.21, 1.1, figure(-0.02, "nats a token", 0.01)),
        Check(2.0, 1.23, 0.9),
    )
    first = next(p for p in points if p.rank == 16)
    return tuple(replace(p, checks=looks) if p is first else p for p in points)


def test_the_best_run_is_taken_on_each_number_of_rows() -> None:
    found = size_figure(sample("SETTLED"))
    assert [(p.examples, p.rank) for p in found.points] == [(675, 32), (1350, 64)]
    assert found.points[0].loss == min(
        p.loss for p in sample("SETTLED").points if p.examples == 675 and p.loss
    )
    assert found.base == 2.140


def test_no_trend_over_rows_is_shown_where_all_runs_have_as_many() -> None:
    assert (
        size_figure(sample("NO_GAIN")).points == () or len({p.examples for p in sample("NO_GAIN").points}) > 1
    )
    answer = sample("SETTLED")
    one = tuple(p for p in answer.points if p.examples == 1350)
    assert size_figure(replace(answer, points=one)).points == ()


def test_the_chosen_run_is_shown_by_epoch_and_overfitting_is_said() -> None:
    answer = sample("SETTLED")
    assert epoch_figure(answer) is None
    found = epoch_figure(replace(answer, points=looked_at(answer.points)))
    assert found is not None
    assert (found.rank, found.examples) == (16, 1350)
    assert [p.epoch for p in found.points] == [0.5, 1.5, 2.0]
    assert found.best is found.points[1]
    assert "lowest at epoch 1.5, 0.0200 nats a token below the end: it overfits." in epochs_seen(found)
    falling = replace(found, points=found.points[:2])
    assert "was lowest at the end" in epochs_seen(falling)
    chance = tuple(replace(point, surely_better=False) for point in found.points)
    assert "which these rows cannot tell from chance" in epochs_seen(replace(found, points=chance))


def everything(svg: ElementTree.Element, css: str) -> list[ElementTree.Element]:
    return [part for part in svg.iter("g") if css in part.get("class", "").split()]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("width", [380, 1000])
def test_charts_are_valid_svg_whose_looks_are_left_to_the_page(status: str, width: int) -> None:
    answer = sample(status)  # type: ignore[arg-type]
    rank = ElementTree.fromstring(rank_chart(rank_figure(answer), "a", width))
    area = ElementTree.fromstring(map_chart(map_figure(answer), "b", width))
    assert len(everything(rank, "mark")) == len(answer.options)
    assert len(everything(area, "cell")) == 2 * len(map_figure(answer).points)  # a circle and its number
    for svg in (rank, area):
        for part in svg.iter():
            assert not {"style", "fill", "stroke", "class"} & set(part.attrib) or set(part.attrib) >= {
                "class"
            }
            assert "style" not in part.attrib
        ids = [part.attrib["id"] for part in svg.iter() if "id" in part.attrib]
        assert len(ids) == len(set(ids))
        used = {part.attrib["href"][1:] for part in svg.iter("use")}
        assert used <= set(ids)


def test_the_same_answer_is_drawn_the_same() -> None:
    figure_ = rank_figure(sample("SETTLED"))
    assert rank_chart(figure_, "a") == rank_chart(figure_, "a")
    one, other = (ElementTree.fromstring(rank_chart(figure_, name)) for name in "ab")
    shared = {p.attrib["id"] for p in one.iter() if "id" in p.attrib} & {
        p.attrib["id"] for p in other.iter() if "id" in p.attrib
    }
    assert shared == set()


def test_charts_say_in_words_what_they_show() -> None:
    svg = ElementTree.fromstring(rank_chart(rank_figure(sample("SETTLED")), "a"))
    assert svg.attrib["role"] == "img"
    named = {svg.find("title").attrib["id"], svg.find("desc").attrib["id"]}  # type: ignore[union-attr]
    assert set(svg.attrib["aria-labelledby"].split()) == named
    assert "r=16: 0.1 % of the gain lost [-0.5, 0.7], extrapolated, the choice" in svg.findtext("desc", "")
    tips = [
        part.findtext("title", "") for part in everything(svg, "yours") if "mark" in part.get("class", "")
    ]
    assert tips == ["yours r=32 a=16 2e-4, lr 2e-4: 3.1 % of the gain lost [2.2, 4.0], extrapolated"]


def test_marks_stand_in_the_order_of_their_values() -> None:
    svg = ElementTree.fromstring(rank_chart(rank_figure(sample("CEILING")), "a"))
    heights = [
        float(part.find(".//use").attrib["y"])
        for part in everything(svg, "tuned")
        if "mark" in part.get("class", "")
    ]  # type: ignore[union-attr]
    assert heights == sorted(heights)  # 24.1 % at rank 4 down to the best at 128; y grows downwards


def test_an_answer_without_runs_or_options_can_be_drawn() -> None:
    empty = replace(sample("UNDECIDED"), options=(), points=())
    assert "<svg" in rank_chart(rank_figure(empty), "a")
    assert "<svg" in map_chart(map_figure(empty), "b")
