"""Examples laid end to end: a row of tokens without padding, and what is needed to take it apart again.

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
    """Position in the flattened padded view of each token of the row."""
    first: int = 0
    """Place of its first example in the recipe's batch, of which it may be a part."""

    @classmethod
    def of(
        cls, examples: Sequence[TokenizedExample], device: torch.device | str = "cpu", *, first: int = 0
    ) -> Batch:
        """Pack ``examples`` in the order given."""
        lengths = np.array([len(example.token_ids_T) for example in examples])
        starts = np.cumsum(lengths) - lengths
        longest = int(lengths.max())
        within = np.arange(longest)
        pad_index = starts[:, None] + np.minimum(within[None, :], lengths[:, None] - 1)
        unpad_index = np.flatnonzero((within[None, :] < lengths[:, None]).ravel())
        token_ids = np.concatenate([example.token_ids_T for example in examples]).astype(np.int64)
        trained = np.concatenate([example.trained_T for example in examples])
        trained[starts] = False  # nothing predicts an example's first token
        labels = np.flatnonzero(trained)
        owner = np.repeat(np.arange(len(examples)), lengths)

        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device, non_blocking=True)

        return cls(
            token_ids_T=put(token_ids),
            position_ids_T=put(np.concatenate([np.arange(length) for length in lengths])),
            lengths_N=tuple(int(length) for length in lengths),
            predicts_S=put(labels - 1),
            targets_S=put(token_ids[labels]),
            example_S=put(owner[labels]),
            pad_index_NL=put(pad_index),
            unpad_index_T=put(unpad_index),
            first=first,
        )

    @property
    def tokens(self) -> int:
        """Tokens in the row."""
        return len(self.token_ids_T)

    @property
    def trained_tokens(self) -> int:
        """Tokens the loss is taken on."""
        return len(self.targets_S)


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
