"""A probe carried out by an executor that trains nothing: its order, its deadline, Ctrl-C, and going on afterwards."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from rightrank.errors import ResourceError
from rightrank.probe import run
from rightrank.probe.loss_table import LossTable
from rightrank.probe.plan import Job, Speed
from rightrank.probe.run import Probe, Subject
from rightrank.recipe import Recipe
from rightrank.stats.decision import decide
from worlds import FREQUENCY_E, SCORES_E, TOKENS_E, World, plan_of

SPEED = Speed(0.0, 0.01, 0.0, 0.0, together=3)  # a run of 50 steps takes half a second, judging it nothing


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=clock))
    return clock


class Executor:
    """Takes its time on the test's clock; may fail in its ``fails_at``-th pack."""

    def __init__(self, world, clock, *, together=3, slowness=1.0, fails_at=None, failure=KeyboardInterrupt):
        self.world, self.clock, self.together, self.slowness = world, clock, together, slowness
        self.fails_at, self.failure = fails_at, failure
        self.trained = []
        self.exports = {}

    def fit_together(self, configurations):
        return [configurations[i : i + self.together] for i in range(0, len(configurations), self.together)]

    def evaluate_base(self):
        return self.world.base()

    def train(self, pack, *, export_to, on_step):
        if len(self.trained) == self.fails_at:
            on_step(0.5)
            raise self.failure
        self.trained.append(pack)
        self.exports[pack.number] = export_to
        seconds = JOB.recipe.steps(pack.examples) * 0.01 * len(pack.configurations) * self.slowness
        for share in (0.5, 1.0):
            on_step(share)
        self.clock.now += seconds
        return self.world.result(pack, seconds)


JOB = Job(
    examples=1600,
    recipe=Recipe(epochs=1, batch_size=8),
    parameters_per_rank=1000,
    decide_pool=30,
    score_pool=30,
    held_out_tokens=1.0,
)
WORLD = World(curvature=0.5)


def probe_of(
    directory, executor, *, plan=None, budget=1e9, speed=SPEED, yours=None, heard=None, keeps_adapters=False
):
    table = LossTable(directory, {})
    if table.base is None:
        table.set_base(executor.evaluate_base())
    subject = Subject(
        JOB, TOKENS_E, SCORES_E, FREQUENCY_E, 1e-3, 128, 1, yours, seed=0, keeps_adapters=keeps_adapters
    )
    return Probe(
        subject,
        plan or plan_of("plain"),
        speed,
        table,
        executor,
        deadline=executor.clock.now + budget,
        on_progress=lambda *what: heard.append(what) if heard is not None else None,
    )


def same(a, b):
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(a))


def test_it_measures_until_answered(tmp_path, clock):
    executor = Executor(WORLD, clock)
    probe = probe_of(tmp_path, executor)
    outcome = probe.run()
    assert outcome.stopped in ("answered", "carried out")
    assert len(outcome.evidence.rank_C) == sum(len(p.configurations) for p in executor.trained)
    assert [p.number for p in executor.trained] == list(range(len(executor.trained)))
    assert probe.table.packs == executor.trained
    sizes = [p.examples for p in executor.trained]
    assert sizes == sorted(sizes) and set(sizes) == {400, 1600}
    assert all(p.with_score == (p.examples == 1600) for p in executor.trained)


def test_a_settled_question_ends_it_early(tmp_path, clock, monkeypatch):
    asked = []

    def settled(evidence, **_):
        asked.append(len(evidence.rank_C))
        return SimpleNamespace(status="SETTLED", choice=SimpleNamespace(rank=16))

    monkeypatch.setattr(run, "decide", settled)
    monkeypatch.setattr(run, "smaller_stage", lambda *_, **__: None)
    executor = Executor(WORLD, clock)
    outcome = probe_of(tmp_path, executor, yours=(24, 12.0, 5e-5)).run()
    assert outcome.stopped == "answered"
    assert len(asked) == 1
    # Not before every rank and the person's own setting were measured.
    assert {c.rank for p in executor.trained if p.examples == 1600 for c in p.configurations} == {
        4, 8, 16, 24, 32, 64, 128
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "goes_on"), [("SETTLED", True), ("FLAT", True), ("CEILING", False), ("NO_GAIN", False)]
)
def test_an_answer_is_asked_for_smaller_ranks_where_one_could_do(
    tmp_path, clock, monkeypatch, status, goes_on
):
    monkeypatch.setattr(
        run, "decide", lambda evidence, **_: SimpleNamespace(status=status, choice=SimpleNamespace(rank=4))
    )
    executor = Executor(World(curvature=0.5, saturates_at=1), clock)
    outcome = probe_of(tmp_path, executor).run()
    assert outcome.stopped == "answered"
    assert (min(c.rank for p in executor.trained for c in p.configurations) == 1) == goes_on


