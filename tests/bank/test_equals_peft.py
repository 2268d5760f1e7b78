"""A bank of K adapters trains exactly as K separate PEFT runs do."""

from __future__ import annotations

import pytest
import torch

import peft_runs
from peft_runs import SPECS, Training, peft_run, start_of
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward
from rightrank.bank.targets import find_targets
from rightrank.recipe import Recipe
from tiny import random_examples, tiny_model

STEPS = 20
RECIPE = Recipe(epochs=4, batch_size=4, weight_decay=0.01, max_grad_norm=0.5)
EXAMPLES = random_examples(20)
TRAINING = Training(EXAMPLES, RECIPE, STEPS)

# Every half-decade that anyone trains with; with SPECS these are 1e-4 to 3e-2.
OTHER_RATES = [
    AdapterSpec(rank=4, alpha=8, learning_rate=1e-4),
    AdapterSpec(rank=16, alpha=32, learning_rate=3e-4),
    AdapterSpec(rank=5, alpha=10, learning_rate=3e-2),
]


def bank_run(model, specs, **options):
    return peft_runs.bank_run(model, specs, TRAINING, **options)[:3]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(("packed", "capacity"), [(True, 1000), (True, 17), (False, 1000)])
def test_three_adapters_equal_three_peft_runs(kind, packed, capacity):
    model = tiny_model(kind)
    losses, norms, _ = bank_run(model, SPECS, packed=packed, capacity=capacity)
    start = start_of(model, SPECS)
    for k in range(len(SPECS)):
        expected, expected_norms, _ = peft_run(model, k, start, TRAINING)
        assert len(expected) == STEPS
        assert losses[k] == pytest.approx(expected, rel=1e-5)
        assert norms[k] == pytest.approx(expected_norms, rel=1e-5)
        assert abs(expected[-1] - expected[0]) > 1e-2, (
            "training must have moved the loss, or equality says little"
        )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_other_learning_rate_equals_peft(kind):
    model = tiny_model(kind)
    losses, norms, optimizer = bank_run(model, OTHER_RATES)
    start = start_of(model, OTHER_RATES)
    moved = []
    for k in range(len(OTHER_RATES)):
        expected, expected_norms, _ = peft_run(model, k, start, TRAINING)
        assert losses[k] == pytest.approx(expected, rel=1e-5)
        assert norms[k] == pytest.approx(expected_norms, rel=1e-5)
        moved.append(abs(expected[-1] - expected[0]))
    assert min(moved) > 1e-4 and max(moved) > 0.1
    assert optimizer.diverged == [False] * 3


def test_float32_losses_agree_to_1e_4():
    model = tiny_model("llama", dtype=torch.float32)
    losses, _, _ = bank_run(model, SPECS)
    start = start_of(model, SPECS)
    for k in range(len(SPECS)):
        expected, _, _ = peft_run(model, k, start, TRAINING)
        assert losses[k] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "neighbour",
    [AdapterSpec(rank=5, alpha=10, learning_rate=1e-3), AdapterSpec(rank=5, alpha=1e9, learning_rate=1e300)],
)
def test_a_neighbour_changes_nothing_even_when_it_diverges(neighbour):
    model = tiny_model("llama")
    alone, norms_alone, _ = bank_run(model, SPECS[:1])
    beside, norms_beside, optimizer = bank_run(model, [SPECS[0], neighbour])
    assert optimizer.diverged == [False, neighbour.learning_rate > 1]
    assert beside[0] == pytest.approx(alone[0], rel=1e-12)
    assert norms_beside[0] == pytest.approx(norms_alone[0], rel=1e-12)


