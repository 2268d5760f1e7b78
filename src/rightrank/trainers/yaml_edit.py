"""One change in the text of a YAML file: a value replaced, added or taken out where it stands."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.trainers.yaml_file import Document

Path: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = str | Path

_PLAIN = re.compile(r"(?:\./|[A-Za-z_/])[\w./+-]*", re.ASCII)
_READ_OTHERWISE = frozenset(
    ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf")
)


def value_at(values: Any, path: Path) -> Any:
    """What stands at ``path``; None where nothing does."""
    for part in path:
        if isinstance(part, int):
            values = values[part] if isinstance(values, list) and part < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def same(old: Any, new: Any) -> bool:
    """Whether a trainer reads both alike: ``2e-4`` is text to YAML and a number to every trainer."""
    if isinstance(old, bool) or isinstance(new, bool):
        return type(old) is type(new) and old == new
    if isinstance(new, (int, float)) and isinstance(old, (int, float, str)):
        try:
            return float(old) == float(new)
        except (ValueError, OverflowError):
            return False
    if isinstance(new, (list, tuple)) and isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(same(a, b) for a, b in zip(old, new, strict=True))
    return bool(old == new)


def written(value: Any) -> str:
    """``value`` as YAML (and, but for lone words, JSON) on one line, such that YAML 1.1 and 1.2 read it back alike."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in _READ_OTHERWISE
    return text if plain else '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    """As YAML has it in double quotes. JSON's pairs of escapes for what lies beyond U+FFFF are two characters to YAML."""
    if character in '"\\':
        return "\\" + character
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


def _is_json(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def _json(value: Any) -> str:
    """As JSON, in characters that YAML reads alike."""
    return json.dumps(value, ensure_ascii=False)


def block(values: Mapping[str, Any]) -> str:
    """``values`` as a YAML file, a key a line."""
    return "".join(_entry("", key, value, "\n") for key, value in values.items())


def _number(value: float) -> str:
    """YAML 1.1 takes ``3e-05`` for text: it wants a dot."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if e and "." not in mantissa:
        return f"{mantissa}.0e{exponent}"
    return text if math.isfinite(value) else text.replace("inf", ".inf").replace("nan", ".nan")


def shown(value: Any) -> str | None:
    """``value`` as the list of changes shows it."""
    if value is None:
        return None
    return value if isinstance(value, str) else written(value)


def change(document: Document, path: Path, value: Any, *, below: Path | None) -> str:
    """The text with ``value`` at ``path``. ``below``: where the change before was made; a new key goes there if it is a neighbour."""
    root, text = document.node(), document.text
    shared = _shared(root)
    node, parent = root, None
    for depth, part in enumerate(path):
        parent, node = node, _child(node, part)
        if node is None:
            rest = path[depth + 1 :]
            for key in reversed(rest):
                value = {key: value} if isinstance(key, str) else [value]
            return text if value is None else _added(text, parent, str(part), value, below, path[:depth])
        if id(node) in shared:
            raise ConfigurationError(
                f"{document.name}: {part} is shared through a YAML anchor and cannot be changed in one place.",
                "Write it out where it is used, then run `rightrank report` again.",
            )
    if value is None:
        return _without(text, parent, node)
    start, end = node.start_mark.index, _end(node)
    return text[:start] + _in_the_style_of(text, node, value) + text[end:]


def _shared(root: Any) -> set[int]:
    """Nodes that are used more than once."""
    seen: set[int] = set()
    twice: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            twice.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node.value, list):
            waiting += [part for one in node.value for part in (one if isinstance(one, tuple) else (one,))]
    return twice


def _child(node: Any, part: str | int) -> Any:
    if not isinstance(node.value, list):
        return None
    if isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    pairs = (pair for pair in node.value if isinstance(pair, tuple))
    return next((value for key, value in pairs if key.value == part), None)


