"""What is typed on the command line, made into values."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.request import Request

VALUED = ("--budget", "--out")
FLAGS = ("--resume", "--json", "--dry-run", "--debug")
NAMED = {
    "config": "--config",
    "eval_data": "--eval-data",
    "metric": "--metric",
    "keep": "--keep",
    "max_rank": "--max-rank",
    "revision": "--revision",
    "data_config": "--data-config",
    "data_split": "--data-split",
    "data_revision": "--data-revision",
    "device": "--device",
    "budget_minutes": "--budget",
    "out": "--out",
}
"""Fields of a request and the options that set them."""
SWITCHED = {
    "finish": "--finish",
    "layers": "--layers",
    "trust_remote_code": "--trust-remote-code",
}
TRAINED = {
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "max_length": "--max-length",
    "schedule": "--schedule",
    "warmup_ratio": "--warmup",
    "weight_decay": "--weight-decay",
    "dropout": "--dropout",
    "loss_on": "--loss-on",
    "over_long": "--over-long",
}
"""Fields of a recipe and the options that set them."""


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
    """``8,16,32``, in order."""
    if text is None:
        return None
    try:
        return tuple(sorted(int(part) for part in text.split(",")))
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
    """The command that asks for the same run, without how its answer was shown."""
    return shlex.join(["rightrank", *(word for word in arguments if word not in FLAGS)])


def asked_anew(command: str) -> str:
    """``command`` without what "to decide" sets anew: how long it may take, and where its results go."""
    return without(command, *VALUED)


def without(command: str, *options: str) -> str:
    """``command`` without these options and their values."""
    words, skip = [], False
    for word in shlex.split(command):
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            words.append(word)
    return shlex.join(words)


def command_of(request: Request) -> str:
    """The command that asks for ``request``, without the options that its config has already."""
    valued: dict[str, Any] = {option: getattr(request, name) for name, option in NAMED.items()}
    recipe = request.recipe
    valued |= {
        option: getattr(recipe, name)
        for name, option in TRAINED.items()
        if recipe.origins.get(name) == "given"
    }
    if request.ranks is not None:
        valued["--ranks"] = ",".join(map(str, request.ranks))
    if request.yours is not None and request.config is None:
        valued["--yours"] = ",".join(_short(number) for number in request.yours)
    valued["--seed"] = request.seed or None
    valued["--executor"] = None if request.executor == "local" else request.executor
    words = ["rightrank", "recommend", *(str(name) for name in (request.model, request.dataset))]
    for option, value in valued.items():
        if value is not None:
            words += [option, _short(value)]
    words += [option for name, option in SWITCHED.items() if getattr(request, name)]
    words += [] if request.chat_template else ["--no-chat-template"]
    words += [] if request.quantization is None else [f"--load-in-{request.quantization.replace('-', '')}"]
    return shlex.join(words)


def _short(value: Any) -> str:
    """A number in as few characters as say it, anything else as text."""
    if not isinstance(value, float):
        return str(value)
    return short if float(short := f"{value:g}") == value else str(value)


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
