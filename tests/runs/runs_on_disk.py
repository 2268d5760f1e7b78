"""Run directories with answers from ``report.samples`` and losses of known size, made without training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from report.samples import sample
from rightrank.probe.loss_table import Configuration, LossTable, Pack, PackResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recommendation import Recommendation

DECIDE, SCORE = 40, 60
Setting = tuple[int, float, float]


def base_E(seed: int = 0) -> np.ndarray:
    return 10 + np.random.default_rng(seed).random(DECIDE + SCORE)


def answered(
    directory: Path,
    losses: Mapping[Setting, np.ndarray] | None = None,
    *,
    choose: Setting | None = None,
    examples: int = 80,
    plan: Mapping[str, Any] | None = None,
    base: np.ndarray | None = None,
    seed: int = 0,
    **changes: Any,
) -> Recommendation:
    """A run whose configurations have these losses on its held-out examples, and whose answer is a sample with ``changes``."""
    settings = {
        "model": "m", "data": "d", "recipe": {}, "seed": seed, "plan": plan or {"decide": DECIDE, "score": SCORE},
    }  # fmt: skip
    about = {"request": {"model": "/home/me/llama", "dataset": "/data/medqa.jsonl"}}
    table = LossTable(directory, settings, about)
    base = base_E() if base is None else base
    table.set_base(PackResult(base[None], np.zeros((1, len(base)), int), (None,), 0, 0, 1.0))
    for number, (setting, loss_E) in enumerate((losses or {}).items()):
        pack = Pack(number, examples, (Configuration(*setting),), with_score=True)
        table.begin(pack)
        right = np.zeros((1, len(loss_E)), int)
        table.finish(pack, PackResult(loss_E[None], right, (1.0,), 10, 100, 1.0))
    answer = sample(changes.pop("status", "SETTLED"))
    if choose is not None:
        rank, alpha, rate = choose
        answer = replace(answer, choice=replace(answer.choice, rank=rank, alpha=alpha, learning_rate=rate))
    answer = replace(answer, **changes)
    answer.save(directory)
    return answer


def unfinished(directory: Path) -> None:
    answered(directory, {(8, 16.0, 1e-3): base_E() - 1, (16, 16.0, 1e-3): base_E() - 2})
    (directory / "recommendation.json").unlink()
