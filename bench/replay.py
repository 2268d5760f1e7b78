"""The project's own probe on a recorded surface instead of a GPU: the same plan, ladder and decision, at the price in runs.

What a probe asks for and the design did not record is interpolated, row by row: along the learning rate between the two recorded ones
around it, bent as the valley that was fitted to the whole surface is bent there (half a decade apart, straight lines would make every
recorded rate a corner and what lies between look bad) and steeply towards an edge where training diverges, between ranks and sizes
linearly in their logarithm. Another seed where none was recorded is seed 0 and what that seed made of the nearest setting that was
recorded with it. How much was interpolated is counted.

Dimensions: C runs, E held-out examples, K configurations of a pack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.fit_valley import WIDE, observed
from rightrank.errors import BudgetError
from rightrank.probe.loss_table import LossTable
from rightrank.probe.pack import PackResult
from rightrank.probe.plan import CANDIDATE_RANKS, SLACK, Job, Plan, Speed, all_drafts, judged_rows, make_plan
from rightrank.probe.run import Probe, Subject
from rightrank.probe.settings import prior_learning_rate
from rightrank.recipe import equivalent_learning_rate
from rightrank.stats.decision import decide
from rightrank.stats.valley import EDGE_PERCENT, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from bench.tables import Surface
    from rightrank.probe.pack import Configuration, Pack
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision
    from rightrank.stats.valley import Valley

SAME = 1e-3
"""Learning rates (log10) this close are one."""
SAME_SIZE = 1.3
"""A recorded size stands for one that is at most this many times larger or smaller."""
FORWARD_SHARE = 0.5
"""Price of a forward pass as a share of training's on the same tokens: the frozen base needs no gradients of its own (derived)."""
HIDDEN = 576  # of SmolLM2-135M, whose surfaces these are


