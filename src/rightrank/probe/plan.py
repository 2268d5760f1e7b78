"""What a probe will do and what it will cost, said before it starts. Pure arithmetic on measured speeds."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rightrank.errors import BudgetError
from rightrank.probe.looks import look_rows, look_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.recipe import Recipe

# In very few optimiser steps the learning rate's warm-up and decay are most of the run, and ranks' curves, which start identical, have
# not come apart (published: LoRA Without Regret, 2025). How few is chosen: an eighth of 1,600 rows for three epochs has 36, and serves
# to find the learning rate of four recorded data sets (bench/LOG.md).
LEAST_STEPS = 35
# With fewer the warm-up is most of it, and a run of one step trains at a learning rate of zero. Chosen.
LEAST_STEPS_OF_ALL = 5
# Learning rates are looked for at these ranks first, then every rank near the best gets its own. Assumed: one an octave and a half.
SCOUT_RANKS = (8, 32, 128)
CANDIDATE_RANKS = (4, 8, 16, 32, 64, 128)
# Evaluation may cost this share of the training it judges, so that most of the time goes into training. Assumed.
EVALUATION_SHARE = 0.3
# … and this share where a few runs have to tell the learning rate: few rows tell half a decade apart. Assumed.
EVALUATION_SHARE_FEW = 0.1
# A plan that is a little too dear is judged by fewer rows, this share of them at least, before a smaller one is taken. Chosen.
LEAST_PERCENT_OF_ROWS = 50
# With fewer than these on a side nothing can be certified (stats.paired.FEWEST_EXAMPLES).
FEWEST_HELD_OUT = 30
# Paired standard error against the nearest rival with 300 held-out examples, in percent of the gain: 0.75 measured on nl2bash
# (SmolLM2-135M), 0.1 to 0.8 on four other sets. It shrinks as one over the root of their number.
PAIRED_ERROR_PERCENT, PAIRED_ERROR_EXAMPLES = 0.75, 300
DEFAULT_BUDGET_SECONDS = 3600.0
# The plan leaves this share of the budget alone, so that a slow minute does not end the probe early. Assumed.
SLACK = 0.1


Breadth = Literal["wide", "plain", "lean", "rates"]
"""How much is tried on the final size. wide: every rank at three learning rates from the start (on a GPU a few adapters more cost
little); plain: every rank at the learning rate foreseen for it, neighbours as needed; lean: three ranks only, the middle one at two
learning rates; rates: those two, and other ranks as time allows."""
FEW: tuple[Breadth, ...] = ("lean", "rates")


@dataclass(frozen=True)
class Speed:
    """Measured on this machine with this model and data. A pack's step takes ``floor`` plus a part for each adapter in it."""

    floor_seconds: float
    step_seconds: float
    """For an adapter of rank zero on one mean batch."""
    step_seconds_per_parameter: float
    evaluate_seconds_per_token: float
    together: int
    """Adapters that train at once on a device."""
    devices: int = 1
    """Packs that train side by side, each as fast as alone."""
    pack_seconds: float = 0.0
    """Before a pack's first step."""
    trainer_step_seconds: float | None = None
    """A step of one adapter of the smallest rank alone, step by step as trainers do; None: as the probe does it."""

    def slower(self, ratio: float) -> Speed:
        """The same, after learning that things take ``ratio`` times as long as foreseen."""
        return replace(
            self,
            floor_seconds=self.floor_seconds * ratio,
            step_seconds=self.step_seconds * ratio,
            step_seconds_per_parameter=self.step_seconds_per_parameter * ratio,
            evaluate_seconds_per_token=self.evaluate_seconds_per_token * ratio,
            pack_seconds=self.pack_seconds * ratio,
        )


@dataclass(frozen=True)
class Job:
    """What the planner knows of model, data and recipe."""

    examples: int
    """Training examples of the user's full run."""
    recipe: Recipe
    parameters_per_rank: int
    """Adapter parameters for each unit of rank."""
    decide_pool: int
    score_pool: int
    held_out_tokens: float
    """Mean tokens of a held-out example."""
    at_hand: int | None = None
    """Training examples that can be trained on, where they are a sample of a larger data set; None: all."""
    own_rank: int | None = None
    """Of the person's own setting, which is run besides the plan's; None where there is none."""

    @property
    def most(self) -> int:
        """Training examples of the largest run that can be measured."""
        return self.examples if self.at_hand is None else min(self.at_hand, self.examples)


