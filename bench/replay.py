"""The project's own probe on a recorded surface instead of a GPU: the same plan, ladder and decision, at the price in runs.

What a probe asks for and the design did not record is interpolated, row by row: along the learning rate through the three nearest
recorded ones of the rank, on the line of two where one of three is far worse (beyond a valley's edge training diverges, and a parabola
through that would dip below everything recorded), between ranks and sizes linearly in their logarithm. Another seed where none was recorded is seed 0 and the
difference between two recorded seeds of a near-best setting. How much was interpolated is counted.

Dimensions: C runs, E held-out examples, K configurations of a pack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rightrank.errors import BudgetError
from rightrank.probe.ladder import prior_learning_rate
from rightrank.probe.loss_table import LossTable
from rightrank.probe.pack import PackResult
from rightrank.probe.plan import CANDIDATE_RANKS, SLACK, Job, Plan, Speed, all_drafts, judged_rows, make_plan
from rightrank.probe.run import Probe, Subject
from rightrank.recipe import equivalent_learning_rate
from rightrank.stats.decision import decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from bench.tables import Surface
    from rightrank.probe.pack import Configuration, Pack
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision

SAME = 1e-3
"""Learning rates (log10) this close are one."""
STEEP_PERCENT = 10.0
"""Of the gain: three runs of one rank that lie further apart lie on no parabola. Chosen; recorded valleys within half a decade of their
best are flatter, and edges at least twice as high."""
FORWARD_SHARE = 0.5
"""Price of a forward pass as a share of training's on the same tokens: the frozen base needs no gradients of its own (derived)."""
HIDDEN = 576  # of SmolLM2-135M, whose surfaces these are


@dataclass(frozen=True)
class Run:
    """A run as recorded or interpolated."""

    loss_E: Float[np.ndarray, " E"]
    right_E: Int[np.ndarray, " E"]
    recorded: bool


