"""Held-out loss and greedy accuracy, against a plain loop over the examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.step import gradients
from rightrank.bank.targets import find_targets
from rightrank.data import TokenizedExample
from tiny import plain_logits, plain_losses, random_examples, tiny_base

EXAMPLES = random_examples(9)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def merged(base, bank, k):
    """The base with one adapter added to its weights."""
    import copy

    model = copy.deepcopy(base.model)
    named = dict(model.named_modules())
    for index, module in enumerate(bank.modules):
        update = bank.specs[k].scale_of(index) * module.master_b[k].t() @ module.master_a[k]
        with torch.no_grad():
            named[module.target.name].weight += update
    return model


def moved_bank(base):
    specs = [AdapterSpec(2, 4, 1e-3), AdapterSpec(9, 9, 1e-3)]
    bank = AdapterBank(find_targets(base.model), specs, device=base.device, dtype=base.dtype)
    torch.manual_seed(1)
    for master in bank.masters:
        master.normal_(0, 0.2)
    bank.refresh()
    return bank


@pytest.mark.parametrize("packed", [True, False])
def test_losses_and_hits_equal_a_plain_loop(base, packed):
    bank = moved_bank(base)
    with Forward(base, bank, packed=packed) as forward:
        held_out = evaluate(forward, EXAMPLES, capacity=20)
    for k in range(2):
        model = merged(base, bank, k)
        losses = [loss.sum().item() for loss in plain_losses(model, EXAMPLES)]
        greedy = [plain_logits(model, e).argmax(-1) for e in EXAMPLES]
        hits = [
            sum(int(g[t - 1] == e.token_ids_T[t]) for t in range(1, len(g)) if e.trained_T[t])
            for g, e in zip(greedy, EXAMPLES, strict=True)
        ]
        assert held_out.loss_KE[k] == pytest.approx(losses, rel=1e-10)
        assert held_out.right_KE[k].tolist() == hits


def test_some_tokens_are_right(base):
    """Examples that continue as the model itself would: every trained token is greedy."""
    examples = []
    for e in EXAMPLES:
        ids = e.token_ids_T.copy()
        for t in np.flatnonzero(e.trained_T[1:]) + 1:
            ids[t] = plain_logits(base.model, TokenizedExample(ids[:t], e.trained_T[:t], ""))[-1].argmax()
        examples.append(TokenizedExample(ids, e.trained_T, ""))
    with Forward(base) as forward:
        held_out = evaluate(forward, examples, capacity=30)
    assert held_out.right_KE[0].tolist() == [e.trained_tokens for e in examples]


def test_the_capacity_changes_nothing(base):
    with Forward(base, moved_bank(base)) as forward:
        whole, small = (evaluate(forward, EXAMPLES, capacity=c) for c in (10_000, 1))
    np.testing.assert_allclose(small.loss_KE, whole.loss_KE, rtol=1e-12)
    np.testing.assert_array_equal(small.right_KE, whole.right_KE)


def test_examples_without_trained_tokens_cost_nothing(base):
    """Trained on the first token alone, or on none: no loss, no NaN, whatever group they are in."""
    empty = TokenizedExample(np.array([5, 6, 7], np.int32), np.array([True, False, False]), "")
    lone = TokenizedExample(np.array([5], np.int32), np.array([True]), "")
    with Forward(base) as forward:
        apart = evaluate(forward, [empty, EXAMPLES[0], lone], capacity=1)
        together = evaluate(forward, [empty, EXAMPLES[0], lone], capacity=1000)
    for held_out in (apart, together):
        assert np.isfinite(held_out.loss_KE).all()
        assert held_out.loss_KE[0, [0, 2]].tolist() == [0.0, 0.0]
        assert held_out.loss_KE[0, 1] > 0
        assert held_out.right_KE[0, [0, 2]].tolist() == [0, 0]


def test_progress_counts_every_example(base):
    heard: list[int] = []
    with Forward(base) as forward:
        evaluate(forward, EXAMPLES, capacity=20, on_rows=heard.append)
    assert sum(heard) == len(EXAMPLES) and len(heard) > 1


def test_many_logits_are_taken_in_pieces(base, monkeypatch):
    """The head never sees more positions at once than the limit allows; loss and gradients stay."""
    from rightrank.bank import forward as module
    from rightrank.bank.step import gradients

    def losses_and_gradients():
        bank = moved_bank(base)
        with Forward(base, bank) as forward:
            loss_K = gradients(forward, EXAMPLES, 1000)
        return loss_K, bank.gradients

    whole = losses_and_gradients()
    sizes: list[int] = []
    run_head = module.run_head
    monkeypatch.setattr(module, "LOGITS_ON_CPU", 7 * base.vocabulary)
    monkeypatch.setattr(
        module, "run_head", lambda model, x, kind: sizes.append(x.shape[1]) or run_head(model, x, kind)
    )
    pieces = losses_and_gradients()
    assert max(sizes) == 7
    torch.testing.assert_close(pieces[0], whole[0], rtol=1e-12, atol=0)
    for a, b in zip(pieces[1], whole[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shares", [False, True])
def test_training_and_judging_share_where_they_are_told_to(base, monkeypatch, shares):
    """What all six begin with is in a row once, or six times."""
    examples, seen = random_examples(6, shared=8), []
    bank = moved_bank(base)
    with Forward(base, bank, shares=shares) as forward:
        own = forward.token_losses
        monkeypatch.setattr(forward, "token_losses", lambda batch: seen.append(batch.tokens) or own(batch))
        gradients(forward, examples, 1000)
        evaluate(forward, examples, capacity=1000)
    tokens = sum(len(e.token_ids_T) for e in examples)
    assert seen == [tokens - (5 * 8 if shares else 0)] * 2
