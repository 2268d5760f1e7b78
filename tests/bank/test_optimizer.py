"""Clip and AdamW, each adapter by its own; the learning rate over time; what becomes of one that diverges."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.targets import Target
from rightrank.recipe import Recipe, learning_rate_factor

TARGETS = (Target("q", 12, 20), Target("down", 30, 12))
SPECS = (AdapterSpec(2, 4, 1e-2), AdapterSpec(8, 8, 3e-3), AdapterSpec(5, 8, 1e-1))
LOSSES = torch.tensor([1.0, 2.0, 3.0])
NAN = float("nan")


def bank_with_gradients(size_K=(1.0, 1.0, 1.0), specs=SPECS):
    bank = AdapterBank(TARGETS, specs, device=torch.device("cpu"), dtype=torch.float64)
    fill(bank, size_K, 0)
    return bank


def fill(bank, size_K, seed):
    generator = torch.Generator().manual_seed(seed)
    for gradient, size in zip(bank.gradients, size_K, strict=True):
        gradient.copy_(size * torch.randn(len(gradient), generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("most", [0.5, 3.0])
def test_each_adapter_is_clipped_as_torch_clips_it(most):
    bank = bank_with_gradients((1e-3, 1.0, 100.0))
    before = [gradient.clone() for gradient in bank.gradients]
    norms = BankOptimizer(bank, Recipe(max_grad_norm=most), 10).step(LOSSES)
    assert norms == pytest.approx([g.norm().item() for g in before], rel=1e-12)
    for gradient, raw in zip(bank.gradients, before, strict=True):
        parameter = torch.nn.Parameter(torch.zeros_like(raw))
        parameter.grad = raw.clone()
        torch.nn.utils.clip_grad_norm_([parameter], most)
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-14, atol=0)
    assert bank.gradients[0].equal(before[0]), "a small gradient is left alone"
    assert bank.gradients[2].norm().item() == pytest.approx(most, rel=1e-6)


def test_no_clipping_where_the_recipe_has_none():
    bank = bank_with_gradients((1e3, 1e3, 1e3))
    before = [gradient.clone() for gradient in bank.gradients]
    BankOptimizer(bank, Recipe(max_grad_norm=0.0), 10).step(LOSSES)
    assert all(map(torch.equal, bank.gradients, before))


@pytest.mark.parametrize("steps", [1, 7, 40])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_schedules_are_those_of_transformers(schedule, warmup_ratio, steps):
    recipe = Recipe(schedule=schedule, warmup_ratio=warmup_ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    arguments = transformers.TrainingArguments(warmup_steps=warmup_ratio, output_dir="unused")
    scheduler = transformers.get_scheduler(
        name, optimizer, num_warmup_steps=arguments.get_warmup_steps(steps), num_training_steps=steps
    )
    theirs = []
    for _ in range(steps):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [learning_rate_factor(recipe, s, steps) for s in range(steps)] == pytest.approx(theirs, abs=1e-12)


def test_two_updates_by_hand():
    """AdamW's first two steps with one gradient: each of the size of the learning rate, after decay."""
    recipe = Recipe(schedule="linear", warmup_ratio=0, weight_decay=0.1, max_grad_norm=0, adam_epsilon=1e-30)
    bank = bank_with_gradients()
    start = [master.clone() for master in bank.masters]
    optimizer = BankOptimizer(bank, recipe, 2)
    optimizer.step(LOSSES)
    optimizer.step(LOSSES)
    for master, before, gradient, spec in zip(bank.masters, start, bank.gradients, SPECS, strict=True):
        wanted = before
        for rate in (spec.learning_rate, spec.learning_rate / 2):
            wanted = wanted * (1 - rate * 0.1) - rate * gradient.sign()
        torch.testing.assert_close(master, wanted, rtol=1e-9, atol=1e-12)
    for module in bank.modules:
        for k in range(3):
            assert torch.equal(module.a_RI[module.rows(k)], module.master_a[k]), "working copies follow"


@pytest.mark.parametrize("sign", ["loss nan", "loss inf", "gradient nan", "gradient inf"])
def test_a_diverged_adapter_is_silenced_and_its_neighbours_bitwise_untouched(sign):
    what, value = sign.split()
    recipe = Recipe(weight_decay=0.1, warmup_ratio=0)
    bank, calm = bank_with_gradients(), bank_with_gradients()
    optimizers = BankOptimizer(bank, recipe, 5), BankOptimizer(calm, recipe, 5)
    for step in range(4):
        losses = LOSSES.clone()
        if step == 1:
            if what == "loss":
                losses[1] = float(value)
            else:
                bank.gradients[1][3] = float(value)
        optimizers[0].step(losses)
        optimizers[1].step(LOSSES)
        assert optimizers[0].diverged == [False, step >= 1, False]
        if step >= 1:
            assert not bank.masters[1].any()
        for part in (bank, calm):
            fill(part, (1.0, 1.0, 1.0), step + 1)
    for k in (0, 2):
        assert torch.equal(bank.masters[k], calm.masters[k])
    for module, other in zip(bank.modules, calm.modules, strict=True):
        assert not module.a_RI[module.rows(1)].any()
        assert not module.b_RO[module.rows(1)].any()
        assert torch.equal(module.a_RI[module.rows(2)], other.a_RI[other.rows(2)])
    assert optimizers[1].diverged == [False] * 3


def test_an_adapter_that_diverged_never_comes_back():
    bank = bank_with_gradients()
    optimizer = BankOptimizer(bank, Recipe(warmup_ratio=0), 3)
    optimizer.step(torch.tensor([NAN, 1.0, 1.0]))
    fill(bank, (1.0, 1.0, 1.0), 5)
    kept = copy.deepcopy(bank.masters[1])
    optimizer.step(LOSSES)
    assert optimizer.diverged == [True, False, False]
    assert not bank.masters[0].any()
    assert not torch.equal(bank.masters[1], kept)
