"""Which configurations train together, on one device and on several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.executors.grouping import groups, most_for_each
from rightrank.probe.loss_table import Configuration
from test_local import executor_of


@pytest.mark.parametrize(
    ("count", "devices", "together", "most"),
    [(8, 1, 32, 8), (8, 2, 32, 4), (9, 2, 32, 5), (3, 8, 32, 1), (8, 2, 3, 3), (8, 2, 1, 1), (0, 2, 4, 1)],
)
def test_all_devices_are_kept_busy(count, devices, together, most):
    assert most_for_each(count, devices, together) == most


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 40))
def test_one_round_of_all_devices_does_where_memory_allows_it(count, devices, together):
    size = most_for_each(count, devices, together)
    number = -(-count // size)
    rounds = -(-number // devices)
    assert rounds == 1 or size == together
    assert rounds * devices * size >= count > (rounds - 1) * devices * size


def test_groups_keep_the_order_and_say_what_does_not_fit():
    executor = executor_of()
    wanted = [Configuration(rank, 8.0, 1e-3) for rank in (2, 16, 4, 8, 1)]
    free = {"available": executor.available_bytes(), "longest": 12}
    found = groups(wanted, executor.targets, executor.memory, most=2, **free)
    assert found == [wanted[:2], wanted[2:4], wanted[4:]]
