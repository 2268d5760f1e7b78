"""Groups of prompts that are equal, or nearly: MinHash signatures in numpy, compared within LSH buckets.

Written out rather than taken from a library: hashes must not change with a library's version, since the
split hangs on them, and a bucket of a thousand look-alikes must cost a thousand comparisons, not a million.

N texts, G groups, P hash functions, S shingles.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Bool, Int64, UInt32, UInt64

SHINGLE = 5
"""Bytes a shingle: short enough that one changed word in a sentence leaves most of them."""
HASHES = 126
BANDS = 14
"""14 bands of 9 hashes: texts of Jaccard similarity 0.8 meet in a bucket with 87 % probability, of 0.9 with
99.9 %, of 0.5 with 3 % (1 - (1 - s^9)^14); those that meet are then compared."""
SIMILAR = 0.8
LONGEST = 4_000
"""Bytes of a text that are looked at: of a longer one its two ends."""
MOST_TEXTS = 200_000
"""Above this many distinct prompts only equal ones are grouped: comparing more takes minutes (measured)."""
CHUNK_SHINGLES = 200_000
"""Shingles hashed at a time; bounds the memory to 200 MB."""
SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Groups:
    """A partition of N things into G groups, numbered in the order in which they first occur."""

    of_N: Int64[np.ndarray, " N"]
    first_G: Int64[np.ndarray, " G"]
    """The first thing of each group."""

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.first_G)

    def sizes_G(self) -> Int64[np.ndarray, " G"]:
        """Things in each group."""
        return np.bincount(self.of_N, minlength=self.count)

    @classmethod
    def of(cls, labels_N: Int64[np.ndarray, " N"]) -> Groups:
        """The partition in which things with equal labels are together."""
        _, first, inverse = np.unique(labels_N, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(rank[inverse], first[order])


def normalised(prompt: str) -> str:
    """A prompt in which case and white space no longer matter; digits and punctuation do."""
    return SPACE.sub(" ", prompt).strip().casefold()


def exact_groups(prompts: Iterable[str]) -> Groups:
    """Groups of prompts that are equal once normalised."""
    numbers: dict[bytes, int] = {}
    digests = (
        hashlib.sha256(normalised(prompt).encode()).digest() for prompt in prompts
    )  # not the texts: memory
    labels = [numbers.setdefault(digest, len(numbers)) for digest in digests]
    return Groups.of(np.asarray(labels, dtype=np.int64))


def united(count: int, links: Iterable[tuple[int, int]]) -> Int64[np.ndarray, " N"]:
    """A label for each of ``count`` things, equal for those that ``links`` connect, directly or not."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        parent[root(a)] = root(b)
    return np.asarray([root(i) for i in range(count)], dtype=np.int64)


def near_links(
    prompts: Sequence[str], across_N: Bool[np.ndarray, " N"] | None = None
) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    """Pairs of prompts whose shingles have a Jaccard similarity of about 0.8 or more, and notes on limits
    that applied.

    Not every pair: enough to connect the similar ones (each prompt with the first and the previous of its
    bucket). With ``across_N`` only pairs of unlike value there, each prompt being compared with the first
    of the other value. Estimated from 126 hashes, so a similarity is known to +-0.04 (one standard error).
    """
    if len(prompts) > MOST_TEXTS:
        note = (
            f"With {len(prompts)} distinct prompts near-duplicates were not sought; equal ones share a side."
        )
        return [], (note,)
    notes: tuple[str, ...] = ()
    texts = [normalised(prompt).encode() for prompt in prompts]
    long = sum(len(text) > LONGEST for text in texts)
    if long:
        notes = (f"Near-duplicates of {long} long prompts were sought by their two ends.",)
        half = LONGEST // 2
        texts = [text if len(text) <= LONGEST else text[:half] + text[-half:] for text in texts]
    signature_NP = signatures(texts)
    links: set[tuple[int, int]] = set()
    for band_NP in np.split(signature_NP, BANDS, axis=1):
        links.update(_candidates(band_NP, across_N))
    if not links:
        return [], notes
    pairs = np.asarray(sorted(links), dtype=np.int64)
    similar = _agreement(signature_NP, pairs) >= SIMILAR
    return [(int(a), int(b)) for a, b in pairs[similar]], notes


