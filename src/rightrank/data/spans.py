"""Rendering conversations with a tokenizer's chat template, and finding in them what the assistant says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rightrank.data.formats import Conversation

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Marks in a template what the assistant generates (as ``trl.chat_template_utils.has_generation_markers``
finds it)."""

Span = tuple[int, int]
"""First character and the one after the last."""


def rendered(
    tokenizer: Any,
    conversation: Conversation,
    *,
    turns: int | None = None,
    generation_prompt: bool = False,
) -> str:
    """The first ``turns`` of a conversation (all by default) as the chat template writes them.

    Raises DataError, naming the row, where the template refuses them (a system turn, say, or two user turns
    running).
    """
    messages = [turn.message() for turn in conversation.turns[:turns]]
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        )
    except Exception as error:  # templates are programs: what they raise is theirs to choose
        why = cleaned(f"{type(error).__name__}: {error}", 160)
        problem = f"The chat template cannot render the row at line {conversation.line} ({why})."
        raise DataError(problem, "Mend the row, or use another model's tokenizer.") from error


def encoding(tokenizer: Any, texts: Sequence[str], *, special: bool) -> Any:
    """What ``tokenizer`` makes of ``texts``, as transformers returns it. ``special``: with the tokens that it adds itself; templates write
    their own. Raises DataError where it fails, as one with damaged settings does."""
    try:
        # verbose: a text beyond the tokenizer's own maximum is no news; it is cut to the recipe's.
        return tokenizer(text=texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
    except MemoryError:
        raise
    except Exception as error:  # what the settings of a tokenizer can break is nowhere listed
        why = cleaned(f"{type(error).__name__}: {error}", 160)
        raise DataError(
            f"The tokenizer cannot read the rows ({why}).",
            "Download its files again, or use another model's.",
        ) from error


def assistant_encodings(
    conversations: Sequence[Conversation], tokenizer: Any, size: int
) -> Iterator[tuple[list[int], list[bool]]]:
    """Token ids of each conversation and which of them the assistant says, tokenized ``size`` at a time.

    By the template's generation markers where it has them; else every assistant turn runs from the end of the
    text that prompts for it to the end of the text that includes it, both of which must begin the whole. Where
    they do not for any conversation (the template writes a turn otherwise once another follows), all are
    rendered with the training variant that TRL ships of the same template, if TRL is installed and has one.
    Raises DataError where no way is left.
    """
    if _has_markers(tokenizer.chat_template):
        yield from _marked(conversations, tokenizer, None, size)
        return
    texts, spans = [], []
    for conversation in conversations:
        whole = rendered(tokenizer, conversation)
        found = _spans(conversation, whole, tokenizer)
        if found is None:
            yield from _marked(
                conversations, tokenizer, _training_template(tokenizer, conversation.line), size
            )
            return
        texts.append(whole)
        spans.append(found)
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        encoded = encoding(tokenizer, part, special=False)
        for i, ids in enumerate(encoded["input_ids"]):
            yield ids, _mask(encoded, i, len(ids), spans[start + i])


def _has_markers(template: Any) -> bool:
    text = template.get("default", "") if isinstance(template, dict) else template
    return GENERATION.search(text) is not None


def _spans(conversation: Conversation, whole: str, tokenizer: Any) -> list[Span] | None:
    """Where each assistant turn stands in ``whole``; None where the template does not let that be seen."""
    spans = []
    for i, turn in enumerate(conversation.turns):
        if turn.role != "assistant":
            continue
        if i == 0:  # templates prompt for no first turn
            return None
        before = rendered(tokenizer, conversation, turns=i, generation_prompt=True)
        until = rendered(tokenizer, conversation, turns=i + 1) if i + 1 < len(conversation.turns) else whole
        if not (whole.startswith(until) and until.startswith(before) and len(before) < len(until)):
            return None
        spans.append((len(before), len(until)))
    return spans


def _mask(encoded: Any, row: int, length: int, spans: list[Span]) -> list[bool]:
    """Tokens that hold a character of ``spans``, mapped as ``apply_chat_template`` maps its markers."""
    mask = [False] * length
    for start, end in spans:
        first = encoded.char_to_token(row, start)
        last = encoded.char_to_token(row, end - 1)
        if first is None:
            break
        for token in range(first, last + 1 if last else length):
            mask[token] = True
    return mask


def _marked(
    conversations: Sequence[Conversation], tokenizer: Any, template: str | None, size: int
) -> Iterator[tuple[list[int], list[bool]]]:
    """By the generation markers of ``template``, or of the tokenizer's own."""
    options = {"return_dict": True, "return_assistant_tokens_mask": True, "chat_template": template}
    for start in range(0, len(conversations), size):
        batch = conversations[start : start + size]
        messages = [[turn.message() for turn in conversation.turns] for conversation in batch]
        try:
            encoded = tokenizer.apply_chat_template(messages, tokenize=True, **options)
        except Exception as error:
            for conversation in batch:
                rendered(tokenizer, conversation)  # raises for the row that is to blame
            why = cleaned(f"{type(error).__name__}: {error}", 160)
            raise DataError(
                f"The chat template cannot mark the assistant's turns ({why}).", ALL_MEND
            ) from error
        masks = zip(encoded["input_ids"], encoded["assistant_masks"], batch, strict=True)
        for ids, mask, conversation in masks:
            if 1 not in mask:
                line = conversation.line
                problem = f"The chat template marks nothing of the row at line {line} as the assistant's."
                raise DataError(problem, ALL_MEND)
            yield ids, [bool(bit) for bit in mask]


ALL_MEND = (
    "Train on everything with --loss-on all, or use a tokenizer whose template marks what is generated."
)


def _training_template(tokenizer: Any, line: int) -> str:
    problem = (
        f"The chat template writes the assistant's turns of the row at line {line} otherwise once more "
        "follows, so they cannot be told apart."
    )
    try:
        from trl.chat_template_utils import get_training_chat_template
    except ImportError as error:
        mend = "Train on everything with --loss-on all, or install `trl`, which has templates for training."
        raise DataError(problem, mend) from error
    try:
        template = get_training_chat_template(tokenizer)
    except ValueError as error:  # a template that TRL does not know
        raise DataError(problem, ALL_MEND) from error
    if template is None:
        raise DataError(problem, ALL_MEND)
    return str(template)
