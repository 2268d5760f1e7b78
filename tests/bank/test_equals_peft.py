"""A bank of K adapters trains exactly as K separate PEFT runs do."""

from __future__ import annotations

import copy

import pytest
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.batch import Batch, trained_tokens
from rightrank.bank.forward import Forward
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.step import batches, gradients
from rightrank.bank.targets import find_targets, target_suffixes
from rightrank.recipe import Recipe, learning_rate_factor
from tiny import random_examples, tiny_model

STEPS = 20
RECIPE = Recipe(epochs=4, batch_size=4, weight_decay=0.01, max_grad_norm=0.5)
EXAMPLES = random_examples(20)
SPECS = [
    AdapterSpec(rank=2, alpha=4, learning_rate=1e-2),
    AdapterSpec(rank=8, alpha=16, learning_rate=3e-3),
    AdapterSpec(rank=3, alpha=16, learning_rate=1e-3),
]


# Every half-decade that anyone trains with; with SPECS these are 1e-4 to 3e-2.
OTHER_RATES = [
    AdapterSpec(rank=4, alpha=8, learning_rate=1e-4),
    AdapterSpec(rank=16, alpha=32, learning_rate=3e-4),
    AdapterSpec(rank=5, alpha=10, learning_rate=3e-2),
]


def peft_run(model, spec: AdapterSpec, start: AdapterBank, index: int):
    """An ordinary PEFT training loop on padded batches; yields the loss of every step, then the tensors' norms."""
    from peft import LoraConfig, get_peft_model

    targets = list(target_suffixes(find_targets(model)))
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(target.transposed for target in find_targets(model)),
    )
    peft = get_peft_model(copy.deepcopy(model), config, autocast_adapter_dtype=False)
    named = dict(peft.named_modules())
    parameters = []
    with torch.no_grad():
        for module in start.modules:
            layer = named["base_model.model." + module.target.name]
            layer.lora_A.default.weight.copy_(module.master_a[index])
            layer.lora_B.default.weight.copy_(module.master_b[index].t())
            parameters += [layer.lora_A.default.weight, layer.lora_B.default.weight]
    adamw = torch.optim.AdamW(
        parameters, lr=0.0, betas=RECIPE.adam_betas, eps=RECIPE.adam_epsilon, weight_decay=RECIPE.weight_decay
    )
    losses = []
    for step, chosen in enumerate(batches(len(EXAMPLES), RECIPE, seed=1)):
        picked = [EXAMPLES[i] for i in chosen]
        total = sum(map(trained_tokens, picked))
        batch = Batch.of(picked)
        ids = batch.token_ids_T[batch.pad_index_NL]
        lengths = torch.tensor(batch.lengths_N)[:, None]
        within = torch.arange(ids.shape[1])[None]
        trained = torch.stack(
            [
                torch.nn.functional.pad(torch.from_numpy(e.trained_T), (0, ids.shape[1] - len(e.trained_T)))
                for e in picked
            ]
        )
        labels = ids.masked_fill(~trained, -100)
        logits = peft(input_ids=ids, attention_mask=(within < lengths).long()).logits
        loss = (
            torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
            / total
        )
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, RECIPE.max_grad_norm)
        for group in adamw.param_groups:
            group["lr"] = spec.learning_rate * learning_rate_factor(RECIPE, step, STEPS)
        adamw.step()
        losses.append(loss.item())
    return losses, [parameter.norm().item() for parameter in parameters]


def bank_run(model, specs, *, packed: bool = True, capacity: int = 1000, dropout: float = 0.0):
    base = load_base(model, tokenizer=object())
    bank = AdapterBank(find_targets(model), specs, device=base.device, dtype=base.dtype)
    losses = []
    optimizer = BankOptimizer(bank, RECIPE, STEPS)
    with Forward(base, bank, packed=packed, dropout=dropout) as forward:
        for step, chosen in enumerate(batches(len(EXAMPLES), RECIPE, seed=1)):
            bank.zero_gradients()
            forward.dropout_seed = step
            loss_K = gradients(forward, [EXAMPLES[i] for i in chosen], capacity)
            optimizer.step(loss_K)
            losses.append(loss_K.tolist())
    norms = [
        [part[k].norm().item() for module in bank.modules for part in (module.master_a, module.master_b)]
        for k in range(len(specs))
    ]
    return [list(column) for column in zip(*losses, strict=True)], norms, optimizer


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(("packed", "capacity"), [(True, 1000), (True, 17), (False, 1000)])
def test_three_adapters_equal_three_peft_runs(kind, packed, capacity):
    model = tiny_model(kind)
    losses, norms, _ = bank_run(model, SPECS, packed=packed, capacity=capacity)
    start = AdapterBank(find_targets(model), SPECS, device=torch.device("cpu"), dtype=torch.float64)
    for k, spec in enumerate(SPECS):
        expected, expected_norms = peft_run(model, spec, start, k)
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
    start = AdapterBank(find_targets(model), OTHER_RATES, device=torch.device("cpu"), dtype=torch.float64)
    moved = []
    for k, spec in enumerate(OTHER_RATES):
        expected, expected_norms = peft_run(model, spec, start, k)
        assert losses[k] == pytest.approx(expected, rel=1e-5)
        assert norms[k] == pytest.approx(expected_norms, rel=1e-5)
        moved.append(abs(expected[-1] - expected[0]))
    assert min(moved) > 1e-4 and max(moved) > 0.1
    assert optimizer.diverged == [False] * 3


def test_float32_losses_agree_to_1e_4():
    model = tiny_model("llama", dtype=torch.float32)
    losses, _, _ = bank_run(model, SPECS)
    start = AdapterBank(find_targets(model), SPECS, device=torch.device("cpu"), dtype=torch.float32)
    for k, spec in enumerate(SPECS):
        expected, _ = peft_run(model, spec, start, k)
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
