"""The directory of a run: where it is, which run it belongs to, and the adapter that it keeps."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rightrank.probe.loss_table import LossTable
    from rightrank.probe.plan import Plan
    from rightrank.recommendation import Recommendation

PLANNED = (
    "scout_examples",
    "final_examples",
    "ranks",
    "scout_ranks",
    "breadth",
    "starved",
    "decide",
    "score",
)
"""What of a plan measurements depend on. A resumed run takes it from its first part, since a plan follows from speeds that are
measured anew each time."""


def choose_directory(out: str | Path | None, data: object, *, resume: bool) -> Path:
    """Where the run goes, before anything is loaded: ``out``, or a new folder named after the data and the time.

    Raises ConfigurationError where ``out`` holds a run that is not to be resumed, or nothing is named to resume; ResourceError where
    nothing can be written there. Makes nothing.
    """
    if out is None:
        if resume:
            raise ConfigurationError(
                "--resume needs the run to go on with.", "Name its directory with --out."
            )
        return _new_directory(data)
    folder = Path(out).expanduser()
    if not resume and (folder / "run.json").exists():
        raise ConfigurationError(
            f"{folder} holds a run already.", "Add --resume to go on with it, or name another --out."
        )
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(f"Nothing can be written to {folder}.", "Name another folder with --out.")
    return folder


def _new_directory(data: object) -> Path:
    name = Path(data).stem if isinstance(data, (str, Path)) else ""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:40].strip(".-") or "data"
    parent, stamp = Path("rightrank-runs"), datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = parent / f"{stem}-{stamp}", 1
    while folder.exists():
        number += 1
        folder = parent / f"{stem}-{stamp}-{number}"
    return folder


def continued(plan: Plan, directory: Path, candidates: Sequence[int]) -> Plan:
    """``plan`` with the sizes of the run that ``directory`` holds; as it is where there is none, or one of other candidate ranks."""
    try:
        run = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        found = run["plan"]
        kept: dict[str, Any] = {
            name: tuple(v) if isinstance(v := found[name], list) else v for name in PLANNED
        }
    except (OSError, ValueError, KeyError, TypeError):
        return plan  # LossTable says what is wrong with it
    return replace(plan, **kept) if run.get("ranks") == list(candidates) else plan


def planned(plan: Plan) -> dict[str, Any]:
    """What of ``plan`` is kept for ``continued``."""
    return {name: getattr(plan, name) for name in PLANNED}


@contextmanager
def keeping(directory: Path, *, named: bool) -> Iterator[None]:
    """Say where the measurements are when a full disk or too little memory ends a run. ``named``: the person chose the directory."""
    try:
        yield
    except ResourceError as error:
        raise ResourceError(error.problem, _with_place(error.mend, directory, named=named)) from error
    except Exception as error:
        # safetensors passes the system's error on as text, in an exception of its own
        system = isinstance(error, OSError) and error.errno is not None
        if not system and "(os error " not in str(error):
            raise
        why = getattr(error, "strerror", None) or "the disk is full"
        mend = "Free some space and run the same command with --resume: what was measured is kept."
        raise ResourceError(
            f"{directory} cannot be written: {why}.", _with_place(mend, directory, named=named)
        ) from error


def _with_place(mend: str, directory: Path, *, named: bool) -> str:
    return mend if named or "--resume" not in mend else f"{mend.rstrip('.')} (--out {directory})."


def keep_adapter(table: LossTable, answer: Recommendation) -> None:
    """Keep the chosen configuration's adapter where it was trained on all the data; drop the others once there is an answer."""
    folder = table.directory / "adapters"
    if not folder.is_dir():
        return
    choice = answer.choice
    chosen = (choice.rank, choice.alpha, choice.learning_rate, 0)
    for pack in table.packs:
        for k, c in enumerate(pack.configurations):
            trained = folder / f"{pack.number:04d}" / str(k)
            same = (c.rank, c.alpha, c.learning_rate, c.seed) == chosen
            if same and trained.is_dir() and pack.examples == answer.data.train:
                kept = table.directory / "adapter"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(trained, kept)
    if answer.status != "UNDECIDED" and not answer.provenance.interrupted:
        shutil.rmtree(folder, ignore_errors=True)
