"""What a run is asked to measure besides the loss, and its price: said before anything is trained."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.besides.forgetting import OldSkills, read_old_skills, rows_to_measure
from rightrank.besides.own_metric import LONGEST_SECONDS, Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.targets import Target
    from rightrank.bank.verify import Path as HowItRuns
    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.probe.plan import Job, Speed
    from rightrank.request import Request

MOST_FINALISTS = 4
"""The chosen, the best, the smallest not ruled out, the person's own."""


@dataclass(frozen=True)
class Asked:
    """What is asked for, and what it will take; nothing where nothing is."""

    command: Command | None = None
    skills: OldSkills | None = None
    untrained: float = 0.0
    """What the command printed for an adapter of zeros."""
    command_seconds: float = 0.0
    """How long it took for it."""
    rows: int = 0
    """Rows of ``skills`` that are measured."""
    reserve_seconds: float = 0.0
    """Of the budget, for all of it."""

    @property
    def examples(self) -> tuple[TokenizedExample, ...]:
        """All that the model must be able to read for it."""
        return () if self.skills is None else self.skills.examples

    @property
    def anything(self) -> bool:
        """Whether adapters must be kept for it."""
        return self.command is not None or self.skills is not None


@dataclass(frozen=True)
class Model:
    """The model that adapters are loaded into, and how it runs."""

    base: BaseModel
    base_name: str
    targets: Sequence[Target]
    memory: MemoryModel
    path: HowItRuns


def ask(request: Request, tokenizer: Any, data: PreparedData) -> Asked:
    """What of ``request`` is asked besides. Before the model is loaded, so that a mistake shows early. Raises UserErrors."""
    command = None if request.metric is None else Command.of(request.metric)
    skills = None if request.keep is None else read_old_skills(request, tokenizer, data.train)
    return Asked(command, skills)


def price(
    asked: Asked, request: Request, model: Model, job: Job, speed: Speed, ranks: Sequence[int]
) -> Asked:
    """What it will take. The person's command is run once, on an adapter of zeros: one that fails costs no measurement."""
    from rightrank.probe.plan import DEFAULT_BUDGET_SECONDS, trainer_seconds

    if asked.command is not None:
        asked = _first_value(asked, asked.command, request, model, min(ranks))
    if (skills := asked.skills) is not None:
        middle = sorted(ranks)[len(ranks) // 2]
        one_run = trainer_seconds(job, speed, middle, job.examples)
        budget = (
            min(DEFAULT_BUDGET_SECONDS, one_run)
            if request.budget_minutes is None
            else request.budget_minutes * 60
        )
        models = len(ranks) + 2  # the untrained one, and one more learning rate or the person's own setting
        a_row = speed.evaluate_seconds_per_token * skills.mean_tokens
        rows = rows_to_measure(len(skills.examples), a_row, models, budget)
        asked = replace(asked, rows=rows, reserve_seconds=asked.reserve_seconds + models * rows * a_row)
        request.on_text(
            f"Old skills: {skills.name}, {rows:,} of {skills.of_rows:,} rows, about "
            f"{models * rows * a_row / 60:.1f} min of the plan."
        )
    return asked


def _first_value(asked: Asked, command: Command, request: Request, model: Model, rank: int) -> Asked:
    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.peft_format import export_adapter

    specs = [AdapterSpec(rank, alpha=float(rank), learning_rate=0.0)]
    bank = AdapterBank(model.targets, specs, device=model.base.device, dtype=model.base.dtype)
    longest = LONGEST_SECONDS
    if request.budget_minutes is not None:
        longest = min(longest, 60 * request.budget_minutes)
    with tempfile.TemporaryDirectory(prefix="rightrank-") as folder:
        zeros = export_adapter(bank, 0, Path(folder) / "untrained", base_name=model.base_name)
        make_room(model)
        started = time.monotonic()
        value = command.measure(zeros, longest_seconds=longest, show_stderr=request.show_stderr)
        took = time.monotonic() - started
    request.on_text(
        f"Your own measure: {value:.4g} for the untrained model, in {took:.1f} s; it is run on up to {MOST_FINALISTS} trained"
        " adapters, higher is better."
    )
    reserve = asked.reserve_seconds + MOST_FINALISTS * took
    return replace(asked, untrained=value, command_seconds=took, reserve_seconds=reserve)


def make_room(model: Model) -> None:
    """Give back what the GPU's allocator holds for later: the person's command may load the model as well."""
    if model.base.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
