"""The smallest rank that serves everyone, and what less costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rightrank.errors import UserError
from rightrank.fleet import Tenant, Way, fleet_lines, plan_fleet, read_tenant
from samples import sample
from samples_of_cuts import a_cut, line


def tenant(name, rank, *ways, status="SETTLED", margin=1.0):
    return Tenant(name, "cut", status, rank, margin, tuple(Way(*way) for way in ways))


SMALL = tenant("small", 4, (4, 0.2, -0.1, 0.6), (8, 0.0, -0.2, 0.4))
LARGE = tenant(
    "large", 64, (8, 9.0, 8.0, 10.0), (16, 2.0, 0.5, 3.5), (32, 0.4, 0.0, 0.9), (64, 0.0, 0.0, 0.3)
)


def test_the_common_rank_is_the_smallest_that_keeps_everyone_within_the_margin():
    fleet = plan_fleet([SMALL, LARGE])
    assert fleet.common == 32, "the large tenant asks for 64 and surely loses less than its margin at 32"
    by_rank = {ceiling.rank: ceiling for ceiling in fleet.ceilings}
    assert [one.rank for one in by_rank[32].served] == [4, 32]
    assert [one.verdict for one in by_rank[16].served] == ["fits", "may lose"]
    assert [one.verdict for one in by_rank[8].served] == ["fits", "loses"]
    assert by_rank[16].worst == 3.5


def test_what_was_not_seen_to_lose_more_than_the_margin_is_served_and_what_is_not_certain_said():
    unsure = tenant("unsure", 32, (8, 1.5, -0.5, 3.5), (16, 0.5, -0.5, 1.5), (32, 0.0, 0.0, 0.3))
    fleet = plan_fleet([unsure])
    assert (fleet.common, fleet.sure) == (16, 32), "0.5 % is within the margin, but it may be 1.5 %"
    said = "Not certain of unsure; 32 is the smallest at which none loses more than its margin at 95 %."
    assert said in fleet_lines(fleet)
    wide = plan_fleet([tenant("wide", 32, (16, 0.5, -0.5, 1.5), (32, 0.0, 0.0, 0.3), margin=2.0)])
    assert (wide.common, wide.sure) == (16, 16) and "certain" not in "\n".join(fleet_lines(wide))


def test_a_rank_that_lost_nothing_is_chosen_with_how_much_it_may_lose():
    """Not the largest that was tried, because every interval is wide."""
    open_ = tenant(
        "open", 128, (8, 6.0, 2.0, 9.0), (32, -0.4, -5.0, 4.2), (128, 0.0, 0.0, 3.9), status="UNDECIDED"
    )
    fleet = plan_fleet([open_])
    assert (fleet.common, fleet.sure) == (32, 128)
    lines = fleet_lines(fleet)
    assert lines[0] == "Serve 1 adapter at a largest rank of 32."
    assert "  open  r=32: no loss seen, up to 4.2 % of its gain  (UNDECIDED: not certain)" in lines
    assert "nothing" not in "\n".join(lines)


def test_under_a_ceiling_a_tenant_gets_what_surely_loses_least():
    odd = tenant("odd", 32, (4, 1.5, 1.2, 1.8), (8, 1.4, 0.0, 3.0), (32, 0.0, 0.0, 0.2))
    (served,) = next(c for c in plan_fleet([odd]).ceilings if c.rank == 8).served
    assert (served.rank, served.verdict) == (4, "loses")


def test_nothing_measured_that_small_is_said():
    only = tenant("only", 32, (32, 0.0, 0.0, 0.2))
    fleet = plan_fleet([only])
    assert fleet.common == 32 and fleet.ceilings[0].served[0].verdict == "unknown"
    assert "nothing that small was measured" in "\n".join(fleet_lines(fleet))


def test_a_rank_beyond_what_servers_take():
    assert plan_fleet([tenant("huge", 600, (600, 0.0, 0.0, 0.1))]).common == 600


def test_who_gains_nothing_is_left_out():
    idle = tenant("idle", 4, status="NO_GAIN")
    fleet = plan_fleet([SMALL, idle])
    assert [t.name for t in fleet.tenants] == ["small"] and fleet.without == ("idle",)
    assert fleet.common == 8, "the smallest ceiling that servers take above 1"
    with pytest.raises(UserError, match="None of these gains"):
        plan_fleet([idle])


def test_the_lines_name_the_rank_and_the_price_of_less():
    lines = fleet_lines(plan_fleet([SMALL, LARGE]))
    assert lines[0] == "Serve 2 adapters at a largest rank of 32."
    assert "  large  r=32 loses 0.4 % [0.0, 0.9] of its gain" in lines
    assert "    16  large r=16 loses 2.0 % [0.5, 3.5] of its gain" in lines
    assert lines[-1] == "vLLM: --max-lora-rank 32"


def test_answers_of_runs_and_of_cuts_are_read(tmp_path):
    (tmp_path / "a").mkdir()
    a_cut().save(tmp_path / "a")
    read = read_tenant(tmp_path / "a")
    assert (read.kind, read.rank, [way.rank for way in read.ways]) == ("cut", 4, [2, 4, 16])
    shrunk = line("r=4 × 0.8", "cut", 4, 1.4, -3.0, "best", factor=0.8)
    (tmp_path / "b").mkdir()
    replace(a_cut(), lines=(*a_cut().lines, shrunk), choice="r=4 × 0.8").save(tmp_path / "b")
    assert plan_fleet([read_tenant(tmp_path / "b")]).ceilings[-1].served[0].lost == -3.0
    beside = read_tenant(tmp_path / "a" / "cut.json")
    assert (beside.rank, beside.ways) == (read.rank, read.ways)
    sample("SETTLED").save(tmp_path / "run")
    run = read_tenant(tmp_path / "run")
    assert (run.kind, run.rank, run.margin) == (
        "recommendation",
        16,
        sample("SETTLED").margin.as_percent_of_gain,
    )
    assert [way.rank for way in run.ways] == [4, 8, 16, 32, 64, 128]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(UserError) as caught:
        read_tenant(tmp_path / "bare")
    assert "rightrank cut" in caught.value.mend
