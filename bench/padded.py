"""A batch as every trainer makes it. Dimensions: N examples, T tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.data import TokenizedExample


def padded(examples: Sequence[TokenizedExample], device: torch.device) -> dict[str, torch.Tensor]:
    """Padded on the right, with a mask; untrained tokens are labelled -100."""
    longest = max(len(e.token_ids_T) for e in examples)
    ids_NT = torch.zeros(len(examples), longest, dtype=torch.long)
    labels_NT, mask_NT = torch.full_like(ids_NT, -100), torch.zeros_like(ids_NT)
    for n, e in enumerate(examples):
        tokens_T = torch.from_numpy(e.token_ids_T).long()
        ids_NT[n, : len(tokens_T)], mask_NT[n, : len(tokens_T)] = tokens_T, 1
        labels_NT[n, : len(tokens_T)] = torch.where(torch.from_numpy(e.trained_T), tokens_T, -100)
    return {
        "input_ids": ids_NT.to(device),
        "attention_mask": mask_NT.to(device),
        "labels": labels_NT.to(device),
    }