@pytest.mark.parametrize(
    "ranks", [(4, 8, 16, 32, 64, 128), (8, 32, 128), (16, 32, 64, 128), (2, 4, 8, 16, 32, 64, 128)]
)
@pytest.mark.parametrize("enough", [2, 8])
def test_the_list_of_candidates_does_not_drag_the_answer(tmp_path, clock, ranks, enough):
    world = World(curvature=0.5, saturates_at=enough, noise=0.0005)
    plan = plan_of("plain", ranks=ranks, scout_ranks=(32, 128))
    outcome = probe_of(tmp_path, Executor(world, clock), plan=plan).run()
    decision = decide(outcome.evidence, replicates=500)
    assert (decision.status, decision.choice.rank) == ("SETTLED", enough)


def test_a_smallest_rank_asked_for_is_respected(tmp_path, clock):
    """``--ranks 8,16,32``: no other one is tried, however good."""
    executor = Executor(World(curvature=0.5, saturates_at=1, noise=0.0005), clock)
    plan = plan_of("plain", ranks=(8, 16, 32), scout_ranks=(8, 32))
    probe = probe_of(tmp_path, executor, plan=plan)
    probe.subject = replace(probe.subject, narrowest_rank=8, widest_rank=32)
    outcome = probe.run()
    assert set(outcome.evidence.rank_C.tolist()) == {8, 16, 32}


