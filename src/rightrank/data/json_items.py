"""The items of a JSON list, one by one, however long the list is."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rightrank.errors import MalformedRowError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLANK = re.compile(r"[ \t\r\n]*")


class JsonItems:
    """Iterates over the objects of the list whose text comes in ``pieces``.

    Holds one item and a piece at a time. Raises MalformedRowError where the text is no such list, with the line, or where an item is
    longer than ``most`` characters.
    """

    def __init__(self, pieces: Iterator[str], name: str, most: int) -> None:
        self._pieces, self._name, self._most = pieces, name, most
        self._text, self._at, self._line = "", 0, 1
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Any]:
        self._expect("[")
        if self._next_character() == "]":
            self._at += 1
        else:
            number = 1
            yield self._item(number)
            while self._expect(",", "]") == ",":
                number += 1
                yield self._item(number)
        if self._next_character():
            raise self._malformed("Extra data", self._at)

    def _item(self, number: int) -> Any:
        """The object that starts here. What ends only with the text that follows, a number say, is refused unread."""
        start = self._next_character()
        if start and start != "{":
            if start in '["-0123456789tfnNI':
                raise MalformedRowError(
                    self._name, number, "is no mapping from column to value (counted in rows)"
                )
            raise self._malformed("Expecting value", self._at)
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
                return value
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > self._most:
                    raise self._malformed(
                        f"{error.msg}, or a row of more than {self._most >> 20} MiB", error.pos
                    ) from error
                if not self._more():
                    raise self._malformed(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                why = "holds JSON that cannot be read (too deep, or too long a number)"
                raise MalformedRowError(self._name, self._line_of(self._at), why) from error

    def _expect(self, *characters: str) -> str:
        found = self._next_character()
        if found not in characters:
            raise self._malformed(f"Expecting {characters[0]!r}", self._at)
        self._at += 1
        return found

    def _next_character(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, forgetting what is done with. False at the end of the text."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + piece, 0
        return True

    def _line_of(self, position: int) -> int:
        return self._line + self._text.count("\n", 0, position)

    def _malformed(self, why: str, position: int) -> MalformedRowError:
        return MalformedRowError(self._name, self._line_of(position), f"is not valid JSON ({why})")
