"""Runs as they finish, and the answer, in the trackers that people have: Weights & Biases, TensorBoard, Trackio.

What is sent, and nothing else: settings and losses of the runs; the recipe; the model's last name (no path), architecture and size;
how many rows there are, and the fingerprint of what they say; the answer's numbers. Never a row, nor the data's name, a path or the
command.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from rightrank.data import PreparedData
    from rightrank.executors.survey import BaseFacts
    from rightrank.probe.loss_table import LossTable, Pack, PackResult
    from rightrank.recipe import Recipe
    from rightrank.recommendation import Recommendation
    from rightrank.request import Request

PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}
"""Trackers by the names that transformers gives them, and the package of each."""
PROJECT = "rightrank"


class Tracker(Protocol):
    """One tracker, started."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One finished run."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The answer."""


def chosen_trackers(report_to: str | Sequence[str] | None) -> tuple[str, ...]:
    """The trackers that ``report_to`` names; ``all``: those installed. Raises ConfigurationError for one unknown or not installed."""
    named = [report_to] if isinstance(report_to, str) else list(report_to or ())
    names = [part.strip() for name in named for part in name.split(",")]
    if names in ([], ["none"]):
        return ()
    if names == ["all"]:
        return tuple(name for name, package in PACKAGES.items() if find_spec(package) is not None)
    for name in names:
        if name not in PACKAGES:
            raise ConfigurationError(
                f"--report-to {name!r} is not known.", f"Use {', '.join(PACKAGES)}, all or none."
            )
        if find_spec(PACKAGES[name]) is None:
            raise ConfigurationError(f"{name} is not installed.", f"Run `pip install {PACKAGES[name]}`.")
    return tuple(dict.fromkeys(names))


class Tracking:
    """All trackers that are asked for. One that fails is left out from then on, said by ``on_text``, and costs no measurement."""

    def __init__(
        self,
        names: tuple[str, ...],
        directory: Path,
        facts: Mapping[str, Any],
        *,
        step: int,
        on_text: Callable[[str], None],
    ) -> None:
        self.answer: Recommendation | None = None
        """Set before the end, to be logged there."""
        self._step, self._on_text = step, on_text
        self._started: dict[str, Tracker] = {}
        for name in names:
            self._attempt(name, partial(self._start, name, directory, facts))

    def hear(self, pack: Pack, result: PackResult, tokens_E: np.ndarray, decide: int) -> None:
        """Log every configuration of a finished pack; the first ``decide`` held-out examples choose."""
        if not self._started:
            return
        for k in range(len(pack.configurations)):
            values = run_values(pack, result, k, tokens_E, decide)
            for name, tracker in list(self._started.items()):
                self._attempt(name, partial(tracker.log, values, self._step))
            self._step += 1

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        """Log the answer, where there is one, and let the trackers end."""
        summary = {} if self.answer is None else answer_values(self.answer)
        for name, tracker in list(self._started.items()):
            self._attempt(name, partial(tracker.finish, summary))
        self._started = {}

    def _start(self, name: str, directory: Path, facts: Mapping[str, Any]) -> None:
        self._started[name] = _STARTS[name](directory, facts)

    def _attempt(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # networks, log-ins, disks: an hour of measuring must not end by theirs
            self._started.pop(name, None)
            self._on_text(
                f"{name} failed and is left out ({type(error).__name__}); nothing measured is lost."
            )


def start_tracking(request: Request, base: BaseFacts, data: PreparedData, table: LossTable) -> Tracking:
    """The trackers of ``request``, told of model, data and recipe."""
    by_name = isinstance(request.model, str | os.PathLike)
    facts = run_facts(
        os.fspath(request.model) if by_name else base.name,
        base.architecture,
        base.parameters,
        data.train_rows,
        data.fingerprint,
        request.recipe,
    )
    names = chosen_trackers(request.report_to)
    done = len(table.configurations())
    return Tracking(names, table.directory, facts, step=done, on_text=request.on_text)


def run_values(pack: Pack, result: PackResult, k: int, tokens_E: np.ndarray, decide: int) -> dict[str, float]:
    """One run in numbers: losses in nats a token on the examples that choose; none where it diverged."""
    c = pack.configurations[k]
    values = {
        "rank": float(c.rank),
        "alpha": c.alpha,
        "learning_rate": c.learning_rate,
        "seed": float(c.seed),
        "rows": float(pack.examples),
        "steps": float(result.steps),
    }
    loss = float(result.loss_KE[k, :decide].sum()) / float(tokens_E[:decide].sum())
    values["diverged"] = float(not loss < float("inf"))
    if not values["diverged"]:
        values["eval_loss"] = loss
    train_loss = result.train_loss_K[k]
    if train_loss is not None:
        values["train_loss"] = train_loss
    return values


def run_facts(
    model_name: str, architecture: str, parameters: int, rows: int, fingerprint: str, recipe: Recipe
) -> dict[str, Any]:
    """What a tracker is told of model, data and recipe."""
    plain = {key: value for key, value in asdict(recipe).items() if key != "origins"}
    return {
        "model": last_name(model_name),
        "architecture": architecture,
        "parameters": parameters,
        "training_rows": rows,
        "data_fingerprint": fingerprint,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()},
    }


def last_name(name: str) -> str:
    """A model's name without the folders that it lies in: ``/home/me/models/mine`` is ``mine``; a hub id stays as it is."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..", "~")]
    hub_id = len(parts) == 2 and name == "/".join(parts) and not os.path.lexists(name)
    return name if hub_id else (parts[-1] if parts else "model")


