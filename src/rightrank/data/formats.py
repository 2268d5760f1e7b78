"""From rows to conversations: which of the usual formats a data set has, and what of it is trained on.

Formats: prompt/completion (strings or messages), messages, ShareGPT, Alpaca, text, and question/answer, instruction/response and
input/output as other names of prompt/completion. What is not supervised text is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rightrank.data.scope import refuse_other_training, refused_message
from rightrank.data.wording import listed, quoted
from rightrank.errors import DataError, MalformedRowError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.data.reading import Rows

Kind = Literal["exchange", "messages", "text"]

NATIVE = {
    "prompt/completion": ("prompt", "completion"),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "Alpaca": ("instruction", "output"),
}
ALIASES = {
    "question/answer": ("question", "answer"),
    "instruction/response": ("instruction", "response"),
    "input/output": ("input", "output"),
}
UNDERSTOOD = (
    "Understood are the columns prompt and completion; messages; conversations; instruction, input and "
    "output; question and answer; instruction and response; input and output; or text."
)
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
ROLES = frozenset({"system", "developer", "user", "assistant"})
REASONING = ("reasoning_content", "reasoning", "thinking")

# The prompts of Stanford Alpaca (Taori et al. 2023, train.py), which trainers use where a model has no chat
# template.
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    reasoning: tuple[str, str] | None = None
    """Key and text of a reasoning field, as the row had it; chat templates render some of them."""

    def message(self) -> dict[str, str]:
        """This turn as chat templates take it."""
        extra = dict([self.reasoning]) if self.reasoning else {}
        return {"role": self.role, "content": self.content, **extra}


@dataclass(frozen=True)
class Conversation:
    """One training example before tokenization.

    ``exchange``: ``turns[:prompt_turns]`` is the prompt, the rest the completion, all of it trained.
    ``messages``: every assistant turn is trained; ``prompt_turns`` ends after the last user turn.
    ``text``: no turns; ``raw`` is all of it, and all of it is trained.
    """

    kind: Kind
    line: int
    turns: tuple[Turn, ...] = ()
    prompt_turns: int = 0
    raw: tuple[str, str] | None = None
    """Prompt and completion without a chat template, where the row held strings."""

    def prompt_text(self, *, system: bool = True) -> str:
        """What the example asks: its turns up to the last of the prompt, or the text itself.

        Without ``system`` its system turns are left out unless there is nothing else: a fixed one makes all conversations look alike.
        """
        if self.kind == "text" and self.raw:
            return self.raw[1]
        asked = self.turns[: self.prompt_turns]
        if not system:
            asked = tuple(turn for turn in asked if turn.role in ("user", "assistant")) or asked
        return "\n".join(turn.content for turn in asked)

    def lacks_completion(self) -> bool:
        """Whether something that is to be trained is blank: the completion, an assistant turn, the text."""
        if self.kind == "text":
            return not "".join(self.raw or ()).strip()
        if self.kind == "messages":
            return any(turn.role == "assistant" and not turn.content.strip() for turn in self.turns)
        return not any(turn.content.strip() for turn in self.turns[self.prompt_turns :])

    def canonical(self) -> list[Any]:
        """What the row says, free of column names and order: equal for rows that train the same."""
        turns = [[turn.role, turn.content, list(turn.reasoning or ())] for turn in self.turns]
        return [self.kind, turns, self.prompt_turns, list(self.raw or ())]


@dataclass(frozen=True)
class Parsed:
    """The conversations of a data set, in the order of its rows, and what they were read as."""

    name: str
    format: str
    """As shown: ``Alpaca``, ``prompt/completion``, ``messages``, ``ShareGPT``, ``text``, an alias's name."""
    conversations: tuple[Conversation, ...]
    notes: tuple[str, ...] = ()
    total: int | None = None
    """Rows of the data set; None: ``conversations`` are all of them, else they are a random sample."""

    @property
    def rows(self) -> int:
        """Rows of the data set."""
        return self.total or len(self.conversations)


def parse_rows(rows: Rows) -> Parsed:
    """Conversations of ``rows``.

    Raises OutOfScopeError where the data is for another kind of training, DataError where its columns are not understood or mean two
    things, MalformedRowError for a row that lacks a field or has one of a wrong type or an empty completion. No row is passed over.
    """
    refuse_other_training(rows.rows)
    format_, notes = _detected(rows)
    located = zip(rows.rows, rows.lines, strict=True)
    made = tuple(_conversation(format_, _RowReader(row, line, rows.name)) for row, line in located)
    empty = [conversation.line for conversation in made if conversation.lacks_completion()]
    if empty:
        count = f" ({len(empty)} such rows in all)" if len(empty) > 1 else ""
        raise MalformedRowError(rows.name, empty[0], f"has an empty completion{count}")
    if rows.total is not None:
        sample = (
            f"{rows.name} has {rows.total:,} rows; {len(made):,} of them, drawn at random, stand for all."
        )
        notes = (*notes, sample)
    return Parsed(rows.name, format_, made, notes, rows.total)


def parse_row(format_: str, row: Mapping[str, Any], line: int, name: str) -> Conversation:
    """One row of a data set of which the format is known. Raises MalformedRowError where it is none of it."""
    conversation = _conversation(format_, _RowReader(row, line, name))
    if conversation.lacks_completion():
        raise MalformedRowError(name, line, "has an empty completion")
    return conversation


