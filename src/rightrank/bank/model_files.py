"""What the files of a model may ask of whoever loads them: nothing that lies elsewhere, runs code, or never ends.

Looked at before transformers sees them, which trusts them in places: an ``adapter_config.json`` beside a model sends it to another
model, an index to files outside the folder, a setting to code on the hub, and a GGUF file may announce lists without end.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rightrank.data.sampling import MIB
from rightrank.data.wording import cleaned, quoted
from rightrank.errors import ModelError, UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_SETTINGS_BYTES = 64 * MIB
"""Of a JSON file of settings. The longest index known (a model of 1,000 billion weights) has 14 MB. Assumed."""
AGAIN = "Download it again."
BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of GGUF's numbers, by its number of their type (the GGUF specification, ggml/docs/gguf.md)."""
INTEGERS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}
STRING, ARRAY = 8, 9
ARRAYS_IN_ARRAYS = 4
MOST_LAYERS = 2_000
"""Layers, or experts in one of them. Building a model of a thousand million takes for ever, before its weights are missed. The deepest
known has fewer than 200 layers. Assumed."""
LAYERS = re.compile(r"(layers?|experts?|depth|block_count|expert_count)$")
MOST_DIMENSIONS = 4
"""Of a tensor in a GGUF file: GGML_MAX_DIMS."""


def check_folder(folder: Path, shown: str, *, trust_remote_code: bool) -> None:
    """Raise ModelError or UnsafeModelError for settings in ``folder`` that lead elsewhere. ``shown``: its name in messages."""
    odd = next(
        (one for one in folder.iterdir() if one.exists() and not (one.is_file() or one.is_dir())), None
    )
    if odd is not None:
        raise ModelError(
            f"{shown}/{cleaned(odd.name)} is a pipe or a device, not a file.", "Name another folder."
        )
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{shown} holds an adapter beside the model, and would load another model for it.",
            "Move adapter_config.json and the adapter's weights elsewhere.",
        )
    for index in sorted(folder.glob("*.index.json")):
        shards = settings(index, shown).get("weight_map")
        if not isinstance(shards, dict) or not all(_is_own_weights(name) for name in shards.values()):
            raise ModelError(f"{shown}/{cleaned(index.name)} does not list weights of its folder.", AGAIN)
    config = settings(folder / "config.json", shown)
    explicit = config.get("transformers_weights")
    if explicit is not None and not _is_own_weights(explicit):
        raise ModelError(f"The config.json of {shown} names no weights of its folder.", AGAIN)
    countless = next((key for key, value in _walk(config) if LAYERS.search(key) and _too_many(value)), None)
    if countless is not None:
        raise ModelError(
            f"The config.json of {shown} says {quoted(countless)} is beyond {MOST_LAYERS:,}.", AGAIN
        )
    kernel = None if trust_remote_code else _hub_kernel(config)
    if kernel is not None:
        raise UnsafeModelError(
            f"{shown} wants to run code from the hub ({quoted(kernel)}).",
            "If you trust its author, run again with --trust-remote-code.",
        )


def _is_own_weights(name: object) -> bool:
    return isinstance(name, str) and name.endswith((".safetensors", ".json")) and not set(name) & set("/\\\0")


def _hub_kernel(config: dict[str, Any]) -> str | None:
    """A setting such as ``attn_implementation`` that names a repository of compiled code."""
    chosen = [
        one
        for key, value in _walk(config)
        if "implementation" in key
        for one in (value.values() if isinstance(value, dict) else [value])
    ]
    return next((one for one in chosen if isinstance(one, str) and "/" in one), None)


