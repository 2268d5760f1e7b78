"""A trainer's YAML (or JSON) file: read safely, and edited so that every line that is not meant stays as it is.

The parser says where each value stands in the text, so a value is replaced in place: comments, quotes, order, indentation and line
ends of all else are untouched. Nothing is ever constructed but numbers, strings, lists and mappings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import yaml

    from rightrank.trainers.yaml_edit import Place

LARGEST_BYTES = 256 * 1024
"""Configs that people write are a few kilobytes; the parser takes some seconds for this much. Assumed."""
MOST_NODES = 50_000
"""Values of a file, those that an alias repeats counted each time: a file of a few lines can stand for billions."""
DEEPEST = 100
"""Levels of nesting, as in rows. Assumed."""
_PROGRAMS = {".py": "a Python program", ".ipynb": "a notebook", ".sh": "a shell script"}


@dataclass(frozen=True)
class Document:
    """A config file: its text, and what it says."""

    name: str
    text: str
    values: dict[str, Any]
    """Strings, numbers, lists, mappings, None: never anything else. ``2e-4`` is a string in YAML 1.1: read numbers through ``Keys``."""

    def node(self) -> yaml.MappingNode:
        """The parsed text anew, with the place of every value."""
        return _compose(self.text, self.name)


def read(path: str | Path) -> Document:
    """The file at ``path``. Raises ResourceError where it cannot be read, ConfigurationError where it is no mapping in YAML or JSON."""
    file = Path(path).expanduser()
    name = cleaned(file.name, 60)
    if (kind := _PROGRAMS.get(file.suffix.lower())) is not None:
        raise ConfigurationError(
            f"{name} is {kind}, whose settings could only be had by running it.",
            "Name a config in YAML or JSON, or give its settings: `rightrank recommend MODEL DATA --yours R,ALPHA,LR`.",
        )
    try:
        with file.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no such name"
        raise ResourceError(
            f"The config {cleaned(str(path), 120)} cannot be read: {why}.", "Name a trainer's config file."
        ) from error
    if len(raw) > LARGEST_BYTES:
        raise ConfigurationError(
            f"{name} has more than {LARGEST_BYTES // 1024} KB: it is no trainer's config.",
            "Name the config file.",
        )
    try:
        return parse(raw.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name} is no text in UTF-8.", "Name a trainer's config file.") from error


def parse(text: str, name: str) -> Document:
    """What ``text`` says. Raises ConfigurationError where it is no mapping in YAML or JSON, or makes anything but plain values."""
    import yaml

    root = _compose(text, name)
    _check(root, name, {}, set())
    try:
        # Composed again: merging "<<" into a mapping changes its node.
        loader = yaml.SafeLoader(text)
        values = loader.construct_document(_compose(text, name))
        json.dumps(
            values, default=str
        )  # numbers of a million digits, say, fail here and not where they are shown
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"{name} holds a value that is no plain number, text or list.", _MEND
        ) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigurationError(f"{name} is no trainer's config: its keys are no names.", _MEND)
    return Document(name, text, values)


_MEND = "Mend the file: rightrank reads plain YAML or JSON."


def _compose(text: str, name: str) -> yaml.MappingNode:
    import yaml

    try:
        root = yaml.SafeLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(
            f"{name}{line}: this is no YAML.", "Mend that line, or name another file."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"{name} cannot be read as YAML.", _MEND) from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(
            f"{name} is no trainer's config: it names no settings.", "Name a config file."
        )
    return root


def _check(node: Any, name: str, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """Values below ``node``, aliases written out. Raises ConfigurationError for too many, for loops, odd tags and a key given twice."""
    key = id(node)
    if key in open_nodes:
        raise ConfigurationError(f"{name} refers to itself.", _MEND)
    if key in sizes:
        return sizes[key]
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise ConfigurationError(
            f"{name} has the tag {cleaned(node.tag, 60)}, which is never followed.", _MEND
        )
    if len(open_nodes) >= DEEPEST:
        raise ConfigurationError(f"{name} is nested more than {DEEPEST} levels deep.", _MEND)
    open_nodes.add(key)
    size = 1
    if isinstance(node.value, list):
        pairs = node.value and isinstance(node.value[0], tuple)
        if pairs:
            _once_each(node, name)
        for child in (part for pair in node.value for part in pair) if pairs else node.value:
            size += _check(child, name, sizes, open_nodes)
            if size > MOST_NODES:
                raise ConfigurationError(f"{name} stands for more than {MOST_NODES:,} values.", _MEND)
    open_nodes.discard(key)
    sizes[key] = size
    return size


def _once_each(node: Any, name: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        word = key.value if isinstance(key.value, str) else ""
        if word in seen and word != "<<":
            raise ConfigurationError(
                f"{name}, line {key.start_mark.line + 1}: {cleaned(word, 60)} stands there twice.",
                "Leave one of the two.",
            )
        seen.add(word)


def edited(
    document: Document, changes: Mapping[Place, Any]
) -> tuple[str, tuple[tuple[str, str | None, str | None], ...]]:
    """The text with ``changes`` made, and (key, before, after) of each that was one.

    A place is a key, or a tuple of keys and list positions; the value None takes the key out. What has its value already is left
    alone, whether it is written ``2e-4`` or ``0.0002``. A new key goes below the change before it, else to the end of its mapping.
    Raises ConfigurationError where a value is shared through a YAML anchor.
    """
    from rightrank.trainers import yaml_edit

    text, made, before = document.text, [], None
    for place, value in changes.items():
        path = (place,) if isinstance(place, str) else tuple(place)
        current = parse(text, document.name)
        old = yaml_edit.value_at(current.values, path)
        if not yaml_edit.same(old, value):
            text = yaml_edit.change(current, path, value, below=before)
            after = yaml_edit.value_at(parse(text, document.name).values, path)
            made.append((dotted(path), yaml_edit.shown(old), yaml_edit.shown(after)))
        if value is not None:
            before = path
    return text, tuple(made)


def dotted(path: tuple[str | int, ...]) -> str:
    """``datasets.0.path``."""
    return ".".join(map(str, path))
