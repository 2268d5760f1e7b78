"""The runs of a folder: which they are, what they answered, what they cost. Reads files alone, and none of them need be whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rightrank import recommendation_html as wording
from rightrank.errors import DataError, UserError
from rightrank.probe.loss_table import run_record
from rightrank.recommendation import Recommendation
from rightrank.runs.durable import read_text
from rightrank.runs.lock import in_use

if TYPE_CHECKING:
    from collections.abc import Sequence

RUNS = Path("rightrank-runs")
ANSWER = "recommendation.json"
KEYS = frozenset({"model", "data", "recipe", "plan"})
"""What every record of a run has, and hardly a file of anyone else's."""
State = Literal["answered", "unfinished", "running", "damaged"]


@dataclass(frozen=True)
class Run:
    """One run directory, as far as it can be read. Empty text and None: not known."""

    directory: str
    state: State
    when: str
    """ISO 8601: of the answer, or of the last change."""
    model: str
    data: str
    data_fingerprint: str
    status: str
    rank: int | None
    learning_rate: float | None
    minutes: float | None
    runs: float | None
    """In runs of the person's own recipe."""
    measured: int
    """Trainings whose results are on disk, each of one or more configurations."""
    megabytes: float
    """On disk, 10**6 bytes."""
    lead: str = ""
    """What stands before the setting where it is not simply to be used: safe meanwhile, a guess."""


def list_runs(folder: Path) -> tuple[Run, ...]:
    """The runs in ``folder``, the oldest first; ``folder`` itself where it is one. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}.", "Name the folder that holds your runs: rightrank runs DIR."
        )
    try:
        inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.", "Name another folder.") from error
    found = [read_run(place) for place in (folder, *inside) if is_run(place)]
    if not found:
        raise UserError(
            f"{folder} holds no run.", "Name the folder that holds your runs: rightrank runs DIR."
        )
    return tuple(sorted(found, key=lambda run: (run.when, run.directory)))


def is_run(directory: Path) -> bool:
    """Whether ``directory`` looks like a run: by its name alone a file could be anyone's, so what it says counts, damaged or not."""
    if any((directory / name).is_symlink() for name in ("run.json", ANSWER, "packs")):
        return False
    if any((directory / "packs").glob("[0-9]*.safetensors")) and (directory / "run.json").is_file():
        return True
    record = run_record(directory)
    return (record is not None and set(record["settings"]) >= KEYS) or read_answer(directory) is not None


def read_answer(directory: Path) -> Recommendation | None:
    """The answer in ``directory``; None where there is none that can be read."""
    try:
        return Recommendation.from_json(read_text(directory / ANSWER))
    except (OSError, UnicodeDecodeError, DataError):
        return None


def read_run(directory: Path) -> Run:
    """What is known of one run. Never raises for what a file holds."""
    answer, record = read_answer(directory), run_record(directory)
    measured = sum(1 for _ in (directory / "packs").glob("[0-9]*.safetensors"))
    state: State = "answered"
    if in_use(directory) is not None:
        state = "running"
    elif answer is None:
        whole = record is not None and not (directory / ANSWER).exists()
        state = "unfinished" if whole else "damaged"
    common: dict[str, Any] = {
        "directory": str(directory),
        "state": state,
        "measured": measured,
        "megabytes": _bytes(directory) / 1e6,
    }
    if answer is None:
        return Run(**common, **_from_record(record or {}), when=_changed(directory))
    return Run(
        **common,
        when=answer.provenance.created,
        model=answer.model.name,
        data=answer.data.name,
        data_fingerprint=answer.data.fingerprint,
        status=answer.status,
        lead="" if answer.lead == "Use" else answer.lead.lower(),
        rank=answer.choice.rank,
        learning_rate=answer.choice.learning_rate,
        minutes=answer.cost.took_minutes,
        runs=answer.cost.runs,
    )


def _from_record(record: dict[str, Any]) -> dict[str, Any]:
    """What a run without an answer says of itself."""
    settings, about = record.get("settings", {}), record.get("about", {})
    asked = about.get("request") if isinstance(about, dict) else None
    asked = asked if isinstance(asked, dict) else {}
    return {
        "model": _text(asked.get("model")),
        "data": Path(_text(asked.get("dataset"))).name,
        "data_fingerprint": _text(settings.get("data")),
        "status": "",
        "rank": None,
        "learning_rate": None,
        "minutes": None,
        "runs": None,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _changed(directory: Path) -> str:
    try:
        return datetime.fromtimestamp(directory.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    except (OSError, ValueError, OverflowError):
        return ""


def _bytes(directory: Path) -> int:
    """Of all files below, links not followed; what cannot be read counts nothing."""
    total = 0
    for place, _, names in os.walk(directory, onerror=lambda error: None):
        for name in names:
            try:
                total += os.lstat(Path(place) / name).st_size
            except OSError:
                continue
    return total


def run_lines(runs: Sequence[Run]) -> list[str]:
    """Three lines a run: where it is; when, model and data; the answer and its cost."""
    lines = []
    for run in runs:
        about = (
            " on ".join(wording.clean(name) for name in (_short(run.model), run.data) if name) or "unknown"
        )
        mark = f" ({wording.clean(run.data_fingerprint[:8])})" if run.data_fingerprint else ""
        lines += [
            wording.clean(run.directory),
            f"  {_when(run.when)}  {about}{mark}",
            f"  {_answer(run)}; {wording.number(run.megabytes, 0 if run.megabytes >= 10 else 1)} MB",
        ]
    return lines


def _short(model: str) -> str:
    """A path's last part; a hub id as it is."""
    path = Path(model)
    return path.name if path.is_absolute() or model.count("/") > 1 or model.startswith(".") else model


def _when(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "at some time "


def _answer(run: Run) -> str:
    if run.state == "running":
        return f"running now; {wording.count(run.measured, 'training')} measured"
    if run.state == "damaged":
        return f"damaged: its answer cannot be read; {wording.count(run.measured, 'training')} measured"
    if run.state == "unfinished" or run.rank is None or run.learning_rate is None:
        return f"unfinished; {wording.count(run.measured, 'training')} measured, kept for --resume"
    lead = f"{run.lead} " if run.lead else ""
    cost = "" if run.minutes is None else f"; {wording.minutes(run.minutes)}"
    runs = "" if run.runs is None else f", {run.runs:.2g} × the tokens of one run"
    rate = wording.learning_rate(run.learning_rate)
    return f"{run.status.replace('_', ' ')}  {lead}r={run.rank} lr {rate}{cost}{runs}"