def test_an_undecided_question_is_carried_through(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(run, "decide", lambda evidence, **_: SimpleNamespace(status="UNDECIDED"))
    executor = Executor(WORLD, clock)
    assert probe_of(tmp_path, executor).run().stopped == "carried out"
    assert {c.role for p in executor.trained for c in p.configurations} >= {"guide", "seed"}


def test_a_pack_has_one_seed_and_no_more_than_fits(tmp_path, clock):
    executor = Executor(WORLD, clock, together=2)
    probe_of(tmp_path, executor).run()
    seeds = [{c.seed for c in p.configurations} for p in executor.trained]
    assert all(len(s) == 1 for s in seeds) and {1} in seeds
    assert max(len(p.configurations) for p in executor.trained) == 2


@pytest.mark.parametrize("budget", [0.5, 1.0, 5.2, 9.0, 30.0])
def test_it_stops_at_the_deadline(tmp_path, clock, budget):
    executor = Executor(WORLD, clock)
    start = clock.now
    outcome = probe_of(tmp_path, executor, budget=budget).run()
    assert outcome.stopped == "out of time"
    assert clock.now <= start + budget + 1e-9
    # The next run would not have fitted: half a second on 400 examples, two seconds on 1,600.
    assert clock.now > start + budget - (0.5 if len(executor.trained) < 3 else 2.0) - 1e-9
    assert len(outcome.evidence.rank_C) == sum(len(p.configurations) for p in executor.trained)


def test_part_of_a_pack_is_trained_where_the_whole_does_not_fit(tmp_path, clock):
    executor = Executor(WORLD, clock)
    outcome = probe_of(tmp_path, executor, budget=2.6).run()
    assert [len(p.configurations) for p in executor.trained] == [3, 2]
    assert outcome.stopped == "out of time"


def test_what_takes_longer_than_foreseen_is_believed_by_and_by(tmp_path, clock):
    executor = Executor(WORLD, clock, slowness=4.0)
    probe = probe_of(tmp_path, executor, budget=12.0)
    probe.run()
    assert len(executor.trained) == 2, "six seconds each, of which one and a half were foreseen at first"
    assert probe.speed.step_seconds == pytest.approx(0.01 * 2 * 2**0.5)


@pytest.mark.parametrize("together", [1, 3, 32])
@pytest.mark.parametrize("pack", [1, 3, 6])
def test_ctrl_c_keeps_what_is_measured_and_resuming_ends_as_if_nothing_had_happened(
    tmp_path, clock, pack, together
):
    whole = Executor(WORLD, clock, together=together)
    undisturbed = probe_of(tmp_path / "whole", whole).run()

    stopped = Executor(WORLD, clock, together=together, fails_at=pack)
    outcome = probe_of(tmp_path / "run", stopped).run()
    assert outcome.stopped == "interrupted"
    assert len(outcome.evidence.rank_C) == sum(len(p.configurations) for p in whole.trained[:pack])

    resumed = Executor(WORLD, clock, together=together)
    probe = probe_of(tmp_path / "run", resumed)
    assert probe.table.unfinished[0] == whole.trained[pack]
    again = probe.run()
    assert resumed.trained == whole.trained[pack:]
    assert again.stopped == undisturbed.stopped
    assert same(again.evidence, undisturbed.evidence)


def test_a_probe_stopped_while_it_asks_for_smaller_ranks_goes_on_with_them(tmp_path, clock):
    world = World(curvature=0.5, saturates_at=2, noise=0.0005)
    whole = Executor(world, clock)
    undisturbed = probe_of(tmp_path / "whole", whole).run()
    small = [i for i, p in enumerate(whole.trained) if min(c.rank for c in p.configurations) < 4]
    assert len(small) >= 2
    for pack in small:
        probe_of(tmp_path / str(pack), Executor(world, clock, fails_at=pack)).run()
        resumed = Executor(world, clock)
        again = probe_of(tmp_path / str(pack), resumed).run()
        assert resumed.trained == whole.trained[pack:]
        assert same(again.evidence, undisturbed.evidence)


def test_a_pack_whose_file_is_damaged_is_trained_again(tmp_path, clock):
    whole = Executor(WORLD, clock)
    undisturbed = probe_of(tmp_path, whole).run()
    (tmp_path / "packs" / "0002.safetensors").write_bytes(b"gone")
    resumed = Executor(WORLD, clock)
    again = probe_of(tmp_path, resumed).run()
    assert resumed.trained == [whole.trained[2]]
    assert same(again.evidence, undisturbed.evidence)


def test_an_unfinished_pack_too_keeps_to_the_deadline(tmp_path, clock):
    probe_of(tmp_path, Executor(WORLD, clock, fails_at=0)).run()
    late = Executor(WORLD, clock)
    outcome = probe_of(tmp_path, late, budget=0.4).run()
    assert (outcome.stopped, late.trained) == ("out of time", [])
    some = Executor(WORLD, clock)
    assert probe_of(tmp_path, some, budget=1.1).run().stopped == "out of time"
    assert [len(p.configurations) for p in some.trained] == [2]
    assert [len(p.configurations) for p in LossTable(tmp_path, {}).unfinished] == [3, 3, 1]
    rest = Executor(WORLD, clock)
    assert probe_of(tmp_path, rest).run().stopped != "out of time"
    trained = [(c, p.examples) for p in [*some.trained, *rest.trained] for c in p.configurations]
    whole = Executor(WORLD, clock)
    probe_of(tmp_path / "whole", whole).run()
    assert sorted(map(repr, trained)) == sorted(
        repr((c, p.examples)) for p in whole.trained for c in p.configurations
    )


def test_an_unfinished_pack_of_another_plan_is_left(tmp_path, clock):
    probe_of(tmp_path, Executor(WORLD, clock, fails_at=0), plan=plan_of("plain", scout=200)).run()
    executor = Executor(WORLD, clock)
    probe_of(tmp_path, executor).run()
    assert {p.examples for p in executor.trained} == {400, 1600}


def test_errors_pass_and_leave_the_table_whole(tmp_path, clock):
    executor = Executor(WORLD, clock, fails_at=1, failure=ResourceError("Memory ran out.", "…"))
    with pytest.raises(ResourceError, match="Memory ran out"):
        probe_of(tmp_path, executor).run()
    table = LossTable(tmp_path, {})
    assert len(table.packs) == 1 and [p.number for p in table.unfinished] == [1, 2]


def test_adapters_are_kept_where_all_rows_were_trained_on(tmp_path, clock):
    executor = Executor(WORLD, clock)
    probe_of(tmp_path, executor).run()
    for pack in executor.trained:
        wanted = tmp_path / "adapters" / f"{pack.number:04d}" if pack.examples == 1600 else None
        assert executor.exports[pack.number] == wanted


def test_adapters_of_the_last_size_are_kept_where_they_are_wanted(tmp_path, clock):
    executor = Executor(WORLD, clock)
    probe_of(tmp_path, executor, plan=plan_of("plain", final=800), keeps_adapters=True).run()
    assert {pack.examples for pack in executor.trained} == {400, 800}
    for pack in executor.trained:
        wanted = tmp_path / "adapters" / f"{pack.number:04d}" if pack.examples == 800 else None
        assert executor.exports[pack.number] == wanted


def test_every_result_is_heard_once_in_order_and_after_it_is_on_disk(tmp_path, clock):
    executor, heard = Executor(WORLD, clock), []
    probe = probe_of(tmp_path, executor)

    def hear(pack, result):
        assert (tmp_path / "packs" / f"{pack.number:04d}.safetensors").exists()
        heard.append((pack, result.loss_KE.shape[0]))

    probe.on_result = hear
    probe.run()
    assert heard == [(pack, len(pack.configurations)) for pack in executor.trained]


def test_progress_never_goes_back(tmp_path, clock):
    heard = []
    probe_of(tmp_path, Executor(WORLD, clock), heard=heard).run()
    assert heard[0][0].startswith("learning rates: 3 × r=8, 32, 128 on 400 rows")
    assert all(0 <= done <= whole for _, done, whole in heard)
    times = [done for _, done, _ in heard]
    assert times == sorted(times)