class Runs:
    """Any run that a probe may ask of a surface."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self._at: dict[tuple[int, int], dict[float, int]] = {}
        self._seeds: dict[tuple[int, int, float, int], int] = {}
        for c, axis in enumerate(surface.axis_C):
            size, rank, seed = int(surface.examples_C[c]), int(surface.rank_C[c]), int(surface.seed_C[c])
            if seed:
                self._seeds[size, rank, round(float(axis), 2), seed] = c
            else:
                self._at.setdefault((size, rank), {})[float(axis)] = c

    def run(self, rank: int, axis: float, size: int, seed: int = 0) -> Run:
        """Training at an equivalent learning rate of ``10 ** axis`` on ``size`` examples."""
        if seed and (found := self._seeds.get((size, rank, round(axis, 2), seed))) is not None:
            return self._recorded(found)
        run = self._at_rank(rank, axis, size)
        if seed == 0 or not self._pairs:
            return run
        pick = np.random.default_rng([rank, round(100 * axis) + 1000, size, seed])
        other, first = self._pairs[int(pick.integers(len(self._pairs)))]
        luck_E = (self.surface.loss_CE[other] - self.surface.loss_CE[first]) * pick.choice([-1, 1])
        return Run(np.maximum(0.0, run.loss_E + luck_E), run.right_E, recorded=False)

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """Runs of two seeds of one setting."""
        found = []
        for (size, rank, axis, _), other in self._seeds.items():
            for known, first in self._at.get((size, rank), {}).items():
                if abs(known - axis) < 1e-2 and np.isfinite(self.surface.loss_CE[[other, first], 0]).all():
                    found.append((other, first))
        return found

    def _worst_percent(self, runs: Sequence[int]) -> float:
        """Of the gain, that the worst of ``runs`` loses against the best of them on the rows that decide; infinite where one diverged."""
        decide_E = self.surface.sides()[0]
        loss_c = self.surface.loss_CE[runs][:, decide_E].sum(1)
        gain = float(self.surface.base_loss_E[decide_E].sum()) - self._least
        return float(100 * (loss_c.max() - loss_c.min()) / max(gain, 1e-9)) if np.isfinite(loss_c).all() else math.inf

    @cached_property
    def _least(self) -> float:
        """Loss of the best run on all rows, on the rows that decide."""
        surface = self.surface
        loss_C = surface.loss_CE[:, surface.sides()[0]].sum(1)
        return float(np.nanmin(loss_C[surface.examples_C == surface.whole]))

    def _recorded(self, c: int) -> Run:
        return Run(self.surface.loss_CE[c], self.surface.right_CE[c], recorded=True)

    def _at_rank(self, rank: int, axis: float, size: int) -> Run:
        ranks = sorted({r for n, r in self._at if n == size})
        if rank in ranks:
            return self._along(size, rank, axis)
        below, above = [r for r in ranks if r < rank][-1:], [r for r in ranks if r > rank][:1]
        if not below or not above:
            return replace(self._along(size, (below or above)[0], axis), recorded=False)
        share = math.log(rank / below[0]) / math.log(above[0] / below[0])
        return mixed([self._along(size, r, axis) for r in (below[0], above[0])], [1 - share, share])

    def _along(self, size: int, rank: int, axis: float) -> Run:
        """Through the three nearest recorded learning rates of a rank; beyond them on the line of the last two, no better than the last."""
        known = self._at[size, rank]
        nearest = min(known, key=lambda x: abs(x - axis))
        if abs(nearest - axis) < SAME:
            return self._recorded(known[nearest])
        x = sorted(known)
        outside = axis < x[0] or axis > x[-1]
        near = sorted(sorted(x, key=lambda v: abs(v - axis))[:3])
        if outside or self._worst_percent([known[v] for v in near]) > STEEP_PERCENT:
            around = [v for v in x if v < axis][-1:] + [v for v in x if v > axis][:1]
            near = around if len(around) == 2 else sorted(near, key=lambda v: abs(v - axis))[:2]
            near.sort()
        if len(near) < 2 or not np.isfinite(self.surface.loss_CE[[known[v] for v in near], 0]).all():
            return replace(self._recorded(known[nearest]), recorded=False)
        weights = [math.prod((axis - v) / (u - v) for v in near if v != u) for u in near]
        found = mixed([self._recorded(known[u]) for u in near], weights)
        end = self._recorded(known[nearest])
        if outside and np.nansum(found.loss_E) < np.nansum(end.loss_E):
            return replace(end, recorded=False)
        return found


def mixed(runs: Sequence[Run], weights: Sequence[float]) -> Run:
    """Losses between those of ``runs``, example by example; the greedy judgement of the one that weighs most."""
    loss_E = np.maximum(0.0, sum(w * run.loss_E for w, run in zip(weights, runs, strict=True)))
    return Run(loss_E, runs[int(np.argmax(weights))].right_E, recorded=False)


class RecordedExecutor:
    """Serves a probe from a surface; its clock counts runs of the whole recipe."""

    def __init__(
        self, surface: Surface, plan: Plan, job: Job, shown_E: Int[np.ndarray, " E"], decide: int
    ) -> None:
        """``shown_E``: the held-out examples that the probe sees, the first ``decide`` of which choose."""
        self.surface, self.plan, self.job = surface, plan, job
        self.shown_E, self.decide = shown_E, decide
        self.runs = Runs(surface)
        self.now = 0.0
        self.served = self.interpolated = 0

    def fit_together(self, configurations: Sequence[Configuration]) -> list[list[Configuration]]:
        """All of them."""
        return [list(configurations)]

    def evaluate_base(self) -> PackResult:
        """The untrained model."""
        surface, shown_E = self.surface, self.shown_E
        self.now += self._judging(self.plan.decide + self.plan.score)
        return PackResult(
            surface.base_loss_E[shown_E][None], surface.base_right_E[shown_E][None], (None,), 0, 0, 0.0
        )

    def train(self, pack: Pack, *, export_to: Path | None, on_step: object) -> PackResult:
        """What the surface has recorded of ``pack``."""
        found = [self.runs.run(c.rank, axis_of(c), pack.examples, c.seed) for c in pack.configurations]
        self.served += len(found)
        self.interpolated += sum(not run.recorded for run in found)
        loss_KE = np.stack([run.loss_E[self.shown_E] for run in found])
        right_KE = np.stack([run.right_E[self.shown_E] for run in found])
        seen = self.decide + self.plan.score if pack.with_score else self.plan.decide
        hidden_E = np.arange(len(self.shown_E))
        hidden_E = (hidden_E >= seen) | ((hidden_E >= self.plan.decide) & (hidden_E < self.decide))
        loss_KE[:, hidden_E], right_KE[:, hidden_E] = np.nan, -1
        judged = judged_rows(self.job, self.plan, pack.examples, with_score=pack.with_score)
        seconds = len(found) * (run_price(self.surface, pack.examples) + self._judging(judged))
        self.now += seconds
        steps = self.surface.recipe.steps(pack.examples)
        return PackResult(loss_KE, right_KE, tuple(0.0 for _ in found), steps, 0, seconds)

    def _judging(self, examples: int) -> float:
        return examples * self.job.held_out_tokens * FORWARD_SHARE / self.surface.tokens_of_a_run


def axis_of(c: Configuration) -> float:
    """log10 of the equivalent learning rate."""
    return math.log10(equivalent_learning_rate(c.rank, c.alpha, c.learning_rate))


def run_price(surface: Surface, size: int) -> float:
    """Training on ``size`` examples, in runs on all of them."""
    return surface.train_tokens[surface.sizes.index(size)] / surface.train_tokens[0]


class MemoryTable(LossTable):
    """A loss table that is nowhere on disk."""

    def __init__(self, base: PackResult) -> None:
        super().__init__(Path("nowhere"), {}, look_only=True)
        self.base = base

    @property
    def next_number(self) -> int:
        return len(self.packs)

    @property
    def unfinished(self) -> list[Pack]:
        return []

    def begin(self, pack: Pack, until: int | None = None) -> None:
        pass

    def finish(self, pack: Pack, result: PackResult) -> None:
        self._add(replace(pack, number=len(self.packs)), result, {})


@dataclass(frozen=True)
class Replayed:
    """What a probe said and what it cost."""

    decision: Decision
    evidence: Evidence
    plan: Plan
    cost_runs: float
    interpolated_share: float


def job_of(surface: Surface, decide: int, score: int) -> Job:
    """What the planner knows of a surface."""
    return Job(surface.whole, surface.recipe, 1, decide, score, float(surface.lengths_E.mean()))


def speed_of(surface: Surface) -> Speed:
    """Seconds are runs: one adapter's step costs one step's share of a run, nothing is gained by training many together."""
    return Speed(
        floor_seconds=0.0,
        step_seconds=1 / surface.recipe.steps(surface.whole),
        step_seconds_per_parameter=0.0,
        evaluate_seconds_per_token=FORWARD_SHARE / surface.tokens_of_a_run,
        together=32,
    )


def plan_of(surface: Surface, job: Job, budget_runs: float) -> Plan:
    """The probe's own plan among those of recorded sizes. Raises BudgetError where none is paid for."""
    ranks = [r for r in CANDIDATE_RANKS if r in set(surface.rank_C.tolist())]
    moved = [replace(d, scout_examples=_nearest(surface, d.scout_examples), final_examples=_nearest(surface, d.final_examples))
             for d in all_drafts(job, ranks) if not d.starved]  # fmt: skip
    among = [plan for plan in moved if plan.scout_examples < plan.final_examples]
    # Recorded runs take as long as foreseen: nothing is set aside.
    return make_plan(job, speed_of(surface), ranks, budget_runs / (1 - SLACK), among=among)


