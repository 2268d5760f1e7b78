"""The product that every adapter adds to its layer, against autograd of the formula written out."""

from __future__ import annotations

import pytest
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.products import LoraProduct, grouped_products_run_here
from rightrank.bank.targets import Target

I, O, T = 24, 32, 16  # noqa: E741
RAGGED = [(1, 8, 13), (5,), (0, 3, 16), (8, 0, 8)]
has_grouped = torch.cuda.is_available() and grouped_products_run_here(torch.device("cuda"), torch.bfloat16)


def random_bank(ranks, device="cpu", dtype=torch.float64):
    """A bank over two modules, the first of which has the ranks asked for."""
    specs = [AdapterSpec(2, 3.0 + k, 1e-3, ranks=(rank, 2)) for k, rank in enumerate(ranks)]
    bank = AdapterBank(
        [Target("here", I, O), Target("elsewhere", I, O)], specs, device=torch.device(device), dtype=dtype
    )
    generator = torch.Generator().manual_seed(0)
    for master in bank.masters:
        master.copy_(torch.randn(master.shape, generator=generator, dtype=torch.float64) / 4)
    bank.refresh()
    return bank


def plain(bank, x_KTI, dy_KTO):
    """y, dx, dA, dB of scale · (x Aᵀ) Bᵀ by autograd in float64, an adapter at a time."""
    module = bank.modules[0]
    results = []
    for k in range(len(bank.specs)):
        x = x_KTI[k].double().detach().requires_grad_()
        a = module.a_RI[module.rows(k)].double().detach().requires_grad_()
        b = module.b_RO[module.rows(k)].double().detach().requires_grad_()
        y = bank.specs[k].scale_of(0) * (x @ a.T) @ b
        y.backward(dy_KTO[k].double())
        results.append((y.detach(), x.grad, a.grad, b.grad))
    return results


def run(bank, grouped, dtype=torch.float64):
    device = bank.device
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(bank.specs), T, I, generator=generator, dtype=torch.float64).to(device, dtype)
    dy = torch.randn(len(bank.specs), T, O, generator=generator, dtype=torch.float64).to(device, dtype)
    x.requires_grad_()
    base = torch.randn(dy.shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
    anchor = torch.zeros((), requires_grad=True, device=device)
    y = LoraProduct.apply(x, base, anchor, bank.modules[0], grouped)
    y.backward(dy)
    assert torch.equal(base.grad, dy)
    return x, dy, y - base


@pytest.mark.parametrize("ranks", RAGGED)
def test_the_loop_equals_autograd(ranks):
    bank = random_bank(ranks)
    x, dy, y = run(bank, grouped=False)
    module = bank.modules[0]
    for k, (y_k, dx, da, db) in enumerate(plain(bank, x, dy)):
        torch.testing.assert_close(y[k], y_k, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(x.grad[k], dx, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(module.grad_a[k], da, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(module.grad_b[k], db, rtol=1e-12, atol=1e-13)
    assert not any(gradient.any() for gradient in bank.modules[1].grad_a), "only its own gradients"


def test_gradients_add_up():
    once, twice = random_bank((3, 8)), random_bank((3, 8))
    run(once, grouped=False)
    for _ in range(2):
        run(twice, grouped=False)
    for one, two in zip(once.gradients, twice.gradients, strict=True):
        torch.testing.assert_close(two, 2 * one, rtol=1e-14, atol=0)
    assert once.gradients[0].any()


def test_gradients_come_by_where_x_needs_none():
    bank = random_bank((4,))
    x, dy = torch.ones(1, T, I, dtype=torch.float64), torch.ones(1, T, O, dtype=torch.float64)
    base = torch.zeros_like(dy)
    LoraProduct.apply(x, base, torch.zeros((), requires_grad=True), bank.modules[0], False).backward(dy)
    for got, wanted in zip(
        (bank.modules[0].grad_a[0], bank.modules[0].grad_b[0]), plain(bank, x, dy)[0][2:], strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not has_grouped, reason="grouped matrix products need CUDA of compute capability 8 up")
@pytest.mark.parametrize("ranks", RAGGED)
def test_grouped_products_equal_autograd_but_for_bfloat16(ranks):
    bank = random_bank(ranks, "cuda", torch.bfloat16)
    x, dy, y = run(bank, grouped=True, dtype=torch.bfloat16)
    module = bank.modules[0]
    for k, wanted in enumerate(plain(bank, x, dy)):
        for got, truth in zip((y[k], x.grad[k], module.grad_a[k], module.grad_b[k]), wanted, strict=True):
            torch.testing.assert_close(
                got.double(), truth, rtol=0.03, atol=0.03 * float(truth.abs().max()) if truth.numel() else 0
            )
