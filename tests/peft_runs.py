"""The same training twice: an ordinary PEFT loop an adapter, and all adapters in one bank."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.batch import Batch, trained_tokens
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.step import batches, gradients
from rightrank.bank.targets import find_targets, target_suffixes
from rightrank.recipe import Recipe, learning_rate_factor
from tiny import plain_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.data import TokenizedExample

SPECS = [
    AdapterSpec(rank=2, alpha=4, learning_rate=1e-2),
    AdapterSpec(rank=8, alpha=16, learning_rate=3e-3),
    AdapterSpec(rank=3, alpha=16, learning_rate=1e-3),
]


@dataclass(frozen=True)
class Training:
    """What every run does. ``steps`` may end it early; the schedule is the whole recipe's."""

    examples: Sequence[TokenizedExample]
    recipe: Recipe
    steps: int
    held_out: Sequence[TokenizedExample] = ()

    def batches(self) -> list[list[TokenizedExample]]:
        order = batches(len(self.examples), self.recipe, seed=1)
        return [
            [self.examples[i] for i in chosen] for _, chosen in zip(range(self.steps), order, strict=False)
        ]


def start_of(model: Any, specs: Sequence[AdapterSpec]) -> AdapterBank:
    """The untrained adapters."""
    base = load_base(model, tokenizer=object())
    return AdapterBank(find_targets(model), specs, device=base.device, dtype=base.dtype)


def peft_run(model: Any, index: int, start: AdapterBank, training: Training):
    """An ordinary PEFT training loop on padded batches: the loss of every step, the tensors' norms, the held-out sums."""
    from peft import LoraConfig, get_peft_model

    spec, recipe = start.specs[index], training.recipe
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=list(target_suffixes(start.targets)),
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(target.transposed for target in start.targets),
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
        parameters, lr=0.0, betas=recipe.adam_betas, eps=recipe.adam_epsilon, weight_decay=recipe.weight_decay
    )
    losses = []
    for step, picked in enumerate(training.batches()):
        loss = padded_loss(peft, picked)
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        for group in adamw.param_groups:
            whole = recipe.steps(len(training.examples))
            group["lr"] = spec.learning_rate * learning_rate_factor(recipe, step, whole)
        adamw.step()
        losses.append(loss.item())
    held_out = [nats.sum().item() for nats in plain_losses(peft.eval(), training.held_out)]
    return losses, [parameter.norm().item() for parameter in parameters], held_out


def padded_loss(model: Any, picked: Sequence[TokenizedExample]) -> torch.Tensor:
    """Mean nats of the batch's trained tokens, from right-padded rows with a mask and labels."""
    batch = Batch.of(picked)
    ids = batch.token_ids_T[batch.pad_index_NL]
    lengths = torch.tensor(batch.lengths_N)[:, None]
    within = torch.arange(ids.shape[1])[None]
    trained = torch.stack(
        [F.pad(torch.from_numpy(e.trained_T), (0, ids.shape[1] - len(e.trained_T))) for e in picked]
    )
    labels = ids.masked_fill(~trained, -100)
    logits = model(input_ids=ids, attention_mask=(within < lengths).long()).logits
    nats = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    return nats / sum(map(trained_tokens, picked))


def bank_run(
    model: Any,
    specs: Sequence[AdapterSpec],
    training: Training,
    *,
    packed: bool = True,
    capacity: int = 1000,
    dropout: float = 0.0,
):
    """The same in one bank: losses [K][steps], norms [K][tensors], the optimizer, held-out sums [K, E]."""
    base = load_base(model, tokenizer=object())
    bank = start_of(model, specs)
    losses = []
    optimizer = BankOptimizer(bank, training.recipe, training.recipe.steps(len(training.examples)))
    with Forward(base, bank, packed=packed, dropout=dropout) as forward:
        for step, picked in enumerate(training.batches()):
            bank.zero_gradients()
            forward.dropout_seed = step
            loss_K = gradients(forward, picked, capacity)
            optimizer.step(loss_K)
            losses.append(loss_K.tolist())
        forward.dropout_seed = None
        held_out = evaluate(forward, training.held_out, capacity=capacity) if training.held_out else None
    norms = [
        [part[k].norm().item() for module in bank.modules for part in (module.master_a, module.master_b)]
        for k in range(len(specs))
    ]
    columns = [list(column) for column in zip(*losses, strict=True)]
    return columns, norms, optimizer, held_out
