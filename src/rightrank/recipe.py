"""What the user will train with, and the one convention by which rank, alpha and learning rate belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003  (pydantic resolves it at run time)
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from rightrank.errors import ConfigurationError

Schedule = Literal["linear", "cosine", "constant"]
LossOn = Literal["completion", "all"]
OverLong = Literal["truncate", "drop"]
Origin = Literal["assumed", "given", "config", "trainer"]
Layers = Literal["all", "attention", "mlp"]
"""Which linear layers get an adapter."""


@dataclass(frozen=True)
class RowFormat:
    """How a config says that its rows are to be read."""

    words: str
    """As the config has it: ``type: alpaca``."""
    formats: tuple[str, ...]
    """The formats of ``data.formats`` that its trainer can read so."""


@dataclass(frozen=True)
class Recipe:
    """The training that a rank is wanted for.

    Everything but rank, alpha and learning rate. ``origins`` says of each field whether the person gave it, their config did, or it
    was assumed; a field that is missing there was assumed. The defaults are those that guides and trainers agree on most
    (3 epochs, batch 16, linear decay after a short warm-up, AdamW without decay, gradients clipped at 1).
    """

    epochs: float = 3.0
    batch_size: int = 16
    """Examples an optimiser step, gradient accumulation and data-parallel ranks included."""
    max_length: int = 1024
    """Tokens an example, prompt and completion together."""
    over_long: OverLong = "truncate"
    loss_on: LossOn = "completion"
    schedule: Schedule = "linear"
    warmup_ratio: float = 0.05
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    """LoRA dropout: applied to an adapter's input."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "max_length": self.max_length}
        for name, value in positive.items():
            if not value > 0:
                raise ConfigurationError(f"{name} is {value}.", "Give a number above zero.")
        shares = {"warmup_ratio": self.warmup_ratio, "dropout": self.dropout}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ConfigurationError(f"{name} is {value}.", "Give a share from 0 to below 1.")

    def steps(self, examples: int) -> int:
        """Optimiser steps of a run over ``examples`` training examples.

        As transformers' Trainer counts them: ceil(examples / batch) a pass, the last batch of a pass smaller, the whole rounded up.
        """
        return max(1, math.ceil(self.epochs * math.ceil(examples / self.batch_size)))

    @property
    def why_dropped(self) -> str:
        """What the rows that are not trained on are, in a few words."""
        longer = f"longer than {self.max_length:,} tokens"
        return longer if self.over_long == "drop" else f"no trained token within {self.max_length:,} tokens"

    def given(self, origin: Origin = "given", **changes: Any) -> Recipe:
        """This recipe with the ``changes`` that are not None, marked as coming from ``origin``."""
        real = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **real, origins={**self.origins, **dict.fromkeys(real, origin)})

    def assumed(self) -> dict[str, Any]:
        """The fields nobody gave, with the values assumed for them."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name != "origins" and self.origins.get(f.name, "assumed") == "assumed"
        }


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """Multiplier of the peak learning rate at ``step`` (0-based) of ``steps``.

    The schedules of ``transformers.optimization`` (get_linear_, get_cosine_, get_constant_schedule_with_warmup), which every trainer
    we export to uses: warm-up over ceil(ratio * steps) steps starting at zero.
    """
    warmup = math.ceil(recipe.warmup_ratio * steps)
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    if recipe.schedule == "linear":
        return max(0.0, 1.0 - progress)
    if recipe.schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return 1.0


# Scale ∝ rank^(-3/4), through alpha = 32 at rank 16. Measured lead (SmolLM2-135M, five data sets): it leaves a mean excess of 0.12 %
# of the loss when one learning rate serves ranks 4 to 128, against 0.38 % at rank^(-1/2) and 0.26 % at rank^(-1); inferred from runs
# at rank^(-1/2), and held by runs at this scale on two data sets, as far as half-decades tell (bench/LOG.md).
SCALE_EXPONENT = 0.75
ALPHA_AT_16 = 32.0


def alpha_for(rank: int) -> int:
    """LoRA alpha that belongs to ``rank`` so that one learning rate serves most ranks.

    Rounded to a whole number, since most trainers' configs take no other; measurements use the rounded one.
    """
    exact: float = ALPHA_AT_16 * (rank / 16) ** (1 - SCALE_EXPONENT)
    return round(exact)


def equivalent_learning_rate(rank: int, alpha: float, learning_rate: float) -> float:
    """Learning rate at ``alpha_for(rank)`` that takes the same first steps as ``learning_rate`` does at ``alpha``.

    Derived: with B = 0 at the start and AdamW's steps of the size of the learning rate, the update that an adapter adds to its layer
    grows with learning rate × alpha / rank.
    """
    return learning_rate * alpha / alpha_for(rank)
