"""The page: true for every status, self-contained, and deaf to what hostile names try."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from report.samples import HOSTILE, STATUSES, hostile, sample
from rightrank.recommendation import Recommendation, Status
from rightrank.report import page
from rightrank.report.facts import how_it_ran

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "input", "br"}
CONFIGS = {"PEFT": '{"r": 16}\n', "TRL": "trl sft --packing False\n"}


class Reader(HTMLParser):
    """Collects the visible text and every tag, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_makes_a_small_page_that_loads_nothing(status: Status) -> None:
    text = page.render(sample(status), configs=CONFIGS)
    assert len(text.encode()) < 300_000
    assert "://" not in text
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    for _, attributes in Reader(text).tags:
        assert not {"src", "srcset", "action", "style"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("packed rows", "on the fast path"),
        (
            "padded rows, slower (packed rows: sliding windows differ)",
            "on the slower path (packed rows: sliding windows differ)",
        ),
        (
            "packed rows, captured steps of compiled layers",
            "on the fast path (captured steps of compiled layers)",
        ),
        (
            "packed rows, steps one by one (LoRA dropout is drawn anew at every step)",
            "on the slower path (steps one by one: LoRA dropout is drawn anew at every step)",
        ),
    ],
)
def test_how_a_model_ran_in_the_readers_words(path: str, words: str) -> None:
    assert how_it_ran(path) == words


@pytest.mark.parametrize("status", STATUSES)
def test_words_that_only_the_code_uses_do_not_appear(status: Status) -> None:
    answer = sample(status)
    answer = replace(answer, model=replace(answer.model, path="padded: sliding windows differ"))
    text = Reader(page.render(answer, configs=CONFIGS)).text.lower()
    assert re.findall(r"\b(banks?|packs?|packed|padded|rungs?|surfaces?|regrets?)\b", text) == []
    assert "on the slower path (sliding windows differ)" in text


@pytest.mark.parametrize("status", STATUSES)
def test_first_screen_says_status_answer_and_basis(status: Status) -> None:
    answer = sample(status)
    text = Reader(page.render(answer)).text.replace("\xa0", " ")
    head = text[: text.index("The choices")]
    assert status.replace("_", " ") in head
    assert answer.headline in head
    assert f"rank {answer.choice.rank}" in head
    for word in ("Measured", "Assumed", "Would change it", "held-out rows"):
        assert word in head
    assert "validated on SmolLM2-135M only so far" in text
    lead = {"NO_GAIN": "If you train anyway", "UNDECIDED": "Safe meanwhile"}.get(status, "Use")
    assert lead in head


def test_undecided_says_what_is_ruled_out_the_worst_case_and_what_would_decide() -> None:
    answer = sample("UNDECIDED")
    text = Reader(page.render(answer)).text.replace("\xa0", " ")
    assert "Ruled out: r=4, r=8. Tried and open: r=16, r=32, r=64, r=128." in text
    assert "At worst 1.8 % of the gain lost" in text
    assert "← safe" in text
    unbounded = Reader(page.render(replace(answer, worst_case=None))).text.replace("\xa0", " ")
    assert "Best guess meanwhile" in unbounded
    assert "← guess" in unbounded
    assert "safe" not in unbounded.lower().partition("the choices")[0]
    assert answer.to_decide[0].command in text
    assert "About 64 min." in text
    assert "Time unknown." in text


def test_no_gain_speaks_of_losses_and_never_of_shares_of_a_gain() -> None:
    answer = sample("NO_GAIN")
    text = Reader(page.render(answer)).text.replace("\xa0", " ")
    assert "What that usually means" in text
    assert "the base model without training 1.201" in text
    assert "of the gain lost" not in text
    worse = replace(answer, best_loss=replace(answer.best_loss, value=6.0))
    assert "does not beat mere token frequencies" in Reader(page.render(worse)).text


def test_the_table_holds_the_numbers_of_the_chart() -> None:
    answer = sample("SETTLED")
    text = Reader(page.render(answer)).text
    for cell in (
        "2.4 % [1.6, 3.2]",
        "0.1 % [−0.5, 0.7]",
        "14.8 % [13.4, 16.2]",
        "~1.204",
        "yours r=32 a=16 2e-4",
    ):
        assert cell in text