def answer_values(answer: Recommendation) -> dict[str, Any]:
    """The answer in numbers and its status. ``gain_lost``: percent of what training gains, by choice."""
    values: dict[str, Any] = {
        "status": answer.status,
        "choice/rank": answer.choice.rank,
        "choice/alpha": answer.choice.alpha,
        "choice/learning_rate": answer.choice.learning_rate,
        "base_loss": answer.base_loss.value,
        "best_loss": answer.best_loss.value,
        "minutes": answer.cost.took_minutes,
        "runs": answer.cost.runs,
    }
    if answer.worst_case is not None:
        values["choice/worst_case_gain_lost"] = answer.worst_case.value
    for option in answer.options:
        if option.gain_lost is not None:
            values[f"gain_lost/{option.label}"] = option.gain_lost.value
    if answer.own_measure is not None:
        values["own_measure/untrained"] = answer.own_measure.base
        for one in answer.own_measure.values:
            if one.value is not None and one.roles:
                values[f"own_measure/r={one.rank} lr={one.learning_rate:g}"] = one.value
    if answer.forgetting is not None:
        for f in answer.forgetting.settings:
            values[f"old_skills_lost_percent/r={f.rank} lr={f.learning_rate:g}"] = f.percent.value
    return values


class _Wandb:
    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        import wandb

        # Its own record of the machine, the command and the terminal would carry paths and the data's name.
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host="-",
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project, dir=str(directory), config=dict(facts), job_type="rank", settings=settings
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


class _TensorBoard:
    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(directory / "tensorboard")
        self._writer: Any = SummaryWriter(log_dir=os.path.expanduser(folder))  # noqa: PTH111
        self._writer.add_text("facts", _as_table(facts))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"run/{name}", value, step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        for name, value in summary.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"answer/{name}", value, 0)
        self._writer.add_text("answer", _as_table(summary))
        self._writer.close()


class _Trackio:
    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        with contextlib.redirect_stdout(io.StringIO()):  # it greets there, where the answer or its JSON goes
            trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                config=dict(facts),
                embed=False,
                private=True,  # a Space named by TRACKIO_SPACE_ID would be public otherwise
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.log({f"answer/{name}": value for name, value in summary.items()})
            self._trackio.finish()


def _as_table(values: Mapping[str, Any]) -> str:
    lines = "".join(f"| {name} | {value} |\n" for name, value in values.items())
    return f"| name | value |\n|---|---|\n{lines}"


_STARTS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "wandb": _Wandb,
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}
