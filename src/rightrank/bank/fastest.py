"""The fastest way to train, or to judge, that computes on this model what the plain steps do, found by trying."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.batch import shared_tokens
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.fused import fused_products_run_here
from rightrank.bank.graphs import CaptureError, GraphedSteps, in_one_line, split
from rightrank.bank.static import StaticForward
from rightrank.bank.step import gradients
from rightrank.bank.update import FlatUpdate, working_copy
from rightrank.bank.verify import TOLERANCE_NATS
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.verify import Path, Way
    from rightrank.data import TokenizedExample

# Distance of two ways' gradients, as a share of their length. Measured on SmolLM2-135M in bfloat16: 0.04 between the plain steps and
# float32, 0.04 between the graphs and float32, 0.05 between the two. A missing scale or a wrong mask: above 0.5.
APART = 0.2
SHORT = 512
"""Tokens that a trial runs on."""
PROBES = (AdapterSpec(4, 8.0, 0.0), AdapterSpec(16, 16.0, 0.0))
WAYS: tuple[tuple[Way, str], ...] = (
    ("compiled", "captured steps of compiled layers"),
    ("captured", "captured steps"),
)


def fastest_way(
    base: BaseModel, path: Path, examples: Sequence[TokenizedExample], recipe: Recipe, longest: int
) -> Path:
    """``path`` with the fastest way to train that serves model, recipe and device, and in words why it is no faster one.

    Tried on a few ``examples``, by the kernels that examples of ``longest`` tokens will run by.
    A CPU has one way, and says nothing of it.
    """
    if base.device.type != "cuda":
        return path
    why = _ruled_out(base, path, dropout=recipe.dropout)
    if why:
        return replace(path, words=f"{path.words}, steps one by one ({why})")
    failed = []
    for way, words in WAYS:
        try:
            loss, gradient = _apart(base, examples, way, longest, shares=path.shares)
        except CaptureError as error:
            failed.append(f"{words} failed: {error}")
            continue
        except torch.cuda.OutOfMemoryError:
            failed.append(f"{words}: too little memory")
            continue
        if loss <= TOLERANCE_NATS[base.dtype] and gradient <= APART:
            return replace(path, way=way, words=f"{path.words}, {'; '.join([words, *failed])}")
        failed.append(f"{words} differ: {loss:.2g} nats, gradient {gradient:.2g}")
    return replace(path, words=f"{path.words}, steps one by one, slower ({'; '.join(failed)})")


def fastest_judging(base: BaseModel, path: Path, examples: Sequence[TokenizedExample], longest: int) -> Path:
    """As ``fastest_way`` where nothing is trained: all adapters behind each other in one row, or one by one.

    No layer is compiled, which takes longer than a race of cuts on a small model (``bench/cuts.py time``).
    """
    if base.device.type != "cuda":
        return path
    why = _ruled_out(base, path)
    if not why:
        try:
            loss = _judged_apart(base, examples, longest, shares=path.shares)
        except torch.cuda.OutOfMemoryError:
            why = "too little memory"
        except Exception as error:  # as for a capture: PyTorch and a model's own code raise what they like
            why = in_one_line(error)
        else:
            if loss <= TOLERANCE_NATS[base.dtype]:
                return replace(path, way="captured", words=f"{path.words}, adapters side by side")
            why = f"side by side they differ: {loss:.2g} nats"
    return replace(path, words=f"{path.words}, adapters one by one, slower ({why})")


def _ruled_out(base: BaseModel, path: Path, dropout: float = 0.0) -> str:
    """Why nothing faster is even tried; empty where nothing speaks against it."""
    if not path.packed:
        return "rows are padded"
    if dropout:
        return "LoRA dropout is drawn anew at every step"
    if not fused_products_run_here(base.device, base.dtype):
        return f"no kernels for {base.dtype_name} here"
    return ""


def _apart(
    base: BaseModel, examples: Sequence[TokenizedExample], way: Way, longest: int, *, shares: bool = False
) -> tuple[float, float]:
    """Worst distances of loss (nats a token) and gradient (a share of its length) from the plain step's, over two small adapters."""
    examples = _short_and_alike(examples) if shares else short(examples)
    tokens = sum(len(example.token_ids_T) for example in examples)
    plain, graphed = (_noisy_bank(base, products) for products in (True, False))
    with Forward(base, plain) as forward:
        wanted_K = gradients(forward, examples, tokens)
    update = FlatUpdate(graphed, Recipe(), 1)
    work = split(examples, tokens, shares=shares)
    compiled = way == "compiled"
    steps = GraphedSteps(base, graphed, update, work, compiled=compiled, shares=shares, longest=longest)
    for micro in work:
        steps.micro_step(micro)
    pairs = zip(graphed.gradients, plain.gradients, strict=True)
    gradient = max(((one - other).norm() / other.norm()).item() for one, other in pairs)
    return (update.loss_K - wanted_K).abs().max().item(), gradient


def _judged_apart(
    base: BaseModel, examples: Sequence[TokenizedExample], longest: int, *, shares: bool = False
) -> float:
    """Worst distance of the held-out loss, nats a token, from the plain way's, over two small adapters."""
    examples = _short_and_alike(examples) if shares else short(examples)
    tokens = sum(len(example.token_ids_T) for example in examples)
    plain, static = (_noisy_bank(base, products) for products in (True, False))
    side_by_side = StaticForward(base, static, working_copy(static), longest=longest, shares=shares)
    loss_K = []
    for judge in (Forward(base, plain), side_by_side):
        with judge as forward:
            loss_K.append(evaluate(forward, examples, capacity=tokens).loss_KE.sum(1))
    trained = sum(example.trained_tokens for example in examples)
    return float(np.abs(loss_K[1] - loss_K[0]).max()) / trained


def short(examples: Sequence[TokenizedExample], tokens: int = SHORT) -> list[TokenizedExample]:
    """As many of the shortest of ``examples`` as have ``tokens`` tokens together, or the end of one: trials need little memory."""
    taken: list[TokenizedExample] = []
    for example in sorted(examples, key=lambda example: len(example.token_ids_T)):
        tokens -= len(example.token_ids_T)
        if tokens < 0:
            break
        taken.append(example)
    first = examples[0]
    return taken or [
        replace(first, token_ids_T=first.token_ids_T[-SHORT:], trained_T=first.trained_T[-SHORT:])
    ]


def _short_and_alike(examples: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """``short``, or where that leaves too few to share anything, the beginnings and ends of the two shortest."""
    taken = short(examples)
    if shared_tokens(taken):
        return taken
    two = sorted(examples, key=lambda example: len(example.token_ids_T))[:2]
    beginning, end = min(shared_tokens(two), SHORT // 4), SHORT // 4

    def cut(array_T: np.ndarray) -> np.ndarray:
        return np.concatenate([array_T[:beginning], array_T[max(beginning, len(array_T) - end) :]])

    return [replace(e, token_ids_T=cut(e.token_ids_T), trained_T=cut(e.trained_T)) for e in two]


def _noisy_bank(base: BaseModel, products: bool) -> AdapterBank:
    bank = AdapterBank(base.targets, PROBES, device=base.device, dtype=base.dtype, products=products)
    draw = torch.Generator(base.device).manual_seed(0)
    for master in bank.masters:
        noise = torch.randn(master.shape, generator=draw, device=master.device, dtype=master.dtype)
        master.add_(noise, alpha=0.02)
    bank.refresh()
    return bank
