"""What ``rightrank.estimate`` and ``rightrank.check`` return. Every range says where it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from rightrank.priors import grids

if TYPE_CHECKING:
    from rightrank.data.characteristics import Characteristics
    from rightrank.priors.characteristics import Foretold
    from rightrank.recipe import Recipe
    from rightrank.recommendation import Recommendation

Verdict = Literal["keep it", "change these lines", "cannot tell without measuring", "cannot tell yet"]
Setting = tuple[int, float, float]
"""Rank, alpha and learning rate, in plain LoRA's convention."""


@dataclass(frozen=True)
class Range:
    """Least and most of a number, and where they come from."""

    low: float
    high: float
    unit: str
    source: str


@dataclass(frozen=True)
class GainLost:
    """What a setting lost on the recorded data sets, or when it was measured, in percent of what training gained there."""

    mean: float
    low: float | None
    """None: measured on too few rows for an interval."""
    high: float | None
    sets: int
    """Data sets on which the setting, or its neighbours, were recorded."""
    source: str


@dataclass(frozen=True)
class DataProfile:
    """The data set as it was understood. Lengths are in tokens, prompt and completion together, after truncation."""

    name: str
    format: str
    template: str
    rows: int
    train: int
    """Rows that a run on the whole data set trains on."""
    at_hand: int
    """Those that were looked at: fewer, where a large data set was sampled."""
    held_out: int
    score: int
    """Held-out rows that score; the others choose."""
    held_out_from: str
    trained_tokens: int
    """Tokens a loss is taken on, in one pass over the training rows."""
    distinct_tokens: int
    """Different ones among them."""
    total_tokens: int
    median_length: int
    length_95: int
    """95 % of the training rows are no longer than this."""
    longest: int
    truncated: int
    truncated_percent: float
    """Of the rows looked at."""
    dropped: int
    duplicates: int
    overlap: int
    """Training rows left out since a held-out row asks the same."""

    @property
    def trained_tokens_a_row(self) -> float:
        """Mean over the training rows."""
        return self.trained_tokens / self.train

    @property
    def mean_length(self) -> float:
        """Mean tokens of a training row."""
        return self.total_tokens / self.train


@dataclass(frozen=True)
class ModelShape:
    """The model by its shapes."""

    name: str
    architecture: str
    parameters: int
    layers: int
    hidden: int
    weights: str
    """How the frozen weights lie in memory: ``bfloat16``, ``4-bit`` …"""
    weights_gib: float
    target_modules: tuple[str, ...]
    not_adapted: tuple[str, ...]
    parameters_per_rank: int
    """Adapter parameters for each unit of rank."""
    widest_rank: int
    narrowest: tuple[str, int]
    """The module beyond whose width a rank adds nothing there, and that width."""


@dataclass(frozen=True)
class SettingEstimate:
    """A rank with a learning rate to start from, a popular default, or the person's own setting."""

    label: str
    kind: Literal["rank", "guide", "yours"]
    rank: int
    alpha: float
    learning_rate: float | None
    """None where the recorded runs know none for this rank."""
    parameters: int
    adapter_mb: float
    """Saved in 16 bits, 10**6 bytes."""
    optimiser_gib: float
    """AdamW's two moments in float32."""
    train_gib: float
    """Frozen weights, what a whole batch keeps for the backward pass, adapter, gradients, optimiser; GiB of 2**30 bytes."""
    gain_lost: GainLost | None
    """None where nothing near was recorded."""


@dataclass(frozen=True)
class Timing:
    """Minutes on one device."""

    device: str
    device_gib: float
    run: Range
    """One training run of the recipe."""
    probe: Range
    """``rightrank recommend`` with its default budget, loading left out."""
    every_rank: Range | None
    """Every rank on all the rows."""
    long_enough: Range | None = None
    """Budget from which on the runs are long enough for more than UNDECIDED; None where the default is."""


@dataclass(frozen=True)
class Floor:
    """Capacity: the smallest rank whose parameters can hold what the data says. A lower bound at most."""

    rank: float
    source: str
    caution: str


@dataclass(frozen=True)
class Estimate:
    """All that can be said in seconds, without weights."""

    data: DataProfile
    model: ModelShape
    recipe: Recipe
    steps: int
    """Optimiser steps of one run."""
    settings: tuple[SettingEstimate, ...]
    timing: Timing | None
    """None where no card is named and this machine's is unknown."""
    floor: Floor
    resolvable: Range
    """Smallest difference that the held-out rows that score can tell apart, in percent of the gain."""
    nearest: str
    """The recorded data set that is most like this one, in words."""
    doubts: tuple[str, ...]
    """Why the recorded runs may not carry over, in words."""
    outside: tuple[str, ...]
    """Why nothing recorded tells what a setting costs here, in words; no loss is estimated then."""
    no_answer: str
    """Why no measurement on these rows can end in more than UNDECIDED, and what would; empty where one can."""
    cautions: tuple[str, ...]
    """What is wrong or risky whatever a measurement says, a sentence each."""
    characteristics: Characteristics
    """What the rows look like; of a large data set carried on from the first 300,000 tokens."""
    foretold: Foretold | None
    """The smallest equivalent rank, as recorded data sets let one expect it; None where nothing recorded is like this run."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        from rightrank.estimates.shown import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from rightrank.estimates.shown import as_html

        return as_html(self)

    def setting(self, kind: Literal["guide", "yours"]) -> SettingEstimate | None:
        """The popular default, or the person's own setting."""
        return next((setting for setting in self.settings if setting.kind == kind), None)

    def to_json(self) -> str:
        """This estimate as JSON; numbers that do not exist are null."""
        return json.dumps({"kind": "estimate", **asdict(self)}, indent=1, allow_nan=False, ensure_ascii=False)


def likeness_of(model: ModelShape, data: DataProfile, recipe: Recipe, steps: int) -> grids.Likeness:
    """How the recorded runs compare with this one."""
    return grids.likeness(
        model.hidden,
        steps,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        trained_tokens_a_row=data.trained_tokens_a_row,
    )


@dataclass(frozen=True)
class Check:
    """Whether a config is worth changing."""

    verdict: Verdict
    source: str
    """``measured``, or what the estimate rests on."""
    config: str
    trainer: str
    yours: Setting
    cost: GainLost | None
    better: Setting | None
    changes: tuple[tuple[str, str | None, str | None], ...]
    """(key, value before, value after) of the lines of the config."""
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]
    unread: tuple[str, ...]
    """Keys of the config that were not read."""
    notes: tuple[str, ...]
    estimate: Estimate | None
    recommendation: Recommendation | None

    def __str__(self) -> str:
        from rightrank.estimates.shown import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from rightrank.estimates.shown import as_html

        return as_html(self)

    def to_json(self) -> str:
        """This answer as JSON; a measured one names its run directory instead of repeating it."""
        found = {"kind": "check", **asdict(self)}
        answer = self.recommendation
        found["recommendation"] = None if answer is None else answer.provenance.run_directory
        return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False)
