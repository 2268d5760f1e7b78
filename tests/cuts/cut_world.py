"""An adapter that is a teacher's update of rank 4 and, in 12 more directions, noise; and rows that the teacher wrote."""

from __future__ import annotations

from typing import Any

import torch

import tiny_world
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.peft_format import export_adapter

TRUE_RANK, RANK, STRENGTH = 4, 16, 1.5


@torch.no_grad()
def write_adapter(
    folder: Any,
    *,
    noise: float = 0.3,
    ranks: tuple[int, ...] | None = None,
    beyond: float = 1.0,
    hidden: int = 32,
) -> Any:
    """The adapter at ``folder``; ``ranks``: of every layer, where they differ; ``beyond``: how far it goes beyond the teacher."""
    base = load_base(tiny_world.base(hidden), tokenizer=tiny_world.word_tokenizer())
    learned = dict(tiny_world.teacher(TRUE_RANK, STRENGTH, hidden=hidden).named_modules())
    own = dict(base.model.named_modules())
    spec = AdapterSpec(RANK, alpha=2.0 * RANK, learning_rate=0.0, ranks=ranks)
    bank = AdapterBank(base.targets, [spec], device=base.device, dtype=torch.float32, start=False)
    generator = torch.Generator().manual_seed(5)
    for m, module in enumerate(bank.modules):
        rank, name = module.ranks_K[0], module.target.name
        left, size, right = torch.linalg.svd(learned[name].weight - own[name].weight, full_matrices=False)
        a, b = module.master_a[0], module.master_b[0]
        a.copy_(torch.randn(a.shape, generator=generator) / a.shape[1] ** 0.5)
        b.copy_(noise * torch.randn(b.shape, generator=generator) / b.shape[1] ** 0.5)
        true = min(TRUE_RANK, rank)
        a[:true] = right[:true]
        b[:true] = (left[:, :true] * size[:true]).t()
        b *= beyond / spec.scale_of(m)
    return export_adapter(bank, 0, folder, base_name="tiny")


def rows(count: int = 240, seed: int = 3, hidden: int = 32) -> list[dict[str, str]]:
    teacher = tiny_world.teacher(TRUE_RANK, STRENGTH, hidden=hidden)
    return tiny_world.written_by(teacher, count, seed=seed)
