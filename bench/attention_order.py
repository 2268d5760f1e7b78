"""What it costs that attention's gradient adds up in one order: forward and backward pass of one layer, ours against PyTorch's own.

python bench/attention_order.py [--out bench/results/attention_order.json]

On a GPU, in bfloat16, causal, as captured graphs run it. Times are the median of 30. Also counted: how many of 30 repetitions gave other
bits than the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank import varlen

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = {
    "8B, 16 rows of 512": (16, 512, 32, 8, 128),
    "8B, 1 row of 8,192": (1, 8192, 32, 8, 128),
    "8B, 8 rows of 1,024": (8, 1024, 32, 8, 128),
    "135M, 64 rows of 512": (64, 512, 9, 3, 64),
}
"""Rows, tokens a row, heads, key heads, numbers a head."""
TIMES = 30


def pytorchs(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, longest: int
) -> Any:
    options: dict[str, Any] = {"enable_gqa": True} if varlen.TAKES_GROUPS else {}
    if not varlen.TAKES_GROUPS:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    scale = query.shape[2] ** -0.5
    given = (query, key, value, ends, ends, longest, longest)
    return varlen.fused.varlen_attn(*given, scale=scale, window_size=(-1, 0), **options)


def ours(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, longest: int
) -> Any:
    return varlen._flash(query, key, value, ends, longest, None, None)


def measured(attention: Callable[..., Any], shape: tuple[int, ...]) -> dict[str, Any]:
    rows, tokens, heads, key_heads, width = shape
    draw = torch.Generator("cuda").manual_seed(0)
    query, key, value, dout = (
        torch.randn(rows * tokens, h, width, device="cuda", dtype=torch.bfloat16, generator=draw)
        for h in (heads, key_heads, key_heads, heads)
    )
    ends = torch.arange(0, rows * tokens + 1, tokens, device="cuda", dtype=torch.int32)
    given = [x.requires_grad_() for x in (query, key, value)]
    milliseconds, first, others = [], None, 0
    for turn in range(TIMES + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        out = attention(*given, ends, tokens)
        gradients = torch.autograd.grad(out, given, dout)
        end.record()
        torch.cuda.synchronize()
        if turn >= 3:
            milliseconds.append(begin.elapsed_time(end))
        first = first or gradients
        others += not all(map(torch.equal, first, gradients))
    return {"milliseconds": round(statistics.median(milliseconds), 3), "other_bits": others}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "attention_order.json"
    )
    out = parser.parse_args().out
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "times": TIMES,
    }
    for name, shape in SHAPES.items():
        found[name] = {"one_order": measured(ours, shape), "any_order": measured(pytorchs, shape)}
        print(name, found[name], flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
