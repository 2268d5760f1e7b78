"""The plan in words, said before anything is measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rightrank.data.wording import counted
from rightrank.probe.plan import FEWEST_HELD_OUT, LEAST_STEPS, SLACK

if TYPE_CHECKING:
    from rightrank.probe.plan import Job, Plan


def few_steps(steps: int) -> str:
    """What a recipe of fewer than ``LEAST_STEPS`` steps cannot tell."""
    return (
        f"A run of your recipe has only {counted(steps, 'optimiser step')}; below {LEAST_STEPS}, warm-up and decay are most of it, and"
        " ranks can hardly be told apart."
    )


def plan_lines(plan: Plan, job: Job, peak_gib: float, memory_gib: float) -> list[str]:
    """The plan in words, for people in a hurry."""
    runs = plan.devices * plan.planned_seconds / max(1e-9, plan.run_seconds)
    on, of_each = (f" on {plan.devices} devices", " on each") if plan.devices > 1 else ("", "")
    final = "all" if plan.final_examples == job.examples else f"{plan.final_examples:,} of {job.examples:,}"
    ranks = f"ranks {', '.join(map(str, plan.ranks))} on {final}"
    if plan.breadth == "rates":
        ranks = f"r={plan.scout_ranks[0]} on {final}, other ranks as time allows"
    left = ""
    if plan.planned_seconds < (1 - SLACK) * plan.budget_seconds:
        left = "; what is left of the time goes into further runs until it is decided"
    pool = job.decide_pool + job.score_pool
    fewer = (
        f"; judging by all {pool:,} would take too much of the time"
        if plan.decide + plan.score < pool
        else ""
    )
    lines = [
        f"Plan: about {plan.planned_seconds / 60:.1f} min of {plan.budget_seconds / 60:.1f} allowed{on}"
        f" ({runs:.1f} × the time of one run of your recipe), peak {peak_gib:.1f} of {memory_gib:.1f} GiB{of_each}{left}.",
        f"Learning rates on {plan.scout_examples:,} training rows, then {ranks};"
        f" {plan.decide} held-out rows choose, {plan.score} others score{fewer}.",
    ]
    if (steps := job.recipe.steps(job.examples)) < LEAST_STEPS:
        lines.append(f"{few_steps(steps)} More rows or epochs help, more time does not.")
    if plan.score < FEWEST_HELD_OUT:
        return [
            *lines,
            f"Only {plan.score} rows score, and {FEWEST_HELD_OUT} are the least for an interval: the answer can only be UNDECIDED."
            f" Name {2 * FEWEST_HELD_OUT} held-out rows with --eval-data; more time does not help.",
        ]
    lines.append(
        f"Differences under about {plan.resolvable_percent:.1f} % of the gain cannot be told apart with {plan.score} rows"
        " (assumed from nl2bash; measured as it runs)."
    )
    if plan.starved:
        needed = math.ceil(plan.all_rows_seconds / 60)
        lines.append(f"Too little time for runs of {LEAST_STEPS} steps: the answer can only be UNDECIDED.")
        rows = "all your rows" if plan.most is None else f"the {plan.most:,} training rows drawn at random"
        every = f"--budget {needed} pays for every rank on {rows}."
        if plan.enough_seconds is not None and (enough := math.ceil(plan.enough_seconds / 60)) < needed:
            every = f"--budget {enough} is the least that pays for runs of so many; {every}"
        lines.append(every)
    elif plan.final_examples < job.examples:
        shorter = "" if plan.final_examples == plan.most else " A larger --budget shortens it."
        lines.append(f"The step from there to all rows is extrapolated, and the intervals say so.{shorter}")
    return lines
