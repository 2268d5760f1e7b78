"""A probe on several devices: the same packs and the same evidence as on one, sooner, and priced accordingly beforehand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.errors import ResourceError
from rightrank.probe import run
from rightrank.probe.plan import (
    Job,
    Speed,
    evaluation_seconds,
    make_plan,
    stage_seconds,
    train_seconds,
)
from rightrank.probe.plan_words import plan_lines
from rightrank.probe.run import SideBySide
from rightrank.recipe import Recipe
from test_run import JOB, SPEED, WORLD, Clock, Executor, probe_of, same


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=clock))
    return clock


class Devices(Executor):
    """As many packs at once as there are ``devices``, on the test's clock; ends them in the order of their time."""

    def __init__(self, world, clock, *, devices, **options):
        super().__init__(world, clock, **options)
        self.devices = devices
        self.most_running = 0

    def train_each(self, packs, on_done, on_tick):
        packs, running = iter(packs), []
        while True:
            while len(running) < self.devices and (found := next(packs, None)) is not None:
                pack, export_to = found
                seconds = JOB.recipe.steps(pack.examples) * 0.01 * len(pack.configurations) * self.slowness
                self.exports[pack.number] = export_to
                running.append((self.clock.now + seconds, pack, seconds))
            self.most_running = max(self.most_running, len(running))
            if not running:
                return
            on_tick()
            if len(self.trained) == self.fails_at:
                raise self.failure
            running.sort(key=lambda item: (item[0], -item[1].number))
            self.clock.now, pack, seconds = running.pop(0)
            self.trained.append(pack)
            on_done(pack, self.world.result(pack, seconds))


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_the_same_packs_and_evidence_as_on_one_device_sooner(tmp_path, clock, devices):
    one = Executor(WORLD, clock, together=1)
    begun = clock.now
    alone = probe_of(tmp_path / "one", one)
    first = alone.run()
    took = clock.now - begun
    several = Devices(WORLD, clock, devices=devices, together=1)
    assert isinstance(several, SideBySide) and not isinstance(one, SideBySide)
    begun = clock.now
    probe = probe_of(tmp_path / "several", several)
    second = probe.run()
    assert same(first.evidence, second.evidence) and first.stopped == second.stopped
    assert probe.table.packs == alone.table.packs
    folders = [{number: path and path.name for number, path in e.exports.items()} for e in (one, several)]
    assert folders[0] == folders[1]
    assert several.most_running == devices
    assert took / devices <= clock.now - begun <= (took if devices == 1 else 0.75 * took)


@pytest.mark.parametrize("budget", [1.3, 5.2, 9.0])
def test_all_devices_stop_at_the_deadline(tmp_path, clock, budget):
    executor = Devices(WORLD, clock, devices=2)
    start = clock.now
    probe = probe_of(tmp_path, executor, budget=budget)
    outcome = probe.run()
    assert outcome.stopped == "out of time"
    assert clock.now <= start + budget + 1e-9
    assert len(outcome.evidence.rank_C) == sum(len(p.configurations) for p in executor.trained)
    assert probe.table.packs == sorted(executor.trained, key=lambda pack: pack.number)
    assert probe.table.unfinished, "what did not fit is still to be done"


def test_what_was_finished_is_kept_whatever_ends_the_others(tmp_path, clock):
    executor = Devices(WORLD, clock, devices=2, fails_at=2, failure=ResourceError("No worker is left.", "…"))
    with pytest.raises(ResourceError):
        probe_of(tmp_path, executor).run()
    again = probe_of(tmp_path, Devices(WORLD, clock, devices=2))
    assert len(again.table.packs) == 2
    undisturbed = probe_of(tmp_path / "other", Devices(WORLD, clock, devices=2)).run()
    assert same(again.run().evidence, undisturbed.evidence)


def test_a_person_hears_what_runs(tmp_path, clock):
    heard = []
    probe_of(tmp_path, Devices(WORLD, clock, devices=2, together=1), heard=heard).run()
    assert heard[0][0].startswith("learning rates: 2 × r=") and heard[0][0].endswith(" on 400 rows")
    assert all(done <= whole for _, done, whole in heard)


@pytest.mark.parametrize(
    ("ranks", "devices", "together", "seconds"),
    [
        ([8, 8, 8], 1, 1, 3 * 10.5),
        ([8, 8, 8], 2, 1, 2 * 10.5),
        ([8, 8, 8], 4, 1, 10.5),
        ([8, 8, 8, 8], 2, 8, 2 * 10.5 - 4.0),  # two together on each share the floor of four seconds
        ([8, 8, 8, 8], 1, 4, 4 * 10.5 - 3 * 4.0),
        ([72, 8, 8, 8], 2, 1, 18.5 + 10.5),  # the long one, and the last of the short ones after it
        ([], 3, 2, 0.0),
    ],
)
def test_the_price_of_a_stage_by_hand(ranks, devices, together, seconds):
    """100 steps of 0.04 s for all and 0.05 s an adapter and 0.01 s at rank 8, and half a second to be judged."""
    speed = Speed(0.04, 0.05, 1.25e-6, 1 / 60, together=together, devices=devices)
    job = replace(JOB, parameters_per_rank=1000)
    assert stage_seconds(job, speed, ranks, 800, 30) == pytest.approx(seconds)


@given(
    st.lists(st.sampled_from([4, 8, 16, 32, 64, 128]), min_size=1, max_size=24),
    st.integers(1, 9),
    st.integers(1, 8),
)
def test_the_price_is_between_the_share_of_each_device_and_what_the_others_may_wait_besides(
    ranks, devices, together
):
    """Graham's bound for list scheduling, 1966."""
    speed = replace(
        SPEED, floor_seconds=0.02, step_seconds_per_parameter=1e-6, together=together, devices=devices
    )
    job = replace(JOB, parameters_per_rank=1000)
    most = max(1, min(together, -(-len(ranks) // devices)))
    packs = [ranks[i : i + most] for i in range(0, len(ranks), most)]
    each = [train_seconds(job, speed, p, 800) + len(p) * evaluation_seconds(job, speed, 30) for p in packs]
    price = stage_seconds(job, speed, ranks, 800, 30)
    even = sum(each) / devices
    assert max(even, *each) <= price * (1 + 1e-9)
    assert price <= (even + (1 - 1 / devices) * max(each)) * (1 + 1e-9)


def test_more_devices_buy_more_in_the_same_time():
    job = Job(3200, Recipe(epochs=1, batch_size=8), 1000, 300, 300, 1.0)
    slow = Speed(0.0, 0.05, 0.0, 0.0, together=1)
    one, eight = (make_plan(job, replace(slow, devices=n), (4, 8, 16, 32), 120.0) for n in (1, 8))
    assert (one.breadth, one.ranks, eight.breadth, eight.ranks) == ("lean", (8, 32), "wide", (4, 8, 16, 32))
    assert one.planned_seconds > eight.planned_seconds
    assert one.run_seconds == eight.run_seconds, "a run of the recipe is a run on one device"
    (first, *_), (also, *_) = (plan_lines(plan, job, 10.0, 80.0) for plan in (one, eight))
    assert " on 8 devices (" in also and "peak 10.0 of 80.0 GiB on each" in also
    assert "devices" not in first and "peak 10.0 of 80.0 GiB" in first and "on each" not in first
    assert (
        f"({8 * eight.planned_seconds / eight.run_seconds:.1f} × the time of one run of your recipe)" in also
    )
