"""Under what an answer was measured: the model, the data, what it took, and how to do it again. And a number with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["measured", "extrapolated", "derived", "published", "assumed"]


@dataclass(frozen=True)
class Figure:
    """A number, its 95 % interval where it has one, its unit, and where it comes from."""

    value: float
    unit: str
    source: Source
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The base model as it was probed."""

    name: str
    """As the user named it."""
    architecture: str
    fingerprint: str
    parameters: int
    layers: int
    dtype: str
    """Of the frozen base while it was probed: ``bfloat16``, ``4-bit`` …"""
    target_modules: tuple[str, ...]
    not_adapted: tuple[str, ...]
    """Weights that exist but get no adapter, named: fused experts, embeddings …"""
    path: str
    """Which implementation ran the model: ``packed`` or ``padded`` (the slower one), and why."""


@dataclass(frozen=True)
class DataFacts:
    """The data set as it was understood."""

    name: str
    format: str
    """``Alpaca``, ``prompt/completion``, ``messages``, ``ShareGPT``, ``text``."""
    fingerprint: str
    rows: int
    train: int
    decide: int
    score: int
    truncated: int
    dropped: int
    """Rows not used: over-long under ``drop``, or nothing left to train on."""
    duplicates: int
    """Rows identical to an earlier one; kept, but on the same side of the split."""
    trained_tokens: int
    """Tokens the loss is taken on, in the training part."""
    total_tokens: int
    template: str
    """``chat template of the tokenizer`` or ``none``."""
    held_out_from: Literal["split by prompt", "--eval-data"]
    judged: int | None = None
    """Held-out rows that runs were judged by: no more than a share of the time pays for. None: all."""


@dataclass(frozen=True)
class Cost:
    """What the probe took."""

    planned_minutes: float
    took_minutes: float
    runs: float
    """Adapter-tokens of the probe over those of one run of the user's recipe on all the data (evaluation counted half)."""
    peak_gib: float
    device: str
    resolvable: Figure | None
    """Smallest difference, in percent of the gain, that the held-out examples can resolve at 95 %."""


@dataclass(frozen=True)
class Provenance:
    """What is needed to do it again."""

    created: str
    """ISO 8601, UTC."""
    command: str
    seed: int
    versions: dict[str, str]
    interrupted: bool
    run_directory: str


@dataclass(frozen=True)
class Finished:
    """The winner trained on all the rows, those held out for measuring too; what the answer says of it was measured on fewer."""

    directory: str
    examples: int
    minutes: float
    train_loss: float | None
    """Training nats a token over the last tenth of the steps."""
