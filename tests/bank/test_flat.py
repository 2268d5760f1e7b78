"""Where adapters lie in the flat vectors, and the products over them: by hand and against autograd."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from rightrank.bank.adapters import AdapterSpec
from rightrank.bank.flat import (
    ALIGNED,
    BLOCK,
    ROWS_A_TILE,
    Layout,
    adapters_in,
    are_one,
    layout_of,
    plan_flat,
)
from rightrank.bank.fused import add_lora, linear
from rightrank.bank.targets import Target

I, O, T = 12, 20, 7  # noqa: E741
TARGETS = (Target("a", I, O), Target("b", O, I))
SPECS = (
    AdapterSpec(1, 2.0, 1e-3),
    AdapterSpec(8, 3.0, 1e-3),
    AdapterSpec(8, 1.0, 1e-3, ranks=(0, 4)),
    AdapterSpec(70, 9.0, 1e-3),
)
CPU = torch.device("cpu")


def test_no_two_matrices_overlap_and_each_begins_where_kernels_want_it() -> None:
    plan = plan_flat(TARGETS, SPECS)
    spans = []
    for index, target in enumerate(TARGETS):
        for k, (a, b) in enumerate(plan.places[index]):
            rank = SPECS[k].rank_of(index)
            spans += [(a, a + rank * target.width_in), (b, b + rank * target.width_out)]
    assert all(begin % ALIGNED == 0 for begin, _ in spans)
    used = sorted(span for span in spans if span[0] < span[1])
    assert all(one[1] <= other[0] for one, other in pairwise(used))
    assert used[-1][1] <= plan.total


def test_a_block_of_the_update_belongs_to_one_adapter() -> None:
    plan = plan_flat(TARGETS, SPECS)
    assert plan.total % BLOCK == 0
    owners: dict[int, int] = {}
    for k, (begin, length) in enumerate(zip(plan.begins_K, plan.lengths_K, strict=True)):
        for block in range(begin // BLOCK, -(-(begin + length) // BLOCK)):
            assert owners.setdefault(block, k) == k


def test_tiles_cover_every_row_once_and_end_in_one_of_no_rows() -> None:
    layout = layout_of((0,), SPECS, plan_flat(TARGETS, SPECS), CPU)
    assert adapters_in(layout.tables) == len(SPECS)
    assert all(torch.equal(one, other) for one, other in zip(layout.a[1:], layout.b[0][1:], strict=True))
    covered = [
        (k, row)
        for k, first, rank, _ in layout.a.tiles_N4.tolist()
        for row in range(first, min(rank, first + ROWS_A_TILE))
    ]
    assert sorted(covered) == [(k, row) for k, spec in enumerate(SPECS) for row in range(spec.rank_of(0))]
    assert layout.a.tiles_N4[-1].tolist() == [0, 0, 0, 0]
    assert layout.a.starts_K2.tolist() == [[0, 1], [8, 8], [16, 0], [16, 70], [88, 0]]
    assert len(layout.scale_R) == 88


def test_layers_of_a_group_lie_side_by_side_in_h_each_row_with_its_own_scale() -> None:
    targets = (Target("a", I, O), Target("b", I, 4))
    plan = plan_flat(targets, SPECS)
    layout = layout_of((0, 1), SPECS, plan, CPU)
    assert layout.a.starts_K2.tolist() == [[0, 2], [8, 16], [24, 4], [32, 140], [176, 0]]
    assert layout.b[0].starts_K2.tolist() == [[0, 1], [8, 8], [24, 0], [32, 70], [176, 0]]
    assert layout.b[1].starts_K2.tolist() == [[1, 1], [16, 8], [24, 4], [102, 70], [176, 0]]
    assert layout.scale_R[[0, 1, 8, 23, 24, 27, 32, 171]].tolist() == [
        2,
        2,
        3 / 8,
        3 / 8,
        1 / 4,
        1 / 4,
        9 / 70,
        9 / 70,
    ]
    assert Layout.of(layout.tables) == layout
    assert are_one((0, 1), targets, SPECS, plan_flat(targets, SPECS, 1))
    assert not are_one((0, 1), targets, SPECS, plan), "a gap after 12 numbers"


@pytest.mark.parametrize("owns", [True, False], ids=["linear", "add"])
def test_products_and_gradients_are_those_of_autograd(owns: bool) -> None:
    plan = plan_flat(TARGETS, SPECS)
    tables = layout_of((0,), SPECS, plan, CPU).tables
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    working, x, weight, bias = normal(plan.total), normal(len(SPECS) * T, I), normal(O, I), normal(O)
    dy, gradient = normal(len(SPECS) * T, O), torch.ones(plan.total, dtype=torch.float64)

    mine = x.clone().requires_grad_()
    if owns:
        y, _ = linear(mine, [weight], bias, [O], working, gradient, tables)
    else:
        y, _ = add_lora([F.linear(mine, weight, bias)], mine, working, gradient, tables)
    y.backward(dy)

    plain, numbers = x.clone().requires_grad_(), working.clone().requires_grad_()
    rows = []
    for k, spec in enumerate(SPECS):
        rank, (a, b) = spec.rank_of(0), plan.places[0][k]
        a_rI, b_rO = numbers[a : a + rank * I].view(rank, I), numbers[b : b + rank * O].view(rank, O)
        part = plain[k * T : (k + 1) * T]
        rows.append(F.linear(part, weight, bias) + spec.scale_of(0) * (part @ a_rI.T) @ b_rO)
    wanted = torch.cat(rows)
    wanted.backward(dy)
    assert torch.allclose(y, wanted, rtol=1e-12)
    assert mine.grad is not None
    assert plain.grad is not None
    assert numbers.grad is not None
    assert torch.allclose(mine.grad, plain.grad, rtol=1e-12)
    assert torch.allclose(gradient, 1 + numbers.grad, rtol=1e-12)  # added to what was there
