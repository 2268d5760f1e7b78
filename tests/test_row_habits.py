"""What a trainer makes of the rows it finds is settled when they are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank import data
from rightrank.recipe import Recipe, RowFormat
from rightrank.request import Request
from rightrank.row_habits import as_its_trainer_reads, warm_up_share, with_template_noted, with_warm_up_steps

STRINGS = [{"prompt": f"a {i}", "completion": "b"} for i in range(3)]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"a {i}"}, {"role": "assistant", "content": "b"}]}
    for i in range(3)
]


@pytest.mark.parametrize(
    ("rows", "template", "loss_on"), [(STRINGS, False, "completion"), (CHATS, True, "all")]
)
def test_trl_joins_strings_as_they_are_and_trains_whole_conversations(
    rows: list[dict[str, Any]], template: bool, loss_on: str
) -> None:
    request = Request("m", rows, string_template=False, message_loss_on="all")
    found = as_its_trainer_reads(request, data.understand(rows))
    assert (found.chat_template, found.recipe.loss_on) == (template, loss_on)
    plain = as_its_trainer_reads(Request("m", rows), data.understand(rows))
    assert (plain.chat_template, plain.recipe.loss_on) == (True, "completion")


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_a_warm_up_in_steps_has_as_many_steps_as_a_share(steps: int, whole: int) -> None:
    share = warm_up_share(steps, whole)
    assert 0 <= share <= 0.99
    if steps <= 0.98 * whole:
        assert math.ceil(share * whole) == steps


def test_shares_are_short_where_they_can_be() -> None:
    assert warm_up_share(2, 13) == 0.153 and warm_up_share(10, 100) == 0.1 and warm_up_share(1, 3) == 0.333


@pytest.mark.parametrize(("held_out", "steps"), [("split by prompt", 13), ("--eval-data", 10)])
def test_the_share_is_of_the_persons_own_run_on_all_their_rows(held_out: str, steps: int) -> None:
    rows: Any = SimpleNamespace(train_rows=80, decide=range(10), score=range(10), held_out_from=held_out)
    request = Request("m", "d", recipe=Recipe(epochs=1, batch_size=8), warmup_steps=2)
    found = with_warm_up_steps(request, rows).recipe
    assert found.warmup_ratio == warm_up_share(2, steps) and found.origins["warmup_ratio"] == "config"
    assert with_warm_up_steps(Request("m", "d"), rows) == Request("m", "d")


def test_a_config_that_takes_the_rows_for_something_else_is_named_at_once() -> None:
    heard: list[str] = []
    alpaca = RowFormat("type: alpaca", ("Alpaca",))
    asked = Request(
        "m", STRINGS, config="a/mine.yml", trainer="Axolotl", row_format=alpaca, on_text=heard.append
    )
    found = as_its_trainer_reads(asked, data.understand(STRINGS))
    assert heard == list(found.notes)
    assert heard[0].startswith(
        "mine.yml says type: alpaca, but rows in memory is prompt/completion, which Axolotl would not find"
    )
    rows = [{"instruction": f"a {i}", "output": "b"} for i in range(3)]
    assert as_its_trainer_reads(asked, data.understand(rows)).notes == ()


@pytest.mark.parametrize(
    ("template", "joins", "words"),
    [
        (
            "chat template of the tokenizer",
            True,
            "with the tokenizer's chat template around them. Without it",
        ),
        ("none", False, "without a chat template, as Axolotl joins them."),
        ("none", True, "without a chat template."),
    ],
)
def test_the_template_around_plain_strings_is_said_where_a_config_decided(
    template: str, joins: bool, words: str
) -> None:
    heard: list[str] = []
    asked = Request(
        "m", STRINGS, config="mine.yml", trainer="Axolotl", string_template=joins, on_text=heard.append
    )
    made: Any = SimpleNamespace(template=template)
    found = with_template_noted(asked, data.understand(STRINGS), made)
    assert heard == list(found.notes) and len(heard) == 1
    assert words in heard[0] and heard[0].startswith("The rows are plain strings; measured is")
    assert with_template_noted(asked, data.understand(CHATS), made) == asked
    assert with_template_noted(Request("m", STRINGS), data.understand(STRINGS), made).notes == ()
