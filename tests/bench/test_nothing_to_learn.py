"""The data that teach nothing are what they are said to be."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from bench.nothing_to_learn import random_words, read, shuffled, stops, written

from rightrank.bank.base_model import load_base
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_prompts_are_read_once_and_shuffled_rows_keep_their_completions(tmp_path: Path) -> None:
    rows = small_rows(60)
    save_rows(tmp_path / "rows.jsonl", [*rows, *rows])
    some = read(tmp_path / "rows.jsonl", 40)
    assert len({row["prompt"] for row in some}) == len(some) == 40
    dealt = shuffled(some)
    assert Counter(row["completion"] for row in dealt) == Counter(row["completion"] for row in some)
    assert [row["prompt"] for row in dealt] == [row["prompt"] for row in some]
    assert sum(a["completion"] != b["completion"] for a, b in zip(dealt, some, strict=True)) > 20


def test_random_words_say_nothing_of_the_prompt(tmp_path: Path) -> None:
    base = load_base(save_model(tmp_path / "model"))
    rows = small_rows(30)
    drawn = random_words(rows, base)
    assert {row["prompt"] for row in drawn} <= {row["prompt"] for row in rows}
    assert json.dumps(drawn) == json.dumps(random_words(rows, base)), "the same every time"
    words = Counter(word for row in drawn for word in row["completion"].split())
    assert len(words) > 10, "of a vocabulary of a few dozen"


def test_what_the_base_writes_ends_where_the_base_ends_or_where_rows_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own stop tokens, where its tokenizer names another."""
    base = load_base(save_model(tmp_path / "model"))
    base.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    rows = small_rows(20)

    def lengths() -> list[int]:
        return [len(base.tokenizer(row["completion"])["input_ids"]) for row in written(rows, base, 40)]

    others = [i for i in range(base.vocabulary) if i != base.tokenizer.eos_token_id]
    base.model.generation_config.eos_token_id = others[::2]
    ended = lengths()
    assert 0 < len(ended) <= len(rows)
    assert sum(ended) / len(ended) < 5, "every second token ends it, and most others are no words"
    monkeypatch.setattr("bench.nothing_to_learn.stops", lambda base: [base.vocabulary + 1])
    assert sum(lengths()) > 5 * sum(ended), "nothing ends it"


def test_the_models_own_stop_tokens_count_beside_its_tokenizers(tmp_path: Path) -> None:
    base = load_base(save_model(tmp_path / "model"))
    for own, expected in ((None, set()), (5, {5}), ([5, 7], {5, 7})):
        base.model.generation_config.eos_token_id = own
        assert set(stops(base)) == expected | {base.tokenizer.eos_token_id}
