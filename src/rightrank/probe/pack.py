"""What trains together and what that gave, and both as bytes with a checksum. Read without torch.

Dimensions: K configurations of a pack, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from rightrank.probe.looks import Looks
from rightrank.recipe import Layers
from rightrank.runs.durable import DamagedError, array_bytes, arrays_and_facts
from rightrank.runs.saved_answer import LARGEST, LARGEST_RANK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int

Role = Literal["learning rate", "rank", "seed", "guide", "yours"]
LARGEST_LOSS = 1e12
"""Nats of one example. A million tokens, each missed by as much as float32 logits can, have fewer. Assumed."""


@dataclass(frozen=True)
class Configuration:
    """One way to fine-tune: what a person would type into a trainer."""

    rank: int
    alpha: float
    learning_rate: float
    seed: int = 0
    role: Role = field(default="rank", compare=False)
    layers: Layers = "all"
    """Those that get an adapter of this rank; the others get none."""


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


def written(pack: Pack) -> dict[str, Any]:
    """``pack`` as it stands in files: as ``asdict`` has it, but for ``layers`` where they are all, which older files do not name."""
    configurations = tuple(
        {key: value for key, value in asdict(c).items() if (key, value) != ("layers", "all")}
        for c in pack.configurations
    )
    return {**asdict(pack), "configurations": configurations}


def pack_from(raw: Any) -> Pack:
    """The pack that ``written`` made ``raw`` of. Raises DamagedError where it is none: a checksum anyone can write."""
    try:
        configurations = tuple(Configuration(**c) for c in raw["configurations"])
        pack = Pack(raw["number"], raw["examples"], configurations, raw["with_score"])
    except (KeyError, TypeError) as error:
        raise DamagedError(WRONG) from error
    whole = _is_count(pack.number) and _is_count(pack.examples) and isinstance(pack.with_score, bool)
    if not (whole and configurations and all(map(_is_one, configurations))):
        raise DamagedError(WRONG)
    return pack


WRONG = "the file is not what was written"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_one(c: Configuration) -> bool:
    """Whether anything can be trained so."""
    rank = _is_count(c.rank) and 0 < c.rank <= LARGEST_RANK
    numbers = all(_is_number(x) and x > 0 for x in (c.alpha, c.learning_rate))
    words = c.role in get_args(Role) and c.layers in get_args(Layers)
    return rank and numbers and _is_count(c.seed) and words


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
    """The result that ``packed`` wrote, and all that stands with it. Raises DamagedError."""
    arrays, facts = arrays_and_facts(raw)
    try:
        result = PackResult(
            loss_KE=arrays["loss"],
            right_KE=arrays["right"],
            train_loss_K=tuple(facts["train_loss"]),
            steps=facts["steps"],
            train_tokens=facts["train_tokens"],
            seconds=facts["seconds"],
            looks=Looks(tuple(facts["look_epochs"]), arrays["looks"], arrays["look_training"])
            if facts.get("look_epochs")
            else None,
        )
    except (KeyError, TypeError) as error:
        raise DamagedError(WRONG) from error
    if not (_is_result(result) and (result.looks is None or _are_looks(result.looks, len(result.loss_KE)))):
        raise DamagedError(WRONG)
    return result, facts


def _is_result(result: PackResult) -> bool:
    """Whether arrays and numbers belong together, and losses are such as training gives."""
    loss_KE, right_KE, training = result.loss_KE, result.right_KE, result.train_loss_K
    shapes = loss_KE.ndim == 2 and loss_KE.size > 0 and loss_KE.shape == right_KE.shape
    counts = all(map(_is_count, (result.steps, result.train_tokens)))
    return (
        shapes
        and (loss_KE.dtype.kind, right_KE.dtype.kind) == ("f", "i")
        and _are_losses(loss_KE)
        and counts
        and (_is_number(result.seconds) and result.seconds >= 0)
        and len(training) == len(loss_KE)
        and all(one is None or isinstance(one, float) for one in training)
    )


def _are_looks(looks: Looks, adapters: int) -> bool:
    count = (adapters, len(looks.epochs_L))
    return (
        looks.loss_KLX.ndim == 3
        and looks.loss_KLX.size > 0
        and looks.loss_KLX.shape[:2] == looks.train_loss_KL.shape == count
        and looks.loss_KLX.dtype.kind == looks.train_loss_KL.dtype.kind == "f"
        and all(_is_number(one) and one > 0 for one in looks.epochs_L)
        and _are_losses(looks.loss_KLX)
        and _are_losses(looks.train_loss_KL)
    )


def _are_losses(loss: Float[np.ndarray, " ..."]) -> bool:
    """Nats; NaN and infinite ones have a meaning."""
    known = loss[np.isfinite(loss)]
    return bool(((known >= 0) & (known <= LARGEST_LOSS)).all()) and not np.isneginf(loss).any()
