"""Ranks that were planned and that time did not reach are named, and settings that have no price."""

from __future__ import annotations

from types import SimpleNamespace

from rightrank.answer import _unpriced
from rightrank.measuring import _missed
from rightrank.probe.loss_table import Configuration
from rightrank.stats.results import NO_INTERVAL, Price
from rightrank.stats.rungs import Setting


def missed(*trained: tuple[int, int]) -> tuple[str, ...]:
    plan = SimpleNamespace(ranks=(8, 32, 128), final_examples=47)
    table = SimpleNamespace(
        configurations=lambda examples: [Configuration(r, r, 1e-3) for r, rows in trained if rows == examples]
    )
    return _missed(plan, table)  # type: ignore[arg-type]


def test_what_was_only_trained_on_fewer_rows_was_not_reached() -> None:
    assert missed((8, 47), (32, 47), (16, 47), (128, 23)) == ("Planned, but not reached in time: r=128.",)
    assert missed((8, 47)) == ("Planned, but not reached in time: r=32, r=128.",)
    assert missed((8, 47), (32, 47), (128, 47)) == ()


def test_the_persons_own_setting_does_not_stand_for_its_rank() -> None:
    plan = SimpleNamespace(ranks=(8, 16), final_examples=47)
    own = Configuration(16, 32.0, 2e-4, 0, "yours")
    table = SimpleNamespace(configurations=lambda _: [Configuration(8, 8.0, 1e-3), own])
    assert _missed(plan, table) == ("Planned, but not reached in time: r=16.",)  # type: ignore[arg-type]


def test_settings_without_a_price_are_named_by_what_they_lack() -> None:
    def price(rank: int, why_not: str | None) -> Price:
        return Price(
            "guide", Setting(rank, 2.0 * rank, 2e-4), "cannot tell", None, None, None, None, None, why_not
        )

    decision = SimpleNamespace(choices=(price(8, "Too far."), price(16, NO_INTERVAL), price(32, None)))
    assert _unpriced(decision) == [  # type: ignore[arg-type]
        "Not priced, since nothing near was tried: guide r=8 a=16 2e-4.",
        "Not priced, since they were not run and these runs bear no interval: guide r=16 a=32 2e-4.",
    ]
