"""Ranks, initial matrices and where the numbers lie."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from rightrank.bank.adapters import ROW_MULTIPLE, AdapterBank, AdapterSpec, adapter_parameters, initial_a
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.step import gradients
from rightrank.bank.targets import Target, find_targets
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from tiny import random_examples, tiny_base

TARGETS = (Target("q", 12, 20), Target("down", 30, 12))
CPU = torch.device("cpu")


def bank_of(*specs, targets=TARGETS):
    return AdapterBank(targets, specs, device=CPU, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 7, 8, 9, 16])
def test_a_smaller_initial_a_is_the_top_of_a_larger_one(rank):
    whole = initial_a(24, 20, seed=3, target=1)
    assert torch.equal(initial_a(24, rank, seed=3, target=1), whole[:rank])


def test_initial_a_differs_by_seed_and_module():
    drawn = [initial_a(24, 4, seed=s, target=t) for s in (0, 1) for t in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_initial_a_is_distributed_as_peft_starts_it():
    width, rank = 50, 400
    ours = initial_a(width, rank, seed=0, target=0)
    theirs = torch.empty(rank, width, dtype=torch.float64)
    torch.manual_seed(0)
    torch.nn.init.kaiming_uniform_(theirs, a=math.sqrt(5))
    bound = 1 / math.sqrt(width)
    for a in (ours, theirs):
        assert 0.999 * bound < a.abs().max() <= bound
    assert stats.kstest(ours.flatten().numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


def test_a_starts_in_the_masters_and_b_at_zero():
    bank = bank_of(AdapterSpec(5, 8, 1e-3, seed=2), AdapterSpec(3, 8, 1e-3, seed=2))
    for index, (module, target) in enumerate(zip(bank.modules, TARGETS, strict=True)):
        for k, rank in enumerate((5, 3)):
            assert torch.equal(module.master_a[k], initial_a(target.width_in, rank, seed=2, target=index))
            assert not module.master_b[k].any()
            assert torch.equal(module.a_RI[module.rows(k)], module.master_a[k])


def test_ranks_per_module_lay_out_as_told():
    bank = bank_of(AdapterSpec(4, 8, 1e-3, ranks=(9, 0)), AdapterSpec(2, 8, 1e-3))
    assert [module.ranks_K for module in bank.modules] == [(9, 2), (0, 2)]
    assert [module.row_ends_K.tolist() for module in bank.modules] == [[16, 24], [0, 8]]
    assert [len(master) for master in bank.masters] == [9 * 32, 2 * 32 + 2 * 42]
    assert adapter_parameters(TARGETS, bank.specs[0]) == 9 * 32
    assert bank.modules[0].scale_R.tolist() == [8 / 9] * 9 + [0.0] * 7 + [4.0] * 2 + [0.0] * 6
    assert (bank.specs[0].scale_of(0), bank.specs[0].scale_of(1)) == (8 / 9, 0.0)


def test_masters_are_float32_over_a_bfloat16_base():
    bank = AdapterBank(TARGETS, [AdapterSpec(4, 8, 1e-3)], device=CPU, dtype=torch.bfloat16)
    assert (bank.masters[0].dtype, bank.modules[0].a_RI.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(
        bank.modules[0].a_RI[:4].float(), bank.modules[0].master_a[0], rtol=4e-3, atol=0
    )


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (AdapterSpec(13, 8, 1e-3), "beyond the width of every module of this model \\(12\\)"),
        (AdapterSpec(4, 8, 1e-3, ranks=(13, 4)), "Rank 13 is beyond"),
        (AdapterSpec(0, 8, 1e-3), "Rank 0 is no rank"),
        (AdapterSpec(4, 8, 1e-3, ranks=(0, 0)), "Rank 0 is no rank"),
        (AdapterSpec(4, 8, 1e-3, ranks=(4, -1)), "from -1 up"),
        (AdapterSpec(4, 8, 1e-3, ranks=(4,)), "1 ranks from 4 up for 2 modules"),
    ],
)
def test_ranks_that_cannot_be(spec, problem):
    with pytest.raises(ConfigurationError, match=problem):
        bank_of(AdapterSpec(12, 8, 1e-3), spec)


def train_a_little(base, specs, steps=3):
    bank = AdapterBank(find_targets(base.model), specs, device=CPU, dtype=torch.float64)
    examples = random_examples(4)
    optimizer = BankOptimizer(bank, Recipe(weight_decay=0.1, schedule="constant", warmup_ratio=0), steps)
    with Forward(base, bank) as forward:
        for _ in range(steps):
            bank.zero_gradients()
            optimizer.step(gradients(forward, examples, 1000))
        with torch.no_grad():
            losses, _ = forward.token_losses(Batch.of(examples))
    return bank, losses


def test_padded_rows_stay_zero_in_training():
    bank, _ = train_a_little(tiny_base(), [AdapterSpec(3, 8, 1e-2), AdapterSpec(9, 8, 1e-2)])
    for module in bank.modules:
        used = torch.zeros(len(module.a_RI), dtype=torch.bool)
        for k in range(2):
            used[module.rows(k)] = True
        assert len(used) == 8 + 16 == ROW_MULTIPLE * 3
        assert int(used.sum()) == 12
        assert module.b_RO[used].any(1).all(), "training must have moved every row that is used"
        for rows in (module.a_RI, module.b_RO, module.scale_R):
            assert not rows[~used].any()


def test_rank_zero_leaves_a_module_without_an_adapter():
    """Adapters on the last module alone: everything before it computes as the bare base does."""
    base = tiny_base()
    targets = find_targets(base.model)
    ranks = tuple(4 if i == len(targets) - 1 else 0 for i in range(len(targets)))
    bank, losses = train_a_little(base, [AdapterSpec(4, 8, 1e-1, ranks=ranks)])
    seen: dict[str, list[torch.Tensor]] = {target.name: [] for target in targets}
    with torch.no_grad(), Forward(base) as bare:
        bare_losses, _ = bare.token_losses(Batch.of(random_examples(4)))
    named = dict(base.model.named_modules())
    for use in (None, bank):
        with Forward(base, use) as forward:
            hooked = [bool(named[target.name]._forward_hooks) for target in targets]
            assert hooked == [use is bank and rank > 0 for rank in ranks]
            handles = [
                named[name].register_forward_hook(lambda m, i, out, kept=kept: kept.append(out.detach()))
                for name, kept in seen.items()
            ]
            forward.hidden(Batch.of(random_examples(4)))
            for handle in handles:
                handle.remove()
    same = [torch.equal(*seen[target.name]) for target in targets]
    assert same == [True] * (len(targets) - 1) + [False]
    assert (losses - bare_losses).abs().max() > 1e-3


def test_silencing_one_adapter_leaves_the_other():
    bank = bank_of(AdapterSpec(5, 8, 1e-3), AdapterSpec(3, 8, 1e-3))
    for master, gradient in zip(bank.masters, bank.gradients, strict=True):
        master.normal_()
        gradient.normal_()
    bank.refresh()
    kept = bank.masters[1].clone(), bank.gradients[1].clone()
    bank.silence(0)
    assert not bank.masters[0].any() and not bank.gradients[0].any()
    assert torch.equal(bank.masters[1], kept[0]) and torch.equal(bank.gradients[1], kept[1])
    for module in bank.modules:
        assert not module.a_RI[module.rows(0)].any()
        assert torch.equal(module.a_RI[module.rows(1)], module.master_a[1])
