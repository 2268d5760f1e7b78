"""Two settings against each other, row by row, from the losses that runs left on disk.

Dimensions: E held-out examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rightrank.probe.record import held_out_sizes
from rightrank.stats.paired import paired_contrast

if TYPE_CHECKING:
    from jaxtyping import Float

    from rightrank.probe.loss_table import LossTable

Setting = tuple[int, float, float]
SAME_BASE = 0.01
"""The untrained model's losses on the same rows agree to this share, whatever the device; on other rows they do not. Assumed."""


@dataclass(frozen=True)
class Contrast:
    """How much more of the gain A's choice loses than B's, in percent, with its 95 % interval over held-out rows."""

    measured_in: str
    """``A``, ``B``, or ``A against B``: each choice in its own run."""
    value: float
    low: float
    high: float
    rows: int


def plain_setting(rank: int, alpha: float, learning_rate: float) -> Setting:
    """A setting to compare by, alike where it reads alike."""
    return rank, float(f"{alpha:.6g}"), float(f"{learning_rate:.6g}")


def contrasts_of(
    a: LossTable | None, b: LossTable | None, one: Setting, other: Setting
) -> tuple[Contrast, ...]:
    """``one`` against ``other`` in each run that measured both; else each in its own run where both judged the same rows."""
    found = []
    for name, table in (("A", a), ("B", b)):
        if table is not None:
            losses = _losses(table)
            if one in losses and other in losses:
                rows = _judging(table, losses[one])
                found.append(_contrast(name, losses[one][rows], losses[other][rows], _base(table)[rows]))
    if not found and a is not None and b is not None:
        found.append(_across(a, b, one, other))
    return tuple(contrast for contrast in found if contrast is not None)


def _losses(table: LossTable) -> dict[Setting, Float[np.ndarray, " E"]]:
    """Nats on each held-out example of the runs on the most rows; seeds averaged, diverged ones left out."""
    top = max((pack.examples for pack in table.packs), default=0)
    seen: dict[Setting, list[np.ndarray]] = {}
    for pack, result in zip(table.packs, table.results, strict=True):
        for k, c in enumerate(pack.configurations):
            if pack.examples == top and not np.isinf(result.loss_KE[k]).any():
                setting = plain_setting(c.rank, c.alpha, c.learning_rate)
                seen.setdefault(setting, []).append(result.loss_KE[k])
    return {setting: np.mean(losses, axis=0) for setting, losses in seen.items()}


def _judging(table: LossTable, loss_E: Float[np.ndarray, " E"]) -> slice:
    """The held-out examples that only score, where they were evaluated: those that decide speak for what they chose."""
    decide, _ = _sizes(table) or (0, 0)
    return slice(decide, None) if np.isfinite(loss_E[decide:]).any() else slice(None)


def _sizes(table: LossTable) -> tuple[int, int] | None:
    """Held-out examples that decide, and that score; None where the table does not say, or has others."""
    sizes = held_out_sizes(table.settings)
    return sizes if sizes is not None and sum(sizes) == len(_base(table)) else None


def _base(table: LossTable) -> Float[np.ndarray, " E"]:
    assert table.base is not None
    base_E: Float[np.ndarray, " E"] = table.base.loss_KE[0]
    return base_E


def _contrast(
    name: str,
    a_E: Float[np.ndarray, " E"],
    b_E: Float[np.ndarray, " E"],
    base_E: Float[np.ndarray, " E"],
) -> Contrast | None:
    """In percent of what the better of the two gains; None where neither gains."""
    both_E = np.isfinite(a_E) & np.isfinite(b_E) & np.isfinite(base_E)
    rows = int(both_E.sum())
    if rows < 2:
        return None
    a_E, b_E, base_E = a_E[both_E], b_E[both_E], base_E[both_E]
    gain = float(base_E.mean() - min(a_E.mean(), b_E.mean()))
    if gain <= 0:
        return None
    difference = paired_contrast(a_E, b_E, np.ones(rows, dtype=np.int64))
    share = 100 / gain
    return Contrast(
        name, share * difference.difference, share * difference.low, share * difference.high, rows
    )


def _across(a: LossTable, b: LossTable, one: Setting, other: Setting) -> Contrast | None:
    """Each choice in its own run, on the held-out rows that both judged; None where these or the training rows are not the same."""
    sizes = [max((pack.examples for pack in table.packs), default=0) for table in (a, b)]
    losses_a, losses_b = _losses(a), _losses(b)
    if (
        sizes[0] != sizes[1]
        or a.settings.get("seed") != b.settings.get("seed")
        or one not in losses_a
        or other not in losses_b
    ):
        return None
    places = _common(a, b)
    if places is None:
        return None
    in_a, in_b = places
    base_a, base_b = _base(a)[in_a], _base(b)[in_b]
    if not np.allclose(base_a, base_b, rtol=SAME_BASE, atol=SAME_BASE):
        return None
    return _contrast("A against B", losses_a[one][in_a], losses_b[other][in_b], base_a)


def _common(a: LossTable, b: LossTable) -> tuple[list[int], list[int]] | None:
    """Where each table has the held-out rows that both judged: those that decide and those that score are prefixes of the same order."""
    sizes_a, sizes_b = _sizes(a), _sizes(b)
    if sizes_a is None or sizes_b is None:
        return None
    (decide_a, score_a), (decide_b, score_b) = sizes_a, sizes_b
    decide, score = min(decide_a, decide_b), min(score_a, score_b)
    return (
        [*range(decide), *range(decide_a, decide_a + score)],
        [*range(decide), *range(decide_b, decide_b + score)],
    )
