"""From conversations to token ids and the mask of what is trained, as TRL's SFTTrainer (1.16) builds them.

The rules restated here are those of ``SFTTrainer._prepare_dataset``; the tests compare the two token by
token. T tokens of an example.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.data.near import normalised
from rightrank.data.spans import assistant_encodings, encoding, rendered
from rightrank.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Bool, Int32

    from rightrank.data.formats import Conversation
    from rightrank.recipe import Recipe

LARGEST_TOKEN = 2**31 - 1
BATCH = 1_000
"""Conversations templated and tokenized at a time: enough to keep the tokenizer's threads busy."""


@dataclass(frozen=True, eq=False)
class TokenizedExample:
    """One example as a trainer sees it. Holds no text."""

    token_ids_T: Int32[np.ndarray, " T"]
    trained_T: Bool[np.ndarray, " T"]
    """Where a trainer's labels equal the ids, and not -100. The first token is predicted from nothing, so no
    loss is taken on it even where it is True."""
    prompt_key: str
    """Digest of the prompt, case and white space aside: equal for examples that ask the same."""

    @property
    def trained_tokens(self) -> int:
        """Tokens that a loss is taken on."""
        return int(np.count_nonzero(self.trained_T[1:]))


@dataclass(frozen=True)
class Tokenized:
    """The usable examples of a data set, and what became of the others."""

    examples: tuple[TokenizedExample, ...]
    rows: tuple[int, ...]
    """For each example, the index of its conversation."""
    truncated: int
    """Examples cut to the maximum length and still used."""
    dropped: int
    """Conversations not used: over-long under ``drop``, or nothing trained within the maximum length."""


def tokenize(
    conversations: Sequence[Conversation], tokenizer: Any, recipe: Recipe, *, chat_template: bool = True
) -> Tokenized:
    """Token ids and trained masks of ``conversations`` under ``recipe`` (max_length, over_long, loss_on).

    With ``chat_template`` and a tokenizer that has one, prompts and completions go through it as a user's
    and an assistant's message; otherwise they are joined as they are and end in the end-of-sequence token.
    The tokenizer is not changed. Raises DataError where its template cannot render a conversation or show
    which tokens are the assistant's, where it has none but one is needed, or where no example is left.
    """
    templated = uses_template(tokenizer, chat_template=chat_template)
    examples, rows, lengths = [], [], []
    truncated = 0
    encoded = _encoded(conversations, tokenizer, templated=templated, only=recipe.loss_on == "completion")
    for row, (conversation, (ids, trained)) in enumerate(zip(conversations, encoded, strict=True)):
        lengths.append(len(ids))
        over_long = len(ids) > recipe.max_length
        if over_long and recipe.over_long == "drop":
            continue
        trained_T = np.asarray(trained[: recipe.max_length], dtype=bool)
        if not trained_T[1:].any():
            continue
        truncated += over_long
        ids_T = np.asarray(ids[: recipe.max_length], dtype=np.int32)
        examples.append(TokenizedExample(ids_T, trained_T, prompt_key(conversation)))
        rows.append(row)
    if not examples:
        raise _nothing_left(lengths, recipe)
    return Tokenized(tuple(examples), tuple(rows), truncated, len(conversations) - len(examples))


def uses_template(tokenizer: Any, *, chat_template: bool) -> bool:
    """Whether prompts and completions go through the tokenizer's chat template."""
    return chat_template and bool(getattr(tokenizer, "chat_template", None))


def prompt_key(conversation: Conversation) -> str:
    """Sixteen hex digits that are equal for conversations that ask the same, case and white space aside."""
    return hashlib.sha256(normalised(conversation.prompt_text()).encode()).hexdigest()[:16]


