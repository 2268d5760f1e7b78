"""What stands between a small rank and its certificate, on tables whose truth is known."""

from __future__ import annotations

import numpy as np

from planted import World, draw, settled, take
from rightrank.stats.decision import decide
from rightrank.stats.doubt import MOST_RIVALS, in_doubt
from rightrank.stats.rungs import measure
from rightrank.stats.support import equivalence_margin
from rightrank.stats.surface import stand

NOISY = World(lost=settled, seed_share=0.004, examples=400)
"""Rank 16 is enough. One seed, which is worth about as much as the margin."""


def test_ranks_in_doubt_are_those_within_the_margin_but_not_surely() -> None:
    for seed in range(4):
        evidence = draw(NOISY, seed=seed)
        data = measure(evidence, 500, 0)
        standing = stand(data, evidence.all_examples)
        margin = equivalence_margin(data, standing).percent
        lost = {rank: standing.gain_lost_by(u) for rank, u in standing.chosen.items()}
        sure = [rank for rank, e in lost.items() if e.high <= margin]
        expected = [
            rank for rank, e in lost.items() if e.value <= margin < e.high and (not sure or rank < min(sure))
        ]
        likely = [r for r in expected if lost[r].value + 0.6 * (lost[r].high - lost[r].value) <= margin]
        order = likely + [r for r in expected if r not in likely]
        assert [group[0].rank for group in in_doubt(evidence)] == order


def test_below_a_rank_that_is_known_to_be_sure_all_others_are_in_doubt() -> None:
    evidence = draw(World(lost=settled, seed_share=0.0003, seeds=3, examples=800))
    assert [group[0].rank for group in in_doubt(evidence, below=64)] == [16, 32]
    assert all(len(group) >= 2 for group in in_doubt(evidence, below=64)), "each with a rival"
    assert in_doubt(evidence, below=16) == []


def test_its_rivals_come_with_it_and_are_not_many() -> None:
    groups = [group for seed in range(4) for group in in_doubt(draw(NOISY, seed=seed))]
    assert groups
    for smallest, *rivals in groups:
        assert 1 <= len(rivals) <= MOST_RIVALS
        assert smallest not in rivals and len(set(rivals)) == len(rivals)


def test_nothing_is_in_doubt_where_the_smallest_rank_is_sure() -> None:
    quiet = World(lost=settled, seed_share=0.0003, seeds=3, examples=800)
    evidence = draw(quiet)
    assert decide(evidence, replicates=300).status == "SETTLED"
    assert in_doubt(evidence) == []


def test_a_run_on_few_rows_that_may_still_be_the_best_is_the_first_to_make() -> None:
    """Rank 128 at its best learning rate was not run on all rows, and what it lost on half of them bounds nothing."""
    evidence = draw(World(lost=settled, seed_share=0.0005, per_log_examples=0.6, curvature=0.02))
    gone = (evidence.examples_C == 3200) & (evidence.rank_C == 128) & (evidence.learning_rate_C != 3e-4)
    groups = in_doubt(take(evidence, np.flatnonzero(~gone)))
    first = [group[1] for group in groups]
    assert first and all(setting.rank == 128 and setting.learning_rate > 3e-4 for setting in first)
