"""A config's keys, asked for one by one; what nobody asked for is what was not read."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


DID_YOU_MEAN = "did you mean "
# How alike two names must be for one to be a misspelling of the other. Chosen: num_epochs and num_train_epochs are alike by 0.77,
# lora_rank and lora_r by 0.8; of TRL's own keys none is taken for another (tests).
ALIKE = 0.76
# Words of keys that trainers have beside one of the same name that is read: per_device_eval_batch_size.
_OTHERS = frozenset(
    ("eval", "evaluation", "test", "val", "validation", "save", "logging", "hub", "ref", "reward", "optim", "local", "pattern", "pad",
     "kwargs", "eff")
)  # fmt: skip


class Keys:
    """The keys of one mapping of a config. Each method takes the names a key may have, the first that is there counts.

    Null counts as not there. Raises ConfigurationError, with the key's name, where a value is of another kind than asked for.
    """

    def __init__(self, values: Mapping[str, Any], name: str, prefix: str = "") -> None:
        self.values, self.name, self.prefix = values, name, prefix
        self._read: set[str] = set()
        self._parts: list[Keys] = []

    def raw(self, *names: str) -> Any:
        """The value as it is."""
        self._read.update(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def has(self, name: str) -> bool:
        """Whether the key is there with a value. Asking is not reading."""
        return self.values.get(name) is not None

    def text(self, *names: str) -> str | None:
        """A word or a path."""
        value = self.raw(*names)
        if value is None:
            return None
        if isinstance(value, (dict, list)) or not str(value).strip():
            raise self.wrong(names, value, "a name")
        return str(value)

    def number(self, *names: str) -> float | None:
        """A finite number; ``2e-4`` and ``"2e-4"`` are both one."""
        value = self.raw(*names)
        if value is None:
            return None
        try:
            number = (
                float(value)
                if isinstance(value, (int, float, str)) and not isinstance(value, bool)
                else math.nan
            )
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.wrong(names, value, "a number")
        return number

    def whole(self, *names: str) -> int | None:
        """A whole number."""
        number = self.number(*names)
        if number is not None and number != int(number):
            raise self.wrong(names, number, "a whole number")
        return None if number is None else int(number)

    def flag(self, *names: str) -> bool | None:
        """True or false, as YAML or as a word."""
        value = self.raw(*names)
        word = str(value).lower()
        if value is None or isinstance(value, bool):
            return value
        if word not in ("true", "false", "yes", "no", "1", "0"):
            raise self.wrong(names, value, "true or false")
        return word in ("true", "yes", "1")

    def names(self, *names: str) -> tuple[str, ...] | None:
        """A list of words; one word alone, or several parted by commas, count as one."""
        value = self.raw(*names)
        if value is None:
            return None
        parts = value if isinstance(value, list) else str(value).split(",")
        if isinstance(value, dict) or not all(isinstance(part, str) and part.strip() for part in parts):
            raise self.wrong(names, value, "a list of names")
        return tuple(part.strip() for part in parts)

    def part(self, *names: str) -> Keys:
        """The mapping below a key; an empty one where there is none. What is left unread in it counts as unread here."""
        value = self.raw(*names)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(names, value, "a group of settings")
        return self._below(value or {}, next((name for name in names if self.has(name)), names[0]))

    def parts(self, *names: str) -> list[Keys]:
        """The mappings in the list below a key."""
        value = self.raw(*names)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.wrong(names, value, "a list of settings")
        return [self._below(one, f"{names[0]}.{number}") for number, one in enumerate(value)]

    def _below(self, values: Mapping[str, Any], name: str) -> Keys:
        part = Keys(values, self.name, f"{self.prefix}{name}.")
        self._parts.append(part)
        return part

    def unread(self) -> tuple[str, ...]:
        """Keys that were there and that nobody asked for, in the file's order, those of the parts behind.

        One that looks like a misspelt name of a key that is not there ends in what may be meant: ``lora_rank (did you mean lora_r?)``.
        """
        own = [key for key, value in self.values.items() if key not in self._read and value is not None]
        return (
            *(cleaned(f"{self.prefix}{key}", 80) + self._meant(str(key)) for key in own),
            *(key for part in self._parts for key in part.unread()),
        )

    def _meant(self, key: str) -> str:
        """What ``key`` may be a misspelling of, in brackets; empty where it may well be a key of its own."""
        if _OTHERS.intersection(key.lower().split("_")):
            return ""
        stem = _stem(key)
        missing = [name for name in self._read if self.values.get(name) is None and _stem(name) != stem]
        near = difflib.get_close_matches(key, missing, n=1, cutoff=ALIKE) if len(key) > 3 else []
        return f" ({DID_YOU_MEAN}{near[0]}?)" if near else ""

    def wrong(self, names: tuple[str, ...], value: object, wanted: str) -> ConfigurationError:
        """The error that says so."""
        key = next((name for name in names if self.has(name)), names[0])
        return ConfigurationError(
            f"{self.name}: {self.prefix}{key} is {cleaned(str(value), 60)}, which is not {wanted}.",
            "Mend that line.",
        )


def _stem(key: str) -> str:
    """``key`` without its digits: load_in_4bit and load_in_8bit, adam_beta2 and adam_beta3 are keys of one kind."""
    return "".join(character for character in key if not character.isdigit())
