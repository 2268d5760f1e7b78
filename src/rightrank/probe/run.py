"""Carries a plan out: stage by stage, pack by pack, everything on disk as it is measured, until enough is known or time is up."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from rightrank.probe.ladder import Stage, next_stage, smaller_stage
from rightrank.probe.loss_table import Configuration, LossTable, Pack, PackResult
from rightrank.probe.plan import evaluation_seconds, judged_rows, train_seconds
from rightrank.stats.decision import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from rightrank.probe.plan import Job, Plan, Speed
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision

Progress = "Callable[[str, float, float], None]"
StopReason = Literal["answered", "carried out", "out of time", "interrupted"]


class Executor(Protocol):
    """Where packs are trained: in this process, or elsewhere."""

    def fit_together(self, configurations: Sequence[Configuration]) -> list[list[Configuration]]:
        """Split configurations into groups that fit on the device together."""

    def evaluate_base(self) -> PackResult:
        """The untrained model on every held-out example."""

    def train(self, pack: Pack, *, export_to: Path | None, on_step: Callable[[float], None]) -> PackResult:
        """Train and evaluate a pack; ``on_step`` hears which share of it is done. Exports the adapters where asked to."""


@runtime_checkable
class SideBySide(Protocol):
    """What an executor of several devices can do besides."""

    def train_each(
        self,
        packs: Iterable[tuple[Pack, Path | None]],
        on_done: Callable[[Pack, PackResult], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Train packs, each with where its adapters go; the next is asked for when a device is free. ``on_tick`` is called meanwhile."""


@dataclass(frozen=True)
class Subject:
    """What a probe measures on, as the statistics and the scheduler need it."""

    job: Job
    tokens_E: np.ndarray
    scores_E: np.ndarray
    frequency_loss_E: np.ndarray
    prior_learning_rate: float
    widest_rank: int
    narrowest_rank: int
    yours: tuple[int, float, float] | None
    seed: int
    keeps_adapters: bool = False
    """Whether the adapters of the last size are kept even where that is not all the data."""


@dataclass(frozen=True)
class Outcome:
    """What came of a probe."""

    evidence: Evidence
    stopped: StopReason


