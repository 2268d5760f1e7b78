"""Which configurations train together on one device: as many as fit, in the order given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rightrank.bank.adapters import AdapterSpec
from rightrank.bank.memory import make_packs
from rightrank.bank.module_kinds import ranks_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.targets import Target
    from rightrank.probe.loss_table import Configuration


def spec_of(configuration: Configuration, targets: Sequence[Target]) -> AdapterSpec:
    """The adapter over ``targets`` that ``configuration`` trains. Raises ModelError where there are none of its layers."""
    c = configuration
    return AdapterSpec(c.rank, c.alpha, c.learning_rate, c.seed, ranks_on(targets, c.layers, c.rank))


def groups(
    configurations: Sequence[Configuration],
    targets: Sequence[Target],
    memory: MemoryModel,
    *,
    available: float,
    longest: int,
    most: int,
) -> list[list[Configuration]]:
    """``configurations`` in groups of at most ``most`` that fit into ``available`` bytes together with the longest example.

    Raises ResourceError where not even one fits.
    """
    packs = make_packs(
        [spec_of(c, targets) for c in configurations],
        targets,
        memory,
        available=available,
        longest=longest,
        most=most,
    )
    return [[configurations[i] for i in pack] for pack in packs]


def most_for_each(count: int, devices: int, together: int) -> int:
    """Configurations of a group, so that ``count`` of them keep all ``devices`` busy and none trains more than ``together`` at once."""
    return max(1, min(together, -(-count // devices)))
