"""Batches in tensors of fixed size, so that one captured graph serves all that fit: packed rows, filled up to a capacity.

Tokens that all examples begin with may stand in a row once. Then its keys are more than its tokens: every example has its own copy.

Dimensions: K adapters, C tokens of a row (its capacity), X keys of a row, S positions whose next token is trained (a capacity as well), N
sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from rightrank.bank.batch import laid_out

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
    spared: int = 0
    """Tokens that the examples of a row have together beyond those in it, since they share some."""


@dataclass(frozen=True)
class SharedKeys:
    """The keys of a row whose examples share their first tokens: sequence by sequence, each with a copy of what is shared. All int32."""

    ends_N: Int[Tensor, " N"]
    """Where the keys of each sequence of all K rows end to end begin, and the end of the last."""
    source_X: Int[Tensor, " X"]
    """The token of the row that each key is of."""
    first_C: Int[Tensor, " C"]
    """The first key of each token."""
    times_C: Int[Tensor, " C"]
    """How many keys it has."""

    def of_all(self, adapters: int) -> tuple[Tensor, ...]:
        """``source``, ``first`` and ``times`` of ``adapters`` such rows end to end: no views, whose number of rows a compiler would see."""
        row_K1 = torch.arange(adapters, dtype=torch.int32, device=self.ends_N.device)[:, None]
        tokens, keys = len(self.first_C), len(self.source_X)
        source, first = row_K1 * tokens + self.source_X, row_K1 * keys + self.first_C
        return source.flatten().clone(), first.flatten().clone(), self.times_C.repeat(adapters)


@dataclass(frozen=True)
class StaticRow:
    """One row of tokens, the same for every adapter, with room for C tokens and S trained ones."""

    shape: Shape
    token_ids_C: Int[Tensor, " C"]
    position_ids_C: Int[Tensor, " C"]
    """Restarting with every example, and where the filling begins; at 0 but for what is shared."""
    ends_N: Int[Tensor, " N"]
    """int32: where each sequence of all K rows end to end begins, and the end of the last; unused ones are empty."""
    predicts_S: Int[Tensor, " S"]
    targets_S: Int[Tensor, " S"]
    weight_S: Float[Tensor, " S"]
    """One over the trained tokens of the whole batch; 0 for filling."""
    keys: SharedKeys | None = None
    """None where nothing is ever shared: every token is its own key."""

    @classmethod
    def empty(
        cls, shape: Shape, adapters: int, examples: int, device: torch.device, *, shares: bool = False
    ) -> StaticRow:
        """Room for rows of at most ``examples`` examples, which may share their first tokens."""

        def room(count: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=device)

        tokens, predicted, small = shape.tokens, shape.predicted, torch.int32
        sequences = adapters * (examples + 1) + 1
        keys = None
        if shares:
            keys = SharedKeys(
                *(room(count, small) for count in (sequences, tokens + shape.spared, tokens, tokens))
            )
        return cls(
            shape,
            room(tokens),
            room(tokens),
            room(sequences, small),
            room(predicted),
            room(predicted),
            room(predicted, torch.float32),
            keys,
        )

    @classmethod
    def of(cls, batch: Batch, adapters: int, *, shares: bool = False) -> StaticRow:
        """``batch``, filled up to a multiple of ``STEP``: for a pass that is not captured. Nothing in it is weighted."""
        device, tokens, examples = batch.token_ids_T.device, _up(batch.tokens), len(batch.lengths_N)
        filling = torch.arange(tokens - batch.tokens, device=device)
        shape = Shape(tokens, 0, _up(batch.shared * (examples - 1)) if shares else 0)
        sequences = _sequences(batch.lengths_N, batch.shared, shape, examples + 1)
        ends, *keys = (torch.from_numpy(array).to(device) for array in sequences.of(adapters))
        none = filling[:0]
        return cls(
            shape,
            torch.cat([batch.token_ids_T, torch.zeros_like(filling)]),
            torch.cat([batch.position_ids_T, filling]),
            ends, none, none, none.float(),
            SharedKeys(*keys) if shares else None,
        )  # fmt: skip

    def fill(
        self, examples: Sequence[TokenizedExample], adapters: int, total: int, *, shared: int = 0
    ) -> None:
        """Put ``examples`` in, the first ``shared`` tokens of all once. The host does not wait.

        ``total``: trained tokens of the whole batch that they are a part of.
        """
        tokens, predicted = self.shape.tokens, self.shape.predicted
        token_ids, trained, positions = laid_out(examples, [0, *[shared] * (len(examples) - 1)])
        labels = np.flatnonzero(trained)
        lengths = [len(example.token_ids_T) for example in examples]
        sequences = _sequences(lengths, shared, self.shape, (len(self.ends_N) - 1) // adapters)
        ends, *keys = sequences.of(adapters)
        weight = np.full(len(labels), 1 / max(1, total), np.float32)
        self._put(self.token_ids_C, _filled(token_ids, tokens))
        self._put(self.position_ids_C, np.append(positions, np.arange(tokens - len(positions))))
        self._put(self.ends_N, ends)
        self._put(self.predicts_S, _filled(labels - 1, predicted))
        self._put(self.targets_S, _filled(token_ids[labels], predicted))
        self._put(self.weight_S, _filled(weight, predicted))
        if self.keys is not None:
            own = self.keys
            places = (own.ends_N, own.source_X, own.first_C, own.times_C)
            for place, array in zip(places, keys, strict=True):
                self._put(place, array)

    @staticmethod
    def _put(place: Tensor, array: np.ndarray) -> None:
        source = torch.from_numpy(array)
        place.copy_(source.pin_memory() if place.is_cuda else source, non_blocking=True)


def shape_of(examples: Sequence[TokenizedExample], shared: int | None = None) -> Shape:
    """The smallest shape that ``examples`` fit into, the first ``shared`` tokens of all in it once; None: rows never share.

    Where rows may share there is always room for keys of none: were there once as many keys as tokens, a compiler would take it for a rule.
    """
    spared = (shared or 0) * (len(examples) - 1)
    tokens = sum(len(example.token_ids_T) for example in examples) - spared
    predicted = sum(int(example.trained_T[1:].sum()) for example in examples)
    return Shape(_up(tokens), _up(predicted), 0 if shared is None else _up(spared))


def choose_shapes(needs: Sequence[Shape]) -> list[Shape]:
    """The shapes to capture for micro-batches of ``needs``, smallest first: few, and little filling.

    Minimises tokens and keys run, filling included, where a capture costs as much as ``CAPTURE`` runs of its shape.
    """
    count: dict[int, int] = {}
    predicted: dict[int, int] = {}
    spared: dict[int, int] = {}
    for need in needs:
        count[need.tokens] = count.get(need.tokens, 0) + 1
        predicted[need.tokens] = max(predicted.get(need.tokens, 0), need.predicted)
        spared[need.tokens] = max(spared.get(need.tokens, 0), need.spared)
    sizes = sorted(count)
    # cheapest[j]: cost and shapes of everything up to the j-th size, the last shape being of that size.
    cheapest: list[tuple[float, list[Shape]]] = [(0.0, [])]
    for j, size in enumerate(sizes, start=1):
        ways = []
        for i in range(j):
            shape = Shape(size, *(max(most[s] for s in sizes[i:j]) for most in (predicted, spared)))
            runs = CAPTURE + sum(count[s] for s in sizes[i:j])
            ways.append((cheapest[i][0] + (size + shape.spared) * runs, [*cheapest[i][1], shape]))
        cheapest.append(min(ways, key=lambda way: way[0]))
    return cheapest[-1][1]


def fitting(shapes: Sequence[Shape], need: Shape) -> Shape:
    """The smallest of the chosen ``shapes`` that takes ``need``."""
    return next(shape for shape in shapes if shape.tokens >= need.tokens)


def _up(count: int) -> int:
    return max(STEP, -(-count // STEP) * STEP)


def _filled(array: np.ndarray, count: int) -> np.ndarray:
    """``array`` and as many zeros as make it ``count`` long."""
    return np.pad(array, (0, count - len(array)))


@dataclass(frozen=True)
class _Sequences:
    """A row as sequences: its examples, then the filling as one of its own, then empty ones."""

    starts_N: np.ndarray
    """Where each begins."""
    key_starts_N: np.ndarray
    """Where its keys begin."""
    source_X: np.ndarray
    first_C: np.ndarray
    times_C: np.ndarray

    def of(self, adapters: int) -> tuple[np.ndarray, ...]:
        """``ends_N``, and the fields of ``SharedKeys``, of ``adapters`` such rows."""
        small = np.int32

        def repeated(starts: np.ndarray, whole: int) -> np.ndarray:
            every = (np.arange(adapters)[:, None] * whole + starts[None, :]).ravel()
            return np.append(every, adapters * whole).astype(small)

        ends = repeated(self.starts_N, len(self.first_C))
        key_ends = repeated(self.key_starts_N, len(self.source_X))
        return ends, key_ends, *(x.astype(small) for x in (self.source_X, self.first_C, self.times_C))


def _sequences(lengths: Sequence[int], shared: int, shape: Shape, count: int) -> _Sequences:
    """``count`` sequences of a row of ``shape``, of which the examples of ``lengths`` share their first ``shared`` tokens.

    The filling has keys for all its tokens, and what is left of the keys stands before them: of the row's first token.
    """
    own = np.array([lengths[0], *(length - shared for length in lengths[1:])])
    starts, key_starts = np.cumsum([0, *own]), np.cumsum([0, *lengths])
    used, keys = int(starts[-1]), int(key_starts[-1])
    spare = shape.spared - (keys - used)
    beginning = np.arange(shared)
    parts = [np.arange(starts[1])]
    for start, end in pairwise(starts[1:]):
        parts += [beginning, np.arange(start, end)]
    source = np.concatenate([*parts, np.zeros(spare, np.int64), np.arange(used, shape.tokens)])
    firsts = [np.arange(lengths[0])]
    firsts += [
        np.arange(start + shared, start + length)
        for start, length in zip(key_starts[1:-1], lengths[1:], strict=True)
    ]
    first = np.concatenate([*firsts, keys + spare + np.arange(shape.tokens - used)])
    times = np.where(np.arange(shape.tokens) < shared, len(lengths), 1)
    return _Sequences(
        _filled_up(starts, count, shape.tokens),
        _filled_up(key_starts, count, shape.tokens + shape.spared),
        source,
        first,
        times,
    )


def _filled_up(starts: np.ndarray, count: int, end: int) -> np.ndarray:
    """``starts`` of the first of ``count`` sequences, the others at the ``end``, empty."""
    return np.append(starts, np.full(count - len(starts), end))
