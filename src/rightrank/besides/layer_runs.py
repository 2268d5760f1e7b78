"""The runs that ``--layers`` compares: attention alone, the MLP alone and all layers at equal size, each at its own learning rates.

They lie in a loss table of their own, so that the answer rests on adapters on all layers alone.

Dimensions: R learning rates, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from rightrank.bank.adapters import adapter_parameters
from rightrank.bank.module_kinds import Kind, rank_of_equal_size
from rightrank.besides.results import LAYERS_FOLDER
from rightrank.errors import ModelError
from rightrank.executors.grouping import spec_of
from rightrank.probe.loss_table import Configuration, LossTable, Pack
from rightrank.probe.plan import stage_seconds
from rightrank.probe.run import SideBySide
from rightrank.probe.settings import sensible, typed
from rightrank.recipe import alpha_for
from rightrank.stats.layers import best_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rightrank.bank.targets import Target
    from rightrank.besides.layer_price import LayersPlan
    from rightrank.probe.plan import Job, Speed
    from rightrank.probe.run import Executor
    from rightrank.recipe import Layers
    from rightrank.stats.results import Decision

HALF_DECADES = (0, 1, -1)
"""Learning rates from the answer's, in the order they are trained."""
MOST_RATES = 5
"""Of one kind, where its best lies at the end of those tried and time is left. Chosen."""


@dataclass(frozen=True)
class LayersSubject:
    """What layers are compared with."""

    table: LossTable
    decision: Decision
    executor: Executor
    targets: Sequence[Target]
    job: Job
    speed: Speed
    tokens_E: np.ndarray
    scores_E: np.ndarray
    deadline: float
    """By the monotonic clock."""
    budget_seconds: float
    max_rank: int | None = None
    on_progress: Callable[[str, float, float], None] = lambda what, done, whole: None


