"""Removing a run, or what ``rightrank cut`` wrote: that and nothing else, never through a link."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from rightrank.cuts.result import FILE_NAME as CUT
from rightrank.cuts.result import CutResult
from rightrank.errors import ConfigurationError, DataError, ResourceError
from rightrank.recommendation_html import clean, number
from rightrank.runs.directory import FOLDERS, OF_OTHERS
from rightrank.runs.durable import read_text
from rightrank.runs.history import ANSWER, is_run, read_answer, read_run
from rightrank.runs.lock import in_use, taken

if TYPE_CHECKING:
    from pathlib import Path

# The last to go are those by which a run or a cut is known, so that what was half removed can be removed again.
KNOWN_LAST = (ANSWER, "run.json", "lock")
OF_A_CUT = ("adapter", "report.html", CUT)
FILES = (
    "report.html",
    "old_skills.json",
    "own_measure.json",
    "cuts.json",
    "trl_sft.sh",
)  # the last: version 0.1's config for TRL
DRAFT = ".part"


@dataclass(frozen=True)
class Removal:
    """What removing a run or a cut removes, and what it leaves since rightrank did not write it."""

    directory: Path
    removes: tuple[str, ...]
    leaves: tuple[str, ...]
    cut_of: str | None = None
    """The adapter that was cut; None: it is a run."""


def plan_removal(directory: Path) -> Removal:
    """Look at ``directory`` and touch nothing.

    Raises ConfigurationError where it is a link, neither run nor cut, or in use.
    """
    if directory.is_symlink():
        raise ConfigurationError(f"{directory} is a link.", "Name the run's directory itself.")
    run = directory.is_dir() and is_run(directory)
    cut = None if run else _read_cut(directory)
    if not run and cut is None:
        raise ConfigurationError(
            f"{directory} holds no run and no cut.", "`rightrank runs` lists the runs there are."
        )
    if (holder := in_use(directory)) is not None:
        raise taken(directory, holder)
    ours = _ours(directory) if cut is None else OF_A_CUT
    names = sorted(entry.name for entry in os.scandir(directory))
    removes = [name for name in names if name.removesuffix(DRAFT) in ours]
    last = (*KNOWN_LAST, CUT)
    removes.sort(key=lambda name: last.index(name) if name in last else -1)
    leaves = tuple(name for name in names if name not in removes)
    return Removal(directory, tuple(removes), leaves, None if cut is None else cut.adapter)


def _read_cut(directory: Path) -> CutResult | None:
    """What ``rightrank cut`` wrote into ``directory``; None where it wrote nothing there."""
    file = directory / CUT
    try:
        return None if file.is_symlink() else CutResult.from_json(read_text(file))
    except (OSError, UnicodeDecodeError, DataError):
        return None


def remove(removal: Removal) -> bool:
    """Remove it; whether the directory is gone too, which it is where nothing is left in it. Raises ResourceError."""
    for name in removal.removes:
        place = removal.directory / name
        try:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{place} cannot be removed: {error.strerror}.", "Mend that and run the same command again."
            ) from error
    with suppress(OSError):
        removal.directory.rmdir()
    return not removal.directory.exists()


def require_someone_to_ask(stream: IO[str]) -> None:
    """Raise ConfigurationError where ``stream`` is no terminal: nobody could answer."""
    if not stream.isatty():
        raise ConfigurationError("Nobody is there to ask.", "Add --yes to delete without asking.")


def lines_before(removal: Removal) -> list[str]:
    """What will be deleted, and what is left."""
    run = read_run(removal.directory)
    about = " on ".join(clean(name) for name in (run.model, run.data) if name) or "unknown model and data"
    if removal.cut_of is not None:
        about = f"a cut of {clean(removal.cut_of)}"
    lines = [
        f"{clean(str(removal.directory))}: {about}, {number(run.megabytes, 1)} MB.",
        f"Deleted: {', '.join(clean(name) for name in removal.removes)}.",
    ]
    if removal.leaves:
        lines.append(
            f"Left, since rightrank did not write it: {', '.join(clean(name) for name in removal.leaves)}."
        )
    return lines


def line_after(removal: Removal) -> str:
    """What was done."""
    if removal.leaves:
        what = "run" if removal.cut_of is None else "cut"
        return (
            f"The {what} in {clean(str(removal.directory))} is deleted; left, since rightrank did not write it: "
            f"{', '.join(clean(name) for name in removal.leaves)}."
        )
    return f"{clean(str(removal.directory))} is deleted."


def _ours(directory: Path) -> frozenset[str]:
    """Every name that a run writes; the trainers' configs by the trainers' own word."""
    from rightrank.trainers import file_names

    answer = read_answer(directory)
    own = None if answer is None or answer.recipe_from is None else answer.recipe_from.rpartition(" (")[0]
    edited = () if own is None else (own, f"yours_{own}")
    return file_names(answer, directory).union(KNOWN_LAST, FOLDERS, OF_OTHERS, FILES, edited)
