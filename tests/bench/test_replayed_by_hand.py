"""What a replay makes up, and another order of seeds, on surfaces of a few runs.

Dimensions: C runs, E held-out examples: two that decide, one that scores.
"""

from __future__ import annotations

import numpy as np
import pytest
from bench.replay import Run, Runs
from bench.scores import reseeded
from bench.tables import Surface

from rightrank.recipe import alpha_for

ROWS = (3200, 1600, 400)


def surface_of(runs: list[tuple[int, int, float, int, list[float]]]) -> Surface:
    """``runs``: size, rank, log10 learning rate, seed, losses."""
    sizes, ranks, axes, seeds, losses = zip(*runs, strict=True)
    return Surface(
        name="hand", epochs=3.0, batch_size=16, sizes=ROWS, train_tokens=ROWS, trained_tokens=ROWS, decide=2,
        rank_C=np.array(ranks), alpha_C=np.array([float(alpha_for(r)) for r in ranks]),
        learning_rate_C=10.0 ** np.array(axes), seed_C=np.array(seeds), examples_C=np.array(sizes),
        loss_CE=np.array(losses, dtype=float), right_CE=np.arange(3 * len(runs)).reshape(-1, 3),
        tokens_E=np.full(3, 5), lengths_E=np.full(3, 9), base_loss_E=np.array([6.0, 6.0, 50.0]),
        base_right_E=np.zeros(3, int), frequency_loss_E=np.full(3, 9.0), about={},
    )  # fmt: skip


def test_an_edge_is_steeper_the_nearer_one_comes() -> None:
    """The base loses 12 on the rows that decide, the best 2: a gain of 10. The row that scores does not matter."""
    steep, far, at_it = [1.75, 1.75, 0.0], [6.9, 5.0, 0.0], [1.5, 1.5, 99.0]
    runs = Runs(
        surface_of([(3200, 8, -4.0 + i, 0, loss) for i, loss in enumerate(([1, 1, 9], steep, far, at_it))])
    )
    # 15 %: from 1 + 0 to 1 + 15 by a factor of 4 halfway.
    assert runs._over_the_edge(0, 1, 0.5) == pytest.approx(3 / 15)
    assert runs._over_the_edge(0, 1, 0.25) == pytest.approx(1 / 15)
    assert runs._over_the_edge(0, 1, 1.0) == pytest.approx(1.0)
    assert runs._over_the_edge(0, 2, 0.5) == pytest.approx(9 / 99)
    assert runs._over_the_edge(0, 3, 0.5) is None  # 10 % is the valley's side
    assert runs._over_the_edge(1, 0, 0.5) is None


LUCKY = [
    (3200, 32, -3.0, 0, [5.0, 5.0, 5.0]),
    (3200, 32, -3.0, 1, [6.0, 4.0, 5.0]),  # +1, -1, 0
    (3200, 32, -3.0, 2, [5.0, 5.0, 7.0]),  # 0, 0, +2
    (3200, 8, -2.5, 0, [8.0, 8.0, 8.0]),
    (3200, 8, -2.5, 1, [8.5, 8.0, 5.0]),  # +0.5, 0, -3
    (3200, 8, -3.5, 0, [2.0, 2.0, 2.0]),
    (3200, 8, -2.0, 0, [3.0, 3.0, 3.0]),
    (400, 8, -2.5, 0, [9.0, 9.0, 9.0]),
    (400, 8, -2.5, 2, [9.0, 9.0, 9.25]),  # 0, 0, +0.25
]


