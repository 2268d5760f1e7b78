"""Rows of fixed size: what lies in them, and which sizes a run captures."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.bank.rows import CAPTURE, STEP, Shape, StaticRow, choose_shapes, fitting
from rightrank.bank.step import trained_tokens
from tiny import random_examples

ROOM = 64


def test_rows_have_one_sequence_an_example_one_for_the_filling_and_empty_ones() -> None:
    examples = random_examples(2)
    one, two = (len(e.token_ids_T) for e in examples)
    row = StaticRow.empty(Shape(ROOM, ROOM), 2, 3, torch.device("cpu"))
    row.fill(examples, 2, 4)
    mine = [0, one, one + two, ROOM]
    assert row.ends_N.tolist() == [*mine, *(ROOM + place for place in mine), 2 * ROOM]
    assert row.position_ids_C[: one + 1].tolist() == [*range(one), 0]
    count = sum(trained_tokens(e) for e in examples)
    assert row.weight_S.tolist() == [0.25] * count + [0.0] * (ROOM - count)
    assert row.token_ids_C[row.predicts_S[:count] + 1].tolist() == row.targets_S[:count].tolist()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_every_micro_batch_has_a_shape_it_fits_into_and_filling_stays_cheap(sizes: list[int]) -> None:
    needs = [Shape(size * STEP, (1 + size % 3) * STEP, size % 5 * STEP) for size in sizes]
    shapes = choose_shapes(needs)
    assert shapes == sorted(shapes, key=lambda shape: shape.tokens)
    for need in needs:
        chosen = fitting(shapes, need)
        assert chosen.tokens >= need.tokens
        assert chosen.predicted >= need.predicted
        assert chosen.spared >= need.spared

    def cost(chosen: list[Shape]) -> int:
        runs = [fitting(chosen, need) for need in needs] + CAPTURE * chosen
        return sum(shape.tokens + shape.spared for shape in runs)

    one = [Shape(max(n.tokens for n in needs), 3 * STEP, max(n.spared for n in needs))]
    each = [Shape(n.tokens, 3 * STEP, n.spared) for n in sorted(set(needs), key=lambda n: n.tokens)]
    assert cost(shapes) <= min(cost(one), cost(each))
