"""What is typed on the command line, made into values."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUED = ("--budget", "--out")
FLAGS = ("--resume", "--json", "--dry-run", "--debug")


def own_setting(text: str | None) -> tuple[int, float, float] | None:
    """``16,32,2e-4``: rank, alpha, learning rate."""
    if text is None:
        return None
    try:
        rank, alpha, rate = text.split(",")
        return int(rank), float(alpha), float(rate)
    except ValueError as error:
        raise ConfigurationError(
            f"--yours {text!r} is no setting.", "Give rank, alpha and learning rate: --yours 16,32,2e-4."
        ) from error


def rank_list(text: str | None) -> tuple[int, ...] | None:
    """``8,16,32``, in order and each once."""
    if text is None:
        return None
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigurationError(
            f"--ranks {text!r} is no list of ranks.", "Give whole numbers: --ranks 8,16,32."
        ) from error


def bits(four: bool, eight: bool) -> str | None:
    """``--load-in-4bit`` and ``--load-in-8bit`` as a request takes them."""
    if four and eight:
        raise ConfigurationError("A base is loaded in 4 bits or in 8.", "Leave one of the two options out.")
    return "4-bit" if four else "8-bit" if eight else None


def one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    """``value`` where it is among those allowed."""
    if value is not None and value not in allowed:
        raise ConfigurationError(
            f"{option} {value!r} is not known.", f"Use {', '.join(allowed[:-1])} or {allowed[-1]}."
        )
    return value


def command_again(arguments: Sequence[str]) -> str:
    """The command without what "to decide" will set anew, and without how its answer was shown."""
    words, skip = ["rightrank"], False
    for word in arguments:
        if skip:
            skip = False
        elif word in VALUED:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in VALUED)) and word not in FLAGS:
            words.append(word)
    return shlex.join(words)


def measuring_instead(arguments: Sequence[str]) -> str:
    """The command that measures what ``rightrank estimate`` or ``rightrank check`` estimated."""
    words, skip = [], False
    for word in arguments:
        if skip or word == "--gpu":
            skip = not skip
        elif not word.startswith("--gpu=") and word not in (*FLAGS, "--measure"):
            words.append(word)
    if words[:1] == ["estimate"]:
        return shlex.join(["rightrank", "recommend", *words[1:]])
    return shlex.join(["rightrank", *words, "--measure"])
