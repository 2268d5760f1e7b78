"""What a trainer's config says, in our words, and what became of a config that was given a recommendation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003
from typing import Literal

from rightrank.recipe import LossOn, Recipe, RowFormat

Quantization = Literal["4-bit", "8-bit"]


@dataclass(frozen=True)
class TrainerConfig:
    """A trainer's config as read: what to measure, and the person's own setting, which is measured as one of the points."""

    trainer: str
    """As the trainer calls itself: ``Axolotl``."""
    path: Path
    model: str | None
    data: str | None
    """Relative paths are made relative to where the trainer would look for them."""
    recipe: Recipe = field(default_factory=Recipe)
    """What the config names has the origin ``config``, what the trainer would take by default ``trainer``."""
    yours: tuple[int, float, float] | None = None
    """Rank, alpha and learning rate in plain LoRA's convention (the update times alpha / rank): rsLoRA and other scales folded in."""
    eval_data: str | None = None
    data_config: str | None = None
    data_split: str | None = None
    data_revision: str | None = None
    revision: str | None = None
    string_template: bool = True
    """Whether prompts and completions that are plain strings go through the chat template; rows of messages always do."""
    message_loss_on: LossOn | None = None
    """What is trained in rows that are whole conversations, where it is not what the recipe says; None: that."""
    warmup_steps: int | None = None
    """Where the warm-up is given as a number of steps and not as a share of them."""
    target_modules: tuple[str, ...] | None = None
    """Suffixes of module names; None: all linear layers; none at all: the config names none, and its trainer would adapt only a few."""
    quantization: Quantization | None = None
    """How the trainer loads the base; None: as it is."""
    seed: int | None = None
    row_format: RowFormat | None = None
    """How the trainer reads the rows; None: it looks for itself, or the config names the columns."""
    unread: tuple[str, ...] = ()
    """Keys of the config that change nothing here, as they are written there; one that looks misspelt with what may be meant."""
    notes: tuple[str, ...] = ()
    """What was folded, assumed, or is measured otherwise than that trainer would train, a sentence each; what looks like a mistake
    comes first."""


@dataclass(frozen=True)
class EditedConfig:
    """A trainer's config after the recommendation was written into it; comments, order and every other line as they were."""

    text: str
    changes: tuple[tuple[str, str | None, str | None], ...]
    """(key, value before, value after) of the lines that changed; None where the key was not, or no longer is, there."""
    notes: tuple[str, ...] = ()
    """What the trainer cannot express, a sentence each."""
