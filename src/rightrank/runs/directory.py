"""The directory of a run: where it is, which run it belongs to, and the adapter that it keeps."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.besides.results import CUT_FOLDER, LAYERS_FOLDER
from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError, ResourceError
from rightrank.runs.durable import DRAFT, DamagedError, file_digest, read_json, synchronise, write_json
from rightrank.runs.lock import NAME, in_use, locked, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
TRACES = ("run.json", "packs", NAME)
"""What a run leaves first: any of it can be gone on with."""
WEIGHTS = "adapter_model.safetensors"
FOLDERS = (
    "packs",
    "adapters",
    "adapters.old",
    "adapter",
    CUT_FOLDER,
    LAYERS_FOLDER,
    "cutting",
    "finished_adapter",
    "finishing",
    "trl_rows",
    "chat_rows",
    "tensorboard",
)
SUFFIXES = (".json", ".html", ".yml", ".yaml", ".toml", ".sh", ".py", ".lock", DRAFT)
"""What we write into a run directory, besides those folders."""
OF_OTHERS = ("wandb",)
"""Folders that trackers write there, with links of their own in them."""
LABEL = "rightrank.json"
"""Beside a kept adapter: which configuration it is, of which run, and its checksums."""
FORESEEN = ("budget_seconds", "planned_seconds", "run_seconds", "all_rows_seconds")
"""What of a plan was said beforehand. A resumed run stands by it; only a budget that is given anew replaces the first."""


def choose_directory(out: str | Path | None, data: object, *, resume: bool) -> Path:
    """Where the run goes, before anything is loaded: ``out``, or a new folder named after the data and the time.

    Raises ConfigurationError where ``out`` holds a run that is not to be resumed, or nothing is named or there to resume; ResourceError
    where nothing can be written there. Makes nothing.
    """
    if out is None:
        if resume:
            raise ConfigurationError(
                "--resume needs the run to go on with.", "Name its directory with --out."
            )
        return _new_directory(data)
    folder = Path(out).expanduser()
    refuse_links(folder)
    if (holder := in_use(folder)) is not None:
        raise taken(folder, holder)
    if not resume and (folder / "run.json").exists():
        raise _holds_a_run(folder)
    if resume and not any((folder / name).exists() for name in TRACES):
        raise ConfigurationError(
            f"{folder} holds no run to go on with.",
            "Leave --resume out to begin one there, or name another --out: `rightrank runs` lists the runs there are.",
        )
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(f"Nothing can be written to {folder}.", "Name another folder with --out.")
    return folder


def refuse_links(folder: Path) -> None:
    """Raise ResourceError where a symbolic link stands in the place of something that we write: it would land elsewhere.

    ``folder`` may itself be a link, and may hold links that are none of ours. A pipe there would wait for a reader for ever.
    """
    ours = [folder / name for name in (*FOLDERS, NAME)]
    inside = [path for one in ours if one.is_dir() and not one.is_symlink() for path in one.rglob("*")]
    beside = [path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}")]
    every = (*ours, *inside, *beside)
    link = next((path for path in every if path.is_symlink()), None)
    odd = next((path for path in every if path.exists() and not (path.is_file() or path.is_dir())), None)
    if link is None and odd is not None:
        raise ResourceError(
            f"{folder} holds {cleaned(odd.name)}, which is neither file nor folder.",
            "Delete it, or name another folder.",
        )
    if link is not None:
        raise ResourceError(
            f"{folder} holds a symbolic link ({cleaned(link.name)}), through which files elsewhere would be written.",
            "Delete the link, or name another folder.",
        )


def _new_directory(data: object) -> Path:
    name = Path(data).stem if isinstance(data, (str, Path)) else ""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:40].strip(".-") or "data"
    parent, stamp = Path("rightrank-runs"), datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = parent / f"{stem}-{stamp}", 1
    while folder.exists():
        number += 1
        folder = parent / f"{stem}-{stamp}-{number}"
    return folder


def continued(plan: Plan, directory: Path, candidates: Sequence[int], *, new_budget: bool = False) -> Plan:
    """``plan`` with the sizes of the run that ``directory`` holds; as it is where there is none, or one of other candidate ranks.

    ``new_budget``: a budget is given with --resume, and replaces the one that the run began with.
    """
    from rightrank.probe.record import can_be_planned, is_time, run_record

    record = run_record(directory)
    try:
        if record is None or record["settings"].get("ranks") != list(candidates):
            return plan
        found = record["settings"]["plan"]
        kept: dict[str, Any] = {
            name: tuple(v) if isinstance(v := found[name], list) else v for name in PLANNED
        }
    except (KeyError, TypeError):
        return plan  # LossTable says what is wrong with it
    if not can_be_planned(kept, candidates):
        return plan
    said = record["about"].get("foreseen", {})
    kept |= {
        name: said[name]
        for name in FORESEEN
        if is_time(said.get(name)) and not (new_budget and name == "budget_seconds")
    }
    return replace(plan, **kept)


def planned(plan: Plan) -> dict[str, Any]:
    """What of ``plan`` is kept for ``continued``, and must stay."""
    return {name: getattr(plan, name) for name in PLANNED}


def foreseen(plan: Plan) -> dict[str, float]:
    """What of ``plan`` is kept for ``continued``, and may change."""
    return {name: getattr(plan, name) for name in FORESEEN}


@contextmanager
def held(directory: Path, *, named: bool, resume: bool, on_text: Callable[[str], None]) -> Iterator[Path]:
    """The run directory, made, with the lock of this process on it.

    ``named``: the person chose it; where they did not, a run begun in the same second may have taken it meanwhile, and the next free
    name is used. Raises ConfigurationError where another process holds it, or has begun a run there that is not to be resumed.
    """
    _private_parents(directory)
    folder, number = directory, 1
    while not named:
        try:
            folder.mkdir(parents=True, mode=0o700)
            break
        except FileExistsError:
            number += 1
            folder = directory.with_name(f"{directory.name}-{number}")
    with locked(folder, on_text):
        if not resume and (folder / "run.json").exists():
            raise _holds_a_run(folder)
        yield folder


def _private_parents(folder: Path) -> None:
    """Make what is missing above ``folder``, for its owner alone: even names of runs say something of the data."""
    with suppress(OSError):  # whoever makes the folder itself says what is wrong
        for parent in reversed(folder.absolute().parents):
            if not parent.exists():
                parent.mkdir(mode=0o700)


def _holds_a_run(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{folder} holds a run already.", "Add --resume to go on with it, or name another --out."
    )


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


def keep_adapter(table: LossTable, answer: Recommendation, rows_fingerprint: str) -> None:
    """Keep the chosen configuration's adapter where it was trained on all the data; drop the others once there is an answer.

    ``rows_fingerprint``: of the rows that it was trained on a part of, without held-out data of a file of its own.
    Whatever stops it in between: the kept adapter is whole, and it is the answer's or none.
    """
    folder, kept = table.directory / "adapters", table.directory / "adapter"
    choice = answer.choice
    chosen = (choice.rank, choice.alpha, choice.learning_rate, 0)
    found = [
        (folder / f"{pack.number:04d}" / str(k), pack.number)
        for pack in table.packs
        for k, c in enumerate(pack.configurations)
        if (c.rank, c.alpha, c.learning_rate, c.seed) == chosen and pack.examples == answer.data.train
    ]
    there = [(trained, number) for trained, number in found if (trained / WEIGHTS).is_file()]
    label = {
        "rank": choice.rank,
        "alpha": choice.alpha,
        "learning_rate": choice.learning_rate,
        "seed": 0,
        "examples": answer.data.train,
        "model": answer.model.fingerprint,
        "data": answer.data.fingerprint,
        "rows": rows_fingerprint,
        "versions": answer.provenance.versions,
        "device": answer.cost.device,
    }
    if there:
        trained, number = there[-1]
        keep_whole(trained, kept, {**label, "pack": number})
    elif kept.is_dir() and not _is_of(kept, label):
        shutil.rmtree(kept, ignore_errors=True)  # of an earlier answer
    if answer.status != "UNDECIDED" and not answer.provenance.interrupted and folder.is_dir():
        leaving = (
            table.directory / "adapters.old"
        )  # a folder half removed must not look like one to take adapters from
        shutil.rmtree(leaving, ignore_errors=True)
        folder.replace(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def keep_whole(trained: Path, kept: Path, label: dict[str, Any]) -> None:
    """Copy ``trained`` to ``kept``, whole or not at all, with a label that says what it is and has its checksums."""
    draft = kept.with_name(kept.name + DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(trained, draft)
    sums = {path.name: file_digest(path) for path in sorted(draft.iterdir())}
    write_json(draft / LABEL, {**label, "sha256": sums})
    shutil.rmtree(kept, ignore_errors=True)
    draft.replace(kept)
    synchronise(kept.parent)


def _is_of(kept: Path, label: dict[str, Any]) -> bool:
    try:
        found = read_json(kept / LABEL)
    except (DamagedError, OSError):
        return False
    same = ("rank", "alpha", "learning_rate", "seed", "examples", "model", "data")
    return all(found.get(name) == label[name] for name in same)


def damaged_adapter(directory: Path) -> list[str]:
    """Files of the adapters kept that are not what was written; none where no adapter was kept."""
    return [f"{name}/{file}" for name in ("adapter", CUT_FOLDER) for file in _damaged(directory / name)]


def _damaged(folder: Path) -> list[str]:
    try:
        sums = read_json(folder / LABEL).get("sha256", {})
    except DamagedError:
        return [LABEL]
    except OSError:
        return []
    if not isinstance(sums, dict) or any(name != Path(name).name for name in sums):
        return [LABEL]
    return [
        name
        for name, digest in sums.items()
        if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]
