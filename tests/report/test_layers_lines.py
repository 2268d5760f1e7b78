"""Attention alone and the MLP alone against all layers, in the terminal and on the page."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from report.samples import sample
from rightrank.besides.layer_words import sentence
from rightrank.besides.results import Change, LayersAlone, LayersCompared
from rightrank.report import besides, page
from rightrank.report.terminal import print_recommendation

RATES = (1e-4, 3e-4, 1e-3)


def alone(layers, rank, lost, half, verdict, *, rate=3e-4, modules=("q_proj", "o_proj")):
    change = Change(lost, lost - half, lost + half)
    at_the_end = rate in (RATES[0], RATES[-1])
    loss = 1.203 + lost / 100
    return LayersAlone(layers, rank, 40.0, rate, RATES, 1_250_000, modules, loss, change, verdict, at_the_end)


ATTENTION = alone("attention", 43, 3.1, 1.1, "worse")
MLP = alone("mlp", 25, 0.2, 0.6, "as good", rate=1e-3, modules=("up_proj", "down_proj"))


def said(*kinds, named=False, max_rank=None):
    return sentence(kinds, score=200, margin_percent=1.0, named=named, max_rank=max_rank)


COMPARED = LayersCompared(
    16, 32.0, 3e-4, RATES, 1_221_120, 1.203, 1350, 2700, 200, (ATTENTION, MLP), said(ATTENTION, MLP)
)


def test_the_block_reads_as_designed():
    file = io.StringIO()
    answer = replace(sample("SETTLED"), layers=COMPARED)
    print_recommendation(answer, Console(file=file, width=80), {})
    lines = file.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Which layers"))
    assert lines[start : start + 13] == [
        "Which layers, at the same size (about 1,221,120 parameters): each at the best of",
        "its learning rates, trained on 1,350 of 2,700 rows",
        "                                loss   gain lost [95 %]      against all",
        " all layers r=16 lr 3e-4       1.203",
        " attention r=43 lr 3e-4        1.234   3.1 % [2.0, 4.2]      worse",
        " MLP r=25 lr 1e-3              1.205   0.2 % [-0.4, 0.8]     as good",
        "At the same size attention alone loses 3.1 % of the gain [2.0, 4.2], the MLP",
        "alone 0.2 % [-0.4, 0.8]. The MLP alone does as well, to within 1 % of the gain.",
        "Keep all linear layers, or adapt up_proj, down_proj alone with r=25, alpha=40,",
        "lr 1e-3.",
        "Gain lost: of what all layers gain on these 200 held-out rows, which chose no",
        "learning rate; one run each, so the intervals count rows, not seeds. Best at the",
        "end of the learning rates tried, and perhaps better beyond: MLP alone.",
    ]
    assert all(len(line) <= 80 for line in lines)
    assert not besides.layers_title(sample("SETTLED"))


def test_the_page_says_the_same():
    html = page.render(replace(sample("SETTLED"), layers=COMPARED))
    assert "<h2>Which layers</h2>" in html and "MLP r=25 1e-3" in html
    assert "3.1 % [2.0, 4.2]" in html.replace("\u00a0", " ")
    assert "Which layers" not in page.render(sample("SETTLED"))


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ((ATTENTION, replace(MLP, verdict="worse")), "Keep all linear layers."),
        ((ATTENTION, replace(MLP, verdict="better")), "The MLP alone is better here than all linear layers: adapt up_proj"),
        (
            (ATTENTION, replace(MLP, verdict="cannot tell")),
            "Whether the MLP alone does as well cannot be told from 200 rows: keep all linear layers.",
        ),
        (
            (replace(ATTENTION, verdict="cannot tell"), replace(MLP, verdict="cannot tell")),
            "Whether attention alone and the MLP alone do as well cannot be told from 200 rows",
        ),
        ((MLP,), "At the same size the MLP alone loses 0.2 % of the gain [-0.4, 0.8]."),
    ],
)  # fmt: skip
def test_every_verdict_says_what_to_do(kinds, words):
    assert words in said(*kinds)


def test_a_rank_that_cannot_be_served_and_other_words_are_said():
    assert "which is beyond your largest rank of 16" in said(MLP, max_rank=16)
    assert "beyond" not in said(MLP, max_rank=32)
    assert "Keep all the layers that you name" in said(ATTENTION, MLP, named=True)
    many = replace(MLP, modules=tuple(f"h.{i}.mlp.c_proj" for i in range(24)))
    assert "the 24 modules that recommendation.json names" in said(many)


def test_names_of_modules_are_other_people_s_words():
    hostile = replace(MLP, modules=("up\x1b[31m_proj", "<b>down</b>"))
    assert "\x1b" not in said(hostile)
    answer = replace(sample("SETTLED"), layers=replace(COMPARED, alone=(hostile,), sentence=said(hostile)))
    html = page.render(answer)
    assert "<b>down" not in html and "&lt;b&gt;down" in html
    raw = replace(answer, layers=replace(COMPARED, sentence="<i>\x1b[2J"))
    file = io.StringIO()
    print_recommendation(raw, Console(file=file, width=80), {})
    assert "\x1b" not in file.getvalue() and "<i>" not in page.render(raw)
