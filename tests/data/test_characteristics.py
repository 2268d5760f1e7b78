"""Characteristics of rows whose every token is known."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.data import TokenizedExample
from rightrank.data.characteristics import MOST_TOKENS, characteristics, compressed_bytes, of_all

RNG = np.random.default_rng(0)


def example(prompt: list[int], answer: list[int]) -> TokenizedExample:
    trained = [False] * len(prompt) + [True] * len(answer)
    return TokenizedExample(np.array(prompt + answer, dtype=np.int32), np.array(trained), "key")


def noise(length: int) -> list[int]:
    return [int(token) for token in RNG.integers(0, 256, length)]


def test_counts_by_hand() -> None:
    found = characteristics(
        [
            example([1, 2, 3], [2, 3, 4]),  # pairs (2, 3), (3, 4): the first is in the prompt
            example([1, 2, 3], [2, 3, 4]),
            example([5, 6], [6]),  # no pair: the token itself, which is in the prompt
            example([5, 6], [7]),
        ]
    )
    assert (found.examples, found.tokens, found.trained_tokens, found.distinct_answers) == (4, 18, 8, 3)
    assert found.copied_share == pytest.approx((1 + 1 + 1 + 0) / (2 + 2 + 1 + 1))
    assert found.distinct_share == 0.75
    assert found.trained_tokens_a_row == 2.0


def test_the_first_token_is_never_trained() -> None:
    whole = TokenizedExample(np.array([9, 8, 7], dtype=np.int32), np.ones(3, dtype=bool), "key")
    assert characteristics([whole]).trained_tokens == 2


def test_a_completion_that_repeats_its_prompt_says_nothing_new() -> None:
    prompts = [noise(60) for _ in range(100)]
    copies = characteristics([example(prompt, prompt) for prompt in prompts])
    fresh = characteristics([example(prompt, noise(60)) for prompt in prompts])
    assert copies.new_bits_a_token < 1
    assert 8 <= fresh.new_bits_a_token < 9.5  # one of 256 tokens: 8 bits of news
    assert copies.answer_bytes == pytest.approx(fresh.answer_bytes, rel=0.05)
    assert (copies.copied_share, fresh.copied_share < 0.01) == (1.0, True)


def test_rows_see_each_other_however_far_apart() -> None:
    """Beyond the 32 KiB that zlib looks back: 20,000 tokens of four bytes each."""
    far = np.array(noise(20_000), dtype=np.int32)
    assert compressed_bytes([far, far]) < 1.05 * compressed_bytes([far])


def test_features_by_hand() -> None:
    found = characteristics([example(noise(3), noise(4)) for _ in range(8)]).features(epochs=4.0)
    assert (found["rows_seen"], found["epochs"], found["tokens_a_row"]) == (5.0, 2.0, 2.0)


def test_a_large_data_set_is_looked_at_in_part_and_carried_on() -> None:
    rows = [example(noise(6), noise(4)) for _ in range(50)]
    carried = of_all(rows, 500)
    assert (carried.examples, carried.tokens, carried.trained_tokens) == (500, 5_000, 2_000)
    assert carried.new_bits_a_token == pytest.approx(characteristics(rows).new_bits_a_token, rel=0.01)
    long = [example(noise(1), noise(MOST_TOKENS // 2 - 1)) for _ in range(3)]
    assert of_all(long, 3).new_bytes == pytest.approx(characteristics(long[:2]).new_bytes * 1.5, rel=0.01)
