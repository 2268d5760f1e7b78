"""What would decide: nothing that cannot, and what lacks is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.recipe import Recipe
from rightrank.to_decide import next_steps

if TYPE_CHECKING:
    from rightrank.recommendation import NextStep

COMMAND = "rightrank recommend M D"


def deciding(needed: int | None, most: str = "held-out examples", seeds: int | None = None) -> Any:
    return SimpleNamespace(
        held_out_needed=needed, held_out_now=60, seeds_needed=seeds, seeds_now=1, helps_most=most
    )


def steps(
    score: int = 60, *, top: int = 96, batch: int = 1, command: str = COMMAND, **given: Any
) -> tuple[NextStep, ...]:
    """On 96 rows, of which the largest run saw ``top``."""
    known = {"status": "UNDECIDED", "deciding": None, "margin": 1.0}
    decision: Any = SimpleNamespace(**known | {k: v for k, v in given.items() if k in known})
    planned = {"breadth": "plain", "starved": False, "enough_seconds": None, "most": None}
    plan: Any = SimpleNamespace(
        score=score,
        all_rows_seconds=600.0,
        budget_seconds=240.0,
        planned_seconds=200.0,
        **planned | {k: v for k, v in given.items() if k in planned},
    )
    evidence: Any = SimpleNamespace(examples_C=np.array([top]), all_examples=96)
    return next_steps(decision, plan, evidence, Recipe(epochs=1.0, batch_size=batch), command)


def commands(*args: Any, **given: Any) -> list[str]:
    return [step.command for step in steps(*args, **given)]


def test_where_too_few_rows_score_more_time_is_not_what_would_decide() -> None:
    assert commands(12, top=24) == [f"{COMMAND} --eval-data MORE_ROWS --budget 10"]
    assert commands(30, top=24) == [f"{COMMAND} --budget 10"]


def test_more_held_out_rows_take_the_place_of_those_that_were_named() -> None:
    for given in ("--eval-data 'held out.jsonl'", "--eval-data=held.jsonl"):
        found = commands(12, top=24, command=f"{COMMAND} {given} --seed 2")
        assert found == [f"{COMMAND} --seed 2 --eval-data MORE_ROWS --budget 10"]


def test_where_the_recipe_has_too_few_steps_epochs_are_named_and_minutes_are_not_the_lack() -> None:
    (step,) = steps(top=24, batch=4, command=f"{COMMAND} --epochs 1 --seed 2")
    assert step.command == f"{COMMAND} --seed 2 --epochs 2 --budget 8"
    assert "24 optimiser steps" in step.why and "not minutes" in step.why


def test_runs_too_short_for_want_of_time_ask_for_the_least_that_pays_for_longer_ones() -> None:
    found = commands(top=24, starved=True, enough_seconds=400.0)
    assert found == [f"{COMMAND} --budget 7", f"{COMMAND} --budget 10"]
    assert commands(top=24, starved=True, enough_seconds=600.0) == [f"{COMMAND} --budget 10"]


def test_where_the_doubt_comes_from_few_held_out_rows_no_minutes_are_offered() -> None:
    (within,) = steps(deciding=deciding(200))
    assert "about 400, half of them to score, instead of 120" in within.why
    for beyond in (None, 60 * 20 + 1):
        (step,) = steps(deciding=deciding(beyond))
        assert step.command == f"{COMMAND} --eval-data MORE_ROWS" and step.minutes is None
        assert "not minutes" in step.why
    (unclear,) = steps(margin=None)
    assert unclear.command == f"{COMMAND} --eval-data MORE_ROWS" and unclear.minutes is None


def test_where_it_comes_from_seeds_time_is_asked_for() -> None:
    assert commands(deciding=deciding(None, "seeds", 3)) == [f"{COMMAND} --budget 10"]
    assert commands(deciding=deciding(None, "seeds")) == [f"{COMMAND} --budget 8"]
    assert commands() == [f"{COMMAND} --budget 8"]