class LayerRuns:
    """What was trained of each kind, and what is still to be trained."""

    def __init__(self, plan: LayersPlan, subject: LayersSubject) -> None:
        """Goes on with what the run directory holds of it, on as many rows."""
        self.plan, self.subject = plan, subject
        table = subject.table
        settings = {**table.settings, "what": LAYERS_FOLDER}
        self.table = LossTable(table.directory / LAYERS_FOLDER, settings, table.about)
        self.rows = max((pack.examples for pack in self.table.packs), default=plan.rows)
        self.notes: list[str] = []
        self.ranks: dict[Layers, int] = {"all": subject.decision.choice.rank}
        for kind in get_args(Kind):
            try:
                self.ranks[kind] = rank_of_equal_size(subject.targets, kind, self.ranks["all"])
            except ModelError as error:
                self.notes.append(error.problem)

    def train(self) -> None:
        """The learning rates about the answer's; then further ones where the best lies at the end, while time is left."""
        rate = self.subject.decision.choice.learning_rate
        near = [typed(rate * 10 ** (half / 2)) if half else rate for half in HALF_DECADES]
        wanted = [
            self.configuration(layers, rate) for rate in near if sensible(rate) for layers in self.ranks
        ]
        while wanted:
            known = self.runs()
            if not self._train([c for c in wanted if c not in known]):
                self.notes.append(self._out_of_time(len(wanted)))
                return
            wanted = self._further()

    def configuration(self, layers: Layers, rate: float) -> Configuration:
        """One run; alpha follows the rank from the answer's as the project's convention does."""
        choice, rank = self.subject.decision.choice, self.ranks[layers]
        alpha = choice.alpha
        if layers != "all":
            usual = alpha == alpha_for(choice.rank)
            alpha = alpha_for(rank) if usual else round(alpha * alpha_for(rank) / alpha_for(choice.rank), 3)
        return Configuration(rank, alpha, rate, 0, "rank", layers)

    def runs(self) -> dict[Configuration, np.ndarray]:
        """Nats of every held-out row, infinite where a run diverged; of adapters on all layers the answer's runs count too."""
        return {
            c: result.loss_KE[k]
            for table in (self.subject.table, self.table)
            for pack, result in zip(table.packs, table.results, strict=True)
            for k, c in enumerate(pack.configurations)
            if pack.examples == self.rows and not np.isnan(result.loss_KE[k]).any()
        }

    def tried(self, layers: Layers) -> dict[float, np.ndarray]:
        """Runs of one kind, by learning rate, from the lowest up."""
        runs = self.runs()
        rates = sorted({c.learning_rate for c in runs if c.layers == layers})
        return {rate: runs[c] for rate in rates if (c := self.configuration(layers, rate)) in runs}

    def best(self, layers: Layers) -> float | None:
        """The learning rate that the rows that decide choose; None where there is none."""
        tried = self.tried(layers)
        if not tried:
            return None
        place = best_rate(np.stack(list(tried.values()))[:, ~self.subject.scores_E])
        return None if place is None else list(tried)[place]

    def parameters(self, one: Configuration) -> int:
        """Numbers that are trained."""
        return adapter_parameters(self.subject.targets, spec_of(one, self.subject.targets))

    def _further(self) -> list[Configuration]:
        """One half-decade more for each kind whose best lies at the end of those tried, where there is time for all."""
        found = []
        for layers in self.ranks:
            rates, best = list(self.tried(layers)), self.best(layers)
            if best is None or len(rates) >= MOST_RATES or best not in (rates[0], rates[-1]):
                continue
            rate = typed(best * 10 ** (0.5 if best == rates[-1] else -0.5))
            if sensible(rate):
                found.append(self.configuration(layers, rate))
        return found if self._seconds(len(found)) <= self._left() else []

    def _train(self, wanted: Sequence[Configuration]) -> bool:
        """Whether time sufficed."""
        number, trained = self.table.next_number, 0
        groups = self.subject.executor.fit_together(wanted) if wanted else []

        def affordable() -> Iterator[Pack]:
            nonlocal trained
            for place, group in enumerate(groups):
                count = len(group)
                while count and self._seconds(count) > self._left():
                    count -= 1
                trained += count
                if count:
                    yield Pack(number + place, self.rows, tuple(group[:count]), with_score=True)
                if count < len(group):
                    return

        self._carry_out(affordable())
        return trained == len(wanted)

    def _carry_out(self, packs: Iterator[Pack]) -> None:
        executor, begun = self.subject.executor, time.monotonic()
        what = f"attention, MLP and all layers on {self.rows:,} rows"

        def show(share: float = 0.0) -> None:
            done = time.monotonic() - begun
            self.subject.on_progress(what, done, max(done, self.plan.seconds))

        if isinstance(executor, SideBySide):
            executor.train_each(((pack, None) for pack in packs), self.table.finish, show)
            return
        for pack in packs:
            self.table.finish(pack, executor.train(pack, export_to=None, on_step=show))

    def _seconds(self, count: int) -> float:
        """What ``count`` runs take, as much slower as the answer's runs were. All have the same size."""
        subject = self.subject
        table, took, foreseen = subject.table, 0.0, 0.0
        for pack, result in zip(table.packs, table.results, strict=True):
            judged = int(np.isfinite(result.loss_KE).any(0).sum())
            ranks = [c.rank for c in pack.configurations]
            foreseen += stage_seconds(subject.job, subject.speed, ranks, pack.examples, judged)
            took += result.seconds
        ranks = [self.ranks["all"]] * count
        alone = stage_seconds(subject.job, subject.speed, ranks, self.rows, len(subject.tokens_E))
        return alone * (took / foreseen if foreseen > 0 else 1.0)

    def _left(self) -> float:
        return self.subject.deadline - time.monotonic()

    def _out_of_time(self, wanted: int) -> str:
        """What would have been enough."""
        budget, known = self.subject.budget_seconds, sum(len(self.tried(layers)) for layers in self.ranks)
        seconds = budget - self._left() + self._seconds(max(1, wanted - known))
        minutes = math.ceil(max(seconds, budget) / 60 + 0.5)
        return f"Time ran out before --layers was measured to its end: --resume --budget {minutes} goes on with it."
