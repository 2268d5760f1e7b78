"""What a data set looks like before anything is trained: how much there is to learn, and how much of it the prompts already say.

From token ids alone. Pure. T tokens of an example.
"""

from __future__ import annotations

import lzma
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Int32

    from rightrank.data.tokens import TokenizedExample

# Token ids are written in four bytes each, and the compressor is told so. A dictionary of 2**24 bytes holds 4 million tokens: all rows
# see each other, which zlib's 32 KiB would not allow; its faster presets (1 to 3) miss what lies far back.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**24, "lc": 0, "lp": 2, "pb": 2}]

MOST_TOKENS = 300_000
"""What a look takes in. Chosen: about what the recorded sets have, and a second or two."""


@dataclass(frozen=True)
class Characteristics:
    """Of a number of training rows."""

    examples: int
    tokens: int
    """Prompts and completions."""
    trained_tokens: int
    answer_bytes: int
    """Compressed size of what is trained, by itself."""
    new_bytes: int
    """Compressed size of whole rows less that of their prompts: what the completions say that the prompts do not."""
    distinct_answers: int
    copied_share: float
    """Share of the pairs of neighbouring tokens in a completion that occur in its prompt, over all rows; of one token where it has no
    pair."""

    @property
    def trained_tokens_a_row(self) -> float:
        """Mean."""
        return self.trained_tokens / self.examples

    @property
    def new_bits_a_token(self) -> float:
        """Of a trained token, given the prompts and all other rows."""
        return 8 * self.new_bytes / self.trained_tokens

    @property
    def distinct_share(self) -> float:
        """Of the completions: 1 where no two are alike."""
        return self.distinct_answers / self.examples

    def features(self, epochs: float) -> dict[str, float]:
        """What a model may foretell from, by name; amounts as logarithms of base 2."""
        return {
            "rows_seen": math.log2(self.examples * epochs),
            "epochs": math.log2(epochs),
            "tokens_a_row": math.log2(self.trained_tokens_a_row),
            "new_bytes": math.log2(max(1, self.new_bytes)),
            "new_bits_a_token": self.new_bits_a_token,
            "distinct_share": self.distinct_share,
            "copied_share": self.copied_share,
        }


def characteristics(examples: Sequence[TokenizedExample]) -> Characteristics:
    """Of ``examples``, in their order. Rows of several turns count as one prompt (all that is not trained) and one completion."""
    asked, answered = zip(*(_parts(example) for example in examples), strict=True)
    prompt_bytes = compressed_bytes(asked)
    copied, pairs = np.sum([_copied(p, c) for p, c in zip(asked, answered, strict=True)], axis=0)
    return Characteristics(
        examples=len(examples),
        tokens=sum(len(example.token_ids_T) for example in examples),
        trained_tokens=sum(map(len, answered)),
        answer_bytes=compressed_bytes(answered),
        new_bytes=max(0, compressed_bytes(both for row in zip(asked, answered, strict=True) for both in row) - prompt_bytes),
        distinct_answers=len({answer.tobytes() for answer in answered}),
        copied_share=float(copied / max(1, pairs)),
    )  # fmt: skip


def of_all(examples: Sequence[TokenizedExample], rows: int) -> Characteristics:
    """Of ``rows`` such examples as the first of these, up to ``MOST_TOKENS`` of them: amounts grow with the rows, shares stay."""
    ends_N = np.cumsum([len(example.token_ids_T) for example in examples])
    looked = max(1, int(np.searchsorted(ends_N, MOST_TOKENS, side="right")))
    one = characteristics(examples[:looked])
    factor = rows / one.examples
    amounts = ("tokens", "trained_tokens", "answer_bytes", "new_bytes", "distinct_answers")
    return replace(one, examples=rows, **{name: round(getattr(one, name) * factor) for name in amounts})


def compressed_bytes(parts: Iterable[Int32[np.ndarray, " T"]]) -> int:
    """Bytes that the parts take one after the other, compressed together (LZMA)."""
    raw = b"".join(part.astype("<i4").tobytes() for part in parts)
    return len(lzma.compress(raw, format=lzma.FORMAT_RAW, filters=_FILTERS))


def _parts(example: TokenizedExample) -> tuple[Int32[np.ndarray, " T"], Int32[np.ndarray, " T"]]:
    """What is not trained and what is; the first token is predicted from nothing, so it is never trained."""
    trained_T = example.trained_T.copy()
    trained_T[:1] = False
    return example.token_ids_T[~trained_T], example.token_ids_T[trained_T]


def _copied(prompt_T: Int32[np.ndarray, " T"], answer_T: Int32[np.ndarray, " T"]) -> tuple[int, int]:
    """Pairs of the completion that its prompt holds too, and pairs of the completion."""
    if len(answer_T) < 2:
        return int(np.isin(answer_T, prompt_T).sum()), len(answer_T)
    known = set(pairwise(prompt_T.tolist()))
    pairs = list(pairwise(answer_T.tolist()))
    return sum(pair in known for pair in pairs), len(pairs)
