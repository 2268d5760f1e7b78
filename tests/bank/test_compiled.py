"""What is compiled serves any number of adapters, any ranks and any row; a compiler that fails says so in a line."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from rightrank.bank import fastest, graphs, varlen
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.forward import Forward
from rightrank.bank.rows import StaticRow, shape_of
from rightrank.bank.runs import open_run
from rightrank.bank.static import StaticForward
from rightrank.bank.step import gradients, trained_tokens
from rightrank.bank.targets import find_targets
from rightrank.bank.update import working_copy
from rightrank.bank.verify import Path as HowItRuns
from rightrank.recipe import Recipe
from tiny import random_examples, tiny_base

SPECS = (AdapterSpec(1, 2.0, 1e-3), AdapterSpec(4, 8.0, 1e-2), AdapterSpec(9, 9.0, 3e-3))


def test_one_compilation_serves_any_number_of_adapters_any_ranks_and_any_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.utils import counters

    # What is traced and guarded is the same for every back end, and this one needs no C++ compiler.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    base = tiny_base("llama", dtype=torch.float32, layers=3)
    counters.clear()
    for ranks, count in (((1, 4, 9), 5), ((8,), 9), ((16, 4, 4, 1, 2), 3)):
        specs = [AdapterSpec(rank, 2.0, 1e-2) for rank in ranks]
        examples = random_examples(count, seed=count, longest=40)
        banks = [
            AdapterBank(find_targets(base.model), specs, device=base.device, dtype=base.dtype) for _ in "ab"
        ]
        for bank in banks:
            bank.flat_master.add_(0.1)
            bank.refresh()
        with Forward(base, banks[0]) as forward:
            wanted_K = gradients(forward, examples, 10_000)
        row = StaticRow.empty(shape_of(examples), len(specs), 16, base.device)
        row.fill(examples, len(specs), sum(trained_tokens(e) for e in examples))
        loss_K = torch.zeros(len(specs))
        with StaticForward(base, banks[1], working_copy(banks[1]), longest=40, compiled=True) as compiled:
            compiled.micro_step(row, loss_K)
        assert torch.allclose(loss_K.double(), wanted_K, rtol=1e-5)
        for one, other in zip(banks[1].gradients, banks[0].gradients, strict=True):
            assert torch.linalg.vector_norm(one - other) < 1e-4 * torch.linalg.vector_norm(other)
    assert counters["stats"]["unique_graphs"] == 2  # a layer and the loss


@pytest.fixture
def gpu_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators that a GPU's attention runs by, with the written-out computation inside."""

    def forward(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value, ends, key_ends, _, scaling, _ = arguments
        out = varlen._written_out(query, key, value, ends, key_ends, scaling, None).contiguous()
        return out, torch.zeros(query.shape[1], query.shape[0])

    def backward(dout: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        query, key, value, ends, key_ends, _, _, _, scaling, _ = arguments
        groups = query.shape[1] // key.shape[1]
        keys, values = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
        (sequence, place), (mine, keys_place) = (
            varlen._places(x, len(y)) for x, y in ((ends, query), (key_ends, key))
        )
        place = place + (key_ends.diff() - ends.diff())[sequence]
        seen = (sequence[:, None] == mine[None, :]) & (place[:, None] >= keys_place[None, :])
        scores = torch.einsum("qhd,khd->hqk", query, keys) * scaling
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        dweights = torch.einsum("qhd,khd->hqk", dout, values)
        dscores = weights * (dweights - (dweights * weights).sum(-1, keepdim=True)) * scaling
        dkeys = torch.einsum("hqk,qhd->khd", dscores, query).unflatten(1, (-1, groups)).sum(2)
        dvalues = torch.einsum("hqk,qhd->khd", weights, dout).unflatten(1, (-1, groups)).sum(2)
        return torch.einsum("hqk,khd->qhd", dscores, keys).contiguous(), dkeys, dvalues

    for operator in (varlen.short_attention, varlen.long_attention):
        operator.register_kernel("cpu")(forward)
    for operator in (varlen.short_attention_backward, varlen.long_attention_backward):
        operator.register_kernel("cpu")(backward)
    monkeypatch.setattr(varlen, "_fused_here", lambda query: True)


@pytest.mark.usefixtures("gpu_attention")
@pytest.mark.parametrize(
    ("limit", "shares"), [(varlen.SHORT, True), (32, False)], ids=["short and shared", "long"]
)
def test_nothing_that_a_probe_does_compiles_anew(
    monkeypatch: pytest.MonkeyPatch, limit: int, shares: bool
) -> None:
    """Trying, timing, training, looking and judging, with other adapters, examples and rows each."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(varlen, "SHORT", limit)
    monkeypatch.setattr(varlen, "SERVES_LONG", True)
    base = tiny_base("llama", dtype=torch.float32, layers=3)
    examples = random_examples(40, longest=50, shared=10 if shares else 0)
    torch._dynamo.reset()
    counters.clear()
    loss, gradient = fastest._apart(base, examples[:3], "compiled", 60, shares=shares)
    assert loss < 1e-4
    assert gradient < 1e-3
    path, recipe = HowItRuns(True, "", "compiled", shares=shares), Recipe().given(epochs=2, batch_size=8)
    for ranks in ((8,), (16,), (8,) * 8):
        specs = [AdapterSpec(rank, 1.0, 0.0) for rank in ranks]
        with open_run(path, base, specs, dropout=0.0, longest=60) as run:
            run.time(examples[:16], recipe, 10_000)
    with open_run(path, base, SPECS, dropout=0.0, longest=60) as run:
        run.train(
            examples, recipe, seed=0, capacity=10_000, look_after=(3,),
            on_look=lambda *_: run.evaluate(examples[:7], 300),
        )  # fmt: skip
        run.evaluate(examples, 200)
        run.evaluate(examples, 60)  # some alone in their row, sharing with nobody
    assert counters["stats"]["unique_graphs"] == 2  # a layer and the loss


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n operation not permitted\nwhen capturing"), "RuntimeError: operation not permitted"),
        (ValueError("x" * 999), "ValueError: " + "x" * 200),
    ],
)
def test_an_error_of_a_compiler_is_one_line(error: Exception, words: str) -> None:
    assert graphs.in_one_line(error) == words
