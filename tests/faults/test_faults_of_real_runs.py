"""A real run, disturbed in every way and resumed, ends with what an undisturbed one ends with, bit for bit.

In a process of its own, which forks a child a run: a child cannot train where its parent has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)
"""A dozen processes, one after another: seconds where a core is free, minutes where ten others want it."""

Trials = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    said = subprocess.run(
        [sys.executable, Path(__file__).with_name("trials.py"), tmp_path_factory.mktemp("faults")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert said.returncode == 0, said.stderr[-3000:]
    found: Trials = {}
    for line in said.stdout.splitlines():
        trial = json.loads(line)
        found.setdefault(trial["fault"], []).append(trial)
    return found


FAULTS = {
    "SIGKILL at a random moment": 2,
    "SIGKILL at a file operation": 2,
    "a full disk": 1,
    "SIGTERM": 1,
    "a flipped bit": 1,
    "the clock goes back": 1,
    "a second process": 1,
}


def test_every_fault_was_tried(trials: Trials) -> None:
    assert {fault: len(tried) for fault, tried in trials.items()} == FAULTS


@pytest.mark.parametrize("fault", FAULTS)
def test_resumed_it_ends_as_if_nothing_had_happened(trials: Trials, fault: str) -> None:
    for trial in trials[fault]:
        assert trial["well"], trial
        assert trial["lost"] == 0 and trial["differs"] == []


def test_what_the_disturbed_run_says(trials: Trials) -> None:
    (full,) = trials["a full disk"]
    assert full["code"] == 3 and full["kept"] > 3
    assert "No space left on device. Free some space and run the same command with --resume" in full["said"]
    (second,) = trials["a second process"]
    assert second["code"] == 2 and "is in use by process" in second["said"]
    (stopped,) = trials["SIGTERM"]
    assert stopped["code"] == 0 and stopped["kept"] < 10, "it answers, and from what was measured by then"
    _, killed = trials["SIGKILL at a file operation"]
    assert killed["code"] == -9 and 3 < killed["kept"] < 19
    (flipped,) = trials["a flipped bit"]
    assert flipped["kept"] == 17, "of nineteen measurements, two were damaged"
