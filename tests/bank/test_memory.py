"""What fits: arithmetic of the memory model, packs, and the count behind it."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.bank import memory as memory_module
from rightrank.bank.adapters import AdapterSpec, adapter_parameters
from rightrank.bank.memory import (
    GIB,
    MemoryModel,
    available_bytes,
    make_packs,
    measure_graphs,
    measure_memory,
    peak_gib_so_far,
    unheld_bytes,
)
from rightrank.bank.targets import Target, find_targets
from rightrank.data import TokenizedExample
from rightrank.errors import ResourceError
from tiny import VOCABULARY, tiny_base

TARGETS = (Target("q", 40, 60), Target("down", 80, 20))  # 200 numbers for each unit of rank
MODEL = MemoryModel(
    base_bytes=10_000, saved_bytes_per_token=100.0, logits_bytes=5_000.0, master_item=4, working_item=2
)


def test_capacity_by_hand():
    assert MODEL.adapter_bytes(1000) == 18_000  # masters, gradients, two moments in 4 bytes, a copy in 2
    assert MODEL.peak_gib(1000, 8) * GIB == pytest.approx(10_000 + 18_000 + 1.25 * 100 * 8 + 5_000)
    assert MODEL.capacity(1000, 2, 18_000 + 5_000 + 1.25 * 100 * 2 * 7) == 7
    assert MODEL.capacity(1000, 2, 18_000 + 5_000 + 1.25 * 100 * 2 * 7 - 1) == 6
    assert MODEL.capacity(1000, 1, 20_000) < 1


@given(st.integers(1, 10_000), st.integers(1, 8), st.integers(0, 10_000_000))
def test_what_fits_by_capacity_fits_by_peak(parameters, adapters, available):
    tokens = MODEL.capacity(parameters, adapters, available)
    if tokens >= 1:
        room = (available + MODEL.base_bytes) / GIB
        assert MODEL.peak_gib(parameters, tokens * adapters) <= room + 1e-12
        assert MODEL.peak_gib(parameters, (tokens + 1) * adapters) > room - 1e-12


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 5), st.floats(100_000, 1_000_000)
)
def test_every_configuration_is_in_exactly_one_pack_in_order(ranks, most, available):
    specs = [AdapterSpec(rank, rank, 1e-3) for rank in ranks]
    packs = make_packs(specs, TARGETS, MODEL, available=available, longest=30, most=most)
    assert [i for pack in packs for i in pack] == list(range(len(specs)))
    size = [adapter_parameters(TARGETS, spec) for spec in specs]
    for pack, after in zip(packs, [*packs[1:], None], strict=True):
        assert 1 <= len(pack) <= most
        assert MODEL.capacity(sum(size[i] for i in pack), len(pack), available) >= 30
        if after is not None and len(pack) < most:
            more = [*pack, after[0]]
            assert MODEL.capacity(sum(size[i] for i in more), len(more), available) < 30


def test_nothing_fits_is_said_in_gib():
    spec = AdapterSpec(1000, 8, 1e-3)  # 200,000 numbers: 3.6 MB
    with pytest.raises(ResourceError) as caught:
        make_packs([spec], TARGETS, MODEL, available=0.0, longest=10_000_000, most=4)
    assert caught.value.problem == (
        "One adapter of rank 1000 on the longest example needs 1.2 GiB; 0.0 GiB are free."
    )
    assert "--max-length" in caught.value.mend


def alike(count, length):
    trained = np.arange(length) > 1
    return [
        TokenizedExample(np.arange(length, dtype=np.int32) % VOCABULARY, trained, "") for _ in range(count)
    ]


def test_saved_bytes_grow_with_tokens():
    base = tiny_base(dtype=torch.float32)
    targets = find_targets(base.model)
    one, four = (measure_memory(base, targets, alike(n, 16), packed=True) for n in (1, 4))
    # Per token the same, but for what a forward pass keeps once whatever its size.
    assert four.saved_bytes_per_token == pytest.approx(one.saved_bytes_per_token, rel=0.1)
    deep = tiny_base(dtype=torch.float32, layers=4)
    more = measure_memory(deep, find_targets(deep.model), alike(4, 16), packed=True)
    assert more.saved_bytes_per_token / four.saved_bytes_per_token == pytest.approx(2, rel=0.1)
    assert one.base_bytes == 4 * base.parameters


def test_wider_numbers_take_more():
    single, double = (
        measure_memory(base, find_targets(base.model), alike(4, 16), packed=True)
        for base in (tiny_base(dtype=torch.float32), tiny_base(dtype=torch.float64))
    )
    assert (single.master_item, single.working_item, double.master_item) == (4, 4, 8)
    # Ids, rotary tables, and what Llama's norms keep are float32 in both.
    assert 1.5 < double.saved_bytes_per_token / single.saved_bytes_per_token < 2


def test_dropout_keeps_every_layers_own_input():
    base = tiny_base(dtype=torch.float32)
    targets = find_targets(base.model)
    plain, dropped = (measure_memory(base, targets, alike(4, 16), packed=True, dropout=p) for p in (0.0, 0.1))
    more = dropped.saved_bytes_per_token - plain.saved_bytes_per_token
    assert more > 4 * sum(target.width_in for target in targets)  # the dropped inputs; masks come on top


def test_measuring_leaves_no_gradients():
    base = tiny_base(dtype=torch.float32)
    measure_memory(base, find_targets(base.model), alike(2, 8), packed=True)
    assert all(p.grad is None and p.requires_grad for p in base.model.parameters())


def test_some_memory_is_left_alone():
    total, now = psutil.virtual_memory().total, available_bytes(torch.device("cpu"))
    assert 0 < now <= 0.8 * total
    assert 0.05 < peak_gib_so_far(torch.device("cpu")) < total / GIB


def test_a_limit_set_in_pytorch_counts_on_a_gpu(monkeypatch):
    gib = 1 << 30
    known = {"mem_get_info": (70 * gib, 80 * gib), "memory_allocated": 8 * gib, "memory_reserved": 9 * gib}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    asked, share = [], [1.0]
    monkeypatch.setattr(
        torch.cuda.memory, "get_per_process_memory_fraction", lambda index: asked.append(index) or share[0]
    )
    assert available_bytes(torch.device("cuda")) == pytest.approx(0.9 * 71 * gib)
    share[0] = 0.25
    assert available_bytes(torch.device("cuda:1")) == pytest.approx(0.9 * 12 * gib)
    assert asked == [3, 1]
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    assert unheld_bytes(torch.device("cuda")) == pytest.approx(0.9 * 11 * gib), "what graphs hold is held"
    share[0] = 1.0
    assert unheld_bytes(torch.device("cuda")) == pytest.approx(0.9 * 70 * gib)
    assert emptied == [True, True]


@pytest.mark.parametrize(("free", "tokens"), [(1e12, [512, 8192]), (4e9, [512, 2000]), (1e9, [512])])
def test_dry_runs_fill_a_quarter_of_what_is_free_at_most(monkeypatch, free, tokens):
    tried = []

    def dry_run(base, examples, count, layers, longest, trains):
        tried.append(count)
        return 500_000 * count

    monkeypatch.setattr(memory_module, "_dry_run", dry_run)
    monkeypatch.setattr(memory_module, "available_bytes", lambda device: free)
    base = tiny_base("llama", dtype=torch.bfloat16)
    found = measure_graphs(base, alike(4, 16), compiled=True)
    assert tried == tokens
    assert found.saved_bytes_per_token == 500_000
    assert found.peak_gib(0, 1000) * (1 << 30) == pytest.approx(found.base_bytes + found.logits_bytes + 5e8)