def _detected(rows: Rows) -> tuple[str, tuple[str, ...]]:
    """Display name of the format, and notes. What trainers know comes before aliases, those before text."""
    first = rows.rows[0]
    columns = {str(name) for name, value in first.items() if value is not None}
    for formats in (NATIVE, ALIASES):
        found = [name for name, needed in formats.items() if columns.issuperset(needed)]
        if len(found) > 1:
            problem = f"The columns can be read as {' and as '.join(found)}."
            raise DataError(problem, "Keep the columns of one format and delete the others.")
        if found:
            notes = ("The column 'text' was not used.",) if "text" in columns else ()
            return (
                _dialogue_format(first["conversations"]) if found == ["conversations"] else found[0]
            ), notes
    if "text" in columns:
        return "text", ()
    raise DataError(f"The columns {listed(first)} are no format that is understood.", UNDERSTOOD)


def _dialogue_format(value: object) -> str:
    """A column ``conversations`` holds from/value (ShareGPT) or role/content (messages)."""
    message = value[0] if isinstance(value, (list, tuple)) and value else None
    return "ShareGPT" if isinstance(message, dict) and "from" in message else "messages"


def _conversation(format_: str, reader: _RowReader) -> Conversation:
    if format_ == "text":
        return Conversation("text", reader.line, raw=("", reader.text("text")))
    if format_ in ("messages", "ShareGPT"):
        column = "messages" if "messages" in reader.row else "conversations"
        return reader.dialogue(column, sharegpt=format_ == "ShareGPT")
    if format_ == "Alpaca":
        return reader.alpaca()
    prompt, completion = {**NATIVE, **ALIASES}[format_]
    if isinstance(reader.row.get(prompt), (list, tuple)):
        return reader.message_exchange(prompt, completion)
    return reader.exchange(reader.text(prompt), reader.text(completion))


@dataclass(frozen=True)
class _RowReader:
    """Reads one row's fields; knows where the row stands, so that every complaint can say it."""

    row: Mapping[str, Any]
    line: int
    name: str

    def wrong(self, why: str) -> NoReturn:
        raise MalformedRowError(self.name, self.line, why)

    def text(self, column: str) -> str:
        """A field that must be a string that can be encoded."""
        value = self.row.get(column)
        if value is None:
            self.wrong(f"lacks the field {quoted(column)}")
        return self.checked(value, f"the field {quoted(column)}")

    def checked(self, value: object, what: str) -> str:
        if not isinstance(value, str):
            self.wrong(f"has a value of type {type(value).__name__} in {what}, not text")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.wrong(f"has half a surrogate pair in {what}, which no tokenizer takes")
        return value

    def exchange(self, prompt: str, completion: str, raw_prompt: str | None = None) -> Conversation:
        """A prompt and a completion of strings; a ``system`` column goes before them."""
        system = self.system()
        turns = (*system, Turn("user", prompt), Turn("assistant", completion))
        raw = "\n\n".join([*(turn.content for turn in system), prompt if raw_prompt is None else raw_prompt])
        return Conversation("exchange", self.line, turns, len(turns) - 1, (raw, completion))

    def system(self) -> tuple[Turn, ...]:
        value = self.row.get("system")
        if value is None or value == "":
            return ()
        return (Turn("system", self.checked(value, "the field 'system'")),)

    def alpaca(self) -> Conversation:
        instruction, output = self.text("instruction"), self.text("output")
        given = self.row.get("input")
        context = "" if given is None else self.checked(given, "the field 'input'")
        if self.row.get("history"):
            self.wrong("holds earlier turns in 'history'; give such data as messages")
        if not context.strip():
            return self.exchange(instruction, output, ALPACA_WITHOUT_INPUT.format(instruction=instruction))
        raw = ALPACA_WITH_INPUT.format(instruction=instruction, input=context)
        return self.exchange(f"{instruction}\n\n{context}", output, raw)

    def message_exchange(self, prompt: str, completion: str) -> Conversation:
        """Prompt and completion as lists of messages."""
        asked = (*self.system(), *self.turns(prompt, sharegpt=False))
        answered = self.turns(completion, sharegpt=False)
        return Conversation("exchange", self.line, asked + answered, len(asked))

    def dialogue(self, column: str, *, sharegpt: bool) -> Conversation:
        """A list of messages, of which the assistant's are trained."""
        turns = (*self.system(), *self.turns(column, sharegpt=sharegpt))
        if all(turn.role != "assistant" for turn in turns):
            self.wrong("has no message of the assistant, so nothing to train on")
        asked = max((i + 1 for i, turn in enumerate(turns) if turn.role == "user"), default=0)
        return Conversation("messages", self.line, turns, asked)

    def turns(self, column: str, *, sharegpt: bool) -> tuple[Turn, ...]:
        value = self.row.get(column)
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            self.wrong(f"has no list of messages in the field {quoted(column)}")
        if not value:
            self.wrong(f"has an empty list in the field {quoted(column)}")
        return tuple(self.turn(message, sharegpt=sharegpt) for message in value)

    def turn(self, message: object, *, sharegpt: bool) -> Turn:
        role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
        if not isinstance(message, dict) or role_key not in message or content_key not in message:
            self.wrong(f"has a message without {role_key!r} or {content_key!r}")
        refused_message(message, self.name, self.line)
        role = message[role_key]
        known = SHAREGPT_ROLES if sharegpt else {role: role for role in ROLES}
        if not isinstance(role, str) or role not in known:
            self.wrong(f"has a message of the role {quoted(role)}; understood are {listed(known)}")
        content = _joined_parts(message[content_key])
        kept = next((key for key in REASONING if isinstance(message.get(key), str)), None)
        reasoning = (kept, self.checked(message[kept], "a message's reasoning")) if kept else None
        return Turn(known[role], self.checked(content, "a message"), reasoning)


def _joined_parts(content: object) -> object:
    """Content given as text parts (OpenAI's ``[{"type": "text", "text": ...}]``) as one string."""
    if not isinstance(content, (list, tuple)):
        return content
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(texts) else content
