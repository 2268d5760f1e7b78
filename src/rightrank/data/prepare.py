"""From a source to tokenized examples on three sides, in one call."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rightrank.data.formats import Parsed, parse_row, parse_rows
from rightrank.data.reading import read_rows, stream_rows
from rightrank.data.split import (
    IN_THE_HELD_OUT,
    Prompt,
    Split,
    require_enough_rows,
    split_by_prompt,
    split_with_eval,
)
from rightrank.data.tokens import Tokenized, TokenizedExample, tokenize, uses_template
from rightrank.data.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rightrank.data.formats import Conversation
    from rightrank.recipe import Recipe

EVAL_SPLITS = ("validation", "valid", "dev", "eval", "test")
"""Splits looked for in held-out data, in this order."""


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set ready to probe with. Each side is in a random order whose prefixes are random subsets."""

    train: tuple[TokenizedExample, ...]
    decide: tuple[TokenizedExample, ...]
    score: tuple[TokenizedExample, ...]
    name: str
    format: str
    fingerprint: str
    """Sixteen hex digits over what the rows say (held-out data too), whatever their columns are called."""
    rows_fingerprint: str
    """The same without held-out data of a file of its own."""
    rows: int
    """Rows of the source, and of the held-out data where that was given; all of them, even where a sample was taken."""
    truncated: int
    dropped: int
    """Rows not used: over-long under ``drop``, or nothing left to train on."""
    duplicates: int
    """Rows identical to an earlier one of the same source; kept, on the same side."""
    template: Literal["chat template of the tokenizer", "none"]
    held_out_from: Literal["split by prompt", "--eval-data"]
    overlap_removed: int
    """Training rows left out since their prompt is among the held-out ones."""
    notes: tuple[str, ...]
    """Sentences on what was done that the reader may not expect."""
    train_of_all: int | None = None
    """Rows that the whole data set has to train on, where ``train`` comes from a sample of it: estimated by the share of the sample
    that is usable. None: ``train`` is all."""

    @property
    def train_rows(self) -> int:
        """Rows that a run on the whole data set trains on."""
        return len(self.train) if self.train_of_all is None else self.train_of_all

    @property
    def truncated_percent(self) -> float:
        """Of the rows that were looked at."""
        held_out = len(self.decide) + len(self.score)
        looked_at = len(self.train) + held_out + self.dropped + self.overlap_removed
        return 100 * self.truncated / max(1, looked_at)


def understand(
    source: object,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    prefer: tuple[str, ...] = ("train",),
) -> Parsed:
    """The conversations of ``source``: all that can be found wrong with it without a tokenizer.

    What is understood already is returned as it is. Raises the DataErrors of reading and formats.
    """
    if isinstance(source, Parsed):
        return source
    return parse_rows(read_rows(source, config=config, split=split, revision=revision, prefer=prefer))


def understood(
    source: object,
    held_out: object | None,
    *,
    split: str | None,
    config: str | None,
    revision: str | None,
) -> tuple[Parsed, Parsed | None]:
    """``understand`` of the rows and of the held-out ones, refused where they are too few whatever their tokens are."""
    rows = understand(source, config=config, split=split, revision=revision)
    require_enough_rows(len(rows.conversations))
    if held_out is None:
        return rows, None
    held = understand(held_out, config=config, revision=revision, prefer=EVAL_SPLITS)
    require_enough_rows(len(held.conversations), IN_THE_HELD_OUT)
    return rows, held


def prepare(
    source: object,
    tokenizer: Any,
    recipe: Recipe,
    *,
    eval_data: object | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    chat_template: bool = True,
    seed: int = 0,
) -> PreparedData:
    """Read, understand, tokenize and split ``source`` (see ``read_rows`` for what it may be).

    ``source`` and ``eval_data`` may be what ``understand`` made of them. ``eval_data``, if given, is held out
    in full and nothing of ``source`` is. Deterministic for a ``seed``. Raises the DataErrors of reading,
    formats, tokens and split.
    """
    parsed = understand(source, config=config, split=split, revision=revision)
    made = tokenize(parsed.conversations, tokenizer, recipe, chat_template=chat_template)
    if eval_data is None:
        sides = split_by_prompt(_prompts(parsed, made), seed=seed)
        held, held_made = None, made
    else:
        held = understand(eval_data, config=config, revision=revision, prefer=EVAL_SPLITS)
        held_made = tokenize(held.conversations, tokenizer, recipe, chat_template=chat_template)
        sides = split_with_eval(_prompts(parsed, made), _prompts(held, held_made), seed=seed)
    sources = [parsed] if held is None else [parsed, held]
    parts = [made] if held is None else [made, held_made]
    templated = parsed.format != "text" and uses_template(tokenizer, chat_template=chat_template)
    return PreparedData(
        train=tuple(made.examples[i] for i in sides.train),
        decide=tuple(held_made.examples[i] for i in sides.decide),
        score=tuple(held_made.examples[i] for i in sides.score),
        name=parsed.name,
        format=parsed.format,
        fingerprint=fingerprint([part.conversations for part in sources], [part.total for part in sources]),
        rows_fingerprint=fingerprint([parsed.conversations], [parsed.total]),
        rows=sum(part.rows for part in sources),
        truncated=sum(part.truncated for part in parts),
        dropped=sum(part.dropped for part in parts),
        duplicates=sum(_duplicates(part.conversations) for part in sources),
        template="chat template of the tokenizer" if templated else "none",
        held_out_from="split by prompt" if held is None else "--eval-data",
        overlap_removed=sides.overlap_removed,
        notes=_notes(parsed, held, sides, templated=templated),
        train_of_all=_train_of_all(
            parsed, len(sides.train), len(made.examples) if held is None else len(sides.train)
        ),
    )


