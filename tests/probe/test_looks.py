"""When a run is looked at on its way, what that costs, and that looking changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.probe.looks import Looks, look_rows, look_steps
from rightrank.probe.pack import PackResult, packed, unpacked
from rightrank.recipe import Recipe


@pytest.mark.parametrize(
    ("epochs", "examples", "steps"),
    [
        (3, 160, (10, 20)),
        (3, 155, (10, 20)),  # the last batch of a pass is smaller
        (1, 160, (5,)),
        (0.5, 160, (2,)),
        (1.5, 160, (10,)),
        (10, 160, (10, 40, 60, 90)),
        (1, 10, ()),  # one step: there is nothing before its end
    ],
)
def test_looks_are_at_whole_epochs_and_never_at_the_end(
    epochs: float, examples: int, steps: tuple[int, ...]
) -> None:
    recipe = Recipe().given(epochs=epochs, batch_size=16)
    assert look_steps(recipe, examples) == steps
    assert all(step < recipe.steps(examples) for step in steps)


def test_a_look_takes_a_quarter_of_the_rows_that_decide_but_not_too_few() -> None:
    assert [look_rows(n) for n in (10, 64, 128, 400)] == [10, 32, 32, 100]


def looks(adapters: int, first: float) -> Looks:
    losses = first + np.arange(adapters * 6, dtype=float).reshape(adapters, 2, 3)
    return Looks((0.5, 1.0), losses, losses[:, :, 0])


def test_parts_of_a_pack_are_joined_in_their_order() -> None:
    whole = Looks.joined([looks(1, 0.0), looks(2, 100.0)])
    assert whole is not None
    assert whole.loss_KLX[:, 0, 0].tolist() == [0, 100, 106]
    assert whole.train_loss_KL[:, 1].tolist() == [3, 103, 109]
    assert Looks.joined([looks(1, 0.0), None]) is None


def test_looks_are_kept_with_the_result() -> None:
    result = PackResult(
        np.ones((2, 4)), np.ones((2, 4), dtype=np.int64), (1.0, None), 9, 90, 1.5, looks(2, 1.0)
    )
    again, _ = unpacked(packed(result, {"run": {}}))
    assert again.looks is not None
    assert again.looks.epochs_L == (0.5, 1.0)
    assert np.array_equal(again.looks.loss_KLX, looks(2, 1.0).loss_KLX)
    bare, _ = unpacked(packed(PackResult(np.ones((1, 1)), np.ones((1, 1)), (1.0,), 1, 1, 1.0), {"run": {}}))
    assert bare.looks is None
