"""What a person can ask for, and whether it makes sense before anything is read or loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError, ModelError
from rightrank.recipe import LossOn, Recipe, RowFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LARGEST_SEED = 2**32 - 1
LONGEST_MINUTES = 1e6
EXECUTORS = ("local", "ray")


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
    executor: str = "local"
    """``local``: this machine, on every GPU it has unless ``device`` names one; ``ray``: the Ray cluster that it belongs to."""
    quantization: str | None = None
    """``4-bit`` (NF4, as QLoRA) or ``8-bit``: how the base is loaded; None: as it is stored."""
    ranks: tuple[int, ...] | None = None
    """Candidate ranks; None: 4 to 128, and smaller ones once one is surely as good as the best."""
    max_rank: int | None = None
    """Largest rank that can be served."""
    yours: tuple[int, float, float] | None = None
    """Rank, alpha and learning rate of the person's own config: measured as one of the points."""
    target_modules: tuple[str, ...] | None = None
    """Names of the layers to adapt, as PEFT's ``target_modules`` takes them; None: all linear layers."""
    config: str | Path | None = None
    """The trainer's config that all this was taken from."""
    trainer: str | None = None
    """Whose it is."""
    row_format: RowFormat | None = None
    """What ``config`` says its rows are, where it says so."""
    string_template: bool = True
    """Whether prompts and completions that are plain strings go through the chat template, too."""
    message_loss_on: LossOn | None = None
    """What is trained in rows that are whole conversations, where it is not what the recipe says."""
    warmup_steps: int | None = None
    """The warm-up in steps of the person's own run, where it is given so; what share of it that is, the rows tell."""
    notes: tuple[str, ...] = ()
    """Sentences that belong into the answer."""
    finish: bool = False
    """Whether the winner is trained on all the rows in the end."""
    metric: str | None = None
    """A command of the person's own, without a shell: given an adapter's directory, it prints one number, higher is better."""
    keep: Any = None
    """Rows of what the model should still be able to do; the loss on them is measured before and after."""
    layers: bool = False
    """Whether attention alone and the MLP alone are compared with all layers, at the answer's size."""
    report_to: str | Sequence[str] | None = None
    """Trackers that hear of every run, as transformers names them: wandb, tensorboard, trackio, all, none."""
    show_stderr: bool = False
    """Whether what ``metric`` writes to stderr is shown."""
    seed: int = 0
    command: str = "rightrank recommend MODEL DATA"
    """How to ask again; appears in where the answer comes from, and without budget and place in what would decide."""
    on_text: Callable[[str], None] = lambda line: None
    """Hears what was found and planned, a line at a time."""
    on_progress: Callable[[str, float, float], None] = lambda what, done, whole: None
    """Hears (what, seconds done, seconds in all) while it measures."""

    @property
    def recipe_from(self) -> str | None:
        """The config as the answer names it."""
        return None if self.config is None else f"{Path(self.config).name} ({self.trainer})"


def check(request: Request) -> None:
    """Raise ConfigurationError or ModelError for what can be seen to be wrong from the request alone."""
    if not isinstance(request.model, (str, Path)) and request.tokenizer is None:
        raise ModelError("A loaded model needs its tokenizer.", "Pass `tokenizer=` as well.")
    if not str(request.model).strip():
        raise ModelError("No model is named.", "Name a folder with config.json, a .gguf file, or a hub id.")
    _check_executor(request)
    budget = request.budget_minutes
    if budget is not None and not 0 < budget <= LONGEST_MINUTES:
        raise ConfigurationError(f"A budget of {budget:g} minutes is no time.", "Give minutes above zero.")
    if not 0 <= request.seed <= LARGEST_SEED:
        raise ConfigurationError(
            f"The seed {request.seed} is no seed.", f"Give a whole number from 0 to {LARGEST_SEED}."
        )
    if request.max_rank is not None and request.max_rank < 1:
        raise ConfigurationError(f"The largest rank {request.max_rank} is no rank.", "Give 1 or more.")
    ranks = request.ranks or ()
    bad = next((rank for rank in ranks if rank < 1), None)
    if bad is not None:
        raise ConfigurationError(f"{bad} is no rank.", "Give whole numbers above zero.")
    twice = next((rank for rank in ranks if ranks.count(rank) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"The ranks to try name {twice} more than once.", "Name each once.")
    if request.yours is not None and not all(math.isfinite(x) and x > 0 for x in request.yours):
        raise ConfigurationError(
            f"Your own setting, rank {request.yours[0]}, alpha {request.yours[1]:g} and learning rate {request.yours[2]:g},"
            " has a number that is not above zero.",
            "Mend it in --yours." if request.config is None else f"Mend it in {Path(request.config).name}.",
        )
    if request.target_modules is not None and not all(name.strip() for name in request.target_modules):
        raise ConfigurationError(
            "A layer to adapt has no name.", "Name layers such as q_proj, or leave them out."
        )
    _check_recipe(request.recipe)


def _check_executor(request: Request) -> None:
    """A cluster needs Ray, and a model that its machines find by name."""
    if request.executor not in EXECUTORS:
        raise ConfigurationError(f"The executor {request.executor!r} is not known.", "Use local or ray.")
    if request.executor == "local":
        return
    if not isinstance(request.model, (str, Path)):
        raise ConfigurationError(
            "A loaded model cannot be sent to the machines of a cluster.", "Name its folder or hub id."
        )
    if request.device is not None:
        raise ConfigurationError(
            "--device and --executor ray exclude each other.", "Ray chooses the devices: leave --device out."
        )
    if request.metric is not None or request.keep is not None:
        raise ConfigurationError(
            "--metric and --keep are measured in this process, and --executor ray trains in others.",
            "Leave out --executor, or --metric and --keep.",
        )
    if find_spec("ray") is None:
        raise ConfigurationError(
            "--executor ray needs the package ray.", "Run `pip install 'rightrank[ray]'` on every machine."
        )


def _check_recipe(recipe: Recipe) -> None:
    """What a Recipe lets pass: numbers that are infinite or none, and decay below zero."""
    if not math.isfinite(recipe.epochs):
        raise ConfigurationError(f"{recipe.epochs} epochs never end.", "Give a number above zero.")
    if not 0 <= recipe.weight_decay < math.inf:
        raise ConfigurationError(
            f"A weight decay of {recipe.weight_decay} is none.", "Give a number from zero up."
        )
