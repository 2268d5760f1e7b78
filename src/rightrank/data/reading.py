"""Rows of a data set, from wherever the user has it. Nothing here looks at what a row means; ``formats``
does."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightrank.data.libraries import column_rows, read_disk_folder, read_hub, read_parquet
from rightrank.data.wording import SHOWN, quoted, similar_names
from rightrank.errors import DataError, MalformedRowError

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


def read_rows(
    source: object,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    prefer: tuple[str, ...] = ("train",),
) -> Rows:
    """Rows of ``source``: a path, a hub name, or rows already loaded.

    ``config`` and ``revision`` only apply to hub names; ``split`` to those and to anything else that has
    splits. Without ``split`` the first of ``prefer`` that exists is taken, or the only one there is. Raises
    DataError where the source is missing, empty, damaged or of a kind that is not understood, and
    MalformedRowError where one line of a file is.
    """
    rows = (
        _named(source, config, split, revision, prefer)
        if isinstance(source, (str, Path))
        else _loaded(source, split, prefer)
    )
    if not rows.rows:
        raise DataError(f"{rows.name} holds no rows.", "Give a data set with at least 20 examples.")
    return rows


def _named(
    source: str | Path, config: str | None, split: str | None, revision: str | None, prefer: tuple[str, ...]
) -> Rows:
    if not str(source).strip() or source == Path():
        raise DataError("No data set is named.", UNDERSTOOD)
    path = Path(source).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError):  # too long a name, or a NUL in it
        exists = False
    if not exists:
        if isinstance(source, str) and _is_hub_name(source):
            return _counted(source, read_hub(source, config, split, revision, prefer))
        raise _missing(path)
    name = quoted(path.name or str(path), bare=True)
    if path.is_dir() and ((path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()):
        return _counted(name, read_disk_folder(path, split, prefer))
    _refuse_split(name, split)
    return _only_file(path) if path.is_dir() else _file(path, name)


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


def _only_file(folder: Path) -> Rows:
    """The one data file that a folder holds; what else lies there (a README, say) is passed over."""
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        raise DataError(
            f"{quoted(folder.name, bare=True)} is a model, not a data set.",
            "Name the model first, then the data.",
        )
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and _kind(entry) is not None)
    if len(files) == 1:
        return _file(files[0], quoted(files[0].name, bare=True))
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


def _file(path: Path, name: str) -> Rows:
    kind = _kind(path)
    if path.suffix.lower() in REFUSED_SUFFIXES:
        why = f"{name} is not read: files of this kind may run code when loaded, or hold no rows."
        raise DataError(why, UNDERSTOOD)
    if kind is None:
        raise DataError(f"{name} ends in no suffix that is understood.", UNDERSTOOD)
    if kind == ".parquet":
        return _counted(name, read_parquet(path, name))
    content = _content(path, name)
    if not content.strip():
        raise DataError(f"{name} is empty.", "Give a data set with at least 20 examples.")
    if kind == ".csv":
        return _csv(content, name)
    return _json(content, name) if kind == ".json" else _jsonl(content, name)


def _content(path: Path, name: str) -> bytes:
    """The bytes of a file, unpacked where it is gzipped, without a byte-order mark."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is no complete gzip file.", "Download or compress it again.") from error
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}).", "Check its permissions.") from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _jsonl(content: bytes, name: str) -> Rows:
    """One JSON object a line. Lines end at a line feed only: other separators may stand inside strings."""
    rows, lines = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        value = _parsed(_decoded(line, name, number), name, number)
        if not isinstance(value, dict):
            raise MalformedRowError(name, number, f"is {_json_kind(value)}, not a JSON object")
        rows.append(value)
        lines.append(number)
    return Rows(name, tuple(rows), tuple(lines))


def _json(content: bytes, name: str) -> Rows:
    """A list of objects, or an object that holds such a list as ``data`` or ``train``; JSON lines are
    accepted too."""
    text = "\n".join(_decoded(line, name, i) for i, line in enumerate(content.split(b"\n"), start=1))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a second object: JSON lines under another name
            return _jsonl(content, name)
        raise MalformedRowError(name, error.lineno, f"is not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON that can be read.", "Save it again as JSON lines.") from error
    if isinstance(value, dict):
        inner = value.get("data", value.get("train"))
        value = inner if isinstance(inner, list) else [value]
    if not isinstance(value, list):
        raise DataError(f"{name} holds {_json_kind(value)}.", "Save the rows as a list of JSON objects.")
    return _counted(name, value)


def _csv(content: bytes, name: str) -> Rows:
    """A header and rows, separated by commas."""
    text = "\n".join(_decoded(line, name, i) for i, line in enumerate(content.split(b"\n"), start=1))
    rows: list[dict[str, Any]] = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise MalformedRowError(name, number, "has more fields than the header (counted in rows)")
            if None in row.values():
                raise MalformedRowError(name, number, "has fewer fields than the header (counted in rows)")
            rows.append(row)
    except csv.Error as error:
        where = f"{name} is no CSV from line {reader.line_num} on"
        raise DataError(f"{where} ({error}).", "Save the rows as JSON lines instead.") from error
    return _counted(name, rows)


def _decoded(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 (byte {error.start + 1} of the line)"
        raise MalformedRowError(name, number, why) from error


def _parsed(text: str, name: str, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        why = f"is not valid JSON ({error.msg} at character {error.pos + 1})"
        raise MalformedRowError(name, number, why) from error
    except (ValueError, RecursionError) as error:
        why = "is not JSON that can be read (too deep, or too long a number)"
        raise MalformedRowError(name, number, why) from error


def _json_kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "no JSON value")


def _loaded(source: object, split: str | None, prefer: tuple[str, ...]) -> Rows:
    name = "rows in memory"
    rows = column_rows(source, split, prefer)
    if rows is not None:
        return _counted(name, rows)
    if isinstance(source, Mapping):
        mend = "Give a list with one mapping a row, or `datasets.Dataset.from_dict(...)` of it."
        raise DataError("The data is one mapping, not rows.", mend)
    if not isinstance(source, Iterable) or isinstance(source, (bytes, bytearray)):
        mend = "Give a path, a hub name, a list of mappings, a datasets.Dataset or a pandas DataFrame."
        raise DataError(f"Data of type {type(source).__name__} is not understood.", mend)
    _refuse_split(name, split)
    return _counted(name, source)


def _counted(name: str, values: Iterable[Any]) -> Rows:
    rows = tuple(values)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise MalformedRowError(name, number, "is no mapping from column to value (counted in rows)")
    return Rows(name, rows, tuple(range(1, len(rows) + 1)))
