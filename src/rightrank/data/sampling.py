"""No more rows than fit: a uniform random sample of a source that is read once, row by row, and never held whole.

Below the limits every row is kept, in its order. Above them each row has a random number, and those with the smallest stay
(bottom-k sampling): every row has the same chance, whatever its place, and how many there were is counted exactly.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rightrank.errors import MalformedRowError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB = 2**20
MOST_ROWS = 200_000
"""Rows kept at most. More distinct prompts are not compared for near-duplicates anyway (``near.MOST_TEXTS``), and a probe of an hour
trains on fewer. Assumed."""
MOST_BYTES = 512 * MIB
"""Text kept at most, by ``weight``. Assumed. Five million rows of 140 characters, sampled, tokenized and split, peak at 0.7 GB, 0.25 of
it libraries (measured)."""
MOST_ROW_BYTES = 64 * MIB
DEEPEST = 100
"""Lists within lists that a row may hold. What walks over rows recursively must not run out of stack."""
NODE_BYTES = 64
"""What a list, an object or a number costs beside its text. Roughly CPython's own."""


def sampled(
    name: str,
    rows: Iterable[tuple[int, Any]],
    *,
    most_rows: int | None = None,
    most_bytes: int | None = None,
) -> tuple[tuple[tuple[int, Mapping[str, Any]], ...], int]:
    """The rows to work with, each with the line where it stands, in order; and how many there are in all.

    ``rows``: (line, row) pairs, read to the end. The sample is the same each time: it belongs to the data, not to the run. Raises
    MalformedRowError for a row that is no mapping, nested more than 100 levels deep or larger than 64 MiB.
    """
    most_rows = MOST_ROWS if most_rows is None else most_rows
    most_bytes = MOST_BYTES if most_bytes is None else most_bytes
    draw = random.Random(0).random
    kept: list[tuple[float, int, Mapping[str, Any], int]] = []  # a heap: the largest number (negated) first
    threshold, held, total = 2.0, 0, 0
    for line, row in rows:
        total += 1
        if not isinstance(row, Mapping):
            raise MalformedRowError(name, line, "is no mapping from column to value (counted in rows)")
        number = draw()
        if number >= threshold:
            continue
        size = weight(row, name, line)
        heapq.heappush(kept, (-number, line, row, size))
        held += size
        while len(kept) > most_rows or (held > most_bytes and len(kept) > 1):
            threshold = -kept[0][0]
            held -= heapq.heappop(kept)[3]
    kept.sort(key=lambda item: item[1])
    return tuple((line, row) for _, line, row, _ in kept), total


def weight(row: Mapping[str, Any], name: str, line: int) -> int:
    """Bytes of memory that ``row`` takes, roughly. Raises MalformedRowError where it is too deep or too large."""
    total = 0
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        total += NODE_BYTES * len(level)
        below: list[Any] = []
        for value in level:
            if isinstance(value, (str, bytes)):
                total += len(value)
            elif isinstance(value, Mapping):
                below.extend(value.values())
                total += sum(len(key) for key in value if isinstance(key, str))
            elif isinstance(value, (list, tuple)):
                below.extend(value)
            if len(below) * NODE_BYTES + total > MOST_ROW_BYTES:
                raise MalformedRowError(name, line, f"is larger than {MOST_ROW_BYTES // MIB} MiB")
        if not below:
            return total
        level = below
    raise MalformedRowError(name, line, f"is nested more than {DEEPEST} levels deep")


def numbered(rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """(1, first), (2, second) …: where only a row's number can be said."""
    return enumerate(rows, start=1)