def _encoded(
    conversations: Sequence[Conversation], tokenizer: Any, *, templated: bool, only: bool
) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids and trained mask of each conversation, not yet cut; ``only``: not all of it is trained."""
    if templated and only and conversations[0].kind == "messages":
        # All at once: which template marks the assistant's turns must not differ between batches.
        yield from assistant_encodings(conversations, tokenizer, BATCH)
        return
    for start in range(0, len(conversations), BATCH):
        batch = conversations[start : start + BATCH]
        kind = batch[0].kind  # one data set has one kind
        if kind == "text":
            yield from _encoded_texts(batch, tokenizer)
        elif batch[0].raw is not None and not templated:
            yield from _encoded_strings(batch, tokenizer, only=only)
        elif not templated:
            problem = "Messages need a chat template, and the tokenizer has none or it was switched off."
            raise DataError(
                problem, "Use a model with a chat template, or give prompts and completions as strings."
            )
        elif kind == "exchange":
            yield from _encoded_exchanges(batch, tokenizer, only=only)
        else:
            whole = [rendered(tokenizer, conversation) for conversation in batch]
            yield from ((ids, [True] * len(ids)) for ids in _ids(tokenizer, whole, special=False))


def _encoded_texts(batch: Sequence[Conversation], tokenizer: Any) -> Iterator[tuple[list[int], list[bool]]]:
    texts = [_ended(conversation.raw[1], tokenizer) for conversation in batch if conversation.raw]
    yield from ((ids, [True] * len(ids)) for ids in _ids(tokenizer, texts, special=True))


def _encoded_strings(
    batch: Sequence[Conversation], tokenizer: Any, *, only: bool
) -> Iterator[tuple[list[int], list[bool]]]:
    pairs = [conversation.raw for conversation in batch if conversation.raw]
    prompts = _ids(tokenizer, [prompt for prompt, _ in pairs], special=True)
    wholes = _ids(
        tokenizer, [prompt + _ended(completion, tokenizer) for prompt, completion in pairs], special=True
    )
    yield from (
        _after_prompt(prompt, whole, only=only) for prompt, whole in zip(prompts, wholes, strict=True)
    )


def _encoded_exchanges(
    batch: Sequence[Conversation], tokenizer: Any, *, only: bool
) -> Iterator[tuple[list[int], list[bool]]]:
    asked = [rendered(tokenizer, item, turns=item.prompt_turns, generation_prompt=True) for item in batch]
    prompts = _ids(tokenizer, asked, special=False)
    wholes = _ids(tokenizer, [rendered(tokenizer, item) for item in batch], special=False)
    yield from (
        _after_prompt(prompt, whole, only=only) for prompt, whole in zip(prompts, wholes, strict=True)
    )


def _after_prompt(prompt: list[int], whole: list[int], *, only: bool) -> tuple[list[int], list[bool]]:
    """The completion starts where the tokens of prompt and whole part, perhaps before the prompt's end."""
    if not only:
        return whole, [True] * len(whole)
    shared = 0
    for a, b in zip(prompt, whole, strict=False):
        if a != b:
            break
        shared += 1
    return whole, [False] * shared + [True] * (len(whole) - shared)


def _ended(text: str, tokenizer: Any) -> str:
    """``text`` with the end-of-sequence token, once."""
    end = tokenizer.eos_token
    if end is None:
        problem = "The tokenizer has no end-of-sequence token, so the model cannot learn to stop."
        raise DataError(problem, "Set one in the tokenizer's files.")
    return text if text.endswith(end) else text + str(end)


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    """Token ids of each text. ``special``: with the tokens that the tokenizer adds itself; templates write
    their own."""
    ids: list[list[int]] = encoding(tokenizer, texts, special=special)["input_ids"]
    highest = max((max(row) for row in ids if row), default=0)
    if highest > LARGEST_TOKEN:
        problem = f"The tokenizer gives a token the number {highest:,}, which no model has."
        raise DataError(problem, "Download its files again, or use another model's.")
    return ids


def _nothing_left(lengths: list[int], recipe: Recipe) -> DataError:
    middle, longest = int(np.median(lengths)), max(lengths)
    found = f"the median example has {middle} tokens, the longest {longest}"
    if recipe.over_long == "drop":
        problem = f"Every row is longer than max_length ({recipe.max_length}): {found}."
    else:
        problem = f"Every row's prompt alone fills max_length ({recipe.max_length}): {found}."
    return DataError(problem, f"Allow more, for instance --max-length {_rounded_up(longest)}.")


def _rounded_up(length: int) -> int:
    """The next power of two, or multiple of 1,024 above that."""
    return 1 << (length - 1).bit_length() if length <= 1_024 else -(-length // 1_024) * 1_024