@dataclass(frozen=True)
class Plan:
    """The sizes a probe measures at, how many examples judge it, and its price."""

    scout_examples: int
    """Training examples of the runs that look for learning rates."""
    final_examples: int
    """Training examples of the runs that decide."""
    ranks: tuple[int, ...]
    scout_ranks: tuple[int, ...]
    breadth: Breadth
    starved: bool
    """Runs of fewer than 35 steps, because the time allows no more: nothing can be certified."""
    decide: int = 0
    score: int = 0
    budget_seconds: float = 0.0
    planned_seconds: float = 0.0
    run_seconds: float = 0.0
    """One run of the user's own recipe on all the data, here, by a trainer of their own."""
    all_rows_seconds: float = 0.0
    """Budget that would pay for every rank on all the data, or on all that can be trained on."""
    enough_seconds: float | None = None
    """Least budget whose runs are long enough to rely on, where this one's are not and ``budget.affordable_plan`` was asked."""
    devices: int = 1
    most: int | None = None
    """Training examples of the largest run that can be measured, where that is not all the data."""

    @property
    def resolvable_percent(self) -> float:
        """Difference in percent of the gain that ``score`` examples resolve at 95 %, if they scatter as nl2bash's do."""
        return 1.96 * PAIRED_ERROR_PERCENT * math.sqrt(PAIRED_ERROR_EXAMPLES / max(1, self.score))


def one_run_seconds(job: Job, speed: Speed, ranks: Sequence[int]) -> float:
    """One run of the person's own recipe, in a trainer of their own on this device: what budgets are counted in."""
    return trainer_seconds(job, speed, middle_rank(ranks), job.examples)