def _train_of_all(parsed: Parsed, train: int, usable: int) -> int | None:
    """Rows to train on in the whole data set: those of the sample, and of the others the share that is usable in the sample.

    What was held out of the sample is enough for all.
    """
    if parsed.total is None:
        return None
    return train + round((parsed.total - len(parsed.conversations)) * usable / len(parsed.conversations))


def conversational_rows(source: object, **options: Any) -> list[dict[str, Any]]:
    """What ``each_conversational_row`` yields, at once."""
    return list(each_conversational_row(source, **options))


def each_conversational_row(
    source: object,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    chat_template: bool = True,
) -> Iterator[dict[str, Any]]:
    """The rows, one by one and all of them, in the form in which TRL trains on what ``prepare`` tokenizes.

    ``{"prompt": [messages], "completion": [messages]}``, ``{"messages": [...]}`` or ``{"text": ...}``.
    Needed since TRL puts no chat template around prompts that are strings. Without ``chat_template`` such
    rows stay strings. Raises what ``understand`` raises, for a row outside a sample when it is reached.
    """
    parsed = understand(source, config=config, split=split, revision=revision)
    if parsed.total is None:
        conversations: Iterable[Conversation] = parsed.conversations
    else:
        name, located = stream_rows(source, config=config, split=split, revision=revision)
        conversations = (parse_row(parsed.format, row, line, name) for line, row in located)
    for conversation in conversations:
        yield _trl_row(conversation, chat_template=chat_template)


def fingerprint(sources: Sequence[Sequence[Conversation]], totals: Sequence[int | None] | None = None) -> str:
    """First sixteen hex digits of the SHA-256 over what the rows of each source say, in order.

    ``totals``: of a source that was sampled how many rows it has, which then count as well.
    """
    digest = hashlib.sha256()
    for conversations, total in zip(sources, totals or [None] * len(sources), strict=True):
        digest.update(b"source\n" if total is None else f"sample of {total}\n".encode())
        for conversation in conversations:
            digest.update(_canonical(conversation) + b"\n")
    return digest.hexdigest()[:16]


def _canonical(conversation: Conversation) -> bytes:
    return json.dumps(conversation.canonical(), ensure_ascii=False, separators=(",", ":")).encode()


def _duplicates(conversations: Sequence[Conversation]) -> int:
    digests = {hashlib.sha256(_canonical(conversation)).digest() for conversation in conversations}
    return len(conversations) - len(digests)


def _prompts(parsed: Parsed, made: Tokenized) -> list[Prompt]:
    used = (parsed.conversations[row] for row in made.rows)
    return [Prompt(one.prompt_text(), one.prompt_text(system=False)) for one in used]


def _trl_row(conversation: Conversation, *, chat_template: bool) -> dict[str, Any]:
    if conversation.kind == "text" and conversation.raw:
        return {"text": conversation.raw[1]}
    messages = [turn.message() for turn in conversation.turns]
    if conversation.kind == "messages":
        return {"messages": messages}
    if conversation.raw and not chat_template:
        return {"prompt": conversation.raw[0], "completion": conversation.raw[1]}
    asked = conversation.prompt_turns
    return {"prompt": messages[:asked], "completion": messages[asked:]}


def _notes(parsed: Parsed, held: Parsed | None, sides: Split, *, templated: bool) -> tuple[str, ...]:
    notes = [*parsed.notes]
    if parsed.format == "Alpaca" and not templated:
        notes.append("Without a chat template the rows are put into the prompt of Stanford Alpaca.")
    if held is not None and held.format != parsed.format:
        notes.append(f"The held-out data is {held.format}, the training data {parsed.format}.")
    if sides.overlap_removed:
        rows, their = (
            counted(sides.overlap_removed, "training row"),
            "its" if sides.overlap_removed == 1 else "their",
        )
        were = "was" if sides.overlap_removed == 1 else "were"
        notes.append(f"{rows} {were} left out, since {their} prompt is in the held-out data.")
    return (*notes, *sides.notes)