def _nearest(surface: Surface, size: int) -> int:
    return min(surface.sizes, key=lambda n: abs(math.log(n / size)))


def replay(
    surface: Surface, budget_runs: float, *, shown_E: Int[np.ndarray, " E"], decide_rows: int, seed: int = 0
) -> Replayed | None:
    """One probe at a budget. None where the budget does not pay for the smallest one.

    ``shown_E``: the held-out examples that the probe sees, the first ``decide_rows`` of which choose.
    """
    job = job_of(surface, decide_rows, len(shown_E) - decide_rows)
    try:
        plan = plan_of(surface, job, budget_runs)
    except BudgetError:
        return None
    executor = RecordedExecutor(surface, plan, job, shown_E, decide_rows)
    table = MemoryTable(executor.evaluate_base())
    probe = Probe(
        subject_of(surface, job, shown_E, decide_rows, seed),
        plan,
        speed_of(surface),
        table,
        executor,
        deadline=budget_runs,
        on_progress=lambda words, spent, whole: None,
        clock=lambda: executor.now,
    )
    outcome = probe.run()
    if not table.packs:
        return None
    decision = decide(outcome.evidence, seed=seed)
    return Replayed(
        decision, outcome.evidence, plan, executor.now, executor.interpolated / max(1, executor.served)
    )


def subject_of(
    surface: Surface, job: Job, shown_E: Int[np.ndarray, " E"], decide_rows: int, seed: int
) -> Subject:
    """What is probed."""
    return Subject(
        job=job,
        tokens_E=surface.tokens_E[shown_E],
        scores_E=np.arange(len(shown_E)) >= decide_rows,
        frequency_loss_E=surface.frequency_loss_E[shown_E],
        prior_learning_rate=prior_learning_rate(HIDDEN),
        widest_rank=int(surface.rank_C.max()),
        narrowest_rank=1,
        yours=None,
        seed=seed,
    )
