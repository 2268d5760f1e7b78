"""Rows of a text file, read as a stream: JSON lines, JSON, CSV, each also gzipped. Nothing of a file is trusted: not its encoding, not
the length of its lines, not the size that it unpacks to."""

from __future__ import annotations

import csv
import gzip
import io
import json
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from rightrank.data.json_items import JsonItems
from rightrank.data.sampling import MIB
from rightrank.errors import DataError, MalformedRowError

if TYPE_CHECKING:
    from pathlib import Path

Located = Iterator[tuple[int, Any]]
"""Rows, each with where it stands: the line of a JSONL file, else the number of the row."""

MOST_LINE_BYTES = 16 * MIB
"""Bytes of a line at most: a row of four million tokens. Assumed."""
MOST_OBJECT_BYTES = 64 * MIB
"""Bytes of a ``.json`` file at most that is one object: only that kind is held in memory whole. Assumed."""
MOST_RATIO = 200
"""A gzip file that unpacks to more than so many times its size holds no text that anybody wrote: text shrinks 3 to 10 times. Assumed."""
UNPACKED_UNASKED = 16 * MIB
"""Bytes unpacked before the ratio is looked at."""
PIECE = MIB
MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
UTF8_MARK = b"\xef\xbb\xbf"


def file_rows(path: Path, name: str, kind: str) -> Located:
    """Rows of a file of ``kind`` (.jsonl, .json, .csv). Raises DataError or MalformedRowError, at the latest where the damage is."""
    if kind == ".json":
        return _json(path, name)
    return _csv(path, name) if kind == ".csv" else _jsonl(path, name)


def require_regular(path: Path, name: str) -> None:
    """Raise DataError for a pipe or a device, which may never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise _unreadable(name, error) from error
    if not regular:
        raise DataError(f"{name} is a pipe or a device, not a file.", "Save its rows to a file first.")


def _unreadable(name: str, error: OSError) -> DataError:
    return DataError(
        f"{name} cannot be read ({error.strerror or 'it is damaged'}).", "Check its permissions."
    )


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file, after a UTF-8 byte-order mark."""
    try:
        with path.open("rb") as raw:
            packed = path.suffix.lower() == ".gz"
            stream = io.BufferedReader(_Unpacked(raw, name), PIECE) if packed else raw
            start = stream.peek(4)[:4]
            encoding = next((encoding for mark, encoding in MARKS if start.startswith(mark)), None)
            if encoding is not None:
                raise DataError(f"{name} is {encoding} text.", "Save it as UTF-8.")
            if start.startswith(UTF8_MARK):
                stream.read(len(UTF8_MARK))
            yield cast("BinaryIO", stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is no complete gzip file.", "Download or compress it again.") from error
    except OSError as error:
        raise _unreadable(name, error) from error


class _Unpacked(io.RawIOBase):
    """A gzip file that stops where it unpacks to absurdly much."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self._raw, self._name = raw, name
        self._file = gzip.GzipFile(fileobj=raw)
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._unpacked += count
        if self._unpacked > max(UNPACKED_UNASKED, MOST_RATIO * self._raw.tell()):
            problem = f"{self._name} unpacks to more than {MOST_RATIO} times its size, which no text does."
            raise DataError(problem, "Give the file unpacked if it is meant so.")
        return count


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line, its line feed included. Lines end at a line feed only: other separators may stand in strings."""
    with _opened(path, name) as file:
        number = 0
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise MalformedRowError(name, number, f"is longer than {MOST_LINE_BYTES // MIB} MiB")
            yield number, _decoded(line, name, number)


def _jsonl(path: Path, name: str) -> Located:
    """One JSON object a line. Of a key that occurs twice in one object the last counts, as for Python's ``json``."""
    empty = True
    for number, text in _lines(path, name):
        if not text.strip():
            continue
        empty = False
        value = parsed(text, name, number)
        if not isinstance(value, dict):
            raise MalformedRowError(name, number, f"is {json_kind(value)}, not a JSON object")
        yield number, value
    if empty:
        raise _empty(name)


def _empty(name: str) -> DataError:
    return DataError(f"{name} is empty.", "Give a data set with at least 20 examples.")


def _json(path: Path, name: str) -> Located:
    """A list of objects, or an object that holds such a list as ``data`` or ``train``; JSON lines are accepted too."""
    first, alone = _first_line(path, name)
    if first.startswith("["):
        with _opened(path, name) as file:
            yield from enumerate(JsonItems(_texts(file, name), name, MOST_LINE_BYTES), start=1)
    elif not alone and _is_object(first):
        yield from _jsonl(path, name)
    elif first:
        yield from enumerate(_object_rows(path, name), start=1)
    else:
        raise _empty(name)


def _first_line(path: Path, name: str) -> tuple[str, bool]:
    """The first line that is not blank, without white space around it, and whether nothing else follows it.

    Of a line beyond the limit only its beginning: enough to tell a list.
    """
    with _opened(path, name) as file:
        number, line = 0, b""
        while not line.strip():
            number += 1
            if not (line := file.readline(MOST_LINE_BYTES)):
                return "", True
        text = line.decode("utf-8", errors="ignore" if len(line) == MOST_LINE_BYTES else "replace").strip()
        while rest := file.readline(MOST_LINE_BYTES):
            if rest.strip():
                return text, False
        return text, True


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _object_rows(path: Path, name: str) -> list[Any]:
    """Rows of a file that is one JSON value and no list: what its ``data`` or ``train`` holds, or the object itself as one row."""
    with _opened(path, name) as file:
        content = file.read(MOST_OBJECT_BYTES + 1)
    if len(content) > MOST_OBJECT_BYTES:
        problem = f"{name} is one JSON object of more than {MOST_OBJECT_BYTES // MIB} MiB."
        raise DataError(problem, "Save the rows as JSON lines, which are read row by row.")
    lines = content.split(b"\n")
    text = "\n".join(_decoded(line, name, i) for i, line in enumerate(lines, start=1))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedRowError(name, error.lineno, f"is not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON that can be read.", "Save it again as JSON lines.") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} holds {json_kind(value)}.", "Save the rows as a list of JSON objects.")
    inner = value.get("data", value.get("train"))
    return inner if isinstance(inner, list) else [value]


