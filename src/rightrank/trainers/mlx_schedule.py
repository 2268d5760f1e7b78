"""MLX-LM's ``lr_schedule``: the name of a schedule, its arguments, and the steps of warm-up before it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.trainers.step_counts import share_of
from rightrank.trainers.yaml_edit import value_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.recipe import Recipe, Schedule
    from rightrank.trainers.keys import Keys
    from rightrank.trainers.settings import Settings
    from rightrank.trainers.yaml_edit import Place


def written_schedule(s: Settings, steps: int) -> dict[str, Any] | None:
    """The schedule of a run of ``steps`` steps; None for a rate that never changes.

    MLX-LM begins the schedule one step after the warm-up has reached its top, so the decay has that step less to go: it is never more
    than one step away from what was measured.
    """
    rate, warmup = s.learning_rate, math.ceil(s.recipe.warmup_ratio * steps)
    left = max(1, steps - warmup - 1) if warmup else steps
    if s.recipe.schedule == "cosine":
        found: dict[str, Any] = {"name": "cosine_decay", "arguments": [rate, left]}
    elif s.recipe.schedule == "linear":
        found = {"name": "linear_schedule", "arguments": [rate, 0.0, left]}
    elif warmup:
        found = {"name": "linear_schedule", "arguments": [rate, rate, 1]}
    else:
        return None
    return {**found, "warmup": warmup} if warmup else found


def schedule_lines(values: Mapping[str, Any], rate: float) -> dict[Place, Any]:
    """Where a config that says ``values`` holds its learning rate: in its schedule too, which counts alone if there is one."""
    found: dict[Place, Any] = {}
    arguments = value_at(values, ("lr_schedule", "arguments"))
    if isinstance(arguments, list) and arguments:
        found["lr_schedule", "arguments", 0] = rate
        if value_at(values, ("lr_schedule", "name")) == "linear_schedule" and arguments[:1] == arguments[1:2]:
            found["lr_schedule", "arguments", 1] = rate
    if not found or values.get("learning_rate") is not None:
        found["learning_rate"] = rate
    return found


def read_schedule(keys: Keys, recipe: Recipe, steps: int) -> tuple[Recipe, float | None, tuple[str, ...]]:
    """``recipe`` with the schedule of a run of ``steps`` steps, the learning rate, and what is measured otherwise."""
    rate = keys.number("learning_rate")
    if not keys.has("lr_schedule"):
        keys.raw("lr_schedule")
        return recipe, rate, ()
    own = keys.part("lr_schedule")
    name, warmup = own.text("name") or "", own.whole("warmup") or 0
    start = own.number("warmup_init") or 0.0
    arguments = own.raw("arguments")
    try:
        numbers = [float(one) for one in arguments] if isinstance(arguments, list) else []
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise own.wrong(("arguments",), arguments, "a list of numbers that begins with the learning rate")
    kind, length, end = _kind(own, name, numbers)
    notes = []
    if kind != "constant" and (end > 0 or abs(length - (steps - warmup)) > 1):
        notes.append(f"{name} {arguments}: measured is a decay to zero at the end of the run.")
    if warmup and start > 0:
        notes.append(f"warmup_init {start:g}: the measured warm-up begins at zero.")
    recipe = recipe.given("config", schedule=kind, warmup_ratio=share_of(warmup, steps))
    return recipe, numbers[0], tuple(notes)


def _kind(own: Keys, name: str, numbers: list[float]) -> tuple[Schedule, float, float]:
    """Our schedule, the steps it takes, and where it ends."""
    if name == "cosine_decay" and len(numbers) >= 2:
        return "cosine", numbers[1], numbers[2] if len(numbers) > 2 else 0.0
    if name == "linear_schedule" and len(numbers) == 3:
        kind: Schedule = "constant" if numbers[0] == numbers[1] else "linear"
        return kind, numbers[2], numbers[1]
    raise ConfigurationError(
        f"{own.name}: the schedule {cleaned(name, 40)} cannot be measured here.",
        "Take cosine_decay or linear_schedule, with all of their arguments.",
    )
