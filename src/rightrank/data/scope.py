"""What is not supervised text, and is refused in one sentence rather than trained on by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rightrank.data.wording import listed, quoted
from rightrank.errors import OutOfScopeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFERENCE = ("chosen", "rejected")
REWARD = ("reward", "rewards")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
EMBEDDING = (
    "embedding",
    "embeddings",
    "anchor",
    "positive",
    "negative",
    "sentence1",
    "sentence2",
    "sentence_A",
    "sentence_B",
)
TOOLS = ("tools", "functions")
INSTEAD = "Give prompts and completions, messages or text."


def refuse_other_training(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise OutOfScopeError where any row has a column of another kind of training, whatever else it has."""
    columns = {str(name) for row in rows for name, value in row.items() if value is not None}
    for names, what in (
        (PREFERENCE, "preference pairs (DPO, reward models)"),
        (REWARD, "rewards (reinforcement learning)"),
        (MEDIA, "images, sound or video"),
        (EMBEDDING, "embeddings or sentence pairs"),
    ):
        found = [name for name in names if name in columns]
        if found:
            raise OutOfScopeError(_problem(found, what), INSTEAD)
    if any(row.get(name) for row in rows for name in TOOLS):
        raise OutOfScopeError(
            _problem([name for name in TOOLS if name in columns], "tool definitions"), INSTEAD
        )
    _refuse_labels(rows, columns)
    if columns == {"prompt"}:
        raise OutOfScopeError(
            _problem(["prompt"], "prompts without completions (reinforcement learning)"), INSTEAD
        )


def _problem(columns: list[str], what: str) -> str:
    return (
        f"The data holds {what}, by its columns {listed(columns)}; rightrank measures supervised text tuning."
    )


def _refuse_labels(rows: Sequence[Mapping[str, Any]], columns: set[str]) -> None:
    """Class labels (text with a whole number) and KTO's thumbs (a completion with a truth value)."""
    if "label" not in columns and "labels" not in columns:
        return
    column = "label" if "label" in columns else "labels"
    value = next(row[column] for row in rows if row.get(column) is not None)
    if "completion" in columns and isinstance(value, bool):
        raise OutOfScopeError(_problem(["completion", column], "judged completions (KTO)"), INSTEAD)
    whole = isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit())
    if "text" in columns and (whole or isinstance(value, list)):
        raise OutOfScopeError(_problem(["text", column], "class labels for a classifier head"), INSTEAD)


def refused_message(message: Mapping[str, Any], source: str, line: int) -> None:
    """Raise OutOfScopeError for a message with tool calls, parts that are no text, or a weight of zero."""
    where = f"{source}, line {line}"
    calls = [key for key in ("tool_calls", "function_call") if message.get(key)]
    role = message.get("role", message.get("from"))
    if calls or role in ("tool", "function", "function_call", "observation", "ipython"):
        raise OutOfScopeError(f"{where} calls tools, which rightrank does not train on.", INSTEAD)
    content = message.get("content", message.get("value"))
    if isinstance(content, (list, tuple)):
        kinds = [
            part.get("type") for part in content if isinstance(part, dict) and part.get("type") != "text"
        ]
        if kinds:
            raise OutOfScopeError(f"{where} holds a part of type {quoted(kinds[0])}, not text.", INSTEAD)
    if message.get("weight") == 0 or message.get("train") is False:
        mend = "Delete the weights to train every turn of the assistant, or cut the conversation there."
        raise OutOfScopeError(f"{where} excludes a turn from training, which TRL and rightrank cannot.", mend)