@pytest.mark.parametrize(
    ("rank", "axis", "size", "seed", "luck"),
    [
        (
            16,
            -2.8,
            3200,
            1,
            [1.0, -1.0, 0.0],
        ),  # one doubling from both: 0.2 of a decade to rank 32, 0.3 to rank 8
        (16, -2.7, 3200, 1, [0.5, 0.0, -3.0]),
        (64, -2.7, 3200, 1, [1.0, -1.0, 0.0]),  # two doublings more count as far as 0.18 of a decade
        (64, -2.6, 3200, 1, [0.5, 0.0, -3.0]),  # here rank 8 is nearer by 0.3 of a decade
        (8, -2.5, 3200, 2, [0.0, 0.0, 2.0]),  # rank 8 was not recorded with this seed
        (16, -2.8, 3200, 3, [1.0, -1.0, 0.0]),  # a third seed is the first again, a fourth the second
        (16, -2.8, 3200, 4, [0.0, 0.0, 2.0]),
        (16, -2.8, 1600, 1, [1.0, -1.0, 0.0]),  # half of 3,200, four times 400
        (16, -2.8, 400, 1, [0.0, 0.0, 0.25]),  # the only other seed there
    ],
)
def test_another_seed_is_what_it_made_of_the_nearest_setting(
    rank: int, axis: float, size: int, seed: int, luck: list[float]
) -> None:
    run = Run(np.array([4.0, 4.0, 4.0]), np.array([1, 2, 3]), recorded=True)
    found = Runs(surface_of(LUCKY))._as_lucky(run, rank, axis, size, seed)
    assert found.loss_E.tolist() == pytest.approx([4.0 + one for one in luck])
    assert found.right_E.tolist() == [1, 2, 3] and not found.recorded


def test_luck_takes_no_loss_below_nought_and_none_from_a_run_that_diverged() -> None:
    run = Run(np.array([0.4, 0.4, 0.4]), np.array([1, 2, 3]), recorded=True)
    assert Runs(surface_of(LUCKY))._as_lucky(run, 32, -3.0, 3200, 1).loss_E.tolist() == [1.4, 0.0, 0.4]
    diverged = [*LUCKY[:1], (*LUCKY[1][:4], [np.inf] * 3)]
    assert Runs(surface_of(diverged))._as_lucky(run, 32, -3.0, 3200, 1) is run
    assert Runs(surface_of(LUCKY[:1]))._as_lucky(run, 32, -3.0, 3200, 1) is run


class Given(np.random.Generator):
    """Draws one order after the other, whatever it is asked for."""

    def __init__(self, *orders: list[int]) -> None:
        super().__init__(np.random.PCG64(0))
        self.orders = list(orders)

    def permutation(self, x: object, axis: int = 0) -> np.ndarray:  # type: ignore[override]
        """The next order; the last one for ever."""
        return np.array(self.orders.pop(0) if len(self.orders) > 1 else self.orders[0])


def seeds_of(runs: list[tuple[int, int, float, tuple[int, ...]]]) -> Surface:
    """Runs of several seeds each; what a run loses says which it is: 100 x its place, and its seed."""
    return surface_of(
        [
            (size, rank, axis, seed, [100.0 * place + seed] * 3)
            for place, (size, rank, axis, seeds) in enumerate(runs)
            for seed in seeds
        ]
    )


def test_every_setting_of_a_size_begins_with_the_same_other_seed() -> None:
    surface = seeds_of([(3200, 8, -3.0, (0, 1, 2)), (3200, 32, -3.0, (0, 1, 2)), (3200, 64, -3.0, (0,))])
    found = reseeded(surface, Given([2, 0, 1], [1, 2, 0]))
    assert found.loss_CE[:, 0].tolist() == [2, 0, 1, 102, 100, 101, 200]
    assert found.seed_C.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.right_CE[:, 0].tolist() == [6, 0, 3, 15, 9, 12, 18]  # of the same runs
    assert surface.loss_CE[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 200]


def test_sizes_are_reseeded_apart() -> None:
    surface = seeds_of([(3200, 8, -3.0, (0, 1, 2)), (400, 8, -3.0, (0, 1, 2))])
    found = reseeded(surface, Given([2, 0, 1], [1, 2, 0]))
    assert found.loss_CE[:, 0].tolist() == [2, 0, 1, 101, 102, 100]


@pytest.mark.parametrize(
    ("order", "expected"), [([1, 2, 0], [1, 2, 0, 101, 100]), ([2, 1, 0], [2, 1, 0, 101, 100]), ([2, 0, 1], [2, 0, 1, 100, 101])]
)  # fmt: skip
def test_a_setting_of_fewer_seeds_keeps_to_the_order_of_its_size(
    order: list[int], expected: list[int]
) -> None:
    surface = seeds_of([(3200, 8, -3.0, (0, 1, 2)), (3200, 32, -3.0, (0, 1))])
    assert reseeded(surface, Given(order, order)).loss_CE[:, 0].tolist() == expected
