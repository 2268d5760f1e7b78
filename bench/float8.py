"""What 8-bit floats for the frozen layers' products would save, and what they change: side by side in one run with bfloat16.

    python bench/float8.py MODEL ROWS [--parts 8b,grid] [--out bench/results/float8.json] [--tiny]

The 24-point grid of ``speed.py`` with nothing shared, once in bfloat16, once in bfloat16 with its batches cut into smaller rows (a control:
the same sums in another order), once over a base in 8-bit floats, trained and judged by it: how far do the paired differences between
configurations move? And Llama-3-8B's shape, in both. Products: ``float8_linear.py``.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from float8_linear import in_float8
from large import random_8b, speed_of_blocks
from speed import Work, grid_specs, matrix_rate, moved, run_bank, work_on

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES, CAPACITY, SMALL_CAPACITY = 3200, 16384, 640
HOW = "compiled"


def grids(work: Work) -> Iterator[tuple[str, dict[str, Any]]]:
    specs = grid_specs()[: 3 if work.tiny else None]
    names = [target.name for target in work.base.targets]
    run = partial(run_bank, work=work, specs=specs, how=HOW, shares=False, turns=("first",))
    yield "bf16", run("bf16", capacity=CAPACITY)
    with in_float8(work.base.model, names):
        yield "float8", run("float8", capacity=CAPACITY)
    yield "moved by float8", moved(work, "bf16", "float8")
    yield "bf16, smaller rows", run("bf16, smaller rows", capacity=max(SMALL_CAPACITY, work.longest))
    yield "moved by smaller rows", moved(work, "bf16", "bf16, smaller rows")


def blocks(rate: float, device: torch.device, tiny: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    base, count = random_8b(device, tiny)
    names = [target.name for target in base.targets]
    yield "bf16", speed_of_blocks(base, count, rate, tiny, HOW)
    torch._dynamo.reset()
    with in_float8(base.model, names):
        yield "float8", speed_of_blocks(base, count, rate, tiny, HOW)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("--out", type=Path, default=Path("bench/results/float8.json"))
    parser.add_argument("--parts", default="8b,grid")
    parser.add_argument("--add", action="store_true", help="keep the parts that --out has already")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rate = matrix_rate(device, 256 if chosen.tiny else 8192)
    found: dict[str, Any] = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.add else {}
    found |= {"device": card, "torch": torch.__version__, "matrix": rate}
    parts = {
        "8b": lambda: blocks(rate, device, chosen.tiny),
        "grid": lambda: grids(work_on(chosen.model, chosen.rows, examples=EXAMPLES, tiny=chosen.tiny)),
    }
    for part in chosen.parts.split(","):
        found[part] = {}
        for name, figures in parts[part]():
            found[part][name] = figures
            chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        torch._dynamo.reset()


if __name__ == "__main__":
    main()
