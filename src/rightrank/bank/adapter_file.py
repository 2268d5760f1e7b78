"""What an adapter's folder says of itself, checked before it is used: PEFT's ``adapter_config.json`` and the shapes of its weights."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from rightrank.data.sampling import MIB
from rightrank.data.wording import cleaned, quoted
from rightrank.errors import ConfigurationError, UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
SAVE_AGAIN = "Save the adapter again."
PLAIN_ONLY = "Only plain LoRA adapters can be read."
SHOWN = 200
MOST_CONFIG_BYTES = 16 * MIB
LARGEST_RANK = 65_536
"""No layer of a known model is wider. Assumed."""
# What changes the forward pass beyond alpha / rank · B·A.
UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "trainable_token_indices",
    "lora_bias",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
)
WHY_NOT = {
    "use_dora": "DoRA also rescales every row of the base's weights, so that its update has no low rank."
}
# Others (PiSSA, OLoRA, CorDA, LoftQ) change the base's own weights as well.
STARTS_THAT_KEEP_THE_BASE = ("gaussian", "orthogonal", "eva")
# PEFT's patterns are regular expressions, and those can take for ever. Two repetitions, none of a group, cannot.
REPEATS = re.compile(r"(?<!\\)[*+?{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")
MOST_REPEATS, MOST_PATTERN, MOST_PATTERNS = 2, 300, 10_000


def read_adapter_config(directory: str | Path, *, whole_modules: bool = False) -> dict[str, Any]:
    """``adapter_config.json`` of a LoRA adapter that a bank can hold. Raises ConfigurationError or UnsafeModelError.

    ``whole_modules``: the caller looks after modules that were trained whole and saved with it (``modules_to_save``).
    """
    folder = Path(directory)
    shown = cleaned(str(folder), SHOWN)
    if not _there(folder / WEIGHTS):
        if _there(folder / "adapter_model.bin"):
            raise UnsafeModelError(
                f"{shown} holds pickled weights, which can run code when loaded.",
                "Save the adapter as safetensors first.",
            )
        raise ConfigurationError(f"{shown} holds no {WEIGHTS}.", "Name the folder that PEFT saved.")
    config = _config(folder / CONFIG, shown)
    if config.get("peft_type") != "LORA":
        raise ConfigurationError(f"{shown} is no LoRA adapter.", "Only LoRA adapters can be read.")
    start = config.get("init_lora_weights")
    unknown = [
        key for key in UNSUPPORTED if config.get(key) and not (whole_modules and key == "modules_to_save")
    ]
    if isinstance(start, str) and start.lower() not in STARTS_THAT_KEEP_THE_BASE:
        unknown.append(f"init_lora_weights={cleaned(start)}")
    if unknown:
        mend = f"{WHY_NOT[unknown[0]]} {PLAIN_ONLY}" if unknown[0] in WHY_NOT else PLAIN_ONLY
        raise ConfigurationError(f"{shown} uses {unknown[0]}, which is not supported.", mend)
    _check_numbers(config, shown)
    return config


def _there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or a NUL in it
        return False


def _config(path: Path, shown: str) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise OSError("no file")
        with path.open("rb") as file:
            content = file.read(MOST_CONFIG_BYTES + 1)
        if len(content) > MOST_CONFIG_BYTES:
            raise ValueError("too large")
        config = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{shown}/{CONFIG} cannot be read.", SAVE_AGAIN) from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{shown} is no LoRA adapter.", "Only LoRA adapters can be read.")
    return config


def _check_numbers(config: Mapping[str, Any], shown: str) -> None:
    """Rank and alpha, and those of single modules, must be numbers that an adapter can have."""

    def wrong(key: str, value: object) -> ConfigurationError:
        return ConfigurationError(f"{shown}/{CONFIG} says {key} is {quoted(value)}.", SAVE_AGAIN)

    for key, fits in (("r", _is_rank), ("lora_alpha", _is_alpha)):
        if key in config and not fits(config[key]):
            raise wrong(key, config[key])
    for key, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_alpha)):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or len(patterns) > MOST_PATTERNS:
            raise wrong(key, patterns)
        odd = next((p for p, value in patterns.items() if not (_is_pattern(p) and fits(value))), None)
        if odd is not None:
            raise wrong(f"{key} of {quoted(odd)}", patterns[odd])


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_RANK


def _is_alpha(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value < 1e9
        and math.isfinite(value)
    )


def _is_pattern(pattern: str) -> bool:
    if len(pattern) > MOST_PATTERN or REPEATED_GROUP.search(pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return len(REPEATS.findall(pattern)) <= MOST_REPEATS


def weight_shapes(directory: str | Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter, from the file's header: reads none. Raises ConfigurationError."""
    path = Path(directory) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, UnicodeError) as error:
        raise ConfigurationError(
            f"{cleaned(str(directory), SHOWN)}/{WEIGHTS} is damaged.", SAVE_AGAIN
        ) from error


def weight_dtype(directory: str | Path) -> torch.dtype:
    """The number format of an adapter's factors; float32 where they are of several. Raises ConfigurationError."""
    path = Path(directory) / WEIGHTS
    named = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    try:
        with safe_open(path, framework="pt") as file:
            found = {file.get_slice(name).get_dtype() for name in file.keys() if ".lora_" in name}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, UnicodeError) as error:
        raise ConfigurationError(
            f"{cleaned(str(directory), SHOWN)}/{WEIGHTS} is damaged.", SAVE_AGAIN
        ) from error
    return named.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32
