"""The loss of knowing only how often each token occurs: a floor that training has to beat.

E held-out examples, V tokens of the vocabulary, S trained tokens of all examples one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rightrank.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64, Int64

    from rightrank.data.tokens import TokenizedExample

SMOOTHING = 0.5
"""Added to every token's count: the Jeffreys prior, under which an unseen token is improbable and not
impossible."""


def token_frequency_loss(
    train: Sequence[TokenizedExample], held_out: Sequence[TokenizedExample], vocabulary: int
) -> Float64[np.ndarray, " E"]:
    """Nats of each held-out example under the token frequencies of ``train``, summed over its trained tokens.

    Only tokens that a loss is taken on count, on both sides, so never an example's first.
    Raises DataError where a token is beyond the ``vocabulary``.
    """
    count_V = np.bincount(_trained_ids(train, vocabulary), minlength=vocabulary) + SMOOTHING
    nats_V = np.log(count_V.sum()) - np.log(count_V)
    nats_S = nats_V[_trained_ids(held_out, vocabulary)]
    example_S = np.repeat(np.arange(len(held_out)), [example.trained_tokens for example in held_out])
    return np.bincount(example_S, weights=nats_S, minlength=len(held_out))


def _trained_ids(examples: Sequence[TokenizedExample], vocabulary: int) -> Int64[np.ndarray, " S"]:
    pieces = [example.token_ids_T[1:][example.trained_T[1:]] for example in examples]
    ids_S = np.concatenate([np.empty(0, dtype=np.int64), *pieces]).astype(np.int64)
    if ids_S.size and int(ids_S.max()) >= vocabulary:
        problem = f"The tokenizer yields token {int(ids_S.max())}, but the model has only {vocabulary}."
        raise DataError(problem, "Use the tokenizer that belongs to the model.")
    return ids_S
