"""Gradients of a frozen base at the start of training, on disjoint parts of a data set: how many of their directions replicate.

One forward and backward pass a batch, float32, on the CPU. Only the target matrices of a few layers (``LAYERS``), so that a data set takes
minutes; the adapters' own gradients at the start are this gradient times the frozen A, so it bounds what they can see.

Dimensions: B blocks of rows, O outputs and I inputs of a matrix, S singular directions (the smaller of O and I), T tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.data import TokenizedExample

LAYERS = (1 / 3, 2 / 3, 1.0)
"""Depths of the layers looked at, as shares of all. Chosen: the first third is left out, since the backward pass down there costs most."""
ROWS, BLOCKS, BATCH = 128, 32, 4


@dataclass(frozen=True)
class Spectrum:
    """Means over the matrices looked at, of their number of directions."""

    rows: int
    beyond_edge: float
    """Singular values of the mean gradient beyond the Marchenko-Pastur edge of its noise (the noise's size from the halves' difference)."""
    beyond_noise: float
    """Singular values beyond the largest of half the halves' difference: noise as it is, not as independent entries would have it."""
    replicated: float
    """Singular directions of one half on which the other half's blocks agree, both ways."""
    signal_share: float
    """Share of the mean gradient's squared size that is no noise."""


@dataclass(frozen=True)
class BaseLoss:
    """Of the untrained model on the rows looked at."""

    nats_a_token: float
    spread_tokens: float
    """Standard deviation over tokens."""
    spread_examples: float
    """Standard deviation over the examples' means."""


def measure(model: Any, examples: Sequence[TokenizedExample], most: int = ROWS) -> dict[str, Any]:
    """Base loss and spectra (on a quarter, a half and all of the rows) of the first ``most`` of ``examples``, a multiple of ``BLOCKS``."""
    rows = examples[: min(most, len(examples) // BLOCKS * BLOCKS)]
    matrices = target_matrices(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for matrix in matrices:
        matrix.requires_grad_(True)
    sums: list[list[Tensor]] = [[] for _ in matrices]
    losses: list[np.ndarray] = []
    tokens_B = []
    for block in np.array_split(np.arange(len(rows)), BLOCKS):
        found = [_backward(model, batch) for batch in _batches([rows[i] for i in block])]
        losses += [loss_T for batch in found for loss_T in batch]
        tokens_B.append(sum(len(loss_T) for batch in found for loss_T in batch))
        for kept, matrix in zip(sums, matrices, strict=True):
            assert matrix.grad is not None
            kept.append(matrix.grad)
            matrix.grad = None
    every = np.concatenate(losses)
    base = BaseLoss(
        float(every.mean()), float(every.std()), float(np.std([loss_T.mean() for loss_T in losses]))
    )
    growth = [
        spectrum([torch.stack(kept[:blocks]) for kept in sums], np.array(tokens_B[:blocks]), len(rows) * blocks // BLOCKS)
        for blocks in (BLOCKS // 4, BLOCKS // 2, BLOCKS)
    ]  # fmt: skip
    return {"base": asdict(base), "spectra": [asdict(one) for one in growth]}


def target_matrices(model: Any) -> list[Tensor]:
    """Weights of all linear layers in the blocks at ``LAYERS``."""
    layers = model.model.layers
    chosen = [layers[round(share * len(layers)) - 1] for share in LAYERS]
    return [m.weight for layer in chosen for m in layer.modules() if isinstance(m, torch.nn.Linear)]


def spectrum(sums: Sequence[Float[Tensor, "B O I"]], tokens_B: np.ndarray, rows: int) -> Spectrum:
    """Of the blocks' summed gradients of every matrix."""
    found = np.array([_of_matrix(sum_BOI, tokens_B) for sum_BOI in sums])
    return Spectrum(rows, *(round(float(v), 4) for v in found.mean(0)))


def _of_matrix(sum_BOI: Float[Tensor, "B O I"], tokens_B: np.ndarray) -> tuple[float, float, float, float]:
    halves = [sum_BOI[i::2].sum(0) / float(tokens_B[i::2].sum()) for i in (0, 1)]
    mean_OI, noise_OI = (halves[0] + halves[1]) / 2, (halves[0] - halves[1]) / 2
    size = noise_OI.square().mean().sqrt()
    edge = size * (mean_OI.shape[0] ** 0.5 + mean_OI.shape[1] ** 0.5)
    values_S = torch.linalg.svdvals(mean_OI)
    share = 1 - float(noise_OI.square().sum() / mean_OI.square().sum())
    replicated = [_replicated(halves[i], sum_BOI[1 - i :: 2]) for i in (0, 1)]
    return (
        float((values_S > edge).sum()),
        float((values_S > torch.linalg.matrix_norm(noise_OI, 2)).sum()),
        float(np.mean(replicated)),
        max(0.0, share),
    )


def _replicated(half_OI: Float[Tensor, "O I"], other_BOI: Float[Tensor, "B O I"]) -> int:
    """Singular directions of ``half_OI`` along which the blocks of the other half have a gradient of the same sign for certain."""
    left_OS, _, right_SI = torch.linalg.svd(half_OI, full_matrices=False)
    along_BS = torch.stack([((block_OI @ right_SI.T) * left_OS).sum(0) for block_OI in other_BOI])
    error_S = along_BS.std(0) / len(along_BS) ** 0.5
    return int((along_BS.mean(0) > least_t(len(along_BS)) * error_S).sum())


def least_t(blocks: int) -> float:
    """One-sided 0.1 % of Student's t over so many blocks: half a false direction in a matrix of 576."""
    from scipy.stats import t

    return float(t.isf(0.001, blocks - 1))


def _batches(rows: Sequence[TokenizedExample]) -> list[list[TokenizedExample]]:
    """Rows of like length together."""
    by_length = sorted(rows, key=lambda row: len(row.token_ids_T))
    return [by_length[i : i + BATCH] for i in range(0, len(by_length), BATCH)]


def _backward(model: Any, rows: Sequence[TokenizedExample]) -> list[np.ndarray]:
    """Add the gradient of the summed loss of ``rows``; the loss of every trained token, row by row."""
    longest = max(len(row.token_ids_T) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real, trained = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        length = len(row.token_ids_T)
        ids[i, :length] = torch.from_numpy(row.token_ids_T.astype(np.int64))
        real[i, :length] = 1
        trained[i, :length] = torch.from_numpy(row.trained_T)
    hidden = model.model(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
    next_trained = trained[:, 1:]
    logits = model.lm_head(hidden[:, :-1][next_trained])
    loss_T = torch.nn.functional.cross_entropy(logits, ids[:, 1:][next_trained], reduction="none")
    loss_T.sum().backward()
    counts = next_trained.sum(1).tolist()
    return [part.numpy() for part in loss_T.detach().split(counts) if len(part)]
