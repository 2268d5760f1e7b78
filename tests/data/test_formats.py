"""Every format that is understood, and every kind of data that is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rightrank.data import Conversation, Rows, Turn, conversational_rows, parse_rows, read_rows
from rightrank.errors import DataError, MalformedRowError, OutOfScopeError


def parsed(*rows: dict[str, Any]) -> tuple[str, tuple[Conversation, ...]]:
    result = parse_rows(read_rows(list(rows)))
    return result.format, result.conversations


USER, BOT, SYSTEM = Turn("user", "Hi"), Turn("assistant", "Ho"), Turn("system", "Be kind")
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
EXCHANGE = Conversation("exchange", 1, (USER, BOT), 1, ("Hi", "Ho"))
DIALOGUE = Conversation("messages", 1, (USER, BOT), 1)


@pytest.mark.parametrize(
    ("row", "format_", "expected"),
    [
        ({"prompt": "Hi", "completion": "Ho", "id": 7}, "prompt/completion", EXCHANGE),
        ({"question": "Hi", "answer": "Ho"}, "question/answer", EXCHANGE),
        ({"instruction": "Hi", "response": "Ho"}, "instruction/response", EXCHANGE),
        ({"input": "Hi", "output": "Ho"}, "input/output", EXCHANGE),
        ({"messages": CHAT, "prompt": "Hi", "prompt_id": "x"}, "messages", DIALOGUE),
        ({"conversations": CHAT}, "messages", DIALOGUE),
        ({"conversations": SHAREGPT, "id": "i"}, "ShareGPT", DIALOGUE),
        ({"messages": CHAT, "question": "Hi", "answer": "Ho"}, "messages", DIALOGUE),
        ({"text": "Hi", "label": "greeting"}, "text", Conversation("text", 1, raw=("", "Hi"))),
        ({"messages": CHAT, "chosen": None, "tools": None}, "messages", DIALOGUE),
    ],
)
def test_formats(row: dict[str, Any], format_: str, expected: Conversation) -> None:
    assert parsed(row) == (format_, (expected,))


def test_message_exchange() -> None:
    format_, (one,) = parsed({"prompt": CHAT[:1], "completion": CHAT[1:], "system": "Be kind"})
    assert format_ == "prompt/completion"
    assert one == Conversation("exchange", 1, (SYSTEM, USER, BOT), 2, None)


def test_alpaca() -> None:
    format_, (plain, given) = parsed(
        {"instruction": "Add", "input": "", "output": "3"},
        {"instruction": "Add", "input": "1 2", "output": "3"},
    )
    assert format_ == "Alpaca"
    assert plain.turns == (Turn("user", "Add"), Turn("assistant", "3"))
    assert given.turns[0].content == "Add\n\n1 2"
    assert plain.raw is not None and given.raw is not None
    assert plain.raw[0].endswith("request.\n\n### Instruction:\nAdd\n\n### Response:\n")
    assert given.raw[0].endswith("request.\n\n### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n")
    assert parse_rows(read_rows([{"instruction": "a", "output": "b", "text": "ab"}])).notes


def test_system_prompts_are_kept() -> None:
    _, (one,) = parsed({"system": "Be kind", "prompt": "Hi", "completion": "Ho"})
    assert one.turns == (SYSTEM, USER, BOT) and one.prompt_turns == 2 and one.raw == ("Be kind\n\nHi", "Ho")
    _, (two,) = parsed({"conversations": [{"from": "system", "value": "Be kind"}, *SHAREGPT]})
    assert two.turns == (SYSTEM, USER, BOT)


def test_prompt_text_goes_up_to_the_last_user_turn() -> None:
    turns = [{"role": "system", "content": "S"}, *CHAT, {"role": "user", "content": "U2"}, CHAT[1]]
    _, (one,) = parsed({"messages": turns})
    assert one.prompt_text() == "S\nHi\nHo\nU2" and one.prompt_text(system=False) == "Hi\nHo\nU2"
    _, (text,) = parsed({"text": "abc"})
    assert text.prompt_text(system=False) == "abc"


def test_reasoning_and_text_parts_are_kept() -> None:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "o"}]}
    _, (one,) = parsed({"messages": [CHAT[0], {**answer, "reasoning_content": "hm", "tool_calls": None}]})
    assert one.turns[1].message() == {"role": "assistant", "content": "Ho", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs"),
        ({"chosen": CHAT, "messages": CHAT}, "preference pairs"),
        ({"prompt": "a", "completion": "b", "rejected": "c"}, "preference pairs"),
        ({"prompt": "a", "completion": "b", "reward": 0.5}, "rewards"),
        ({"prompt": "a", "completion": "b", "label": True}, "KTO"),
        ({"text": "a", "label": 1}, "class labels"),
        ({"text": "a", "label": "1"}, "class labels"),
        ({"text": "a", "labels": [0, 1]}, "class labels"),
        ({"text": "a", "image": "x"}, "images"),
        ({"messages": CHAT, "images": ["x"]}, "images"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, CHAT[1]]}, "part of type 'image'"),
        ({"anchor": "a", "positive": "b"}, "sentence pairs"),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, "sentence pairs"),
        ({"text": "a", "embedding": [0.1]}, "embeddings"),
        ({"prompt": "a"}, "without completions"),
        ({"messages": CHAT, "tools": [{"name": "f"}]}, "tool definitions"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [1]}]}, "calls tools"),
        ({"messages": [*CHAT, {"role": "tool", "content": "1"}]}, "calls tools"),
        ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}, "excludes a turn"),
    ],
)
def test_other_trainings_are_refused(row: dict[str, Any], why: str) -> None:
    with pytest.raises(OutOfScopeError, match=why):
        parsed(row)
    if set(row) > {"prompt"} and ("messages" not in row or len(row) > 1):
        with pytest.raises(OutOfScopeError, match=why):  # also where only a later row gives it away
            parsed({"prompt": "a", "completion": "b", "text": "t"}, row)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"headline": "a", "body": "b"}, r"'headline', 'body' are no format.*prompt and completion"),
        ({"prompt": "a", "completion": "b", "messages": CHAT}, "as prompt/completion and as messages"),
        (
            {"question": "a", "answer": "b", "input": "c", "output": "d"},
            "as question/answer and as input/output",
        ),
    ],
)
def test_columns_that_are_not_understood(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        parsed(row)


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, "lacks the field 'completion'"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": 5}, "has a value of type int"),
        ({"prompt": "a", "completion": "b"}, {"prompt": None, "completion": "b"}, "lacks the field 'prompt'"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "\ud800"}, "surrogate"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " \n"}, "empty completion"),
        ({"text": "a"}, {"text": ""}, "empty completion"),
        ({"messages": CHAT}, {"messages": CHAT[:1]}, "no message of the assistant"),
        ({"messages": CHAT}, {"messages": []}, "empty list"),
        ({"messages": CHAT}, {"messages": "Hi"}, "no list of messages"),
        ({"messages": CHAT}, {"messages": ["Hi"]}, "without 'role' or 'content'"),
        ({"messages": CHAT}, {"messages": SHAREGPT}, "without 'role' or 'content'"),
        ({"messages": CHAT}, {"messages": [CHAT[0], {**CHAT[1], "content": None}]}, "not text"),
        ({"messages": CHAT}, {"messages": [CHAT[0], {**CHAT[1], "content": ""}]}, "empty completion"),
        ({"messages": CHAT}, {"messages": [{"role": "narrator", "content": "x"}]}, "role 'narrator'"),
        (
            {"instruction": "a", "output": "b"},
            {"instruction": "a", "output": "b", "input": 3},
            "has a value of type int",
        ),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "history": [1]}, "history"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {"prompt": CHAT[:1], "completion": "b"}, "no list"),
    ],
)
def test_malformed_rows_are_named(good: dict[str, Any], bad: dict[str, Any], why: str) -> None:
    rows = Rows("data.jsonl", (good, good, bad), (1, 3, 8))
    with pytest.raises(MalformedRowError, match=why) as caught:
        parse_rows(rows)
    assert (caught.value.line, caught.value.source) == (8, "data.jsonl")
    assert len(parse_rows(Rows("x", (good, good), (1, 3))).conversations) == 2


def test_empty_completions_are_counted() -> None:
    rows = ({"prompt": "a", "completion": "b"}, *({"prompt": "a", "completion": ""},) * 4)
    with pytest.raises(MalformedRowError, match=r"line 2 has an empty completion \(4 such rows in all\)"):
        parse_rows(read_rows(list(rows)))


def test_nothing_of_the_data_acts_on_a_terminal_or_page() -> None:
    nasty = "\x1b[31m<script>alert(1)</script>\u202e" + "x" * 500
    for row in (
        {nasty: 1},
        {"messages": [{"role": nasty, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": nasty}]}]},
    ):
        with pytest.raises(DataError) as caught:
            parsed(row)
        assert not set("\x1b<>&\u202e") & set(str(caught.value))
        assert "script" in str(caught.value) and "x" * 100 not in str(caught.value)


def test_export_rows() -> None:
    assert conversational_rows([{"prompt": "Hi", "completion": "Ho"}]) == [
        {"prompt": CHAT[:1], "completion": CHAT[1:]}
    ]
    assert conversational_rows([{"conversations": SHAREGPT}]) == [{"messages": CHAT}]
    assert conversational_rows([{"text": "Hi"}]) == [{"text": "Hi"}]
    strings = conversational_rows([{"question": "Hi", "answer": "Ho"}], chat_template=False)
    assert strings == [{"prompt": "Hi", "completion": "Ho"}]
