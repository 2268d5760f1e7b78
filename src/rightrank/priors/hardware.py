"""How long a step takes on a card that is only named: arithmetic over its published rate, or the launching of kernels.

All of it an estimate, given as a range. Constants and their sources lie in ``hardware.json``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rightrank.errors import ConfigurationError

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """Where a run shall take place."""

    name: str
    """As ``--gpu`` takes it; ``cpu``."""
    title: str
    tflops: float
    """Published dense 16-bit rate; of a CPU the one timed on the spot."""
    gib: float
    source: str


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one optimiser step, and the layers whose kernels must be launched for it."""

    flops: float
    layers: int


def gpu(name: str) -> Device:
    """The card of that name. Raises ConfigurationError for one that is not in the table."""
    wanted = name.lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    found = next((g for g in constants()["gpus"] if g["name"] == wanted), None)
    if found is None:
        names = ", ".join(g["name"] for g in constants()["gpus"])
        raise ConfigurationError(f"The GPU {name!r} is not in the table.", f"Known are {names}.")
    return _device(found)


def recognised(marketing_name: str, gib: float) -> Device | None:
    """The card that a driver calls ``NVIDIA H100 80GB HBM3``; None where the table has none of that name."""
    words = re.split(r"[\s-]+", marketing_name.lower())
    alike = [g for g in constants()["gpus"] if g["word"] in words]
    if not alike:
        return None
    pcie = "pcie" in words
    return _device(min(alike, key=lambda g: (abs(g["gib"] - gib) > 10, g["name"].endswith("pcie") != pcie)))


def step_flops(
    *,
    body_parameters: int,
    head_parameters: int,
    adapter_parameters: int,
    layers: int,
    heads_width: int,
    tokens: float,
    row_tokens: float,
) -> float:
    """Operations of one step over ``tokens`` tokens in rows of ``row_tokens``.

    Frozen weights: 2 a token forward, 2 for the gradient of their input; adapters: 6, their own gradient too; causal attention:
    2 products forward and 4 backward, each 2 operations over half of the row.
    """
    frozen = 4 * (body_parameters + head_parameters)
    attention = 6 * layers * heads_width * row_tokens
    return (frozen + 6 * adapter_parameters + attention) * tokens


def step_seconds(device: Device, work: Work) -> tuple[float, float]:
    """Least and most seconds a step of a usual trainer takes."""
    c = constants()
    if device.name == CPU:
        low, high = c["cpu_share"]
        return work.flops / (device.tflops * 1e12 * high), work.flops / (device.tflops * 1e12 * low)
    slow, fast = (work.flops / (device.tflops * 1e12 * share) for share in c["share_of_published_rate"])
    launch = c["launch_seconds_a_layer"] * work.layers
    least, most = c["launch_spread"]
    return max(fast, least * launch), slow + most * launch


def probe_seconds(device: Device, work: Work) -> tuple[tuple[float, float], tuple[float, float]]:
    """(floor a pack, seconds an adapter) of a step of our own, least and most."""
    c = constants()
    if device.name == CPU:
        low, high = step_seconds(device, work)
        return (0.0, low), (0.0, high)
    slow, fast = (work.flops / (device.tflops * 1e12 * share) for share in c["share_of_published_rate"])
    launch = c["probe_launch_seconds_a_layer"] * work.layers
    least, most = c["launch_spread"]
    return (least * launch, fast), (most * launch, slow)


def _device(row: dict[str, Any]) -> Device:
    return Device(row["name"], row["title"], row["tflops"], row["gib"], row["source"])


@cache
def constants() -> dict[str, Any]:
    """The numbers and their sources."""
    text = (Path(__file__).parent / "hardware.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
