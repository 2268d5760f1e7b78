"""Examples laid end to end: a row of tokens without padding, and what is needed to take it apart again.

Tokens that all examples begin with, such as a chat template's and a system prompt's, may stand in the row once, at its beginning: a
causal model computes the same for them in every example.

Dimensions: T tokens of the row, N examples in it, L longest of them, S positions whose next token is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Int

    from rightrank.data import TokenizedExample


@dataclass(frozen=True)
class Batch:
    """Some examples as one packed row. Every adapter of a bank sees the same row."""

    token_ids_T: Int[Tensor, " T"]
    position_ids_T: Int[Tensor, " T"]
    """Restarting at 0 with every example."""
    lengths_N: tuple[int, ...]
    predicts_S: Int[Tensor, " S"]
    """Positions in the row whose *next* token is trained."""
    targets_S: Int[Tensor, " S"]
    """Those next tokens."""
    example_S: Int[Tensor, " S"]
    """Which of the N examples they belong to."""
    pad_index_NL: Int[Tensor, "N L"]
    """Position in the row of each token of a padded [N, L] view; padding points at the example's own last token."""
    unpad_index_T: Int[Tensor, " T"]
    """Position in the flattened padded view of each token of the row; of a shared one, its position in the first example."""
    first: int = 0
    """Place of its first example in the recipe's batch, of which it may be a part."""
    shared: int = 0
    """Tokens that all examples begin with and that stand in the row once."""

    @classmethod
    def of(
        cls,
        examples: Sequence[TokenizedExample],
        device: torch.device | str = "cpu",
        *,
        first: int = 0,
        shares: bool = False,
    ) -> Batch:
        """Pack ``examples`` in the order given. ``shares``: with what they all begin with only once."""
        shared = shared_tokens(examples) if shares else 0
        lengths = np.array([len(example.token_ids_T) for example in examples])
        skipped = np.array([0, *[shared] * (len(examples) - 1)])
        own = lengths - skipped
        starts = np.cumsum(own) - own
        within = np.arange(int(lengths.max()))[None, :]
        place = np.minimum(within, lengths[:, None] - 1)
        pad_index = np.where(place < skipped[:, None], place, (starts - skipped)[:, None] + place)
        unpad_index = np.flatnonzero(((within < lengths[:, None]) & (within >= skipped[:, None])).ravel())
        token_ids, trained, positions = laid_out(examples, skipped)
        labels = np.flatnonzero(trained)
        owner = np.repeat(np.arange(len(examples)), own)

        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device, non_blocking=True)

        return cls(
            token_ids_T=put(token_ids),
            position_ids_T=put(positions),
            lengths_N=tuple(int(length) for length in lengths),
            predicts_S=put(labels - 1),
            targets_S=put(token_ids[labels]),
            example_S=put(owner[labels]),
            pad_index_NL=put(pad_index),
            unpad_index_T=put(unpad_index),
            first=first,
            shared=shared,
        )

    @property
    def tokens(self) -> int:
        """Tokens in the row."""
        return len(self.token_ids_T)

    @property
    def trained_tokens(self) -> int:
        """Tokens the loss is taken on."""
        return len(self.targets_S)


def laid_out(
    examples: Sequence[TokenizedExample], skipped: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, whether each is trained, and its position, of a row of ``examples`` without the first tokens ``skipped`` of each."""
    parts = list(zip(examples, skipped, strict=True))
    token_ids = np.concatenate([example.token_ids_T[skip:] for example, skip in parts]).astype(np.int64)
    trained = np.concatenate([_predicted(example)[skip:] for example, skip in parts])
    positions = np.concatenate([np.arange(skip, len(example.token_ids_T)) for example, skip in parts])
    return token_ids, trained, positions


def _predicted(example: TokenizedExample) -> np.ndarray:
    """Trained tokens, but for the first, which nothing predicts."""
    trained_T = np.array(example.trained_T, dtype=bool)
    trained_T[:1] = False
    return trained_T


def shared_tokens(examples: Sequence[TokenizedExample]) -> int:
    """How many tokens all ``examples`` begin with, up to the one that predicts the first trained token of any: its loss is each one's own.

    0 for a single example, which shares with nobody.
    """
    if len(examples) < 2:
        return 0
    first, *others = examples
    count = max(0, min(_untrained(example) for example in examples) - 1)
    for example in others:
        differ = np.flatnonzero(first.token_ids_T[:count] != example.token_ids_T[:count])
        count = int(differ[0]) if len(differ) else count
    return count


def _untrained(example: TokenizedExample) -> int:
    """Tokens before the first trained one, or all."""
    trained = np.flatnonzero(_predicted(example))
    return int(trained[0]) if len(trained) else len(example.token_ids_T)


def trained_tokens(example: TokenizedExample) -> int:
    """Tokens of ``example`` that the loss is taken on: its first token is never predicted."""
    return int(example.trained_T[1:].sum())


def split_to_capacity(
    examples: Sequence[TokenizedExample], capacity: int
) -> Iterator[list[TokenizedExample]]:
    """Consecutive examples grouped so that no group has more than ``capacity`` tokens, unless one example alone does."""
    group: list[TokenizedExample] = []
    tokens = 0
    for example in examples:
        length = len(example.token_ids_T)
        if group and tokens + length > capacity:
            yield group
            group, tokens = [], 0
        group.append(example)
        tokens += length
    if group:
        yield group