def test_dropout_has_one_mask_for_all_adapters():
    """The same adapter twice, beside another, is one run: reproducible bitwise, and not what it is without dropout."""
    model = tiny_model("llama")
    one, other = SPECS[0], AdapterSpec(rank=7, alpha=3, learning_rate=1e-2)
    losses, norms, _ = bank_run(model, [one, other, one], dropout=0.3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-12)
    assert norms[2] == pytest.approx(norms[0], rel=1e-12)
    again, _, _ = bank_run(model, [one, other, one], dropout=0.3)
    assert again == losses
    alone, _, _ = bank_run(model, [one], dropout=0.3)
    assert alone[0] == pytest.approx(losses[0], rel=1e-12)
    plain, _, _ = bank_run(model, [one])
    assert plain[0][0] == pytest.approx(losses[0][0], rel=1e-12)  # B is zero at the start
    assert abs(plain[0][-1] - losses[0][-1]) > 1e-3


def test_neither_micro_batches_nor_padding_change_the_masks():
    model = tiny_model("llama")
    whole, norms, _ = bank_run(model, SPECS[:2], dropout=0.3)
    for options in ({"capacity": 17}, {"capacity": 1}, {"packed": False}):
        split, split_norms, _ = bank_run(model, SPECS[:2], dropout=0.3, **options)
        assert split[0] == pytest.approx(whole[0], rel=1e-9)
        assert split[1] == pytest.approx(whole[1], rel=1e-9)
        assert split_norms[0] == pytest.approx(norms[0], rel=1e-9)


def dropped_update(dropout: float, seeds: range):
    """What a single adapter adds to the first layer's output for ``seeds`` masks, and without dropout: [masks, T, O], [T, O]."""
    model = tiny_model("llama")
    base = load_base(model, tokenizer=object())
    bank = AdapterBank(find_targets(model), [SPECS[1]], device=base.device, dtype=base.dtype)
    bank.masters[0].normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    bank.refresh()
    outputs: list[torch.Tensor] = []
    first = dict(model.named_modules())[bank.modules[0].target.name]
    batch = Batch.of(EXAMPLES[:2])
    with torch.no_grad(), Forward(base, bank, dropout=dropout) as forward:
        handle = first.register_forward_hook(lambda m, i, out: outputs.append(out[0]))
        for seed in (None, *seeds):
            forward.dropout_seed = seed
            forward.hidden(batch)
        handle.remove()
    with torch.no_grad(), Forward(base) as forward:
        handle = first.register_forward_hook(lambda m, i, out: outputs.append(out[0]))
        forward.hidden(batch)
        handle.remove()
    return torch.stack(outputs[1:-1]) - outputs[-1], outputs[0] - outputs[-1]


def test_dropout_is_right_on_average():
    """E[mask / (1 - p)] = 1, so the mean of n masked updates is the plain one, with a standard error of what one scatters / sqrt(n)."""
    masked, plain = dropped_update(0.3, range(400))
    error = masked.std(0) / 400**0.5
    z = ((masked.mean(0) - plain) / error).flatten()
    assert z.abs().max() < 5
    assert 0.8 < z.std() < 1.2
    assert len({round(float(m.sum()), 9) for m in masked}) == 400, "every seed has a mask of its own"


def test_the_share_of_dropout_is_as_told():
    """With A and B that pass one input through, an update is 0 or that input / (1 - p)."""
    model = tiny_model("llama")
    base = load_base(model, tokenizer=object())
    bank = AdapterBank(
        find_targets(model),
        [AdapterSpec(rank=1, alpha=1, learning_rate=0)],
        device=base.device,
        dtype=base.dtype,
    )
    ones = torch.ones(1, 1000, 32, dtype=torch.float64)
    with Forward(base, bank, dropout=0.2) as forward:
        forward._batch = Batch.of(random_examples(200, shortest=5, longest=5))
        forward.dropout_seed = 3
        dropped = forward._drop(ones, index=0)
        other = forward._drop(ones, index=1)
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.8}
    assert (dropped == 0).double().mean().item() == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 32_000) ** 0.5)
    agree = (dropped == other).double().mean().item()
    assert agree == pytest.approx(0.2**2 + 0.8**2, abs=0.012), "layers' masks are independent"
    examples = dropped[0].view(200, 5 * 32)
    assert len({tuple(row) for row in examples.tolist()}) == 200, "examples' masks differ"
