"""What trains together and what that gave, and both as bytes with a checksum. Read without torch.

Dimensions: K configurations of a pack, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rightrank.probe.looks import Looks
from rightrank.runs.durable import array_bytes, arrays_and_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int

Role = Literal["learning rate", "rank", "seed", "guide", "yours"]


@dataclass(frozen=True)
class Configuration:
    """One way to fine-tune: what a person would type into a trainer."""

    rank: int
    alpha: float
    learning_rate: float
    seed: int = 0
    role: Role = field(default="rank", compare=False)


@dataclass(frozen=True)
class Pack:
    """Configurations that train together on the first ``examples`` training examples, in the same batches."""

    number: int
    examples: int
    configurations: tuple[Configuration, ...]
    with_score: bool
    """Whether the held-out examples that only score are evaluated too."""


@dataclass(frozen=True)
class PackResult:
    """What training and evaluating a pack gave. Diverged configurations carry infinite losses."""

    loss_KE: Float[np.ndarray, "K E"]
    """Nats summed per held-out example; NaN where not evaluated."""
    right_KE: Int[np.ndarray, "K E"]
    """Greedy-right trained tokens; -1 where not evaluated."""
    train_loss_K: tuple[float | None, ...]
    steps: int
    train_tokens: int
    """Tokens each configuration trained on."""
    seconds: float
    looks: Looks | None = None
    """On their way; None where they were not looked at."""


def pack_from(raw: dict[str, Any]) -> Pack:
    """The pack that ``asdict`` made ``raw`` of. Raises KeyError, TypeError or ValueError."""
    configurations = tuple(Configuration(**c) for c in raw["configurations"])
    return Pack(int(raw["number"]), int(raw["examples"]), configurations, bool(raw["with_score"]))


def packed(result: PackResult, whose: Mapping[str, Any]) -> bytes:
    """The result with its checksum. ``whose``: the run, what it was measured on, and what was trained."""
    facts = {
        **whose,
        "train_loss": result.train_loss_K,
        "steps": result.steps,
        "train_tokens": result.train_tokens,
        "seconds": result.seconds,
        "look_epochs": None if result.looks is None else result.looks.epochs_L,
    }
    arrays = {
        "loss": np.ascontiguousarray(result.loss_KE),
        "right": np.ascontiguousarray(result.right_KE, dtype=np.int64),
    }
    if result.looks is not None:
        arrays["looks"] = np.ascontiguousarray(result.looks.loss_KLX)
        arrays["look_training"] = np.ascontiguousarray(result.looks.train_loss_KL)
    return array_bytes(arrays, facts)


def unpacked(raw: bytes) -> tuple[PackResult, dict[str, Any]]:
    """The result that ``packed`` wrote, and all that stands with it. Raises DamagedError, KeyError or TypeError."""
    arrays, facts = arrays_and_facts(raw)
    result = PackResult(
        loss_KE=arrays["loss"],
        right_KE=arrays["right"],
        train_loss_K=tuple(facts["train_loss"]),
        steps=int(facts["steps"]),
        train_tokens=int(facts["train_tokens"]),
        seconds=float(facts["seconds"]),
        looks=Looks(tuple(facts["look_epochs"]), arrays["looks"], arrays["look_training"])
        if facts.get("look_epochs")
        else None,
    )
    return result, facts
