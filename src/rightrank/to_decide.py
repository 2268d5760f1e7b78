"""What would decide an UNDECIDED answer: held-out rows, steps of the recipe or time, whichever lacks, each a command with its price."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rightrank.arguments import without
from rightrank.data.wording import counted
from rightrank.probe.plan import EVALUATION_SHARE, FEW, LEAST_STEPS
from rightrank.recommendation import Figure, NextStep
from rightrank.stats.paired import FEWEST_EXAMPLES

if TYPE_CHECKING:
    from rightrank.probe.plan import Plan
    from rightrank.recipe import Recipe
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision

# Beyond these nobody would follow the advice. Assumed.
MOST_TIMES_MORE = 20
MOST_SEEDS = 10


def next_steps(
    decision: Decision, plan: Plan, evidence: Evidence, recipe: Recipe, command: str
) -> tuple[NextStep, ...]:
    """What would decide, the cheapest first, each a command with its price in minutes. Empty unless UNDECIDED."""
    if decision.status != "UNDECIDED":
        return ()
    if plan.score < FEWEST_EXAMPLES:
        seconds = max(plan.all_rows_seconds, plan.budget_seconds)
        why = (
            f"Held-out rows are lacking, {2 * FEWEST_EXAMPLES} at least: half of them score, and {FEWEST_EXAMPLES} are the least for an"
            " interval."
        )
        return (_step(_with_more_rows(command), seconds, why),)
    if (steps := recipe.steps(evidence.all_examples)) < LEAST_STEPS:
        return (_more_steps(plan, recipe, steps, command),)
    found = [
        *_more_time(plan, evidence, command),
        *_more_held_out(decision, plan, command),
        *_more_seeds(decision, plan, command),
    ]
    if not found:
        found = [_what_lacks_most(decision, plan, command)]
    return tuple(sorted(found, key=lambda step: step.minutes.value if step.minutes else math.inf))


def _more_steps(plan: Plan, recipe: Recipe, steps: int, command: str) -> NextStep:
    """The recipe's own runs are too short to rely on, on all rows."""
    epochs = math.ceil(recipe.epochs * LEAST_STEPS / max(1, steps))
    why = (
        f"Steps are lacking, not minutes: a run of your recipe has {counted(steps, 'optimiser step')}, and {LEAST_STEPS} are the least"
        " to rely on. More rows or a smaller batch give more steps too."
    )
    return _step(
        f"{without(command, '--epochs')} --epochs {epochs}", plan.budget_seconds * epochs / recipe.epochs, why
    )


def _more_time(plan: Plan, evidence: Evidence, command: str) -> list[NextStep]:
    """Runs long enough, and every rank on all rows, where the time did not pay for them."""
    steps = []
    top = int(evidence.examples_C.max())
    most = evidence.all_examples if plan.most is None else plan.most
    seconds = max(plan.all_rows_seconds, 2 * plan.budget_seconds)
    if plan.starved and plan.enough_seconds is not None and plan.enough_seconds < seconds:
        why = f"Runs of {LEAST_STEPS} steps, the least to rely on, which the time did not pay for."
        steps.append(_step(command, plan.enough_seconds, why))
    if top < most or plan.breadth in FEW:
        more = "not just three of them" if top >= most else "nothing is extrapolated then"
        rows = "all your rows"
        if plan.most is not None:
            rows = f"the {plan.most:,} training rows drawn at random"
            more = "the step to all of them stays extrapolated"
        why = f"Every rank, each with learning rates of its own, on {rows}: {more}."
        steps.append(_step(command, seconds, why))
    return steps


def _more_held_out(decision: Decision, plan: Plan, command: str) -> list[NextStep]:
    """As many held-out rows as make the intervals narrow enough, where that is a number within reach."""
    deciding = decision.deciding
    if deciding is None or deciding.held_out_needed is None:
        return []
    needed, now = deciding.held_out_needed, deciding.held_out_now
    if not now < needed <= MOST_TIMES_MORE * now:
        return []
    seconds = plan.planned_seconds * (1 + EVALUATION_SHARE * needed / max(1, now))
    why = (
        f"Held-out rows are lacking: about {2 * needed:,}, half of them to score, instead of {2 * now:,} make the intervals as narrow as"
        " the margin."
    )
    return [_step(_with_more_rows(command), seconds, why)]


def _more_seeds(decision: Decision, plan: Plan, command: str) -> list[NextStep]:
    deciding = decision.deciding
    if deciding is None or deciding.seeds_needed is None:
        return []
    if not 0 < deciding.seeds_now < deciding.seeds_needed <= MOST_SEEDS:
        return []
    seconds = plan.planned_seconds * deciding.seeds_needed / deciding.seeds_now
    why = f"Time for {deciding.seeds_needed} seeds of the closest choices instead of {deciding.seeds_now}."
    return [_step(command, seconds, why)]


def _what_lacks_most(decision: Decision, plan: Plan, command: str) -> NextStep:
    """Where nothing within reach surely decides: more of what most of the doubt comes from."""
    deciding = decision.deciding
    if decision.margin is None:
        why = f"Held-out rows are lacking, not minutes: by {2 * plan.score:,} it cannot be told whether training gains anything."
        return NextStep(_with_more_rows(command), why, None)
    if deciding is not None and deciding.helps_most == "held-out examples":
        why = (
            f"Held-out rows are lacking, not minutes: most of the doubt comes from having {2 * deciding.held_out_now:,}, and no number near"
            " that makes the intervals as narrow as the margin."
        )
        return NextStep(_with_more_rows(command), why, None)
    return _step(
        command, 2 * plan.budget_seconds, "Time for more learning rates and repeats with other seeds."
    )


def _with_more_rows(command: str) -> str:
    """``command`` judged by more rows than before."""
    return f"{without(command, '--eval-data')} --eval-data MORE_ROWS"


def _step(command: str, seconds: float, why: str) -> NextStep:
    minutes = math.ceil(seconds / 60)
    return NextStep(f"{command} --budget {minutes}", why, Figure(float(minutes), "minutes", "derived"))