def signatures(texts: Sequence[bytes]) -> UInt32[np.ndarray, "N P"]:
    """MinHash signature of each text's set of shingles (Broder 1997): equal in a share of places equal to
    the Jaccard."""
    rng = np.random.default_rng(0)  # fixed: a signature is a property of the text, not of the run
    multiplier_P = rng.integers(0, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    signature_NP = np.empty((len(texts), HASHES), dtype=np.uint32)
    start = 0
    while start < len(texts):
        stop, shingles = start, 0
        while stop < len(texts) and (stop == start or shingles + len(texts[stop]) <= CHUNK_SHINGLES):
            shingles += len(texts[stop])
            stop += 1
        signature_NP[start:stop] = _signed(texts[start:stop], multiplier_P)
        start = stop
    return signature_NP


def _signed(texts: Sequence[bytes], multiplier_P: UInt64[np.ndarray, " P"]) -> UInt32[np.ndarray, "N P"]:
    padded = [text.ljust(SHINGLE, b"\0") for text in texts]
    starts_N = np.cumsum([0] + [len(text) - SHINGLE + 1 for text in padded[:-1]])
    hash_S = np.concatenate([_shingle_hashes(text) for text in padded])
    signature_PN = np.empty((len(multiplier_P), len(texts)), dtype=np.uint32)
    for p, multiplier in enumerate(multiplier_P):
        # The high half of a product with an odd number: multiply-shift hashing (Dietzfelbinger et al. 1997).
        signature_PN[p] = np.minimum.reduceat(
            ((hash_S * multiplier) >> np.uint64(32)).astype(np.uint32), starts_N
        )
    return signature_PN.T


def _shingle_hashes(text: bytes) -> UInt64[np.ndarray, " S"]:
    """A well-mixed 64-bit number for every run of five bytes."""
    byte_S = np.frombuffer(text, dtype=np.uint8).astype(np.uint64)
    count = len(text) - SHINGLE + 1
    mixed_S = np.zeros(count, dtype=np.uint64)
    for i in range(SHINGLE):
        mixed_S = (mixed_S << np.uint64(8)) | byte_S[i : i + count]
    # The finaliser of splitmix64 (Steele et al. 2014).
    mixed_S += np.uint64(0x9E3779B97F4A7C15)
    mixed_S = (mixed_S ^ (mixed_S >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_S = (mixed_S ^ (mixed_S >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed_S ^ (mixed_S >> np.uint64(31))


def _candidates(
    band_NP: UInt32[np.ndarray, "N P"], across_N: Bool[np.ndarray, " N"] | None
) -> Iterable[tuple[int, int]]:
    """Pairs that share a bucket: each text with the first of its bucket and with the one before it."""
    rows = np.ascontiguousarray(band_NP)
    key_N = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, bucket_N = np.unique(key_N, return_inverse=True)
    order = np.argsort(bucket_N, kind="stable")
    sorted_N = bucket_N[order]
    new_N = np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]])
    if across_N is None:
        first_N = order[np.maximum.accumulate(np.where(new_N, np.arange(len(order)), 0))]
        for i in np.flatnonzero(~new_N).tolist():
            yield int(first_N[i]), int(order[i])
            yield int(order[i - 1]), int(order[i])
        return
    for bucket in np.split(order, np.flatnonzero(new_N)[1:]):
        if len(bucket) < 2:
            continue
        inside, outside = bucket[across_N[bucket]], bucket[~across_N[bucket]]
        if len(inside) and len(outside):
            yield from ((int(inside[0]), int(other)) for other in outside)


def _agreement(signature_NP: UInt32[np.ndarray, "N P"], pairs: Int64[np.ndarray, "L 2"]) -> np.ndarray:
    """Share of equal hashes of each pair, an unbiased estimate of their Jaccard similarity."""
    blocks = np.array_split(pairs, max(1, len(pairs) // 100_000))
    return np.concatenate([(signature_NP[b[:, 0]] == signature_NP[b[:, 1]]).mean(axis=1) for b in blocks])
