"""What is measured besides the loss: the person's own measure of the finalists, and what the model's old skills lose.

Both are measured when the runs are done, from the adapters that these left on disk. Nothing that fails here costs the answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.besides.asked import Asked, Model, make_room
from rightrank.besides.forgetting import OldLoss, OldSkills, measure_loss, what_is_forgotten
from rightrank.besides.own_metric import LARGEST, Command, MetricError, judged, patience
from rightrank.besides.results import OwnValue
from rightrank.errors import UserError
from rightrank.runs.saved_answer import LARGEST as LARGEST_COUNT
from rightrank.runs.trained_adapters import finalists, remember, remembered, table_settings, trained_adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rightrank.besides.results import Forgetting, OwnMeasure
    from rightrank.probe.loss_table import LossTable
    from rightrank.request import Request
    from rightrank.runs.trained_adapters import Setting, TrainedAdapter
    from rightrank.stats.results import Decision

MOST_REPEATS = 4
"""Other seeds of the finalists that the person's own measure is run on, where time is left. Assumed: enough to see whether it scatters."""


@dataclass(frozen=True)
class Besides:
    """What came of it."""

    own_measure: OwnMeasure | None = None
    forgetting: Forgetting | None = None
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    """By Ctrl-C, so that --resume has something left to measure."""


def measure_besides(
    asked: Asked,
    request: Request,
    model: Model,
    table: LossTable,
    decision: Decision,
    *,
    deadline: float,
    interrupted: bool,
) -> Besides:
    """Measure what is asked from the adapters on disk; Ctrl-C ends it with what there is. ``deadline`` (monotonic) bounds repeats.

    ``interrupted``: the person wants an answer now, so nothing more is measured.
    """
    if not asked.anything:
        return Besides()
    if interrupted:
        notes = ("Interrupted before --metric and --keep were measured; --resume does it.",)
        return Besides(notes=notes, interrupted=True)
    begun = time.monotonic()

    def show(what: str) -> None:
        done = time.monotonic() - begun
        request.on_progress(what, done, max(done, asked.reserve_seconds))

    runs, found = trained_adapters(table), Besides()
    if asked.skills is not None:
        found = _forgetting(asked, asked.skills, model, table, decision, runs, show)
    if asked.command is not None and not found.interrupted:
        own = _own_measure(asked, asked.command, request, table, decision, runs, deadline, show, model)
        found = replace(own, forgetting=found.forgetting, notes=(*found.notes, *own.notes))
    return found


def _forgetting(
    asked: Asked,
    skills: OldSkills,
    model: Model,
    table: LossTable,
    decision: Decision,
    runs: Sequence[TrainedAdapter],
    show: Callable[[str], None],
) -> Besides:
    path = table.directory / "old_skills.json"
    earlier, kept = remembered(path, {"fingerprint": skills.fingerprint})
    rows = earlier.get("rows")  # all settings are judged by the same rows
    if type(rows) is not int or not 0 < rows <= len(skills.examples):
        rows, kept = asked.rows, {}
    kept = {key: value for key, value in kept.items() if _is_loss(value, rows)}
    what = {"fingerprint": skills.fingerprint, "rows": rows}
    wanted = set(table_settings(decision))
    losses: dict[Setting, OldLoss] = {}
    notes, interrupted = [*skills.notes], False

    def loss_of(key: str, adapter: TrainedAdapter | None) -> OldLoss:
        if key not in kept:
            show("what the old skills lose")
            examples = skills.examples[:rows]
            found = measure_loss(
                model.base, model.targets, model.memory, examples, adapter, packed=model.path.packed
            )
            kept[key] = {"loss": found.loss_E.tolist(), "right": found.right_E.tolist()}
            remember(path, what, kept)
        return OldLoss(np.array(kept[key]["loss"]), np.array(kept[key]["right"]))

    before = None
    try:
        before = loss_of("untrained", None)
        for run in runs:
            once = run.setting in wanted and run.setting not in losses
            if once and (run.key in kept or run.exists):
                losses[run.setting] = loss_of(run.key, run)
    except KeyboardInterrupt:
        interrupted = True
        notes.append("Interrupted: not every setting was measured on the rows of --keep.")
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        notes.append(f"What the old skills lose could not be measured for every setting ({_why(error)}).")
    losses = {setting: loss for setting, loss in losses.items() if np.isfinite(loss.loss_E).all()}
    if before is None or not losses:
        notes = notes or ["What the old skills lose is not known: no trained adapter was kept."]
        return Besides(None, None, tuple(notes), interrupted)
    forgotten = what_is_forgotten(skills, rows, runs[0].examples, before, losses)
    return Besides(None, forgotten, tuple(notes), interrupted)


