"""The person's own measure and the old skills, in the terminal and on the page."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from report.samples import HOSTILE, sample
from rightrank.besides.results import Change, Forgetting, Forgot, OwnMeasure, OwnValue
from rightrank.report import besides, page
from rightrank.report.terminal import print_recommendation

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation

OWN = OwnMeasure(
    command="python evaluate.py --shots 0",
    base=0.21,
    examples=1350,
    values=(
        OwnValue(16, 32, 4e-4, 0, ("chosen", "smallest"), 0.58),
        OwnValue(64, 45, 3e-4, 0, ("best",), 0.71),
        OwnValue(32, 16, 2e-4, 0, ("yours",), None),
        OwnValue(16, 32, 4e-4, 1, (), 0.6),
    ),
    verdict="disagrees",
    sentence="Your own measure disagrees: 0.71 for r=64 lr 3e-4, 0.59 for r=16 lr 4e-4, which the loss chooses (more than repeats differ).",
)


def forgot(rank: int, value: float, half: float) -> Forgot:
    nats = Change(value, value - half, value + half)
    return Forgot(rank, 32, 4e-4, nats, Change(*(50 * x for x in (nats.value, nats.low, nats.high))), 61.4)


OLD = Forgetting(
    "old.jsonl", "messages", "abcd", 500, 12_000, 2.0, 60.2, 1350,
    (forgot(4, 0.004, 0.01), forgot(16, 0.08, 0.02), forgot(64, -0.08, 0.02), forgot(128, 0.08, 0.2)),
)  # fmt: skip


def answer(**changes: object) -> Recommendation:
    return replace(sample("SETTLED"), own_measure=OWN, forgetting=OLD, **changes)  # type: ignore[arg-type]


def printed(recommendation: Recommendation) -> list[str]:
    file = io.StringIO()
    print_recommendation(recommendation, Console(file=file, width=80), {})
    return file.getvalue().splitlines()


def test_a_measure_that_speaks_against_the_answer_comes_before_it() -> None:
    lines = printed(answer())
    assert lines[0].startswith("Your own measure disagrees: 0.71 for r=64 lr 3e-4")
    assert lines[3].startswith("SETTLED   Use r=16")
    html = page.render(answer())
    assert html.index("Your own measure disagrees") < html.index('class="answer"')
    calm = replace(OWN, verdict="agrees", sentence="Your own measure agrees: 0.58.")
    quiet = printed(replace(answer(), own_measure=calm))
    assert quiet[0].startswith("SETTLED") and "Your own measure agrees: 0.58." in quiet
    assert not besides.first(sample("SETTLED")) and "Your own measure" not in page.render(sample("SETTLED"))


@pytest.mark.parametrize(
    ("verdict", "first"), [("may be chance", True), ("no gain", True), ("not measured", False)]
)
def test_only_what_contradicts_comes_first(verdict: str, first: bool) -> None:
    said = besides.first(replace(answer(), own_measure=replace(OWN, verdict=verdict)))  # type: ignore[arg-type]
    assert bool(said) is first


def test_both_tables_read_as_designed() -> None:
    lines = printed(answer())
    start = next(i for i, line in enumerate(lines) if line.startswith("Your own measure (python"))
    assert lines[start : start + 14] == [
        "Your own measure (python evaluate.py --shots 0), higher is better; adapters",
        "trained on 1,350 rows",
        " untrained                        0.21",
        " r=16  lr 4e-4           <--      0.58  chosen, smallest not ruled out; other",
        "                                        seeds 0.6",
        " r=64  lr 3e-4                    0.71  best by the loss",
        " r=32  lr 2e-4                  failed  yours",
        "",
        "Old skills (old.jsonl, 500 of 12,000 rows): loss 2.000 and 60 % of the tokens",
        "right untrained; adapters trained on 1,350 rows",
        "                             loss lost [95 %]         of loss right",
        " r=4   lr 4e-4               +0.004 [-0.006, +0.014]   +0.2 %  61 %  keeps",
        " r=16  lr 4e-4           <-- +0.080 [+0.060, +0.100]   +4.0 %  61 %  loses",
        " r=64  lr 4e-4               -0.080 [-0.100, -0.060]   -4.0 %  61 %  gains",
    ]
    assert lines[start + 14].endswith("cannot tell") and all(len(line) <= 80 for line in lines)


def test_the_page_shows_the_same_numbers() -> None:
    html = page.render(answer())
    for row in besides.old_rows(answer()):
        assert row.change.replace("-", "−") in html and row.verdict in html
    for own in besides.own_rows(answer()):
        assert own.value.replace("-", "−") in html and own.why in html


def test_words_from_outside_do_nothing() -> None:
    hostile = replace(
        answer(),
        own_measure=replace(OWN, command=HOSTILE, sentence=HOSTILE),
        forgetting=replace(OLD, name=HOSTILE),
    )
    text = "\n".join(printed(hostile))
    assert not any(c in text for c in "\x1b\x07\u202e") and "<script>alert" not in page.render(hostile)
