"""Whether two answers differ: by what was asked, by what was chosen, and row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from report.samples import sample
from rightrank.errors import UserError
from rightrank.runs.comparison import compare, comparison_lines, exit_code, read_side
from runs_on_disk import DECIDE, SCORE, answered, base_E

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.runs.comparison import Comparison

SMALL, LARGE = (8, 16.0, 1e-3), (64, 45.0, 5e-4)


def losses(level: float, noise: float = 0.05, seed: int = 1) -> np.ndarray:
    """Nats by which training lowers the loss of every row, with its scatter."""
    return base_E() - level + np.random.default_rng(seed).normal(0, noise, DECIDE + SCORE)


def compared(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> Comparison:
    answered(tmp_path / "a", **one)
    answered(tmp_path / "b", **other)
    return compare(read_side(tmp_path / "a"), read_side(tmp_path / "b"))


def test_the_same_answer(tmp_path: Path) -> None:
    found = compared(tmp_path, {}, {})
    assert found.verdict == "same answer" and exit_code(found) == 0
    assert comparison_lines(found) == [
        "Same answer.",
        "  A  SETTLED  r=16 alpha=32 lr 4e-4",
        "  B  SETTLED  r=16 alpha=32 lr 4e-4",
    ]
    unsure = compared(tmp_path / "unsure", {}, {"status": "UNDECIDED", "choose": (16, 32.0, 4e-4)})
    assert unsure.sentence == "Same setting, not equally certain."


def test_a_choice_that_is_worse_row_by_row_differs(tmp_path: Path) -> None:
    """The gain is 2 nats a row and A's choice loses 0.1 of them: 5 %, of which the scatter is a standard error of 0.35 %."""
    both = {SMALL: losses(1.9), LARGE: losses(2.0, seed=2)}
    found = compared(tmp_path, {"losses": both, "choose": SMALL}, {"losses": both, "choose": LARGE})
    assert found.verdict == "different" and exit_code(found) == 1
    assert found.sentence == "They differ: B's choice is better than A's, row by row."
    assert [c.measured_in for c in found.contrasts] == ["A", "B"]
    for contrast in found.contrasts:
        assert contrast.rows == SCORE, "the rows that chose do not judge"
        assert contrast.low < 5 < contrast.high and 0 < contrast.high - contrast.low < 3
    turned = compared(tmp_path / "t", {"losses": both, "choose": LARGE}, {"losses": both, "choose": SMALL})
    assert (
        turned.sentence.startswith("They differ: A's choice")
        and turned.contrasts[0].value == -found.contrasts[0].value
    )


def test_the_percentage_is_of_what_the_better_one_gains(tmp_path: Path) -> None:
    both = {SMALL: base_E() - 1.5, LARGE: base_E() - 2.0}
    found = compared(tmp_path, {"losses": both, "choose": SMALL}, {"losses": {}, "choose": LARGE})
    (contrast,) = found.contrasts
    assert (contrast.value, contrast.low, contrast.high) == (
        pytest.approx(25),
        pytest.approx(25),
        pytest.approx(25),
    )


def test_settings_that_scatter_cannot_be_told_apart_and_close_ones_are_worth_the_same(tmp_path: Path) -> None:
    both = {SMALL: losses(2.0, 0.5), LARGE: losses(2.0, 0.5, seed=2)}
    found = compared(tmp_path, {"losses": both, "choose": SMALL}, {"losses": both, "choose": LARGE})
    assert (
        found.sentence == "Different settings, not distinguishable by these runs." and exit_code(found) == 0
    )
    close = {SMALL: losses(2.0, 0.01), LARGE: losses(2.001, 0.01, seed=2)}
    found = compared(tmp_path / "c", {"losses": close, "choose": SMALL}, {"losses": close, "choose": LARGE})
    assert found.sentence == "Different settings, worth the same to within 1 % of the gain."


def test_a_sure_difference_within_the_margin_is_none(tmp_path: Path) -> None:
    both = {SMALL: base_E() - 1.99, LARGE: base_E() - 2.0}  # half a percent, without any scatter
    found = compared(tmp_path, {"losses": both, "choose": SMALL}, {"losses": both, "choose": LARGE})
    assert found.verdict == "not distinguishable"


