"""What only a GPU shows: captured steps against plain ones, a thousand replays, and foreseen memory against memory taken."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path as Place
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rightrank.bank import varlen
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import BaseModel, load_base
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.fused import fused_products_run_here
from rightrank.bank.graphs import GraphedSteps, split
from rightrank.bank.memory import GIB, MemoryModel, measure_graphs
from rightrank.bank.rows import StaticRow, shape_of
from rightrank.bank.runs import GraphedRun, open_run
from rightrank.bank.shared_keys import spread
from rightrank.bank.step import gradients
from rightrank.bank.update import FlatUpdate
from rightrank.bank.verify import Path, Way
from rightrank.executors.local import LocalExecutor
from rightrank.probe.loss_table import Configuration, Pack, PackResult
from rightrank.recipe import Recipe
from tiny import random_examples, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not fused_products_run_here(torch.device("cuda"), torch.bfloat16),
    reason="needs CUDA of compute capability 8 up, and Triton",
)
SPECS = [AdapterSpec(rank, 2.0 * rank, 1e-3) for rank in (1, 8, 20, 64)]
RECIPE = Recipe().given(epochs=3, batch_size=8)


@cache
def base_on_gpu(dtype: torch.dtype) -> BaseModel:
    return load_base(tiny_model("llama", dtype=dtype, hidden=128).cuda(), object())


def bank_of(base: BaseModel, products: bool = True) -> AdapterBank:
    bank = AdapterBank(base.targets, SPECS, device=base.device, dtype=base.dtype, products=products)
    draw = torch.Generator(base.device).manual_seed(1)
    for master in bank.masters:
        master.add_(torch.randn(master.shape, generator=draw, device=master.device), alpha=0.05)
    bank.refresh()
    return bank


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


@pytest.mark.parametrize("compiled", [False, True])
def test_captured_gradients_are_as_close_to_float32_as_plain_ones(compiled: bool) -> None:
    examples = random_examples(8, longest=60)
    exact, base = base_on_gpu(torch.float32), base_on_gpu(torch.bfloat16)
    found = {}
    for name, model in (("exact", exact), ("plain", base)):
        bank = bank_of(model)
        with Forward(model, bank) as forward:
            found[name] = (gradients(forward, examples, 10_000), bank.gradients)
    graphed = bank_of(base, products=False)
    update, work = FlatUpdate(graphed, RECIPE, 10), split(examples, 10_000)
    steps = GraphedSteps(base, graphed, update, work, compiled=compiled)
    for micro in work:
        steps.micro_step(micro)
    assert (update.loss_K - found["exact"][0]).abs().max() < 0.02
    for captured, plain, truth in zip(graphed.gradients, found["plain"][1], found["exact"][1], strict=True):
        assert distance(captured, truth) < 0.02 + 1.5 * distance(plain, truth)


def test_a_thousand_replays_give_one_gradient_a_thousand_times() -> None:
    base = base_on_gpu(torch.bfloat16)
    bank = bank_of(base, products=False)
    update, work = FlatUpdate(bank, RECIPE, 10), split(random_examples(8), 10_000)
    steps = GraphedSteps(base, bank, update, work, compiled=True)
    steps.micro_step(work[0])
    once = bank.flat_gradient.clone()
    for _ in range(999):
        bank.flat_gradient.zero_()
        steps.micro_step(work[0])
    assert distance(bank.flat_gradient, once) < 1e-3, "attention's gradient adds up in any order"
    assert torch.isfinite(update.loss_K).all()


@pytest.mark.parametrize("way", ["captured", "compiled"])
@pytest.mark.parametrize("shared", [0, 20])
def test_a_run_ends_where_a_plain_one_does(way: Way, shared: int) -> None:
    base, examples = base_on_gpu(torch.bfloat16), random_examples(64, longest=60, shared=shared)
    losses = []
    for path in (Path(True, ""), Path(True, "", way, shares=shared > 0)):
        with open_run(path, base, SPECS, dropout=0.0) as run:
            trained = run.train(examples, RECIPE, seed=0, capacity=10_000)
            held_out = run.evaluate(examples, 10_000)
        tokens = sum(int(e.trained_T[1:].sum()) for e in examples)
        losses.append(held_out.loss_KE.sum(1) / tokens)
        assert trained.diverged_K == (False,) * 4
    assert abs(losses[0] - losses[1]).max() < 0.02


def test_graphs_and_plain_steps_judge_alike() -> None:
    base, examples = base_on_gpu(torch.bfloat16), random_examples(20, longest=60)
    run = GraphedRun(base, SPECS, compiled=True)
    plain = AdapterBank(base.targets, SPECS, device=base.device, dtype=base.dtype)
    with Forward(base, plain) as forward:
        wanted = evaluate(forward, examples, capacity=500)
    found = run.evaluate(examples, 500)
    tokens = sum(int(e.trained_T[1:].sum()) for e in examples)
    assert abs(found.loss_KE.sum(1) - wanted.loss_KE.sum(1)).max() / tokens < 0.02


@pytest.mark.parametrize("adapters", [1, 16])
@pytest.mark.parametrize("recomputed", [False, True])
def test_memory_is_foreseen_within_a_tenth(adapters: int, recomputed: bool) -> None:
    base = load_base(tiny_model("llama", dtype=torch.bfloat16, hidden=512, layers=12).cuda(), object())
    examples = random_examples(64, longest=250)
    path = Path(True, "", "compiled", recomputed)
    memory = measure_graphs(base, examples, compiled=True, recomputed=recomputed)
    gc.collect()
    torch.cuda.empty_cache()
    others = (
        torch.cuda.memory_allocated() - memory.base_bytes
    )  # tests before this one, and libraries' workspaces
    torch.cuda.reset_peak_memory_stats()
    specs = [AdapterSpec(32, 32.0, 1e-4)] * adapters
    with open_run(path, base, specs, dropout=0.0) as run:
        run.train(examples, Recipe().given(epochs=1, batch_size=64), seed=0, capacity=1 << 20)
        parameters = sum(master.numel() for master in run.bank.masters)
    taken = (torch.cuda.max_memory_allocated() - others) / GIB
    foreseen = memory.peak_gib(parameters, adapters * sum(len(e.token_ids_T) for e in examples))
    assert 0.9 < foreseen / taken < 1.1, (memory, parameters, others)


@pytest.mark.parametrize("way", ["captured", "plain"])
def test_a_pack_that_does_not_fit_after_all_is_trained_in_halves(way: Way) -> None:
    """Memory really runs out here: the card gives two thirds of what the pack takes, and the executor believes that it takes none."""
    configurations = tuple(Configuration(rank, 16.0, 1e-3) for rank in (8, 16, 24, 32, 8, 16, 24, 32))
    pack = Pack(0, 32, configurations, with_score=True)
    base = load_base(tiny_model("llama", dtype=torch.bfloat16, hidden=256, layers=8).cuda(), object())
    rows = random_examples(32, longest=250)
    nothing = MemoryModel(0, 1e-3, 0.0, 4, 2)
    device = torch.cuda.current_device()

    def trained() -> tuple[PackResult, list[str]]:
        executor = LocalExecutor(base, nothing, rows, RECIPE.given(batch_size=32), Path(True, "", way))
        executor.judge_by(random_examples(4, seed=1), random_examples(4, seed=2))
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return executor.train(pack, export_to=None, on_step=lambda share: None), executor.notes

    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    whole, notes = trained()
    assert notes == []
    taken = torch.cuda.max_memory_reserved() - held
    try:
        limit = (held + taken * 2 / 3) / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(limit)
        halves, notes = trained()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert notes[0].startswith("8 adapters did not fit into the GPU's memory together"), notes
    assert halves.train_tokens == whole.train_tokens
    apart = abs(halves.loss_KE.sum(1) / whole.loss_KE.sum(1) - 1)
    assert apart.max() < 0.02, apart


def trained_bits(way: Way, longest: int, shared: int = 0) -> bytes:
    """Every held-out loss of a run that begins from nothing, and every trained number."""
    base, examples = base_on_gpu(torch.bfloat16), random_examples(48, longest=longest - shared, shared=shared)
    path = Path(True, "", way, shares=shared > 0)
    with open_run(path, base, SPECS, dropout=0.0, longest=longest) as run:
        run.train(examples, RECIPE, seed=0, capacity=2048)
        held_out = run.evaluate(examples[:16], 2048)
        return held_out.loss_KE.tobytes() + b"".join(m.cpu().numpy().tobytes() for m in run.bank.masters)


@pytest.mark.parametrize("longest", [100, 400], ids=["ours", "PyTorch's"])
@pytest.mark.parametrize("way", ["captured", "compiled"])
@pytest.mark.parametrize("shared", [0, 30])
def test_a_run_repeats_its_bits(way: Way, longest: int, shared: int) -> None:
    """Whichever attention its rows run by: nothing on their way adds up in any order."""
    assert trained_bits(way, longest, shared) == trained_bits(way, longest, shared)


@pytest.mark.parametrize("window", [varlen.EVERYTHING, 300])
def test_attention_among_long_rows_is_pytorchs_with_gradients_in_one_order(window: int) -> None:
    lengths = (1500, 700, 1, 900, 1200)
    draw = torch.Generator("cuda").manual_seed(0)
    query, key, value, dout = (
        torch.randn(sum(lengths), heads, 64, device="cuda", dtype=torch.bfloat16, generator=draw)
        for heads in (8, 2, 2, 8)
    )
    ends = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()

    def once(attention: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        given = [x.clone().requires_grad_() for x in (query, key, value)]
        out = attention(*given, ends)
        return [out.detach(), *torch.autograd.grad(out, given, dout)]

    def ours(*given: torch.Tensor) -> torch.Tensor:
        return varlen.long_attention(*given, ends, max(lengths), 0.125, window)[0]

    def written_out(*given: torch.Tensor) -> torch.Tensor:
        *tensors, ends = given
        seen = None if window == varlen.EVERYTHING else window
        return varlen._written_out(*(x.float() for x in tensors), ends, ends, 0.125, seen).bfloat16()

    first = once(ours)
    for found, wanted in zip(first, once(written_out), strict=True):
        assert distance(found, wanted) < 0.01
    for _ in range(50):
        assert all(torch.equal(a, b) for a, b in zip(first, once(ours), strict=True))


@pytest.mark.parametrize("window", [varlen.EVERYTHING, 50])
@pytest.mark.parametrize(
    "attention", [varlen.short_attention, varlen.long_attention], ids=["ours", "PyTorch's"]
)
def test_examples_that_share_tokens_attend_as_if_each_had_its_own(attention: Any, window: int) -> None:
    """Two rows of four examples, their first tokens shared: outputs and gradients against the computation written out."""
    examples, adapters = random_examples(4, shortest=30, longest=200, shared=40), 2
    shape = shape_of(examples, 40)
    shape = replace(shape, spared=shape.spared + 64)
    row = StaticRow.empty(shape, adapters, 6, torch.device("cuda"), shares=True)
    row.fill(examples, adapters, 1, shared=40)
    assert row.keys is not None
    ends, tables = (row.ends_N, row.keys.ends_N), (*row.keys.of_all(adapters), row.keys.ends_N)
    draw = torch.Generator("cuda").manual_seed(0)
    query, key, value, dout = (
        torch.randn(
            heads, adapters * shape.tokens, 64, device="cuda", dtype=torch.bfloat16, generator=draw
        ).transpose(0, 1)
        for heads in (6, 2, 2, 6)
    )
    counts = (torch.arange(shape.tokens, device="cuda") < row.ends_N[4]).repeat(adapters)[:, None, None]

    def once(ours: bool) -> list[torch.Tensor]:
        given = [x.detach().requires_grad_() for x in (query, key, value)]
        q, k, v = given
        if ours:
            k, v = spread(k, v, *tables)
            out = attention(q, k, v, *ends, 512, 0.125, window)[0]
        else:
            k, v = (x[tables[0].long()] for x in (k, v))
            seen = None if window == varlen.EVERYTHING else window
            tensors = (x.float() for x in (q, k, v))
            out = varlen._written_out(*tensors, *ends, 0.125, seen).bfloat16()
        # What is filling counts for nothing.
        return [out.detach() * counts, *torch.autograd.grad(out, given, dout * counts)]

    first = once(ours=True)
    for found, wanted in zip(first, once(ours=False), strict=True):
        assert distance(found, wanted) < 0.01
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, once(ours=True), strict=True))


IN_A_PROCESS = (
    "import hashlib, sys; sys.path[:0] = sys.argv[1:3]\n"
    "from test_on_gpu import trained_bits\n"
    "print(hashlib.sha256(trained_bits('captured', 100)).hexdigest())"
)


def test_another_process_gives_the_same_bits() -> None:
    here = Place(__file__).parent
    command = [sys.executable, "-c", IN_A_PROCESS, str(here), str(here.parent)]
    said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert said[0] == said[1] and len(said[0].strip()) == 64
