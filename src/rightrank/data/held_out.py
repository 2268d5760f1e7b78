"""Rows that an adapter was not trained on, in one call: tokenized, one half to decide by and one to score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rightrank.data.prepare import EVAL_SPLITS, fingerprint, understand
from rightrank.data.split import Prompt, split_held_out
from rightrank.data.tokens import TokenizedExample, tokenize

if TYPE_CHECKING:
    from rightrank.recipe import Recipe


@dataclass(frozen=True, eq=False)
class HeldOutData:
    """Both halves in a random order whose prefixes are random subsets; no prompt is in both."""

    decide: tuple[TokenizedExample, ...]
    score: tuple[TokenizedExample, ...]
    name: str
    format: str
    fingerprint: str
    rows: int
    notes: tuple[str, ...]
    train: tuple[TokenizedExample, ...] = ()
    """None of them trains."""


def prepare_held_out(
    source: object, tokenizer: Any, recipe: Recipe, *, chat_template: bool = True, seed: int = 0
) -> HeldOutData:
    """Read, understand, tokenize and halve ``source``, as ``prepare`` treats ``--eval-data``. Raises what ``prepare`` raises."""
    parsed = understand(source, prefer=EVAL_SPLITS)
    made = tokenize(parsed.conversations, tokenizer, recipe, chat_template=chat_template)
    used = [parsed.conversations[row] for row in made.rows]
    sides = split_held_out([Prompt(c.prompt_text(), c.prompt_text(system=False)) for c in used], seed=seed)
    return HeldOutData(
        decide=tuple(made.examples[i] for i in sides.decide),
        score=tuple(made.examples[i] for i in sides.score),
        name=parsed.name,
        format=parsed.format,
        fingerprint=fingerprint([parsed.conversations], [parsed.total]),
        rows=parsed.rows,
        notes=(*parsed.notes, *sides.notes),
    )
