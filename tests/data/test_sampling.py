"""A sample of a data set too large to hold: uniform, counted, in order, never more than the limits; and what is made of it."""

from __future__ import annotations

import json
import weakref
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rightrank.data import each_conversational_row, prepare, read_rows, sampling, understand
from rightrank.data.sampling import sampled, weight
from rightrank.errors import MalformedRowError
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator


class Row(dict[str, Any]):
    """A row that can be watched."""


def test_below_the_limits_everything_is_kept() -> None:
    rows = [(i, {"text": str(i)}) for i in range(1, 101)]
    assert sampled("x", rows, most_rows=100) == (tuple(rows), 100)


def test_every_row_has_the_same_chance_wherever_it_stands() -> None:
    """Which tenth of the source the kept rows are from: chi-squared of nine degrees of freedom, 27.9 at 1 in 1,000."""
    rows = ((i, {"text": "x"}) for i in range(1, 50_001))
    kept, total = sampled("x", rows, most_rows=5_000)
    assert total == 50_000 and len(kept) == 5_000
    lines = np.array([line for line, _ in kept])
    assert (np.diff(lines) > 0).all()
    counts = np.bincount((lines - 1) // 5_000, minlength=10)
    assert ((counts - 500) ** 2 / (500 * 0.9)).sum() < 27.9


def test_text_is_limited_too() -> None:
    rows = ((i, {"text": "x" * 936}) for i in range(1, 1_001))  # 1,000 with the row and its value
    size = weight({"text": "x" * 936}, "x", 1)
    kept, total = sampled("x", rows, most_bytes=100 * size)
    assert len(kept) == 100 and total == 1_000
    kept, _ = sampled("x", [(1, {"text": "x" * 5_000})], most_bytes=10)
    assert len(kept) == 1, "one row there must be"


def test_no_more_rows_are_held_than_are_kept() -> None:
    alive: dict[int, None] = {}
    most = 0

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        nonlocal most
        for number in range(1, 3_001):
            row = Row(text="x")
            alive[number] = None
            weakref.finalize(row, alive.pop, number)
            most = max(most, len(alive))
            yield number, row

    kept, total = sampled("x", rows(), most_rows=50)
    assert len(kept) == 50 and total == 3_000
    assert most <= 53


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"a": "x" * 70_000_000}, "is larger than 64 MiB"),
        ({"a": [0] * 1_200_000}, "is larger than 64 MiB"),
        (["a"], "is no mapping"),
        (None, "is no mapping"),
    ],
)
def test_rows_that_are_none(row: Any, why: str) -> None:
    with pytest.raises(MalformedRowError, match=f"data, line 7 {why}"):
        sampled("data", [(7, row)])


def test_a_row_that_holds_itself() -> None:
    row: dict[str, Any] = {"text": "x"}
    row["self"] = row
    with pytest.raises(MalformedRowError, match="nested more than 100 levels deep"):
        read_rows([row])


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """1,000 rows, of which 200 can be held."""
    monkeypatch.setattr(sampling, "MOST_ROWS", 200)
    path = tmp_path / "large.jsonl"
    rows = [
        {"prompt": f"question {i} {i * 7919 % 1000} {'abcdefghij'[i % 10] * 8}", "completion": f"answer {i}"}
        for i in range(1_000)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_sample_stands_for_all(large: Path, chat_tokenizer: Any) -> None:
    parsed = understand(large)
    assert parsed.rows == 1_000 and len(parsed.conversations) == 200
    data = prepare(large, chat_tokenizer, Recipe())
    assert data.rows == 1_000
    assert len(data.train) + len(data.decide) + len(data.score) == 200
    assert data.train_rows == data.train_of_all == 800 + len(data.train)
    assert "large.jsonl has 1,000 rows; 200 of them, drawn at random, stand for all." in data.notes
    assert all(conversation.line > 0 for conversation in parsed.conversations)
    texts = large.read_text().splitlines()
    assert all(
        json.loads(texts[one.line - 1])["prompt"] == one.turns[0].content for one in parsed.conversations
    )


def test_rows_that_cannot_be_used_are_taken_off_in_the_same_share(large: Path, chat_tokenizer: Any) -> None:
    """Every fifth row is too long: of 800 rows that were not read about 640 will be trained on."""
    rows = [json.loads(line) for line in large.read_text().splitlines()]
    for row in rows[::5]:
        row["completion"] = "long " * 500
    large.write_text("\n".join(map(json.dumps, rows)))
    data = prepare(large, chat_tokenizer, Recipe(max_length=100, over_long="drop"))
    usable = 200 - data.dropped
    assert 140 < usable < 180
    assert data.train_rows == len(data.train) + round(800 * usable / 200)


def test_a_sample_is_known_by_how_many_it_stands_for(large: Path, chat_tokenizer: Any) -> None:
    before = prepare(large, chat_tokenizer, Recipe()).fingerprint
    assert prepare(large, chat_tokenizer, Recipe(), seed=5).fingerprint == before, "the sample is the data's"
    with large.open("a") as file:
        file.write('\n{"prompt": "one more", "completion": "x"}')
    assert prepare(large, chat_tokenizer, Recipe()).fingerprint != before


def test_trainers_get_every_row(large: Path) -> None:
    rows = list(each_conversational_row(large))
    assert len(rows) == 1_000
    assert rows[-1]["completion"] == [{"role": "assistant", "content": "answer 999"}]
    lines = large.read_text().splitlines()
    spoilt = next(
        i for i in range(1_000) if i + 1 not in {one.line for one in understand(large).conversations}
    )
    lines[spoilt] = '{"prompt": "no answer"}'
    large.write_text("\n".join(lines))
    assert understand(large).rows == 1_000, "not in the sample"
    with pytest.raises(MalformedRowError, match=f"line {spoilt + 1} lacks the field 'completion'"):
        list(each_conversational_row(large))