def _own_measure(
    asked: Asked,
    command: Command,
    request: Request,
    table: LossTable,
    decision: Decision,
    runs: Sequence[TrainedAdapter],
    deadline: float,
    show: Callable[[str], None],
    model: Model,
) -> Besides:
    path, what = table.directory / "own_measure.json", {"command": command.text}
    _, kept = remembered(path, what)
    kept = {key: value for key, value in kept.items() if value is None or _is_number(value)}
    roles = finalists(decision, request.yours)
    values: list[OwnValue] = []
    notes: list[str] = []
    interrupted = False
    make_room(model)
    try:
        for run in _in_order(runs, roles):
            repeat = any((run.setting == (v.rank, v.alpha, v.learning_rate)) for v in values)
            late = time.monotonic() + asked.command_seconds > deadline
            if run.key not in kept and (not run.exists or (repeat and late)):
                continue
            if run.key not in kept:
                show("your own measure")
                kept[run.key] = _value(command, run, asked, request, notes)
                remember(path, what, kept)
            values.append(
                OwnValue(*run.setting, run.seed, () if repeat else roles[run.setting], kept[run.key])
            )
    except KeyboardInterrupt:
        interrupted = True
        notes.append("Interrupted: your own measure was not run on every finalist.")
    if not values:
        notes = notes or ["Your own measure was not run: no trained adapter was kept."]
        return Besides(None, None, tuple(notes), interrupted)
    own = judged(command.text, asked.untrained, runs[0].examples, values)
    return Besides(own, None, tuple(notes), interrupted)


def _in_order(runs: Sequence[TrainedAdapter], roles: dict[Setting, Any]) -> list[TrainedAdapter]:
    """The finalists as ``roles`` lists them, then a few other seeds of them."""
    of_each = [[run for run in runs if run.setting == setting] for setting in roles]
    first = [same[0] for same in of_each if same]
    repeats = [run for same in of_each for run in same[1:]]
    return first + repeats[:MOST_REPEATS]


def _value(
    command: Command, run: TrainedAdapter, asked: Asked, request: Request, notes: list[str]
) -> float | None:
    try:
        longest = patience(asked.command_seconds)
        return command.measure(run.directory, longest_seconds=longest, show_stderr=request.show_stderr)
    except (MetricError, OSError) as error:
        why = (
            error.problem.rstrip(".")
            if isinstance(error, MetricError)
            else f"Your own measure: {error.strerror}"
        )
        notes.append(f"{why} (r={run.setting[0]}).")
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_loss(value: Any, rows: int) -> bool:
    """Whether this is what was kept of one model on ``rows`` rows."""
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), list) for name in ("loss", "right")
    ):
        return False
    counts = all(type(count) is int and 0 <= count <= LARGEST_COUNT for count in value["right"])
    return counts and len(value["loss"]) == len(value["right"]) == rows and all(map(_is_float, value["loss"]))


def _is_float(value: object) -> bool:
    return isinstance(value, float) and not value < 0


def _why(error: BaseException) -> str:
    return error.problem.rstrip(".") if isinstance(error, UserError) else type(error).__name__
