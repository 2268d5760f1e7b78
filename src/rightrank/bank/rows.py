"""Batches in tensors of fixed size, so that one captured graph serves all that fit: packed rows, filled up to a capacity.

Dimensions: K adapters, C tokens of a row (its capacity), S positions whose next token is trained (a capacity as well), N sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from rightrank.bank.batch import Batch
    from rightrank.data import TokenizedExample

STEP = 16
"""Capacities are multiples of this."""
CAPTURE = 5
"""What a capture costs, in runs of what is captured."""


@dataclass(frozen=True)
class Shape:
    """What a graph is captured for."""

    tokens: int
    predicted: int


@dataclass(frozen=True)
class StaticRow:
    """One row of tokens, the same for every adapter, with room for C tokens and S trained ones."""

    shape: Shape
    token_ids_C: Int[Tensor, " C"]
    position_ids_C: Int[Tensor, " C"]
    """Restarting at 0 with every example, and where the filling begins."""
    ends_N: Int[Tensor, " N"]
    """int32: where each sequence of all K rows end to end begins, and the end of the last; unused ones are empty."""
    predicts_S: Int[Tensor, " S"]
    targets_S: Int[Tensor, " S"]
    weight_S: Float[Tensor, " S"]
    """One over the trained tokens of the whole batch; 0 for filling."""

    @classmethod
    def empty(cls, shape: Shape, adapters: int, examples: int, device: torch.device) -> StaticRow:
        """Room for rows of at most ``examples`` examples."""

        def room(count: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=device)

        tokens, predicted = shape.tokens, shape.predicted
        ends = room(adapters * (examples + 1) + 1, torch.int32)
        return cls(
            shape,
            room(tokens),
            room(tokens),
            ends,
            room(predicted),
            room(predicted),
            room(predicted, torch.float32),
        )

    @classmethod
    def of(cls, batch: Batch, adapters: int) -> StaticRow:
        """``batch``, filled up to a multiple of ``STEP``: for a pass that is not captured. Nothing in it is weighted."""
        tokens = _up(batch.tokens)
        filling = torch.arange(tokens - batch.tokens, device=batch.token_ids_T.device)
        ends = np.append(np.cumsum([0, *batch.lengths_N]), tokens)
        every = np.append((np.arange(adapters)[:, None] * tokens + ends[None, :]).ravel(), adapters * tokens)
        none = filling[:0]
        return cls(
            Shape(tokens, 0),
            torch.cat([batch.token_ids_T, torch.zeros_like(filling)]),
            torch.cat([batch.position_ids_T, filling]),
            torch.from_numpy(every.astype(np.int32)).to(filling.device),
            none, none, none.float(),
        )  # fmt: skip

    def fill(self, examples: Sequence[TokenizedExample], adapters: int, total: int) -> None:
        """Put ``examples`` in. ``total``: trained tokens of the whole batch that they are a part of. The host does not wait."""
        arrays = _arrays(examples, self.shape, adapters, (len(self.ends_N) - 1) // adapters, total)
        own = (
            self.token_ids_C, self.position_ids_C, self.ends_N, self.predicts_S, self.targets_S, self.weight_S
        )  # fmt: skip
        for place, array in zip(own, arrays, strict=True):
            source = torch.from_numpy(array)
            place.copy_(source.pin_memory() if place.is_cuda else source, non_blocking=True)


def shape_of(examples: Sequence[TokenizedExample]) -> Shape:
    """The smallest shape that ``examples`` fit into."""
    tokens = sum(len(example.token_ids_T) for example in examples)
    predicted = sum(int(example.trained_T[1:].sum()) for example in examples)
    return Shape(_up(tokens), _up(predicted))


def choose_shapes(needs: Sequence[Shape]) -> list[Shape]:
    """The shapes to capture for micro-batches of ``needs``, smallest first: few, and little filling.

    Minimises tokens run, filling included, where a capture costs as much as ``CAPTURE`` runs of its shape.
    """
    count: dict[int, int] = {}
    predicted: dict[int, int] = {}
    for need in needs:
        count[need.tokens] = count.get(need.tokens, 0) + 1
        predicted[need.tokens] = max(predicted.get(need.tokens, 0), need.predicted)
    sizes = sorted(count)
    # cheapest[j]: cost and shapes of everything up to the j-th size, the last shape being of that size.
    cheapest: list[tuple[float, list[Shape]]] = [(0.0, [])]
    for j, size in enumerate(sizes, start=1):
        ways = [
            (
                cheapest[i][0] + size * (CAPTURE + sum(count[s] for s in sizes[i:j])),
                [*cheapest[i][1], Shape(size, max(predicted[s] for s in sizes[i:j]))],
            )
            for i in range(j)
        ]
        cheapest.append(min(ways, key=lambda way: way[0]))
    return cheapest[-1][1]


def fitting(shapes: Sequence[Shape], need: Shape) -> Shape:
    """The smallest of the chosen ``shapes`` that takes ``need``."""
    return next(shape for shape in shapes if shape.tokens >= need.tokens)


def _up(count: int) -> int:
    return max(STEP, -(-count // STEP) * STEP)


def _arrays(
    examples: Sequence[TokenizedExample], shape: Shape, adapters: int, sequences: int, total: int
) -> tuple[np.ndarray, ...]:
    lengths = [len(example.token_ids_T) for example in examples]
    starts = np.cumsum([0, *lengths])
    used = int(starts[-1])
    token_ids, positions = np.zeros(shape.tokens, np.int64), np.zeros(shape.tokens, np.int64)
    token_ids[:used] = np.concatenate([example.token_ids_T for example in examples])
    positions[:used] = np.concatenate([np.arange(length) for length in lengths])
    positions[used:] = np.arange(shape.tokens - used)
    trained = np.concatenate([example.trained_T for example in examples]).copy()
    trained[starts[:-1]] = False  # nothing predicts an example's first token
    labels = np.flatnonzero(trained)
    count = len(labels)
    predicts, targets = np.zeros(shape.predicted, np.int64), np.zeros(shape.predicted, np.int64)
    weight = np.zeros(shape.predicted, np.float32)
    predicts[:count], targets[:count], weight[:count] = labels - 1, token_ids[labels], 1 / max(1, total)
    # The examples, then the filling as a sequence of its own, then empty ones.
    within = np.full(sequences, shape.tokens, np.int64)
    within[: len(starts)] = starts
    ends = (np.arange(adapters)[:, None] * shape.tokens + within[None, :]).ravel()
    return (
        token_ids,
        positions,
        np.append(ends, adapters * shape.tokens).astype(np.int32),
        predicts,
        targets,
        weight,
    )
