"""The loss in pieces against autograd of the whole."""

from __future__ import annotations

import pytest
import torch

from rightrank.bank.head_loss import HeadLoss, judge, nats

M, H, V = 11, 6, 17


def case(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(M, H, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(V, (M,), generator=generator)
    scale = torch.rand(M, generator=generator, dtype=torch.float64)
    return rows, targets, scale, lambda x: torch.tanh(x @ weight.T) * 5  # a soft cap: no plain linear map


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_pieces_equal_the_whole_and_their_gradient_is_autograds(size):
    rows, targets, scale, head = case()
    one, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    pieces = HeadLoss.apply(one * 2, targets, head, size)
    whole = -head(other * 2).log_softmax(-1)[torch.arange(M), targets]
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=0)
    (pieces * scale).sum().backward()
    (whole * scale).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-14)


def test_no_more_logits_than_a_piece_are_made_at_once():
    rows, targets, _, head = case()
    seen = []
    HeadLoss.apply(rows.requires_grad_(), targets, lambda x: seen.append(len(x)) or head(x), 4)
    assert seen == [4, 4, 3]


def test_half_numbers_are_widened_and_come_back_half():
    rows, targets, _, head = case(torch.bfloat16)
    rows.requires_grad_()
    loss = HeadLoss.apply(rows, targets, head, 4)
    loss.sum().backward()
    assert (loss.dtype, rows.grad.dtype) == (torch.float32, torch.bfloat16)
    wide, _, _, _ = case()
    exact, _ = judge(wide, targets, lambda x: head(x.bfloat16()).double(), 4)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_greedy_choice_is_judged_without_gradients():
    rows, _, _, head = case()
    best = head(rows).argmax(-1)
    mixed = torch.where(torch.arange(M) % 2 == 0, best, (best + 1) % V)
    loss, right = judge(rows.requires_grad_(), mixed, head, 3)
    assert right.tolist() == [1 - i % 2 for i in range(M)]
    assert not loss.requires_grad
    torch.testing.assert_close(loss, nats(head(rows), mixed).detach())


def test_no_rows_are_no_loss():
    rows, targets, _, head = case()
    empty = rows[:0].requires_grad_()
    loss = HeadLoss.apply(empty, targets[:0], head, 4)
    loss.sum().backward()
    assert loss.shape == (0,) and empty.grad.shape == (0, H)
    assert [part.numel() for part in judge(rows[:0], targets[:0], head, 4)] == [0, 0]
