"""Cuts of the largest rank, in the terminal and on the page."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from report.samples import sample
from rightrank.besides.results import Change, CutOfRun, CutsOfRun
from rightrank.cuts.words import beside
from rightrank.report import besides, page
from rightrank.report.terminal import print_recommendation


def cut(rank, lost, against, verdict, *, half=0.4, scored=True):
    return CutOfRun(
        rank,
        1.203 + lost / 100,
        Change(lost, lost - half, lost + half),
        Change(against, against - half, against + half),
        verdict,
        200 if scored else 64,
        scored,
    )


CUTS = CutsOfRun(
    128, 64.0, 3e-4, 16, 128, 200,
    (cut(4, 112.0, 111.9, "worse", half=3, scored=False), cut(8, 0.6, 0.5, "as good"), cut(16, -0.9, -1.0, "better")),
    "Rank 128 cut to 16 is better than rank 16 as trained.", 16,
)  # fmt: skip


def answer(**changes):
    return replace(sample("SETTLED"), cuts=replace(CUTS, **changes))


def test_the_block_reads_as_designed():
    file = io.StringIO()
    print_recommendation(answer(), Console(file=file, width=80), {})
    lines = file.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Cut instead of trained"))
    assert lines[start : start + 9] == [
        "Cut instead of trained: the adapter of r=128 lr 3e-4, its smallest directions",
        "left out",
        "                                loss   gain lost [95 %]      against r=16",
        " r=4 cut from r=128           ~2.323   112 % [109, 115]      worse",
        " r=8 cut from r=128            1.209   0.6 % [0.2, 1.0]      as good",
        " r=16 cut from r=128           1.194  -0.9 % [-1.3, -0.5]    better",
        "Rank 128 cut to 16 is better than rank 16 as trained.",
        "128 held-out rows chose, 200 others scored; one run each, so the intervals count",
        "rows, not seeds. ~ Left behind early, by the rows that choose.",
    ]
    assert all(len(line) <= 80 for line in lines)
    whole = answer(cuts=CUTS.cuts[1:])
    assert "~" not in besides.cut_basis(whole) and not besides.cut_title(sample("SETTLED"))


def test_the_page_shows_the_same():
    html = page.render(answer())
    assert '<tr class="chosen"><th scope="row">r=16 cut from r=128</th>' in html
    for row in besides.cut_rows(answer()):
        assert row.gain_lost.replace("-", "−") in html and f'<td class="text">{row.verdict}</td>' in html
    assert CUTS.sentence in html and "against r=16 as trained" in html
    assert "Cut instead of trained" not in page.render(sample("SETTLED"))


def test_the_sentence_says_what_is_known():
    assert beside(CUTS, 16, 8, 1.0) == (
        "Rank 128 cut to 16 is better than rank 16 as trained: it loses 1.0 % [0.6, 1.4] less of the gain, and is kept as cut_adapter."
    )
    assert "kept" not in beside(replace(CUTS, kept=None), 16, 8, 1.0)
    assert beside(CUTS, None, 8, 0.52) == (
        "Rank 128 cut to 8 is as good as rank 16 as trained, to within 0.52 % of the gain."
    )
    unclear = replace(CUTS, cuts=(CUTS.cuts[0], cut(8, 1.0, 1.0, "cannot tell", half=2)))
    assert beside(unclear, None, None, 1.0) == (
        "Whether a cut of rank 128 is as good as rank 16 as trained cannot be told from 200 rows."
    )
    worse = replace(CUTS, cuts=CUTS.cuts[:1])
    assert beside(worse, None, None, 1.0) == "No cut of rank 128 is as good as rank 16 as trained."
