"""Workers as processes of this machine: bitwise what one process gives, a killed one survived, and none left behind."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

from rightrank.errors import ConfigurationError
from rightrank.executors.fleet import Fleet
from rightrank.executors.processes import Processes
from rightrank.probe.loss_table import Configuration, Pack
from worlds_of_processes import DECIDE, PACKS, RECIPE, SCORE, TRAIN, prepared, same, save_base, truth


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(order):
    return truth(order)


@pytest.fixture(scope="module")
def fleet(order):
    fleet = Fleet(Processes(order, ["cpu", "cpu"]))
    yield fleet
    fleet.close()


def test_errors_come_back_as_they_were_and_adapters_only_where_the_run_is_seen(fleet, tmp_path):
    prepared(fleet)
    result = fleet.train(PACKS[0], export_to=tmp_path / "adapters" / "0000", on_step=lambda share: None)
    assert result.steps == 40 and not (tmp_path / "adapters").exists()
    assert fleet.notes == [
        "The trained adapters were not kept: a worker's machine does not see the run directory."
    ]
    fleet.notes.clear()
    link = fleet._crew._places[0].link
    too_wide = Pack(9, 40, (Configuration(64, 1.0, 1e-3),), with_score=True)
    for question, error, words in (
        (("train", too_wide, None), ConfigurationError, "Rank 64 is beyond the width of every module"),
        (("measure_speed", "a", "b"), RuntimeError, "A worker failed:\nTraceback"),
    ):
        link.send(*question)
        with pytest.raises(error, match=words):
            link.take().unpacked()


def test_two_workers_give_bitwise_what_one_gives_and_one_may_be_killed(fleet, alone, tmp_path):
    worker, wanted = alone
    assert fleet.facts == worker.facts
    survey = prepared(fleet)
    assert (survey.path, survey.memory) == (worker.executor.path, worker.executor.memory)
    (tmp_path / "run.json").write_text("{}")
    results, killed = {}, []

    def kill_one():
        if len(results) == 1 and not killed:
            busy = [place for place in fleet._crew._places if place.task is not None]
            killed.append(busy[0].link.process.pid)
            os.kill(killed[0], signal.SIGKILL)

    where = [tmp_path / "adapters" / f"{pack.number:04d}" for pack in PACKS]
    fleet.train_each(
        zip(PACKS, where, strict=True),
        lambda pack, result: results.__setitem__(pack.number, result),
        kill_one,
    )
    assert all(same([results[pack.number] for pack in PACKS], wanted))
    pids = [place.link.process.pid for place in fleet._crew._places]
    assert len(killed) == 1 and killed[0] not in pids
    assert len(fleet.notes) == 1 and "was lost while it was training r=" in fleet.notes[0]
    assert "(ended by SIGKILL); that was done again." in fleet.notes[0]
    assert all((folder / "0" / "adapter_model.safetensors").stat().st_size for folder in where)
    assert fleet.peak_gib() > 0.05


def test_the_executor_of_two_devices_answers_as_that_of_one(fleet, alone):
    worker, wanted = alone
    prepared(fleet)
    assert same([fleet.evaluate_base()], [worker.evaluate_base()]) == [True]
    heard = []
    assert same([fleet.train(PACKS[1], export_to=None, on_step=heard.append)], [wanted[1]]) == [True]
    assert heard == [1.0]
    configurations = [pack.configurations[0] for pack in PACKS]
    assert fleet.fit_together(configurations) == [[c] for c in configurations]
    speed = fleet.measure_speed(small=2, large=8)
    assert (speed.devices, speed.together) == (2, 1) and speed.step_seconds > 0
    assert fleet.device_words == f"2 × {worker.facts.device_words}"


def test_a_parent_that_is_gone_takes_its_workers_with_it(order, fleet):
    """Even while they are busy: an orphan would keep its GPU."""
    prepared(fleet)
    busy, idle = (place.link for place in fleet._crew._places)
    endless = replace(RECIPE, epochs=1_000_000)
    for question in (("survey", TRAIN, TRAIN[:3], endless, "the base"), ("judge_by", DECIDE, SCORE)):
        busy.send(*question)
        busy.take().unpacked()
    busy.send("train", PACKS[0], None)
    for heard_by_all in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        busy.process.send_signal(
            heard_by_all
        )  # a terminal and a batch system send these to all; the parent answers then
    time.sleep(0.2)
    assert busy.process.poll() is None
    for link, code in ((busy, 1), (idle, 0)):
        link.connection.close()  # what the system does when a process ends, however it ends
        assert link.process.wait(timeout=60) == code
