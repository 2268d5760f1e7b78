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


def bank_run(model, specs, *, packed: bool = True, capacity: int = 1000):
    base = load_base(model, tokenizer=object())
    bank = AdapterBank(find_targets(model), specs, device=base.device, dtype=base.dtype)
    losses = []
    optimizer = BankOptimizer(bank, RECIPE, STEPS)
    with Forward(base, bank, packed=packed) as forward:
        for chosen in batches(len(EXAMPLES), RECIPE, seed=1):
            bank.zero_gradients()
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