class Probe:
    """One probe on one executor, writing into one loss table."""

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        speed: Speed,
        table: LossTable,
        executor: Executor,
        *,
        deadline: float,
        on_progress: Callable[[str, float, float], None],
        on_result: Callable[[Pack, PackResult], None] = lambda pack, result: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``deadline``: on ``clock``, which is the monotonic one where None."""
        self.subject, self.plan, self.speed, self.table, self.executor = subject, plan, speed, table, executor
        self.deadline = deadline
        self.clock = time.monotonic if clock is None else clock
        self.on_progress = on_progress
        self.on_result = on_result
        self.started = self.clock()

    def run(self) -> Outcome:
        """Measure until answered, carried out, out of time or interrupted (Ctrl-C): whatever is measured then counts."""
        try:
            stopped = self._run()
        except KeyboardInterrupt:
            stopped = "interrupted"
        return Outcome(self.evidence(), stopped)

    def evidence(self) -> Evidence:
        """What is measured so far."""
        subject = self.subject
        return self.table.evidence(
            tokens_E=subject.tokens_E,
            scores_E=subject.scores_E,
            frequency_loss_E=subject.frequency_loss_E,
            all_examples=subject.job.examples,
            starved=self.plan.starved,
        )

    def _run(self) -> StopReason:
        sizes = (self.plan.scout_examples, self.plan.final_examples)
        begun = [pack for pack in self.table.unfinished if pack.examples in sizes]
        if not self._train_all(begun, "continuing"):
            return "out of time"
        while (stage := self._next()) is not None:
            if (answer := self._answered(stage)) and (stage := self._smaller(answer)) is None:
                return "answered"
            packs = [
                Pack(number, stage.examples, tuple(group), stage.with_score)
                for number, group in enumerate(self._groups(stage), start=self.table.next_number)
            ]
            for pack in packs:  # all of them now, so that resuming carries the stage to its end
                self.table.begin(pack, until=packs[-1].number)
            if not self._train_all(packs, stage.why):
                return "out of time"
        return "carried out"

    def _next(self) -> Stage | None:
        done = self._done()
        return next_stage(
            self.evidence() if done else None,
            self.plan,
            done,
            prior=self.subject.prior_learning_rate,
            widest_rank=self.subject.widest_rank,
            narrowest_rank=self.subject.narrowest_rank,
            yours=self.subject.yours,
        )

    def _answered(self, stage: Stage) -> Decision | None:
        """The answer, where there is one already, so that ``stage`` need not be measured for its sake."""
        if stage.why == "ranks" or stage.examples != self.plan.final_examples:
            return None
        answer = decide(self.evidence(), seed=self.subject.seed)
        return None if answer.status == "UNDECIDED" else answer

    def _smaller(self, answer: Decision) -> Stage | None:
        """What would make the answer a smaller rank."""
        if answer.status not in ("SETTLED", "FLAT"):
            return None
        return smaller_stage(
            self.evidence(),
            self.plan,
            self._done(),
            answer=answer.choice.rank,
            narrowest_rank=self.subject.narrowest_rank,
        )

    def _done(self) -> list[tuple[Configuration, int]]:
        return [(c, pack.examples) for pack in self.table.packs for c in pack.configurations]

    def _groups(self, stage: Stage) -> list[list[Configuration]]:
        """What trains together: one order of batches a seed, and no more than fits."""
        seeds = dict.fromkeys(c.seed for c in stage.configurations)
        by_seed = [[c for c in stage.configurations if c.seed == seed] for seed in seeds]
        return [group for same in by_seed for group in self.executor.fit_together(same)]

    def _seconds(self, configurations: Sequence[Configuration], examples: int, with_score: bool) -> float:
        job, speed = self.subject.job, self.speed
        held_out = judged_rows(job, self.plan, examples, with_score=with_score)
        judged = len(configurations) * evaluation_seconds(job, speed, held_out)
        return train_seconds(job, speed, [c.rank for c in configurations], examples) + judged

    def _train_all(self, packs: Sequence[Pack], why: str) -> bool:
        """Train ``packs`` in their order while they are foreseen to be done before the deadline; whether all were trained."""
        if isinstance(self.executor, SideBySide):
            return self._train_side_by_side(self.executor, packs, why)
        return all(self._train_affordable(pack, why) for pack in packs)

    def _train_side_by_side(self, executor: SideBySide, packs: Sequence[Pack], why: str) -> bool:
        running: dict[int, Pack] = {}
        trained_whole = [True]

        def affordable() -> Iterator[tuple[Pack, Path | None]]:
            for pack in packs:
                part = self._affordable(pack)
                trained_whole.append(part == pack)
                if part is not None:
                    running[part.number] = part
                    yield part, self._export_to(part)
                if part != pack:
                    return

        def done(pack: Pack, result: PackResult) -> None:
            del running[pack.number]
            self._finish(pack, result)

        def tick() -> None:
            if running:
                configurations = tuple(c for pack in running.values() for c in pack.configurations)
                together = replace(next(iter(running.values())), configurations=configurations)
                spent = self.clock() - self.started
                self.on_progress(
                    f"{why}: {_in_words(together)}", spent, max(self.plan.planned_seconds, spent)
                )

        executor.train_each(affordable(), done, tick)
        return all(trained_whole)

    def _train_affordable(self, pack: Pack, why: str) -> bool:
        part = self._affordable(pack)
        if part is not None:
            self._train(part, why)
        return part == pack

    def _affordable(self, pack: Pack) -> Pack | None:
        """``pack`` with the first of its configurations that are foreseen to be done before the deadline; the rest is put off."""
        left = self.deadline - self.clock()
        wanted = pack.configurations
        count = len(wanted)
        while count and self._seconds(wanted[:count], pack.examples, pack.with_score) > left:
            count -= 1
        if 0 < count < len(wanted):
            self.table.begin(replace(pack, number=self.table.next_number, configurations=wanted[count:]))
            pack = replace(pack, configurations=wanted[:count])
            self.table.begin(pack)
        return pack if count else None

    def _train(self, pack: Pack, why: str) -> None:
        foreseen = self._seconds(pack.configurations, pack.examples, pack.with_score)
        words = f"{why}: {_in_words(pack)}"
        before = self.clock() - self.started
        whole = max(self.plan.planned_seconds, before + foreseen)
        result = self.executor.train(
            pack,
            export_to=self._export_to(pack),
            on_step=lambda share: self.on_progress(words, before + share * foreseen, whole),
        )
        self._finish(pack, result)

    def _export_to(self, pack: Pack) -> Path | None:
        last = self.plan.final_examples if self.subject.keeps_adapters else self.subject.job.examples
        return self.table.directory / "adapters" / f"{pack.number:04d}" if pack.examples == last else None

    def _finish(self, pack: Pack, result: PackResult) -> None:
        foreseen = self._seconds(pack.configurations, pack.examples, pack.with_score)
        self.table.finish(pack, result)
        self.on_result(pack, result)
        if foreseen > 0:
            # Half the surprise is believed at once, so that one slow pack does not cancel the rest.
            self.speed = self.speed.slower((result.seconds / foreseen) ** 0.5)


def _in_words(pack: Pack) -> str:
    ranks = sorted({c.rank for c in pack.configurations})
    shown = ", ".join(map(str, ranks[:6])) + (" …" if len(ranks) > 6 else "")
    return f"{len(pack.configurations)} × r={shown} on {pack.examples:,} rows"
