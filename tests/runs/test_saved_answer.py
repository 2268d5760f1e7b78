"""``recommendation.json`` from a stranger: what no answer can say is refused, whatever the rest of it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from report.samples import sample
from rightrank.errors import DataError
from rightrank.recommendation import Recommendation


def with_(path: str, value: Any) -> str:
    raw = json.loads(sample().to_json())
    at = raw
    *way, last = path.split(".")
    for key in way:
        at = at[int(key)] if key.isdigit() else at[key]
    at[last] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("choice.rank", 0), ("choice.rank", -8), ("choice.rank", 2**40), ("choice.learning_rate", 0.0), ("choice.learning_rate", -1e-4),
        ("choice.alpha", float("nan")), ("choice.epochs", float("inf")), ("options.0.rank", 0), ("points.0.examples", -1),
        ("data.train", 0), ("data.rows", -1), ("model.parameters", 10**30), ("recipe.epochs", -1), ("recipe.warmup_ratio", 7),
        ("headline", "\ud800"), ("status", "SURE"), ("gain.source", "invented"),
    ],
)  # fmt: skip
def test_what_no_answer_can_say(path: str, value: Any) -> None:
    with pytest.raises(DataError, match="damaged"):
        Recommendation.from_json(with_(path, value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"schema": 1}',
        '{"schema": 1e999}',
        '{"a":' * 5_000,
        " " * (65 * 2**20),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(DataError):
        Recommendation.from_json(text)


def test_an_honest_one_is_read() -> None:
    assert Recommendation.from_json(sample().to_json()) == sample()