def test_each_in_its_own_run_where_they_judged_the_same_rows(tmp_path: Path) -> None:
    fewer = (
        DECIDE - 10
    )  # B judged by ten deciding rows less: those that both have stand elsewhere in its table
    places = [*range(fewer), *range(DECIDE, DECIDE + SCORE)]
    in_b = {
        "losses": {LARGE: (base_E() - 2.0)[places]},
        "choose": LARGE,
        "base": base_E()[places],
        "plan": {"decide": fewer, "score": SCORE},
    }
    in_a = {"losses": {SMALL: base_E() - 1.5}, "choose": SMALL}
    found = compared(tmp_path, in_a, in_b)
    (contrast,) = found.contrasts
    assert (contrast.measured_in, contrast.value, contrast.rows) == (
        "A against B",
        pytest.approx(25),
        fewer + SCORE,
    )
    assert "each in its own run" in "".join(comparison_lines(found))
    (turned,) = compare(read_side(tmp_path / "b"), read_side(tmp_path / "a")).contrasts
    assert (turned.value, turned.rows) == (pytest.approx(-25), fewer + SCORE)
    for number, change in enumerate(({"seed": 1}, {"examples": 40}, {"base": base_E(9)[places]})):
        assert compared(tmp_path / str(number), in_a, {**in_b, **change}).contrasts == (), change


def test_without_losses_the_tables_of_both_decide(tmp_path: Path) -> None:
    def alone(name: str, rank: int, **changes: Any):
        answered(tmp_path / name, choose=(rank, 32.0, 4e-4), **changes)
        return read_side(tmp_path / name / "recommendation.json")

    sixteen, thirty_two = alone("a", 16), alone("b", 32)
    found = compare(sixteen, thirty_two)
    assert found.verdict == "cannot tell" and exit_code(found) == 0
    assert (
        set(found.both_open) == {16, 32, 64, 128} and "r=16, r=32, r=64, r=128" in comparison_lines(found)[3]
    )
    ruled_out = compare(alone("c", 8), alone("d", 16))
    assert ruled_out.verdict == "different" and "ruled out" in ruled_out.sentence


def test_other_questions_are_named(tmp_path: Path) -> None:
    plain = sample("SETTLED")
    other = {
        "data": replace(plain.data, name="pubmed.jsonl", fingerprint="ffff"),
        "recipe": replace(plain.recipe, epochs=3.0),
        "provenance": replace(plain.provenance, seed=4, versions={"torch": "2.13.0"}),
    }
    both = {SMALL: losses(1.9), LARGE: losses(2.0)}
    found = compared(tmp_path, {"losses": both, "choose": SMALL}, {"losses": both, "choose": LARGE, **other})
    assert found.verdict == "other question" and found.contrasts == () and exit_code(found) == 2
    lines = comparison_lines(found)
    assert lines[0] == "They answer different questions, and their settings differ."
    asked, measured = lines[-2:]
    assert "data (medqa.jsonl sha256:9, pubmed.jsonl ffff)" in asked and "epochs (2.0, 3.0)" in asked
    assert "seed (0, 4)" in measured and "torch (2.9.0, 2.13.0)" in measured


def test_few_rows_give_no_verdict(tmp_path: Path) -> None:
    few = {"plan": {"decide": DECIDE + SCORE - 10, "score": 10}}
    middle = (16, 32.0, 1e-3)  # not ruled out by the table of either
    both = {middle: losses(1.0), LARGE: losses(2.0)}
    found = compared(
        tmp_path, {"losses": both, "choose": middle, **few}, {"losses": both, "choose": LARGE, **few}
    )
    assert found.verdict == "cannot tell" and "Fewer than 30 rows" in "".join(comparison_lines(found))


def test_what_is_no_answer_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "recommendation.json").write_text("{}")
    with pytest.raises(UserError, match=r"recommendation\.json: This is no recommendation"):
        read_side(tmp_path)
    with pytest.raises(UserError, match="Name the directory of a finished run"):
        read_side(tmp_path / "nowhere")
