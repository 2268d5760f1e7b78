"""The floor of token frequencies, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.data import TokenizedExample, token_frequency_loss
from rightrank.errors import DataError


def example(ids: list[int], trained: list[int]) -> TokenizedExample:
    return TokenizedExample(np.asarray(ids, np.int32), np.asarray(trained, bool), "")


def test_closed_form() -> None:
    # Trained and predicted: 1, 2, 2 (never the first token, nor the untrained 3). Vocabulary 4: counts 0, 1, 2, 0.
    train = [example([3, 1, 2], [0, 1, 1]), example([0, 3, 2], [1, 0, 1])]
    held_out = [example([2, 2, 1], [1, 1, 1]), example([1, 0, 3], [0, 0, 1]), example([1, 1], [1, 0])]
    total = 3 + 4 * 0.5
    expected = [-np.log(2.5 / total) - np.log(1.5 / total), -np.log(0.5 / total), 0.0]
    loss_E = token_frequency_loss(train, held_out, 4)
    assert loss_E.dtype == np.float64
    np.testing.assert_allclose(loss_E, expected, rtol=1e-12)


def test_without_training_data_every_token_is_equally_likely() -> None:
    loss_E = token_frequency_loss([], [example([0, 1, 2], [0, 1, 1])], 10)
    np.testing.assert_allclose(loss_E, [2 * np.log(10)])


def test_probabilities_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    train = [example(rng.integers(0, 7, 20).tolist(), rng.integers(0, 2, 20).tolist()) for _ in range(5)]
    every = [example([0, token], [0, 1]) for token in range(7)]
    assert np.exp(-token_frequency_loss(train, every, 7)).sum() == pytest.approx(1)


def test_tokens_beyond_the_vocabulary() -> None:
    with pytest.raises(DataError, match="token 9, but the model has only 9"):
        token_frequency_loss([], [example([0, 9], [0, 1])], 9)
