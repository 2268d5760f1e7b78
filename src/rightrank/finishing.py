"""``--finish``: the winner trained on all the rows, those held out for measuring too, and kept as a PEFT adapter.

Its own loss cannot be measured, since no row is left that it has not seen; what the answer says of its setting was measured on fewer.
Nothing that fails here costs the answer.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from rightrank.errors import UserError
from rightrank.probe.pack import Configuration, Pack
from rightrank.probe.plan import run_seconds
from rightrank.recommendation import Finished
from rightrank.recommendation_html import minutes
from rightrank.runs.directory import LABEL, keep_whole
from rightrank.runs.durable import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.executors.fleet import Fleet
    from rightrank.executors.local import LocalExecutor
    from rightrank.probe.plan import Job, Speed
    from rightrank.recommendation import Recommendation
    from rightrank.request import Request

FOLDER = "finished_adapter"
TOO_MANY = (
    "The data set is so large that only a sample of it was read, so --finish does not train on all rows."
)
JUDGES = 8
"""Rows that show whether the last step diverged. They are among those trained on, so their loss says nothing else."""


class ToFinish(Protocol):
    """What is used of all that was prepared for measuring."""

    @property
    def request(self) -> Request:
        """Whom to tell how far it is."""

    @property
    def directory(self) -> Path:
        """Of the run."""

    @property
    def data(self) -> PreparedData:
        """All the rows."""

    @property
    def executor(self) -> LocalExecutor | Fleet:
        """Over the base that is loaded."""

    @property
    def job(self) -> Job:
        """For the price."""

    @property
    def speed(self) -> Speed:
        """For the price."""


def all_rows(data: PreparedData) -> tuple[TokenizedExample, ...]:
    """Every row that can be trained on: the training rows, and those that were held out of the same data."""
    if data.held_out_from == "--eval-data":
        return data.train
    return (*data.train, *data.decide, *data.score)


def price_line(data: PreparedData, job: Job, speed: Speed, ranks: Sequence[int]) -> str:
    """What it will take on top of the plan, in a sentence."""
    if data.train_of_all is not None:
        return f"{TOO_MANY} The config that comes with the answer does."
    rows = len(all_rows(data))
    low, high = (minutes(run_seconds(job, speed, rank, rows) / 60) for rank in (min(ranks), max(ranks)))
    took = f"{low} more" if low == high else f"{low} to {high} more, as its rank is"
    return f"Then the winner is trained on all {rows:,} rows, the held-out ones too: {took}."


def finish(prepared: ToFinish, answer: Recommendation) -> Recommendation:
    """``answer`` with the winner trained on all rows, or a note why it was not. Ctrl-C ends the training, not the answer."""
    answer = _finished(prepared, answer)
    answer.save(prepared.directory)
    return answer


def _finished(prepared: ToFinish, answer: Recommendation) -> Recommendation:
    if answer.provenance.interrupted:
        return _noted(
            answer, "Interrupted, so the winner was not trained on all rows; --resume --finish does it."
        )
    if answer.status == "NO_GAIN":
        return _noted(answer, "Training does not help here, so nothing was trained on all rows.")
    if prepared.data.train_of_all is not None:
        return _noted(answer, TOO_MANY)
    folder, label = prepared.directory / FOLDER, _label(prepared, answer)
    kept = _as_kept(prepared.directory / "adapter", label) or _as_kept(folder, label)
    if kept is not None:
        return _with(answer, kept)
    try:
        return _with(answer, _trained(prepared, answer, folder, label))
    except KeyboardInterrupt:
        return _noted(
            answer, "Interrupted while the winner was trained on all rows; --resume --finish does it."
        )
    except (UserError, OSError) as error:
        why = error.problem.rstrip(".") if isinstance(error, UserError) else str(error.strerror)
        return _noted(answer, f"The winner could not be trained on all rows ({why}).")
    finally:
        shutil.rmtree(_draft(folder), ignore_errors=True)


def _trained(prepared: ToFinish, answer: Recommendation, folder: Path, label: dict[str, Any]) -> Finished:
    choice, request = answer.choice, prepared.request
    rows = all_rows(prepared.data)
    winner = Configuration(choice.rank, choice.alpha, choice.learning_rate)
    executor = _executor(prepared, rows)
    executor.judge_by(rows[:JUDGES], ())
    foreseen = run_seconds(prepared.job, prepared.speed, choice.rank, len(rows))
    draft, started = _draft(folder), time.monotonic()
    shutil.rmtree(draft, ignore_errors=True)
    result = executor.train(
        Pack(0, len(rows), (winner,), with_score=False),
        export_to=draft / "winner",  # two folders deep, as workers elsewhere expect it
        on_step=lambda share: request.on_progress(
            f"the winner: r={choice.rank} on all {len(rows):,} rows", share * foreseen, foreseen
        ),
    )
    if not (result.loss_KE[0] < math.inf).all():
        raise UserError("its training diverged there", "")
    if not (draft / "winner" / "0").is_dir():
        raise UserError("too little disk space for the adapter", "")
    took = time.monotonic() - started
    told = {**label, "train_loss": result.train_loss_K[0], "minutes": took / 60}
    told["rows"] = prepared.data.rows_fingerprint
    keep_whole(draft / "winner" / "0", folder, told)
    return Finished(str(folder), len(rows), took / 60, result.train_loss_K[0])


def _executor(prepared: ToFinish, rows: tuple[TokenizedExample, ...]) -> LocalExecutor | Fleet:
    """One that trains on ``rows`` over the base that is loaded already."""
    from rightrank.executors.local import LocalExecutor

    now, recipe = prepared.executor, prepared.request.recipe
    if isinstance(now, LocalExecutor):
        return LocalExecutor(now.base, now.memory, rows, recipe, now.path, base_name=now.base_name)
    now.survey(rows, rows[:3], recipe, str(prepared.request.model))
    return now


def _label(prepared: ToFinish, answer: Recommendation) -> dict[str, Any]:
    """What tells this adapter from one of another answer."""
    choice = answer.choice
    return {
        "rank": choice.rank,
        "alpha": choice.alpha,
        "learning_rate": choice.learning_rate,
        "seed": 0,
        "examples": len(all_rows(prepared.data)),
        "model": answer.model.fingerprint,
        "data": answer.data.fingerprint,
    }


def _as_kept(folder: Path, label: dict[str, Any]) -> Finished | None:
    """The adapter in ``folder`` where it is the one wanted: of an earlier part of the run, or of a measurement on all rows."""
    try:
        found = read_json(folder / LABEL)
    except (UserError, OSError, ValueError):
        return None
    if any(found.get(name) != value for name, value in label.items()):
        return None
    minutes, loss = found.get("minutes"), found.get("train_loss")
    return Finished(
        str(folder),
        label["examples"],
        minutes if isinstance(minutes, float) else 0.0,
        loss if isinstance(loss, float) else None,
    )


def _draft(folder: Path) -> Path:
    return folder.with_name("finishing.part")


def _with(answer: Recommendation, finished: Finished) -> Recommendation:
    return replace(answer, finished=finished)


def _noted(answer: Recommendation, note: str) -> Recommendation:
    return replace(answer, warnings=(*answer.warnings, note))