def test_every_loss_says_which_held_out_rows_it_is_on() -> None:
    text = " ".join(Reader(page.render(sample("SETTLED"))).text.split())
    choices, runs = text.index("The choices"), text.index("runs in numbers")
    assert "loss, rows that score" in text[choices:runs]
    assert "loss, rows that choose" in text[runs:] and "rows that choose, and gain lost" in text[runs:]
    assert "Losses, on the rows that score" in text
    assert "held-out loss" not in re.sub("held-out loss of the best run", "", text)
    assert text.count("by the held-out rows that choose") == 2


def test_intervals_are_spoken_of_only_where_some_are_shown() -> None:
    answer = sample("SETTLED")
    bare = tuple(
        replace(o, gain_lost=o.gain_lost and replace(o.gain_lost, low=None, high=None))
        for o in answer.options
    )
    said = ("Lines are 95 % intervals", "intervals include it")
    assert all(words in Reader(page.render(answer)).text for words in said)
    assert not any(words in Reader(page.render(replace(answer, options=bare))).text for words in said)


def test_the_table_of_runs_withholds_what_the_choices_withhold() -> None:
    answer = sample("SETTLED")

    def runs(answer: Recommendation) -> str:
        text = Reader(page.render(answer)).text
        return text[text.index("runs in numbers") : text.index("Here losses are")]

    assert "14.8 % [14.0, 15.6]" in runs(answer)
    assert "14.8 %" not in runs(replace(answer, margin=None))  # no certain gain, so no share of it
    bare = [
        replace(p, gain_lost=p.gain_lost and replace(p.gain_lost, low=None, high=None)) for p in answer.points
    ]
    assert "14.8 % –" in runs(replace(answer, points=tuple(bare)))


def test_extrapolation_is_told_and_only_where_there_is_some() -> None:
    sentence = "Measured to 1,350 rows; 2,700 extrapolated (intervals include it)."
    assert sentence in Reader(page.render(sample("SETTLED"))).text
    assert "xtrapolat" not in Reader(page.render(sample("FLAT"))).text


@pytest.mark.parametrize("status", STATUSES)
def test_hostile_names_stay_text(status: Status) -> None:
    text = page.render(hostile(status), configs={HOSTILE: HOSTILE})
    read = Reader(text)
    tags = [tag for tag, _ in read.tags]
    assert tags.count("script") == 1
    # One title for the page, the others inside the charts' SVG.
    assert text.count("</title>") == tags.count("title")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not [c for c in text if c in "\x1b\x07\x9b\u202e\u2066\r"]
    for _, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on")]


def test_the_policy_admits_the_pages_own_script_and_style_and_nothing_else() -> None:
    text = page.render(sample())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = policy[1].replace("&#39;", "'")
    assert rules.startswith("default-src 'none';")
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules


def test_configs_are_shown_as_they_are() -> None:
    text = page.render(sample(), configs=CONFIGS)
    assert 'class="config"><pre id="config-1">{&#34;r&#34;: 16}\n</pre>' in text
    assert "<h2>Configs</h2>" not in page.render(sample())


def test_write_makes_the_folder_and_a_file_that_can_be_read_back(tmp_path: Path) -> None:
    path = page.write(sample(), tmp_path / "deep" / "out", CONFIGS)
    assert path.name == "report.html"
    assert path.read_text(encoding="utf-8") == page.render(sample(), CONFIGS)


def test_a_file_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    answer = sample()
    page.write(replace(answer, data=replace(answer.data, name="caf\udce9.jsonl")), tmp_path)


@pytest.mark.parametrize("status", STATUSES)
def test_the_page_of_a_saved_answer_is_the_page_of_the_answer(status: Status) -> None:
    answer = sample(status)
    again = Recommendation.from_json(answer.to_json())
    assert again == answer
    assert page.render(again) == page.render(answer)


def test_reports_and_configs_need_no_torch() -> None:
    code = (
        "import sys, rightrank.report.page, rightrank.report.terminal, rightrank.trainers\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
