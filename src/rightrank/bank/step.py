"""One optimiser step for every adapter, and a whole run of them.

Dimensions: K adapters, S trained tokens of a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rightrank.bank.batch import Batch, split_to_capacity, trained_tokens
from rightrank.bank.optimizer import BankOptimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.forward import Forward
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """What a run leaves beside the adapters themselves."""

    train_loss_K: tuple[float | None, ...]
    """Training nats a token over the last tenth of the steps; None where the adapter diverged."""
    diverged_K: tuple[bool, ...]
    steps: int
    tokens: int
    """Tokens each adapter saw."""


def gradients(forward: Forward, examples: Sequence[TokenizedExample], capacity: int) -> Float[Tensor, " K"]:
    """Add every adapter's gradient of the batch's mean loss to its gradient vector; returns those losses, nats a token.

    The batch runs in micro-batches of at most ``capacity`` tokens a row and is normalised by all its trained tokens, so that the
    split changes nothing but rounding.
    """
    total = sum(trained_tokens(example) for example in examples)
    device = forward.base.device
    loss_K = torch.zeros(forward.adapters, device=device, dtype=torch.float64)
    place = 0
    for group in split_to_capacity(examples, capacity):
        batch = Batch.of(group, device, first=place, shares=forward.shares)
        place += len(group)
        if not batch.trained_tokens:
            continue
        loss_KS, _ = forward.token_losses(batch)
        share_K = loss_KS.sum(1) / max(1, total)
        share_K.sum().backward()
        loss_K += share_K.detach()
    return loss_K


def batches(examples: int, recipe: Recipe, seed: int) -> Iterator[list[int]]:
    """Indices of each step's examples: a fresh permutation every pass, as Trainer goes through a data set.

    The order depends on ``seed`` and the number of examples alone, so that all configurations see the same batches.
    """
    steps = recipe.steps(examples)
    generator = torch.Generator().manual_seed(seed)
    given = 0
    while given < steps:
        order = torch.randperm(examples, generator=generator).tolist()
        for start in range(0, examples, recipe.batch_size):
            if given == steps:
                return
            yield order[start : start + recipe.batch_size]
            given += 1


def train(
    forward: Forward,
    bank: AdapterBank,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    *,
    seed: int,
    capacity: int,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
    look_after: Collection[int] = (),
    on_look: Callable[[int, Float[Tensor, " K"]], None] = lambda done, loss_K: None,
) -> Trained:
    """Train every adapter of ``bank`` on ``examples`` by the whole ``recipe``.

    ``on_step(done, steps)`` is called after each update, ``on_look(done, loss_K)`` after those in ``look_after``, with the training
    nats a token since the look before; it may run ``forward``, but not train.
    """
    steps = recipe.steps(len(examples))
    optimizer = BankOptimizer(bank, recipe, steps)
    tail: list[tuple[int, Tensor]] = []
    since: list[tuple[int, Tensor]] = []
    tokens = 0
    for done, chosen in enumerate(batches(len(examples), recipe, seed), start=1):
        picked = [examples[i] for i in chosen]
        bank.zero_gradients()
        forward.dropout_seed = seed * 1_000_003 + done
        loss_K = gradients(forward, picked, capacity)
        optimizer.step(loss_K)
        count = sum(trained_tokens(example) for example in picked)
        tokens += sum(len(example.token_ids_T) for example in picked)
        if done > steps - max(1, math.ceil(steps / 10)):
            tail.append((count, loss_K))
        if look_after:
            since.append((count, loss_K))
        if done in look_after:
            forward.dropout_seed = None
            on_look(done, _mean(since))
            since.clear()
        on_step(done, steps)
    forward.dropout_seed = None
    mean_K = _mean(tail).tolist()
    return Trained(
        train_loss_K=tuple(
            None if bad else value for bad, value in zip(optimizer.diverged, mean_K, strict=True)
        ),
        diverged_K=tuple(optimizer.diverged),
        steps=steps,
        tokens=tokens,
    )


def _mean(losses: Sequence[tuple[int, Tensor]]) -> Float[Tensor, " K"]:
    """Mean of (trained tokens, nats a token of every adapter), weighted by the tokens."""
    weight = sum(count for count, _ in losses)
    total_K: Tensor = torch.stack([count * loss_K for count, loss_K in losses]).sum(0)
    return total_K / max(1, weight)
