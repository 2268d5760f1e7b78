"""Several devices as one executor: the weakest counts where all must manage, and like must be trained alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crews import Scripted
from rightrank.bank.verify import Path as HowItRuns
from rightrank.errors import ModelError, ResourceError
from rightrank.executors.fleet import Fleet
from rightrank.executors.survey import Survey, facts_of
from rightrank.executors.worker import Answer
from rightrank.probe.loss_table import Configuration, Pack, PackResult
from rightrank.probe.plan import Speed
from rightrank.recipe import Recipe
from test_local import executor_of
from tiny import random_examples

EXECUTOR = executor_of()
FACTS = facts_of(EXECUTOR.base)
SPEED = Speed(0.1, 0.2, 0.0, 0.3, together=6)
EXAMPLES = random_examples(9, longest=12)
RESULT = PackResult(np.zeros((1, 2)), np.zeros((1, 2), dtype=int), (0.5,), 3, 4, 5.0)


def fleet_of(**of_each):
    """Three workers; ``of_each``: what each of them answers, by method."""

    def behave(link, method, *arguments):
        return Answer(of_each[method][link.number] if method in of_each else None)

    of_each = {
        "open": [FACTS] * 3,
        "survey": [Survey(HowItRuns(True, "packed rows"), EXECUTOR.memory)] * 3,
        "measure_speed": [SPEED, replace(SPEED, step_seconds=0.9), replace(SPEED, together=4)],
        "memory": [(1e9, 2.0), (3e9, 7.0), (2e9, 1.0)],
        **of_each,
    }
    fleet = Fleet(Scripted(behave, names=("a", "b", "c")))
    return fleet, lambda: fleet.survey(EXAMPLES, EXAMPLES[:3], Recipe(), "base")


def test_the_slowest_and_the_smallest_device_count():
    fleet, survey = fleet_of()
    survey()
    assert fleet.measure_speed(small=2, large=8) == Speed(0.1, 0.9, 0.0, 0.3, together=4, devices=3)
    assert fleet.available_bytes() == 1e9 and fleet.peak_gib() == 7.0
    wanted = [Configuration(rank, 8.0, 1e-3) for rank in (2, 4, 8, 2, 4, 8, 16)]
    assert [len(group) for group in fleet.fit_together(wanted)] == [3, 3, 1]
    assert [len(group) for group in fleet.fit_together(wanted * 4)] == [4] * 7
    assert fleet.device_words == f"3 × {FACTS.device_words}"


def test_too_little_memory_on_one_device_is_said():
    fleet, survey = fleet_of(memory=[(1e9, 2.0), (10.0, 7.0), (2e9, 1.0)])
    survey()
    with pytest.raises(ResourceError, match="One adapter of rank 2"):
        fleet.fit_together([Configuration(2, 8.0, 1e-3)])


def test_devices_that_run_the_model_otherwise_are_refused():
    ways = [Survey(HowItRuns(packed, "rows"), EXECUTOR.memory) for packed in (True, False, True)]
    fleet, survey = fleet_of(survey=ways)
    with pytest.raises(ModelError, match="does not run the same way on all devices"):
        survey()
    assert not any(link.open for link in fleet.transport.links)


def test_held_out_examples_and_notes_reach_those_they_are_for(tmp_path):
    trained = (RESULT, ["The adapters were trained in halves."], 9.5)
    fleet, survey = fleet_of(train=[trained] * 3)
    survey()
    fleet.judge_by(EXAMPLES[:2], EXAMPLES[2:5])
    assert (fleet.decide, fleet.score) == (EXAMPLES[:2], EXAMPLES[2:5])
    assert all(("judge_by", EXAMPLES[:2], EXAMPLES[2:5]) in link.asked for link in fleet.transport.links)
    done = []
    packs = [Pack(n, 9, (Configuration(2, 8.0, 1e-3),), with_score=False) for n in range(4)]
    fleet.train_each([(pack, tmp_path / str(pack.number)) for pack in packs], lambda *what: done.append(what))
    assert sorted(pack.number for pack, _ in done) == [0, 1, 2, 3] and all(
        result is RESULT for _, result in done
    )
    assert fleet.notes == ["The adapters were trained in halves."], "once"
    assert fleet.peak_gib() == 9.5
    asked = [
        question[1:] for link in fleet.transport.links for question in link.asked if question[0] == "train"
    ]
    assert sorted((pack.number, where.name, where.is_absolute()) for pack, where in asked) == [
        (n, str(n), True) for n in range(4)
    ]