def middle_rank(ranks: Sequence[int]) -> int:
    """The rank that a run is priced at: time depends little on it."""
    return sorted(ranks)[len(ranks) // 2]


def run_seconds(job: Job, speed: Speed, rank: int, examples: int) -> float:
    """Training time of one configuration alone."""
    return train_seconds(job, speed, [rank], examples)


def trainer_seconds(job: Job, speed: Speed, rank: int, examples: int) -> float:
    """Training time of one configuration in a trainer of the person's own, on this device."""
    if speed.trainer_step_seconds is None:
        return run_seconds(job, speed, rank, examples)
    of_rank = speed.step_seconds_per_parameter * job.parameters_per_rank * rank
    return job.recipe.steps(examples) * (speed.trainer_step_seconds + of_rank)


def train_seconds(job: Job, speed: Speed, ranks: Sequence[int], examples: int) -> float:
    """Training time of configurations of these ranks on one device, as many at once as go together."""
    packs = -(-len(ranks) // speed.together)
    each = len(ranks) * speed.step_seconds + speed.step_seconds_per_parameter * job.parameters_per_rank * sum(
        ranks
    )
    return packs * speed.pack_seconds + job.recipe.steps(examples) * (packs * speed.floor_seconds + each)


def stage_seconds(job: Job, speed: Speed, ranks: Sequence[int], examples: int, held_out: int) -> float:
    """Time to train configurations of these ranks and to judge them by ``held_out`` examples, on all devices.

    In packs of equal size, so that all devices have one; each goes to the device that is free first.
    """
    most = max(1, min(speed.together, -(-len(ranks) // speed.devices)))
    busy_seconds = [0.0] * speed.devices
    for start in range(0, len(ranks), most):
        pack = ranks[start : start + most]
        judged = len(pack) * evaluation_seconds(job, speed, held_out)
        heapq.heapreplace(busy_seconds, busy_seconds[0] + train_seconds(job, speed, pack, examples) + judged)
    return max(busy_seconds)


def evaluation_seconds(job: Job, speed: Speed, examples: int) -> float:
    """Time to evaluate one configuration on ``examples`` held-out examples."""
    return examples * job.held_out_tokens * speed.evaluate_seconds_per_token


def least_examples(job: Job) -> int:
    """Training examples whose run has ``LEAST_STEPS`` optimiser steps; all that there are where those have fewer."""
    lowest = max(1, math.floor(LEAST_STEPS * job.recipe.batch_size / job.recipe.epochs))
    while lowest < job.most and job.recipe.steps(lowest) < LEAST_STEPS:
        lowest += 1
    return min(lowest, job.most)


def make_plan(
    job: Job,
    speed: Speed,
    ranks: Sequence[int],
    budget_seconds: float | None,
    spent_seconds: float = 0.0,
    *,
    among: Sequence[Plan] | None = None,
) -> Plan:
    """The largest sizes that ``budget_seconds`` pays for: one run of the recipe, an hour at most, where None.

    ``spent_seconds`` of the budget are gone already (loading, measuring the speed). ``among``: what to choose from, the most telling
    first; None: all that the sizes allow. Raises BudgetError where not even the smallest probe fits.
    """
    one_run = one_run_seconds(job, speed, ranks)
    budget = (
        budget_seconds if budget_seconds is not None else min(DEFAULT_BUDGET_SECONDS, one_run + spent_seconds)
    )
    usable = (budget - spent_seconds) * (1 - SLACK)
    drafts = all_drafts(job, ranks) if among is None else among
    whole = [
        _with_held_out(job, speed, d) for d in drafts if d.final_examples == job.most and d.breadth == "plain"
    ]
    everything = min((_price(job, speed, d) for d in whole), default=0.0) / (1 - SLACK) + spent_seconds
    for draft in drafts:
        sized = _with_held_out(job, speed, replace(draft, budget_seconds=budget, run_seconds=one_run))
        sized, cost = _squeezed(job, speed, sized, usable)
        if cost <= usable:
            most = None if job.most == job.examples else job.most
            return replace(
                sized,
                planned_seconds=cost + spent_seconds,
                all_rows_seconds=everything,
                most=most,
                devices=speed.devices,
            )
    cheapest = min(
        (
            _price(job, speed, _judged_by(_with_held_out(job, speed, d), LEAST_PERCENT_OF_ROWS))
            for d in drafts
        ),
        default=budget,
    )
    least_seconds = 60 * math.ceil((cheapest / (1 - SLACK) + spent_seconds) / 60)
    raise BudgetError(
        f"{budget / 60:.1f} minutes do not pay for a single comparison on this machine.",
        f"Allow at least {least_seconds // 60} minutes with --budget.",
        least_seconds,
    )


def all_drafts(job: Job, ranks: Sequence[int]) -> list[Plan]:
    """Candidate plans without held-out rows or prices, the most telling first: no extrapolation before breadth, breadth before the
    longest runs."""
    ranks = tuple(sorted(ranks))
    least, everything = least_examples(job), job.most
    sizes = [everything >> k for k in range(24) if k == 0 or everything >> k >= max(8, least)]
    if 2 * least < everything and sizes[-1] > 2 * least:
        sizes.append(2 * least)
    drafts = []
    for index in range(len(sizes) + 3):
        options: list[tuple[Breadth, int]] = [
            ("wide", index),
            ("plain", index),
            ("lean", index - 1),
            ("rates", index - 2),
        ]
        for breadth, at in options:
            if 0 <= at < len(sizes) and (scout := _scout_size(least, sizes[at], everything, breadth)):
                drafts.append(_draft(ranks, breadth, scout, sizes[at], starved=False))
    enough = min(LEAST_STEPS, job.recipe.steps(everything))
    fewest = min(LEAST_STEPS_OF_ALL, job.recipe.steps(everything) // 2)
    for k in range(24):
        final = min(2 * least, everything) >> k
        if final >= 8 and job.recipe.steps(final // 2) >= fewest:
            drafts.append(_draft(ranks, "lean", final // 2, final, starved=job.recipe.steps(final) < enough))
    return drafts


def _scout_size(least: int, final: int, everything: int, breadth: Breadth) -> int | None:
    """Examples for looking for learning rates: an eighth to half of the final size, of 35 steps at least and well below the final size.

    None where there is no such size; where the final size is all there is, half of it has to do.
    """
    wanted = max(least, final // {"wide": 8, "plain": 4, "lean": 2, "rates": 2}[breadth])
    if wanted <= 0.7 * final:
        return wanted
    return max(4, final // 2) if final == everything else None


def _draft(ranks: Sequence[int], breadth: Breadth, scout: int, final: int, *, starved: bool) -> Plan:
    scouts = tuple(r for r in SCOUT_RANKS if r in ranks) or (ranks[len(ranks) // 2],)
    if breadth in FEW:
        return Plan(scout, final, scouts, (scouts[len(scouts) // 2],), breadth, starved)
    return Plan(scout, final, tuple(ranks), scouts, breadth, starved)


def _with_held_out(job: Job, speed: Speed, plan: Plan) -> Plan:
    """As many held-out examples as a share of the deciding runs' training pays for."""
    ranks = final_ranks(plan)
    training = train_seconds(job, speed, ranks, plan.final_examples) / len(ranks)
    share = (
        EVALUATION_SHARE_FEW if plan.breadth in FEW and plan.final_examples < job.most else EVALUATION_SHARE
    )
    affordable = int(share * training / max(1e-9, evaluation_seconds(job, speed, 1)))
    each = max(FEWEST_HELD_OUT, affordable // 2)
    return replace(plan, decide=min(job.decide_pool, each), score=min(job.score_pool, each))


def _squeezed(job: Job, speed: Speed, plan: Plan, usable: float) -> tuple[Plan, float]:
    """``plan`` and its price, judged by fewer examples, half of them at least, where that brings it into the budget."""
    cost = whole = _price(job, speed, plan)
    fewer = plan
    for percent in range(95, LEAST_PERCENT_OF_ROWS - 1, -5):
        if cost <= usable:
            return fewer, cost
        fewer = _judged_by(plan, percent)
        cost = _price(job, speed, fewer)
    return (fewer, cost) if cost <= usable else (plan, whole)


def _judged_by(plan: Plan, percent: int) -> Plan:
    """``plan`` with that share of its held-out examples, but no fewer than ``FEWEST_HELD_OUT`` of either side where there are so many."""
    rows = [max(FEWEST_HELD_OUT, percent * rows // 100) for rows in (plan.decide, plan.score)]
    return replace(plan, decide=min(plan.decide, rows[0]), score=min(plan.score, rows[1]))


def judged_rows(job: Job, plan: Plan, examples: int, *, with_score: bool) -> int:
    """Held-out examples that one run over ``examples`` training examples is judged by, those it is looked at on its way included."""
    if not with_score:
        return plan.decide
    looked_at = len(look_steps(job.recipe, examples)) * look_rows(plan.decide)
    return plan.decide + plan.score + looked_at


def final_ranks(plan: Plan) -> list[int]:
    """Ranks of the runs foreseen on the final size: each rank, its neighbouring learning rates, the guides' settings."""
    middle = plan.ranks[len(plan.ranks) // 2]
    if plan.breadth == "wide":
        return [*plan.ranks] * 3 + [middle] * 3
    if plan.breadth == "rates":
        return [middle, middle]
    return [*plan.ranks] + [middle] * (6 if plan.breadth == "plain" else 1)


def _price(job: Job, speed: Speed, plan: Plan) -> float:
    """Seconds of the whole programme, some growth of the learning-rate grid, repeats with other seeds and the person's own setting
    included."""
    scouts = [*plan.scout_ranks] * (5 if plan.breadth == "wide" else 3)
    own = [] if job.own_rank is None else [job.own_rank]
    stages = [
        (scouts, plan.scout_examples, plan.decide),
        (
            [*own, *final_ranks(plan)],
            plan.final_examples,
            judged_rows(job, plan, plan.final_examples, with_score=True),
        ),
    ]
    if plan.breadth not in FEW:
        grown = [max(plan.scout_ranks)] * (0 if plan.breadth == "wide" else 2)
        stages += [(some, plan.scout_examples, plan.decide) for some in (grown, [*plan.scout_ranks]) if some]
    seconds = evaluation_seconds(job, speed, plan.decide + plan.score)
    return seconds + sum(stage_seconds(job, speed, *stage) for stage in stages)
