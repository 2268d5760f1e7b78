"""Rows of a data set, from wherever the user has it. Nothing here looks at what a row means; ``formats``
does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.data.files import file_rows, require_regular
from rightrank.data.libraries import column_rows, read_disk_folder, read_hub, read_parquet
from rightrank.data.sampling import numbered, sampled
from rightrank.data.wording import SHOWN, quoted, similar_names
from rightrank.errors import DataError

if TYPE_CHECKING:
    from rightrank.data.files import Located

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSIBLE = (".jsonl", ".json", ".csv")
# Containers that run code of their own when loaded (pickle), or that hold tensors rather than rows.
REFUSED_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz", ".safetensors")
UNDERSTOOD = (
    "Give .jsonl, .json, .csv (each also .gz) or .parquet, a folder that `datasets` saved, or a hub name."
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Rows:
    """The rows of one data set, as read."""

    name: str
    """What the user called it: a file's or folder's name, a hub name, ``rows in memory``."""
    rows: tuple[Mapping[str, Any], ...]
    lines: tuple[int, ...]
    """Where each row stands, 1-based: the physical line of a JSONL file, else the number of the row."""
    total: int | None = None
    """Rows of the source; None: ``rows`` are all of them, else they are a random sample."""


def read_rows(
    source: object,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    prefer: tuple[str, ...] = ("train",),
) -> Rows:
    """Rows of ``source``: a path, a hub name, or rows already loaded; of very many a random sample (``sampling``).

    ``config`` and ``revision`` only apply to hub names; ``split`` to those and to anything else that has
    splits. Without ``split`` the first of ``prefer`` that exists is taken, or the only one there is. Raises
    DataError where the source is missing, empty, damaged or of a kind that is not understood, and
    MalformedRowError where one line of a file is.
    """
    name, located = stream_rows(source, config=config, split=split, revision=revision, prefer=prefer)
    kept, total = sampled(name, located)
    if not kept:
        raise DataError(f"{name} holds no rows.", "Give a data set with at least 20 examples.")
    lines, rows = zip(*kept, strict=True)
    return Rows(name, rows, lines, None if total == len(rows) else total)


def stream_rows(
    source: object,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    prefer: tuple[str, ...] = ("train",),
) -> tuple[str, Located]:
    """The name of ``source`` and all of its rows, one by one, each with the line where it stands; arguments and errors as
    ``read_rows``. What is wrong with a row shows when it is reached."""
    if isinstance(source, (str, Path)):
        return _named(source, config, split, revision, prefer)
    return "rows in memory", numbered(_loaded(source, split, prefer))


def _named(
    source: str | Path, config: str | None, split: str | None, revision: str | None, prefer: tuple[str, ...]
) -> tuple[str, Located]:
    if not str(source).strip() or source == Path():
        raise DataError("No data set is named.", UNDERSTOOD)
    try:
        path = Path(source).expanduser()
        exists = path.exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, the home of nobody
        path, exists = Path(source), False
    if not exists:
        if isinstance(source, str) and _is_hub_name(source):
            return source, numbered(read_hub(source, config, split, revision, prefer))
        raise _missing(path)
    name = quoted(path.name or str(path), bare=True)
    try:
        if path.is_dir():
            return _folder(path, name, split, prefer)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}).", "Check its permissions.") from error
    _refuse_split(name, split)
    return name, _file(path, name)


def _folder(path: Path, name: str, split: str | None, prefer: tuple[str, ...]) -> tuple[str, Located]:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return name, numbered(read_disk_folder(path, split, prefer))
    _refuse_split(name, split)
    return _only_file(path)


def _refuse_split(name: str, split: str | None) -> None:
    if split is not None:
        raise DataError(
            f"{name} has no splits, so none is called {quoted(split)}.", "Leave out --data-split."
        )


def _is_hub_name(name: str) -> bool:
    """Whether ``name`` may be looked up on the hub.

    A name whose folder exists here, or that ends like a data file, is a mistyped path and never leaves the
    machine.
    """
    if not HUB_NAME.fullmatch(name) or name.endswith((*SUFFIXES, ".gz", *REFUSED_SUFFIXES)):
        return False
    return not Path(name).parent.is_dir()


def _missing(path: Path) -> DataError:
    shown = str(path) if len(str(path)) <= SHOWN else "…" + str(path)[1 - SHOWN :]
    problem = f"There is no file or folder {quoted(shown)}."
    folder = path.parent
    try:
        near = similar_names(path.name, [entry.name for entry in folder.iterdir()]) if folder.is_dir() else ()
    except OSError:
        near = ()
    if near:
        return DataError(problem, f"In its folder there is {' or '.join(near)}.")
    return DataError(problem, "Give a path that exists, or a hub name as owner/name.")


def _only_file(folder: Path) -> tuple[str, Located]:
    """The one data file that a folder holds; what else lies there (a README, say) is passed over."""
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        raise DataError(
            f"{quoted(folder.name, bare=True)} is a model, not a data set.",
            "Name the model first, then the data.",
        )
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and _kind(entry) is not None)
    if len(files) == 1:
        name = quoted(files[0].name, bare=True)
        return name, _file(files[0], name)
    name = quoted(folder.name or str(folder))
    if not files:
        raise DataError(f"The folder {name} holds no data file.", UNDERSTOOD)
    shown = ", ".join(quoted(entry.name) for entry in files[:5])
    raise DataError(
        f"The folder {name} holds {len(files)} data files ({shown}).", "Name the one to train on."
    )


def _kind(path: Path) -> str | None:
    """The suffix that says how to read ``path``, without ``.gz``; None where it is not understood."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in COMPRESSIBLE else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def _file(path: Path, name: str) -> Located:
    kind = _kind(path)
    if path.suffix.lower() in REFUSED_SUFFIXES:
        why = f"{name} is not read: files of this kind may run code when loaded, or hold no rows."
        raise DataError(why, UNDERSTOOD)
    if kind is None:
        raise DataError(f"{name} ends in no suffix that is understood.", UNDERSTOOD)
    require_regular(path, name)
    return numbered(read_parquet(path, name)) if kind == ".parquet" else file_rows(path, name, kind)


def _loaded(source: object, split: str | None, prefer: tuple[str, ...]) -> Iterable[Any]:
    rows = column_rows(source, split, prefer)
    if rows is not None:
        return rows
    if isinstance(source, Mapping):
        mend = "Give a list with one mapping a row, or `datasets.Dataset.from_dict(...)` of it."
        raise DataError("The data is one mapping, not rows.", mend)
    if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray)):
        mend = "Give a path, a hub name, a list of mappings, a datasets.Dataset or a pandas DataFrame."
        raise DataError(f"Data of type {type(source).__name__} is not understood.", mend)
    _refuse_split("rows in memory", split)
    return source
