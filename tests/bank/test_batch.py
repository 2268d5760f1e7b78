"""Examples laid end to end and taken apart again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.bank.batch import Batch, split_to_capacity, trained_tokens
from rightrank.data import TokenizedExample


def example(ids, trained):
    return TokenizedExample(np.array(ids, np.int32), np.array(trained, bool), "")


def of_length(length, seed=0):
    rng = np.random.default_rng([length, seed])
    return example(rng.integers(0, 1000, length), rng.random(length) < 0.5)


some_examples = st.lists(st.integers(1, 9), min_size=1, max_size=7).map(
    lambda lengths: [of_length(length, i) for i, length in enumerate(lengths)]
)


def test_two_examples_by_hand():
    batch = Batch.of([example([5, 6, 7], [1, 0, 1]), example([8, 9], [1, 1])])
    assert batch.token_ids_T.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.predicts_S.tolist() == [1, 3]  # first tokens are predicted by nothing
    assert batch.targets_S.tolist() == [7, 9]
    assert batch.example_S.tolist() == [0, 1]
    assert batch.pad_index_NL.tolist() == [[0, 1, 2], [3, 4, 4]]
    assert batch.unpad_index_T.tolist() == [0, 1, 2, 3, 4]
    assert (batch.lengths_N, batch.tokens, batch.trained_tokens, batch.first) == ((3, 2), 5, 2, 0)


@given(some_examples)
def test_unpadding_undoes_padding(examples):
    batch = Batch.of(examples)
    ids_NL = batch.token_ids_T[batch.pad_index_NL]
    assert torch.equal(ids_NL.flatten()[batch.unpad_index_T], batch.token_ids_T)
    for row, one in zip(ids_NL.tolist(), examples, strict=True):
        ids = one.token_ids_T.tolist()
        assert row == ids + [ids[-1]] * (len(row) - len(ids))


@given(some_examples)
def test_positions_and_targets_are_each_examples_own(examples):
    batch = Batch.of(examples)
    assert batch.position_ids_T.tolist() == [t for e in examples for t in range(len(e.token_ids_T))]
    wanted = [
        (n, int(e.token_ids_T[t - 1]), int(e.token_ids_T[t]))
        for n, e in enumerate(examples)
        for t in range(1, len(e.token_ids_T))
        if e.trained_T[t]
    ]
    before = batch.token_ids_T[batch.predicts_S].tolist()
    got = list(zip(batch.example_S.tolist(), before, batch.targets_S.tolist(), strict=True))
    assert got == wanted
    assert batch.trained_tokens == sum(map(trained_tokens, examples)) == len(wanted)


@given(some_examples)
def test_packing_leaves_the_examples_alone(examples):
    trained = [e.trained_T.copy() for e in examples]
    Batch.of(examples)
    assert all(np.array_equal(e.trained_T, t) for e, t in zip(examples, trained, strict=True))


@given(some_examples, st.integers(1, 30))
def test_groups_hold_whole_examples_in_order_up_to_the_capacity(examples, capacity):
    groups = list(split_to_capacity(examples, capacity))
    assert [e for group in groups for e in group] == examples
    sizes = [[len(e.token_ids_T) for e in group] for group in groups]
    assert all(sum(size) <= capacity or len(size) == 1 for size in sizes)
    for size, after in pairwise(sizes):
        assert sum(size) + after[0] > capacity, "no group is closed before it must"
