"""The Triton kernels in Triton's own interpreter, which runs them without a GPU, against the loops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds only")

PROGRAM = """
import torch
from rightrank.bank import fused, kernels, loops
from rightrank.bank.adapters import AdapterSpec
from rightrank.bank.flat import BLOCK, layout_of, plan_flat
from rightrank.bank.targets import Target

I, T, WIDTHS = 72, 600, [136, 40]
specs = [
    *(AdapterSpec(r, 2.0 * r + 1, 1e-3) for r in (1, 8, 70)),
    AdapterSpec(8, 8.0, 1e-3, ranks=(20, 3)), AdapterSpec(8, 5.0, 1e-3, ranks=(0, 33)), AdapterSpec(8, 8.0, 1e-3, ranks=(0, 0)),
]
plan = plan_flat([Target("a", I, WIDTHS[0]), Target("b", I, WIDTHS[1])], specs)
tables, K = layout_of((0, 1), specs, plan, torch.device("cpu")).tables, len(specs)
draw = torch.Generator().manual_seed(0)
normal = lambda *shape: torch.randn(*shape, generator=draw)
working, x, dy = normal(plan.total), normal(K * T, I), normal(K * T, sum(WIDTHS))
weights, bias, ys = [normal(width, I) for width in WIDTHS], normal(sum(WIDTHS)), [normal(K * T, width) for width in WIDTHS]

def close(one, other):
    assert torch.linalg.vector_norm(one - other) < 1e-5 * torch.linalg.vector_norm(other)

found = []
for products in (loops, kernels):
    fused._products = lambda x: products
    gradient = torch.ones(plan.total)
    own, h = fused.linear(x, weights, bias, WIDTHS, working, torch.zeros(0), tables)
    bare, _ = fused.linear(x, weights, None, WIDTHS, working, torch.zeros(0), tables)
    added, _ = fused.add_lora(ys, x, working, torch.zeros(0), tables)
    dx = fused.linear_backward(dy, x, h, weights, WIDTHS, working, gradient, tables)
    found.append((own, bare, added, dx, gradient))
for one, other in zip(*found):
    close(other, one)

names = ("master", "gradient", "moment", "square", "working")
numbers = torch.tensor([[1e-2] * K, [0.1] * K, [0.001] * K, [0.5] * K, [1.0] * (K - 1) + [0.0]])
owner = torch.zeros(plan.total // BLOCK, dtype=torch.int32)
for k, begin in enumerate(plan.begins_K):
    owner[begin // BLOCK :] = k
vectors = [normal(plan.total).abs() for _ in names]
master, gradient, moment, square, _ = (v.clone() for v in vectors)
kernels.update(*vectors, owner, numbers, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.1)
spread = lambda row: row[owner.long()].repeat_interleave(BLOCK)
alive = spread(numbers[4])
gradient = gradient * 0.5
moment, square = 0.9 * moment + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
master = master * (1 - 1e-2 * 0.1) - 1e-2 / 0.1 * moment / (square.sqrt() / 0.001**0.5 + 1e-8)
close(vectors[0], master * alive)
close(vectors[2], torch.where(alive > 0, moment, 0))
close(vectors[3], torch.where(alive > 0, square, 0))
assert not vectors[1].any()
assert torch.equal(vectors[4], vectors[0])
print("fine")
"""
ATTENTION = """
import torch
from rightrank.bank import attention_kernels, varlen

draw = torch.Generator().manual_seed(0)
normal = lambda *shape: torch.randn(*shape, generator=draw)
for heads, groups, width, lengths, window in (
    (4, 2, 16, (5, 70, 1, 130, 0, 33), None),
    (3, 3, 24, (64, 65, 10), None),
    (4, 1, 16, (100, 50, 128), 20),
    (2, 2, 16, (200,), 70),
):
    tokens, longest, seen = sum(lengths), max(lengths), window or varlen.EVERYTHING
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    query = normal(heads, tokens, width).transpose(0, 1).requires_grad_()
    key, value = (normal(tokens, groups, width).requires_grad_() for _ in "kv")
    dout = normal(tokens, heads, width)
    wanted = varlen._written_out(query, key, value, ends, 0.3, window)
    given = [tensor.detach() for tensor in (query, key, value)]
    out, sums = attention_kernels.forward(*given, ends, longest, 0.3, seen)
    assert torch.allclose(out, wanted, atol=1e-5)
    found = attention_kernels.backward(dout, *given, ends, out, sums, longest, 0.3, seen)
    for one, other in zip(found, torch.autograd.grad(wanted, (query, key, value), dout)):
        assert torch.allclose(one, other, atol=1e-5)
print("fine")
"""


@pytest.mark.parametrize("program", [PROGRAM, ATTENTION], ids=["products and update", "attention"])
def test_kernels_compute_what_the_loops_do(program: str) -> None:
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": f"{source}:{':'.join(sys.path)}",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
