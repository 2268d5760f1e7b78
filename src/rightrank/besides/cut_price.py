"""Whether cuts of a trained adapter are measured after the runs, on how many rows, and what that takes: said beforehand. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank.recommendation_html import minutes
from rightrank.stats.paired import FEWEST_EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.probe.plan import Job, Plan, Speed

BUDGET_SHARE = 0.05
"""Of the budget, for all cuts. Assumed; it is taken from what the plan leaves alone."""
ENOUGH_ROWS = 64
"""Rows that decide, and as many that score, before more cuts are tried. Assumed: twice what an interval needs to be trusted."""


@dataclass(frozen=True)
class CutsPlan:
    """What is measured of cuts at most."""

    cuts: int = 0
    """Ranks that one adapter is cut to; 0: none."""
    rows: int = 0
    """Held-out rows that decide, and as many others that score."""
    seconds: float = 0.0
    line: str = ""
    """What is said of it; empty where there is nothing to say."""


def plan_cuts(
    plan: Plan, job: Job, speed: Speed, ranks: Sequence[int], *, several_devices: bool = False
) -> CutsPlan:
    """As many cuts on as many rows as ``BUDGET_SHARE`` pays for. ``ranks``: those that an adapter may be cut to.

    Of an adapter that saw fewer rows than the person will train on, nothing is cut, and nothing said.
    """
    below = sum(rank < max(plan.ranks) for rank in ranks)
    if plan.final_examples != job.examples or not below:
        return CutsPlan()
    if several_devices:
        return CutsPlan(line="Cuts of trained adapters are not measured on several devices.")
    a_row = job.held_out_tokens * speed.evaluate_seconds_per_token
    allowed = min(BUDGET_SHARE * plan.budget_seconds, plan.budget_seconds - plan.planned_seconds)
    most = min(plan.decide, plan.score)
    evaluations = allowed / max(1e-9, a_row) / 2  # half decide, half score
    # The adapter that is cut is judged once more, by the same steps as its cuts.
    cuts = max(1, min(below, int(evaluations / min(ENOUGH_ROWS, max(1, most))) - 1))
    rows = min(most, int(max(0.0, evaluations)) // (cuts + 1))
    if rows < FEWEST_EXAMPLES:
        few = "few held-out rows" if most < FEWEST_EXAMPLES else "little time"
        return CutsPlan(line=f"Cuts of trained adapters to smaller ranks are not measured: too {few}.")
    seconds = 2 * rows * (cuts + 1) * a_row
    to = "a smaller rank" if cuts == 1 else f"smaller ones, {cuts} at most,"
    return CutsPlan(
        cuts,
        rows,
        seconds,
        f"Then the largest rank is cut to {to} without training, and judged by {rows} + {rows} of these rows: "
        f"{minutes(seconds / 60)} more.",
    )
