"""Examples laid end to end and taken apart again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightrank.bank.batch import Batch, shared_tokens, split_to_capacity, trained_tokens
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


def beginning(*ids, trained=0, then=(0, 1)):
    """An example of ``ids``, the last ``trained`` of them trained, and ``then`` a token with its flag."""
    return example([*ids, then[0]], [*[0] * (len(ids) - trained), *[1] * trained, then[1]])


def test_what_all_begin_with_stands_in_the_row_once():
    first, second = beginning(5, 6, 7, 8, then=(9, 1)), beginning(5, 6, 1, then=(2, 1))
    batch = Batch.of([first, second], shares=True)
    assert batch.shared == 2
    assert batch.token_ids_T.tolist() == [5, 6, 7, 8, 9, 1, 2]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 4, 2, 3]
    assert batch.predicts_S.tolist() == [3, 5]
    assert batch.targets_S.tolist() == [9, 2]
    assert batch.example_S.tolist() == [0, 1]
    assert batch.pad_index_NL.tolist() == [[0, 1, 2, 3, 4], [0, 1, 5, 6, 6]]
    assert batch.unpad_index_T.tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert (batch.lengths_N, batch.tokens, batch.trained_tokens) == ((5, 4), 7, 2)
    assert Batch.of([first, second]).shared == 0


@pytest.mark.parametrize(
    ("examples", "count"),
    [
        (
            [beginning(5, 6, 7), beginning(5, 6, 7)],
            2,
        ),  # the token that predicts the first trained one is each one's own
        ([beginning(5, 6, 7), beginning(5, 6, 7, trained=2)], 0),
        ([beginning(5, 6, 7, trained=3), beginning(5, 6, 7)], 0),  # trained from its first token on
        ([beginning(5, 6, 7)], 0),  # shares with nobody
        ([beginning(5, 6), beginning(4, 6)], 0),
        ([example([5, 6, 7], [0, 0, 0]), example([5, 6, 7], [0, 0, 0])], 2),  # one is left of each
        ([example([5], [0]), example([5, 6], [0, 1])], 0),
    ],
)
def test_tokens_are_shared_up_to_the_first_whose_loss_is_its_own(examples, count):
    assert shared_tokens(examples) == count


@given(some_examples, st.integers(0, 5))
def test_sharing_loses_no_token_and_no_target(examples, shared):
    examples = [
        example([*range(shared), *e.token_ids_T], [*[False] * shared, *e.trained_T]) for e in examples
    ]
    batch, apart = Batch.of(examples, shares=True), Batch.of(examples)
    assert torch.equal(batch.token_ids_T[batch.pad_index_NL], apart.token_ids_T[apart.pad_index_NL])
    assert torch.equal(batch.position_ids_T[batch.pad_index_NL], apart.position_ids_T[apart.pad_index_NL])
    assert torch.equal(batch.targets_S, apart.targets_S)
    assert torch.equal(batch.example_S, apart.example_S)
    assert torch.equal(batch.token_ids_T[batch.predicts_S], apart.token_ids_T[apart.predicts_S])
    assert apart.tokens - batch.tokens == batch.shared * (len(examples) - 1)
