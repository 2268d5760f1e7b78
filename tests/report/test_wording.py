"""How numbers and other people's words are written, and the summary in a notebook."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.samples import HOSTILE, STATUSES, hostile, sample
from rightrank import recommendation_html as wording
from rightrank.recommendation import Figure, Status


def test_escape_sequences_vanish_whole() -> None:
    assert wording.clean("a\x1b[31mb\x1b[0m\x1b]0;title\x07c\x9b2Jd\x1b(Be") == "abcde"
    assert wording.clean("\x1b]8;;x\x1b\\link\x1b]8;;\x1b\\") == "link"


def test_lines_become_one_and_bidirectional_controls_go() -> None:
    assert wording.clean("a\r\nb\u202egnp\u2066\u200b") == "a  bgnp"


def test_honest_names_are_left_alone() -> None:
    for name in ("meta-llama/Llama-3-8B", "[bold] <b> 'q' \"d\"", "données/日本語 – 100 %.jsonl"):
        assert wording.clean(name) == name


@given(st.text(st.characters()))
def test_clean_text_steers_nothing_and_can_be_encoded(text: str) -> None:
    cleaned = wording.clean(text)
    cleaned.encode("utf-8")
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert wording.clean(cleaned) == cleaned


def test_several_lines_keep_breaks_and_indentation() -> None:
    assert wording.clean_lines("a\n  b\x1b[1m\n") == "a\n  b\n"


@given(st.floats(1e-7, 9.0))
def test_learning_rates_read_back(value: float) -> None:
    assert float(wording.learning_rate(value, 3)) == pytest.approx(value, rel=5.1e-3)


def test_numbers() -> None:
    assert wording.learning_rate(4e-4) == "4e-4"
    assert wording.learning_rate(1.26e-3) == "1.3e-3"
    assert wording.learning_rate(1.0) == "1e0"
    assert wording.percent(-0.04) == "0.0 %"
    assert wording.percent(255.3) == "255 %"
    assert wording.loss(0.01234) == "0.0123"
    assert wording.loss(1.2345) == "1.234"
    assert wording.percent_interval(Figure(2.4, "%", "measured", 1.6, 3.2)) == "2.4 % [1.6, 3.2]"
    assert wording.percent_interval(Figure(2.4, "%", "measured")) == "2.4 %"
    assert [wording.minutes(m) for m in (0.4, 41.2, 150)] == ["less than a minute", "41 min", "2.5 h"]
    assert [wording.about_minutes(m) for m in (0.4, 41.2)] == ["less than a minute", "about 41 min"]
    assert wording.epochs(1.0) == "1 epoch"
    assert wording.epochs(0.5) == "0.5 epochs"
    assert wording.count(2700, "row") == "2,700 rows"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("status", STATUSES)
def test_notebooks_show_the_answer_and_the_table(status: Status) -> None:
    answer = sample(status)
    shown = Tags(answer._repr_html_())
    assert status.replace("_", " ") in shown.text
    assert answer.headline in shown.text
    assert wording.use(answer.choice, answer.model) in shown.text
    assert shown.tags.count("tr") == 1 + len(answer.options)


def test_hostile_names_stay_text_in_notebooks() -> None:
    text = hostile()._repr_html_()
    assert set(Tags(text).tags) <= {"div", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert HOSTILE not in text
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf")]