def _walk(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value of a config and of those that it holds."""
    level = [config]
    while level:
        below = []
        for one in level:
            yield from one.items()
            below += [value for value in one.values() if isinstance(value, dict)]
        level = below


def _too_many(value: object) -> bool:
    return isinstance(value, (int, float)) and not value <= MOST_LAYERS


def settings(path: Path, shown: str) -> dict[str, Any]:
    """A JSON object of settings; ``shown`` is its folder in messages. Raises ModelError where it is none."""
    name = f"{shown}/{cleaned(path.name)}"
    try:
        with path.open("rb") as file:
            content = file.read(MOST_SETTINGS_BYTES + 1)
        if len(content) > MOST_SETTINGS_BYTES:
            raise ModelError(f"{name} is larger than {MOST_SETTINGS_BYTES // MIB} MiB.", AGAIN)
        value = json.loads(content)
    except OSError as error:
        raise ModelError(f"{name} cannot be read ({error.strerror}).", "Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{shown} cannot be loaded: {cleaned(path.name)} is no JSON.", AGAIN) from error
    if not isinstance(value, dict):
        raise ModelError(f"{shown} cannot be loaded: {cleaned(path.name)} is no JSON object.", AGAIN)
    return value


def check_gguf(path: Path, shown: str) -> None:
    """Raise ModelError where the header of a GGUF file announces more than the file holds.

    The library that reads it takes lengths on trust: a damaged one keeps it busy for ever.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(data, len(data)).check()
    except OSError as error:
        raise ModelError(f"{shown} cannot be read ({error.strerror}).", "Check its permissions.") from error
    except (ValueError, struct.error) as error:
        raise ModelError(f"{shown} cannot be loaded: it is no complete GGUF file.", AGAIN) from error


@dataclass
class _Header:
    """Walks over the header of a GGUF file. ValueError or struct.error where it leads out of the file."""

    data: mmap.mmap
    size: int
    at: int = 0

    def check(self) -> None:
        if self.data[:4] != b"GGUF":
            raise ValueError("no GGUF file")
        self.at = 4
        version = self.number("<I")
        if not 1 <= version & 0xFFFF <= 3:  # zero: written for the other byte order, which no model here is
            raise ValueError("unknown version")
        tensors, fields = self.number("<Q"), self.number("<Q")
        self.need(24 * tensors + 12 * fields)
        architecture, counts = "", {}
        for _ in range(fields):
            key, kind = self.text(), self.number("<I")
            start = self.at
            self.value(kind, ARRAYS_IN_ARRAYS)
            if LAYERS.search(key) and kind in BYTES:
                counts[key] = struct.unpack_from(INTEGERS[self.at - start], self.data, start)[0]
            if key == "general.architecture" and kind == STRING:
                architecture = self.data[start + 8 : self.at].decode("utf-8", errors="replace")
        # Without it transformers assumes the layers of another model, and looks for them at length; every layer has a tensor at least.
        layers = counts.get(f"{architecture}.block_count")
        if layers is None or layers > tensors or max(counts.values()) > MOST_LAYERS:
            raise ValueError("no number of layers that can be")
        for _ in range(tensors):
            self.text()
            dimensions = self.number("<I")
            if dimensions > MOST_DIMENSIONS:
                raise ValueError("too many dimensions")
            self.skip(8 * dimensions + 4 + 8)

    def value(self, kind: int, depth: int) -> None:
        if kind == STRING:
            self.text()
        elif kind in BYTES:
            self.skip(BYTES[kind])
        elif kind == ARRAY and depth:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in BYTES:
                self.skip(count * BYTES[inner])
            else:
                self.need(8 * count)
                for _ in range(count):
                    self.value(inner, depth - 1)
        else:
            raise ValueError("unknown type")

    def text(self) -> str:
        length = self.number("<Q")
        self.skip(length)
        return self.data[self.at - min(length, 100) : self.at].decode("utf-8", errors="replace")

    def number(self, kind: str) -> int:
        found: int = struct.unpack_from(kind, self.data, self.at)[0]
        self.at += struct.calcsize(kind)
        return found

    def skip(self, count: int) -> None:
        self.need(count)
        self.at += count

    def need(self, count: int) -> None:
        if count > self.size - self.at:
            raise ValueError("the file ends before")
