"""The terminal: 80 columns, plain when piped, the same numbers as the page."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from report.samples import STATUSES, hostile, sample
from rightrank.report import choices
from rightrank.report.facts import trained_on
from rightrank.report.terminal import print_recommendation
from rightrank.stats.paired import FEWEST_EXAMPLES

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation, Status

PATHS = {"Config": "out/trl_sft.sh", "Report": "out/report.html"}


def printed(answer: Recommendation, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=80, force_terminal=terminal, color_system="standard" if terminal else None
    )
    print_recommendation(answer, console, PATHS)
    return file.getvalue()


def test_a_settled_answer_reads_as_designed() -> None:
    lines = printed(sample("SETTLED")).splitlines()
    assert lines[:5] == [
        "SETTLED   Use r=16  alpha=32  lr 4e-4  2 epochs  all linear layers",
        "No rank up to 128 is better by more than 1 % of what training gains.",
        "",
        "medqa.jsonl: Alpaca, 2,700 train / 300 held out, 14 rows truncated",
        "meta-llama/Meta-Llama-3-8B, 8.03 billion parameters, 4-bit",
    ]
    table = lines[lines.index("") + 1 :]
    table = table[table.index("") + 1 :]
    assert table[:10] == [
        "                                loss   gain lost [95 %]     exact  train GiB",
        " r=4   lr 6e-4                ~1.226   2.4 % [1.6, 3.2]      32 %       13.8",
        " r=8   lr 6e-4                ~1.216   1.4 % [1.1, 1.8]      33 %       14.0",
        " r=16  lr 4e-4           <--  ~1.204   0.1 % [-0.5, 0.7]     34 %       14.2",
        " r=32  lr 4e-4                ~1.205   0.2 % [-0.4, 0.8]     34 %       14.8",
        " r=64  lr 3e-4                ~1.203    best                 34 %       15.8",
        " r=128 lr 3e-4                 1.206   0.3 % [-0.3, 0.9]     34 %       18.0",
        " yours r=32 a=16 2e-4         ~1.232   3.1 % [2.2, 4.0]      31 %       14.8",
        " guide r=8 a=16 1e-4          ~1.342  14.8 % [13.4, 16.2]    19 %       14.0",
        " guide r=16 a=32 2e-4         ~1.217   1.5 % [0.7, 2.3]      32 %       14.2",
    ]
    assert table[11:] == [
        "<-- the smallest rank that is as good as the best",
        "",
        "30 runs of your recipe on up to 1,350 of 2,700 rows, 2 seeds, 300 held-out rows.",
        "~ Measured to 1,350 rows; 2,700 extrapolated (intervals include it).",
        "41 min (planned 38 min) on NVIDIA GeForce RTX 4090; 0.93 × the tokens of one",
        "run; peak 21.4 GiB.",
        "Note: 14 rows are longer than 2,048 tokens and were truncated.",
        "Config: out/trl_sft.sh   Report: out/report.html",
    ]


def test_undecided_says_what_is_ruled_out_safe_and_would_decide() -> None:
    answer = sample("UNDECIDED")
    text = printed(answer)
    assert text.startswith("UNDECIDED   Ruled out: r=4, r=8   Tried and open: r=16, r=32, r=64, r=128\n")
    assert "Safe meanwhile: r=32  alpha=38  lr 4e-4  2 epochs  all linear layers\n" in text
    assert "                at worst 1.8 % of the gain lost (at 95 %)\n" in text
    assert "To decide:\n" in text
    # On one line however long, so that it can be copied.
    assert f"\n  {answer.to_decide[0].command}\n    About 64 min. Trains the four open ranks" in text
    assert "    Time unknown. About 900 more" in text


def test_why_the_arrow_is_not_on_the_best_row_and_what_less_than_nothing_lost_means() -> None:
    answer = sample("UNDECIDED")
    assert "<-- the smallest rank that may be as good as the best, and safe\n" in printed(answer)
    assert "below zero" not in printed(answer)
    best = next(o for o in answer.options if o.verdict == "best")
    choice = replace(answer.choice, rank=best.rank, alpha=best.alpha, learning_rate=best.learning_rate)
    assert not choices.marks(replace(answer, choice=choice)), "the arrow is on it"
    other = next(o for o in answer.options if o.kind == "tuned" and o is not best)
    assert other.gain_lost is not None
    below = replace(other, gain_lost=replace(other.gain_lost, value=-0.4))
    options = tuple(below if o is other else o for o in answer.options)
    text = printed(replace(answer, options=options))
    assert "below zero: better on the rows that score than the best by the rows that choose\n" in text
    guess = printed(replace(answer, worst_case=None))
    assert "<-- the best guess; nothing bounds what it may lose\n" in guess


def test_no_gain_says_so_and_what_it_usually_means() -> None:
    answer = sample("NO_GAIN")
    text = printed(answer)
    assert text.startswith("NO GAIN   Do not train on this as it is\n")
    assert "What that usually means:\n - The base model already writes these completions" in text
    assert "If you train anyway: r=4 " in text
    assert "of the gain lost" not in text
    worse = replace(answer, best_loss=replace(answer.best_loss, value=6.0))
    assert "Training does not beat mere token" in printed(worse)


@pytest.mark.parametrize("status", STATUSES)
def test_lines_fit_80_columns_except_commands(status: Status) -> None:
    commands = {f"  {step.command}" for step in sample(status).to_decide}
    for line in printed(sample(status)).splitlines():
        assert line in commands or len(line) <= 80
        assert line == line.rstrip()


def test_colour_on_a_terminal_and_none_in_a_pipe() -> None:
    assert "\x1b[" in printed(sample(), terminal=True)
    assert "\x1b" not in printed(sample())


@pytest.mark.parametrize("status", STATUSES)
def test_hostile_names_print_as_text(status: Status) -> None:
    text = printed(hostile(status))
    assert "[red]x[/red]" in text
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf")]


def test_an_interrupted_answer_says_so() -> None:
    answer = sample()
    stopped = replace(answer, provenance=replace(answer.provenance, interrupted=True))
    assert "Interrupted: answered from what was measured until then." in printed(stopped)
    assert "Interrupted" not in printed(answer)


def test_layers_left_out_are_named() -> None:
    answer = sample()
    partly = replace(answer, choice=replace(answer.choice, target_modules=("q_proj", "v_proj")))
    assert "on q_proj, v_proj" in printed(partly).splitlines()[0]
    fused = replace(
        answer, model=replace(answer.model, not_adapted=("model.layers.*.mlp.experts.gate_up_proj",))
    )
    assert "not adapted: model.layers.*.mlp.experts.gate_up_proj" in printed(fused).replace("\n", " ")
    probed_less = replace(
        answer, model=replace(answer.model, not_adapted=("model.layers.*.mlp.up_proj.weight",))
    )
    assert "all linear layers" not in printed(probed_less)


def test_nothing_is_called_safe_where_nothing_bounds_what_it_loses() -> None:
    text = printed(replace(sample("UNDECIDED"), worst_case=None))
    assert "Best guess meanwhile: r=32" in text
    assert "what it may lose at worst cannot be told from these runs" in text
    assert "Safe" not in text


def twins(own_only: bool) -> Recommendation:
    """r=16 was tried at 2e-4 alone, which is the person's own rate and a guide's; else at rates of its own, too."""
    answer = sample("UNDECIDED")
    rate = 2e-4
    tuned = next(o for o in answer.options if o.kind == "tuned" and o.rank == 16)
    guide = next(o for o in answer.options if o.kind == "guide" and o.rank == 16)
    same = replace(guide, kind="tuned", label="r=16", alpha=32.0, learning_rate=rate)
    yours = replace(guide, kind="yours", label="yours r=16 a=32 2e-4")
    rest = [o for o in answer.options if o.kind == "tuned" and o is not tuned]
    points = [p for p in answer.points if p.rank != 16]
    run = next(p for p in answer.points if p.role == "guide" and p.rank == 16)
    points += [replace(run, role="yours")]
    if not own_only:
        points += [replace(run, role="rank", learning_rate=4e-4)]
    return replace(answer, options=(*rest, same, yours, guide), points=tuple(points))


def test_a_setting_with_several_names_has_one_line() -> None:
    lines = [line for line in printed(twins(own_only=False)).splitlines() if "2e-4" in line]
    assert len(lines) == 1
    assert lines[0].startswith(" r=16  lr 2e-4 (yours/guide) ")
    assert len(lines[0]) == 80


def test_a_rank_that_was_tried_at_ones_own_rate_alone_is_open_and_says_so() -> None:
    text = printed(twins(own_only=True))
    assert "Tried and open: r=16 (yours alone), r=32, r=64, r=128" in " ".join(text.split())
    lines = [line for line in text.splitlines() if "2e-4" in line]
    assert len(lines) == 1 and lines[0].startswith(" yours/guide r=16 a=32 2e-4 ")
    assert "Tried and open: r=16, r=32" in printed(twins(own_only=False))
    guide = replace(twins(own_only=True), points=tuple(p for p in sample("UNDECIDED").points if p.rank != 16))
    assert "r=16 (" not in printed(guide)  # it was not run


def test_where_there_are_no_intervals_a_dash_stands_and_why() -> None:
    answer = sample("UNDECIDED")
    bare = tuple(
        replace(o, gain_lost=o.gain_lost and replace(o.gain_lost, low=None, high=None))
        for o in answer.options
    )
    few = replace(answer.data, score=FEWEST_EXAMPLES - 1)
    text = printed(replace(answer, options=bare, data=few))
    assert "6.9 % –   " in text
    assert "extrapolated." in text and "intervals include it" not in text
    assert f"–: no interval; {FEWEST_EXAMPLES} held-out rows must score for one, and fewer do.\n" in text
    enough = replace(answer.data, score=FEWEST_EXAMPLES)
    text = printed(replace(answer, options=bare, data=enough))
    assert "–: no interval; runs of so few steps are not to be relied on.\n" in text
    assert "–: no interval" not in printed(answer) and "(intervals include it)" in printed(answer)
    assert "intervals include it" not in printed(replace(answer, margin=None))


def test_a_setting_that_was_not_run_on_all_rows_is_said_to_be_extrapolated() -> None:
    answer = sample("UNDECIDED")
    whole = replace(answer.points[0], examples=answer.data.train)
    text = printed(replace(answer, points=(whole, *answer.points[1:])))
    assert f"~ Run on fewer than all {answer.data.train:,} rows; the rest is extrapolated." in text


def test_only_runs_on_all_rows_are_counted_as_such() -> None:
    answer = sample("FLAT")
    few = [p for p in answer.points if p.examples < answer.data.train]
    all_rows = [p for p in answer.points if p.examples == answer.data.train]
    assert few and all_rows
    said = " ".join(printed(answer).split())
    assert (
        f"{len(all_rows)} runs of your recipe on all {answer.data.train:,} rows and {len(few)} on fewer, 2 seeds"
        in said
    )
    one = " ".join(printed(replace(answer, points=tuple(all_rows[:1]))).split())
    assert f"1 run of your recipe on all {answer.data.train:,} rows, 1 seed" in one


def test_held_out_rows_that_did_not_judge_and_rows_that_were_dropped_say_why() -> None:
    answer = sample("FLAT")
    told = printed(replace(answer, data=replace(answer.data, judged=60, dropped=24)))
    said = " ".join(told.split())
    assert "60 of 300 held-out rows (judging by all would take too much of the time)." in said
    assert "24 rows dropped (no trained token within 2,048 tokens)" in said
    dropping = replace(
        answer,
        data=replace(answer.data, judged=300, dropped=1),
        recipe=replace(answer.recipe, over_long="drop"),
    )
    said = " ".join(printed(dropping).split())
    assert "2 seeds, 300 held-out rows." in said
    assert "1 row dropped (longer than 2,048 tokens)" in said


def test_files_in_the_reports_folder_are_named_once_and_a_gguf_beside_them() -> None:
    answer = sample()
    paths = {
        "Config": "run/mine.yml (3 lines changed)",
        "Report": "run/report.html",
        "TRL": "run/trl_sft.yaml",
    }
    paths |= {"Answer": "run/recommendation.json", "Finished adapter": "run/f (trained on all 9 rows)"}
    file = io.StringIO()
    gguf = replace(answer, model=replace(answer.model, name="models/x.gguf"))
    print_recommendation(gguf, Console(file=file, width=80), paths)
    lines = file.getvalue().splitlines()
    assert lines[-7:] == [
        "Config: run/mine.yml (3 lines changed)",
        "Report: run/report.html",
        "Finished adapter: run/f (trained on all 9 rows)",
        "Beside it: trl_sft.yaml, recommendation.json",
        "The configs train on all your rows, those held out here too.",
        "These configs cannot run as they are: they name a GGUF file, which no trainer",
        "reads. Put the name of the model that it was made from in its place.",
    ]
    assert "GGUF" not in printed(answer)
    given = replace(answer, data=replace(answer.data, held_out_from="--eval-data"))
    assert trained_on(answer) and not trained_on(given), "held-out rows of their own file are not trained on"


def test_of_what_was_assumed_what_matters_most_is_named() -> None:
    answer = sample()
    bare = replace(answer, recipe=replace(answer.recipe, origins={}))
    assert "Assumed: epochs, batch size, maximum length and 9 more (see report)\n" in printed(bare)