def _texts(file: BinaryIO, name: str) -> Iterator[str]:
    """Pieces of a file's text. A character that two pieces share goes into the second."""
    rest, line = b"", 1
    while piece := file.read(PIECE):
        content = rest + piece
        try:
            yield (text := content.decode("utf-8"))
            rest = b""
        except UnicodeDecodeError as error:
            if error.end < len(content) or len(content) - error.start > 3:
                raise _not_utf8(content, error, name, line) from error
            rest = content[error.start :]
            yield (text := content[: error.start].decode("utf-8"))
        line += text.count("\n")
    if rest:
        raise MalformedRowError(name, line, "ends within a character")


def _not_utf8(content: bytes, error: UnicodeDecodeError, name: str, line: int) -> MalformedRowError:
    before = content[: error.start]
    place = len(before) - (before.rfind(b"\n") + 1)
    return MalformedRowError(name, line + before.count(b"\n"), f"is not UTF-8 (byte {place + 1} of the line)")


def _csv(path: Path, name: str) -> Located:
    """A header and rows, separated by commas."""
    csv.field_size_limit(
        max(csv.field_size_limit(), MOST_LINE_BYTES)
    )  # of the whole process; Python's own is 128 KiB
    number = 0
    reader = csv.DictReader((text for _, text in _lines(path, name)), strict=True)
    try:
        if not reader.fieldnames:
            raise _empty(name)
        _refuse_twins(reader.fieldnames, name)
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise MalformedRowError(name, number, "has more fields than the header (counted in rows)")
            if None in row.values():
                raise MalformedRowError(name, number, "has fewer fields than the header (counted in rows)")
            yield number, row
    except csv.Error as error:
        where = f"{name} is no CSV from line {reader.line_num} on"
        raise DataError(f"{where} ({error}).", "Save the rows as JSON lines instead.") from error


def _refuse_twins(columns: Any, name: str) -> None:
    from rightrank.data.wording import quoted

    twin = next((column for i, column in enumerate(columns) if column in columns[:i]), None)
    if twin is not None:
        raise DataError(f"{name} has two columns {quoted(twin)}.", "Rename or delete one of them.")


def _decoded(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 (byte {error.start + 1} of the line)"
        raise MalformedRowError(name, number, why) from error


def parsed(text: str, name: str, number: int) -> Any:
    """The JSON value of one line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        why = f"is not valid JSON ({error.msg} at character {error.pos + 1})"
        raise MalformedRowError(name, number, why) from error
    except (ValueError, RecursionError) as error:
        why = "is not JSON that can be read (too deep, or too long a number)"
        raise MalformedRowError(name, number, why) from error


def json_kind(value: object) -> str:
    """``null``, ``a list`` …"""
    if value is None:
        return "null"
    kinds = {bool: "a truth value", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "no JSON value")
