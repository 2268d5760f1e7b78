"""What a person can ask for, and whether it makes sense before anything is read or loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError, ModelError
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_SEED = 2**32 - 1
LONGEST_MINUTES = 1e6


@dataclass(frozen=True)
class Request:
    """Everything a person can ask for. Only model and data set are needed."""

    model: Any
    """Folder, GGUF file, hub id, or a loaded causal language model of transformers."""
    dataset: Any
    """File, folder, hub id, or loaded rows (``datasets.Dataset``, list of dicts, DataFrame)."""
    recipe: Recipe = field(default_factory=Recipe)
    budget_minutes: float | None = None
    """None: the time of one run of the recipe, an hour at most."""
    out: str | Path | None = None
    """Run directory; None: a new one under ``rightrank-runs``."""
    resume: bool = False
    eval_data: Any = None
    data_config: str | None = None
    data_split: str | None = None
    data_revision: str | None = None
    chat_template: bool = True
    tokenizer: Any = None
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    ranks: tuple[int, ...] | None = None
    """Candidate ranks; None: 4 to 128."""
    max_rank: int | None = None
    """Largest rank that can be served."""
    yours: tuple[int, float, float] | None = None
    """Rank, alpha and learning rate of the person's own config: measured as one of the points."""
    seed: int = 0
    command: str = "rightrank recommend MODEL DATA"
    """How to ask again; appears in what would decide."""
    on_text: Callable[[str], None] = lambda line: None
    """Hears what was found and planned, a line at a time."""
    on_progress: Callable[[str, float, float], None] = lambda what, done, whole: None
    """Hears (what, seconds done, seconds in all) while it measures."""


def check(request: Request) -> None:
    """Raise ConfigurationError or ModelError for what can be seen to be wrong from the request alone."""
    if not isinstance(request.model, (str, Path)) and request.tokenizer is None:
        raise ModelError("A loaded model needs its tokenizer.", "Pass `tokenizer=` as well.")
    if not str(request.model).strip():
        raise ModelError("No model is named.", "Name a folder with config.json, a .gguf file, or a hub id.")
    budget = request.budget_minutes
    if budget is not None and not 0 < budget <= LONGEST_MINUTES:
        raise ConfigurationError(f"A budget of {budget:g} minutes is no time.", "Give minutes above zero.")
    if not 0 <= request.seed <= LARGEST_SEED:
        raise ConfigurationError(
            f"The seed {request.seed} is no seed.", f"Give a whole number from 0 to {LARGEST_SEED}."
        )
    if request.max_rank is not None and request.max_rank < 1:
        raise ConfigurationError(f"The largest rank {request.max_rank} is no rank.", "Give 1 or more.")
    bad = next((rank for rank in request.ranks or () if rank < 1), None)
    if bad is not None:
        raise ConfigurationError(f"{bad} is no rank.", "Give whole numbers above zero.")
    if request.yours is not None and not all(math.isfinite(x) and x > 0 for x in request.yours):
        raise ConfigurationError(
            "Your own setting has a number that is not above zero.",
            "Give rank, alpha and learning rate, such as 16,32,2e-4.",
        )
    _check_recipe(request.recipe)


def _check_recipe(recipe: Recipe) -> None:
    """What a Recipe lets pass: numbers that are infinite or none, and decay below zero."""
    if not math.isfinite(recipe.epochs):
        raise ConfigurationError(f"{recipe.epochs} epochs never end.", "Give a number above zero.")
    if not 0 <= recipe.weight_decay < math.inf:
        raise ConfigurationError(
            f"A weight decay of {recipe.weight_decay} is none.", "Give a number from zero up."
        )
