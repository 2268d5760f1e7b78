"""Valid files made invalid, one or a few places at a time. Every choice comes from a ``random.Random``: hypothesis's own, which can then
shrink what it finds, or one with a seed."""

from __future__ import annotations

import copy
import gzip
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

DEEP = 3_000
FRAGMENTS = [
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\xc3", b"\xe2\x80\xa8", b"\r", b"\n", b"\n\n", b'"', b"'", b"\\", b"\\u",
    b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity", b"1e999", b"9" * 5_000, b"[" * DEEP, b'{"a":' * DEEP,
    b" " * 10_000, b"a" * 300_000, b"null", b"true", b"{}", b"../../etc/passwd", b"\x1b[31m", b"<script>", b"\xf0\x9f\x92\xa9", b"\x80\x04",
]  # fmt: skip
ODD_TEXT = [
    "", " ", "\x00", "\ud800", "\x1b[31m[bold]", "<script>", "../../x", "/etc/passwd", "x" * 5_000, "\u202e", "e\u0301" * 50, "null",
    "a/b", "\u2028", "{{ 7 * 7 }}", "(a+)+$", "[", "1e3", "C:\\x",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e308, 5e-324, -0.0, float("nan"), float("inf"), [], {}, [[]], {"a": {}},
    [None], ["x"], {"": ""}, [{"role": "user"}],
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp1252"]


def nested(depth: int) -> Any:
    value: Any = "x"
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


def odd_value(rng: Random) -> Any:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(ODD_TEXT)
    if kind == 1:
        return nested(rng.choice([2, 50, 99, 150, 400]))
    if kind == 2:
        return [rng.choice(ODD_TEXT)] * rng.choice([1, 3, 200])
    return copy.deepcopy(rng.choice(ODD_VALUES))


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside ``value``."""
    found: list[tuple[Any, Any]] = []
    level = [value]
    while level:
        below = []
        for one in level:
            pairs = (
                list(one.items())
                if isinstance(one, dict)
                else list(enumerate(one))
                if isinstance(one, list)
                else []
            )
            found += [(one, key) for key, _ in pairs]
            below += [item for _, item in pairs]
        level = below
    return found


def changed(value: Any, rng: Random, times: int = 1) -> Any:
    """A copy of a JSON value with something replaced, deleted, renamed, doubled or added."""
    value = copy.deepcopy(value)
    for _ in range(times):
        try:
            value = _changed(value, rng)
        except RecursionError:  # what is nested already was put into what is nested
            return value
    return value


def _changed(value: Any, rng: Random) -> Any:
    inside = places(value)
    if not inside:
        return odd_value(rng)
    container, key = rng.choice(inside)
    what = rng.randrange(6)
    if what <= 2:
        container[key] = odd_value(rng)
    elif what == 3:
        del container[key]
    elif isinstance(container, dict):
        container[rng.choice([*ODD_TEXT, "text", "prompt", "label", "r", "a" * 200])] = (
            container.pop(key) if what == 4 else odd_value(rng)
        )
    else:
        container.insert(key, copy.deepcopy(container[key]))
    return value


def written(value: Any, rng: Random) -> bytes:
    """A JSON value as text, in one of the ways in which people write it; infinite numbers included."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 1]))
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:  # every key twice
        text = text[:-1] + "," + text[1:]
    return text.encode("utf-8", errors="surrogatepass")


def damaged(content: bytes, rng: Random, times: int = 1) -> bytes:
    """``content`` with bytes flipped, cut, doubled, moved or put in, or in another encoding."""
    for _ in range(times):
        size = len(content)
        a, b = sorted((rng.randint(0, size), rng.randint(0, size)))
        what = rng.randrange(9)
        if what == 0 and size:
            at = rng.randrange(size)
            content = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        elif what == 1:
            content = content[:a]
        elif what == 2:
            content = content[:a] + content[b:]
        elif what == 3:
            content = content[:b] + content[a:b][:100_000] + content[b:]
        elif what in (4, 5):
            content = content[:a] + rng.choice(FRAGMENTS) + content[a:]
        elif what == 6:
            content = content[:a] + bytes(rng.randrange(256) for _ in range(8)) + content[a + 8 :]
        elif what == 7:
            try:
                content = content.decode().encode(rng.choice(ENCODINGS), errors="replace")
            except UnicodeDecodeError:
                content = content[::-1]
        else:  # a number that a format may take for a length
            number = rng.choice([0, 1, 255, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1])
            content = content[:a] + number.to_bytes(8, "little") + content[a + 8 :]
    return content


def packed(content: bytes, rng: Random) -> bytes:
    """Gzipped, perhaps twice or in two members."""
    once = gzip.compress(content, 1)
    return rng.choice([once, once, once, gzip.compress(once, 1), once + once, once + b"\x00" * 10])