def _end(node: Any) -> int:
    """Where the last thing of ``node`` ends. The parser lets a block end only where the next one begins, comments included."""
    if getattr(node, "flow_style", True) or not node.value or not isinstance(node.value, list):
        return int(node.end_mark.index)
    last = node.value[-1]
    return max(_end(part) for part in (last if isinstance(last, tuple) else (last,)))


def _in_the_style_of(text: str, node: Any, value: Any) -> str:
    """``value`` written as ``node`` was: a block list stays a block list, what was empty gets its space, JSON stays JSON."""
    start = node.start_mark.index
    if isinstance(value, (list, tuple)) and isinstance(node.value, list) and not node.flow_style:
        gap: str = _newline(text) + " " * node.start_mark.column
        return gap.join(f"- {written(one)}" for one in value)
    new = _json(value) if _is_json(text) else written(value)
    if start and text[start - 1] == ":":
        return f" {new}"
    return new


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_end(text: str, index: int) -> int:
    """The index behind the line that ``index`` is in, its line break included."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def _without(text: str, parent: Any, node: Any) -> str:
    """Without the entry of ``node``: its lines in a block, its part of the line in braces."""
    position = next(i for i, pair in enumerate(parent.value) if node in pair)
    key, _ = parent.value[position]
    start, end = key.start_mark.index, _end(node)
    if not parent.flow_style:
        return text[: text.rfind("\n", 0, start) + 1] + text[_line_end(text, end) :]
    if position + 1 < len(parent.value):
        end = parent.value[position + 1][0].start_mark.index
    elif position:
        start = _end(parent.value[position - 1][1])
    return f"{text[:start]}{text[end:]}"


def _added(text: str, parent: Any, key: str, value: Any, below: Path | None, path: Path) -> str:
    """With a new entry in the mapping ``parent``, which stands at ``path``."""
    if not isinstance(parent.value, list) or (parent.value and not isinstance(parent.value[0], tuple)):
        raise ConfigurationError(f"{key} cannot be written into this config.", "Write it in by hand.")
    if parent.flow_style or not parent.value:
        return _added_in_braces(text, parent, key, value)
    neighbour = below[-1] if below is not None and below[:-1] == path else None
    places = [i for i, (name, _) in enumerate(parent.value) if name.value == neighbour]
    at = places[0] if places else len(parent.value) - 1
    end = _line_end(text, _end(parent.value[at][1]))
    before = text[:end]
    if not before.endswith("\n"):
        before += _newline(text)
    indent = " " * parent.value[0][0].start_mark.column
    return before + _entry(indent, key, value, _newline(text)) + text[end:]


def _entry(indent: str, key: str, value: Any, newline: str) -> str:
    if isinstance(value, dict) and value:
        inner = "".join(_entry(f"{indent}  ", str(k), v, newline) for k, v in value.items())
        return f"{indent}{written(key)}:{newline}{inner}"
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, dict) and one for one in value):
        below = f"{indent}    "
        items = ["".join(_entry(below, str(k), v, newline) for k, v in one.items()) for one in value]
        return f"{indent}{written(key)}:{newline}" + "".join(
            f"{indent}  - {item[len(below) :]}" for item in items
        )
    return f"{indent}{written(key)}: {written(value)}{newline}"


def _added_in_braces(text: str, parent: Any, key: str, value: Any) -> str:
    """JSON's lines and a mapping in braces: behind the last entry, on a line of its own where the entries have lines of their own."""
    entry = f"{_json(key)}: {_json(value)}" if _is_json(text) else f"{written(key)}: {written(value)}"
    if not parent.value:
        start, end = parent.start_mark.index, parent.end_mark.index
        return text[:start] + "{" + entry + "}" + text[end:]
    first, end = parent.value[0][0], _end(parent.value[-1][1])
    own_lines = first.start_mark.line > parent.start_mark.line
    gap = _newline(text) + " " * first.start_mark.column if own_lines else " "
    return text[:end] + "," + gap + entry + text[end:]