MOST_FITS = 64
_fits: dict[int, tuple[Surface, Valley]] = {}
"""The valley of each surface, which is kept here so that nothing else takes its losses' place."""


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
        return run if seed == 0 else self._as_lucky(run, rank, axis, size, seed)

    def _as_lucky(self, run: Run, rank: int, axis: float, size: int, seed: int) -> Run:
        """``run`` as another seed would have it: by what that seed made of the recorded setting nearest to it."""
        sizes = sorted({n for n, *_ in self._seeds}, key=lambda n: abs(math.log(n / size)))
        if not sizes:
            return run
        seeds = sorted({s for n, _, _, s in self._seeds if n == sizes[0]})
        stand_in = seeds[(seed - 1) % len(seeds)]
        alike = [(r, x, c) for (n, r, x, s), c in self._seeds.items() if (n, s) == (sizes[0], stand_in)]
        near = min(
            alike, key=lambda one: (abs(math.log2(one[0] / rank)) / 5 + abs(one[1] - axis) / 0.45, one)
        )
        first = min(self._at[sizes[0], near[0]].items(), key=lambda known: abs(known[0] - near[1]))[1]
        luck_E = self.surface.loss_CE[near[2]] - self.surface.loss_CE[first]
        if not np.isfinite(luck_E).all():
            return run
        return Run(np.maximum(0.0, run.loss_E + luck_E), run.right_E, recorded=False)

    @cached_property
    def _gain(self) -> float:
        """Of the best run on all rows over the untrained model, nats on the rows that decide."""
        surface, decide_E = self.surface, self.surface.sides()[0]
        loss_C = surface.loss_CE[:, decide_E].sum(1)
        whole_C = surface.examples_C == surface.whole
        return float(surface.base_loss_E[decide_E].sum() - np.nanmin(loss_C[whole_C]))

    def _recorded(self, c: int) -> Run:
        return Run(self.surface.loss_CE[c], self.surface.right_CE[c], recorded=True)

    def _at_rank(self, rank: int, axis: float, size: int) -> Run:
        ranks = sorted({r for n, r in self._at if n == size})
        if rank in ranks:
            return self._beyond(size, rank, axis) or self._along(size, rank, axis)
        below, above = [r for r in ranks if r < rank][-1:], [r for r in ranks if r > rank][:1]
        if not below or not above:
            return replace(self._along(size, (below or above)[0], axis), recorded=False)
        share = math.log(rank / below[0]) / math.log(above[0] / below[0])
        return mixed([self._along(size, r, axis) for r in (below[0], above[0])], [1 - share, share])

    def _beyond(self, size: int, rank: int, axis: float) -> Run | None:
        """Further than a rank's highest recorded learning rate: from there as the nearest rank goes on that was recorded as far."""
        end = max(self._at[size, rank])
        if axis <= end + SAME:
            return None
        others = [r for n, r in self._at if n == size and max(self._at[n, r]) >= axis - SAME and r != rank]
        if not others:
            return None
        other = min(others, key=lambda r: (abs(math.log(r / rank)), r))
        own, far, near = (self._along(size, r, x) for r, x in ((rank, end), (other, axis), (other, end)))
        return replace(mixed([own, far, near], [1.0, 1.0, -1.0]), right_E=far.right_E)

    def _along(self, size: int, rank: int, axis: float) -> Run:
        """Between recorded learning rates of a rank; beyond them from the last one as the valley goes on, no better than that."""
        known = self._at[size, rank]
        nearest = min(known, key=lambda x: abs(x - axis))
        end = self._recorded(known[nearest])
        if abs(nearest - axis) < SAME:
            return end
        low, high = (
            max((x for x in known if x < axis), default=axis),
            min((x for x in known if x > axis), default=axis),
        )
        if axis in (low, high) or not all(
            np.isfinite(self.surface.loss_CE[known[x], 0]) for x in (low, high)
        ):
            lost_U = self._lost(size, rank, [nearest, axis])
            return self._moved(end, max(0.0, float(lost_U[1] - lost_U[0])))
        share = (axis - low) / (high - low)
        steep = self._over_the_edge(known[low], known[high], share)
        if steep is not None:
            ends = [self._recorded(known[x]) for x in (low, high)]
            return mixed(ends, [1 - steep, steep])
        lost_U = self._lost(size, rank, [low, axis, high])
        below = float(lost_U[1] - ((1 - share) * lost_U[0] + share * lost_U[2]))
        ends = [self._recorded(known[x]) for x in (low, high)]
        return self._moved(mixed(ends, [1 - share, share]), below)

    def _over_the_edge(self, low: int, high: int, share: float) -> float | None:
        """How much of run ``high`` is in one ``share`` of the way to it, where it lies beyond the valley's edge; None where it does not.

        What is lost against ``low``, plus 1 % of the gain, grows by a constant factor: an edge is steeper the nearer one comes.
        """
        decide_E = self.surface.sides()[0]
        loss_c = self.surface.loss_CE[[low, high]][:, decide_E].sum(1)
        lost = 100 * float(loss_c[1] - loss_c[0]) / self._gain
        return None if lost <= EDGE_PERCENT else float(((1 + lost) ** share - 1) / lost)

    def _lost(self, size: int, rank: int, axes: Sequence[float]) -> Float[np.ndarray, " U"]:
        """What the valley loses, in percent of the gain."""
        return self._valley.lost(np.full(len(axes), float(rank)), np.array(axes), size)[0]

    def _moved(self, run: Run, percent: float) -> Run:
        """``run`` with every loss moved by the same share, so that it loses ``percent`` of the gain more."""
        share = percent / 100 * self._gain / float(run.loss_E[self.surface.sides()[0]].sum())
        return Run(np.maximum(0.0, run.loss_E * (1 + share)), run.right_E, recorded=False)

    @property
    def _valley(self) -> Valley:
        key = id(self.surface.loss_CE)
        if key not in _fits:
            while len(_fits) >= MOST_FITS:
                _fits.pop(next(iter(_fits)))
            _fits[key] = (self.surface, fit(observed(self.surface), self.surface.whole, WIDE))
        return _fits[key][1]


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

    @property
    def axis_C(self) -> list[float]:
        """log10 of the equivalent learning rate of every run."""
        e = self.evidence
        return [
            math.log10(equivalent_learning_rate(int(r), float(a), float(lr)))
            for r, a, lr in zip(e.rank_C, e.alpha_C, e.learning_rate_C, strict=True)
        ]


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
    moved = [
        replace(d, scout_examples=sizes[0], final_examples=sizes[1])
        for d in all_drafts(job, ranks)
        if (sizes := [size for n in (d.scout_examples, d.final_examples) if (size := _nearest(surface, n))])
        and len(sizes) == 2
    ]
    among = [plan for plan in moved if plan.scout_examples < plan.final_examples]
    # Recorded runs take as long as foreseen: nothing is set aside.
    return make_plan(job, speed_of(surface), ranks, budget_runs / (1 - SLACK), among=among)


def _nearest(surface: Surface, size: int) -> int | None:
    """The recorded size that stands for ``size``; None where all are too far from it."""
    near = min(surface.sizes, key=lambda n: abs(math.log(n / size)))
    return near if abs(math.log(near / size)) <= math.log(SAME_SIZE) else None


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
