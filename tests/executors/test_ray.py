"""A Ray cluster of two workers on this machine, one of them killed: the same answer as of one process, but for times."""

from __future__ import annotations

import json
import os
import signal
from functools import partial

import psutil
import pytest
import torch

import rightrank
from rightrank.errors import ConfigurationError, ResourceError
from rightrank.executors import ray as ours
from rightrank.executors.fleet import Fleet
from rightrank.executors.local import LocalExecutor
from rightrank.executors.worker import Order
from rightrank.probe.plan import Speed
from rightrank.recipe import Recipe
from small_run import save_model, save_rows, small_rows

ray = pytest.importorskip("ray")
# Ray 2.40 forgets processes and files of its own when it starts; rightrank's are counted in test_processes.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Exception ignored in.*{what}") for what in ("Popen.__del__", "FileIO")
]

OPTIONS = {"ranks": (4, 8, 16), "recipe": Recipe(epochs=1, batch_size=8), "budget_minutes": 20}
SPEED = Speed(0.0, 0.002, 0.0, 1e-6, together=1)  # the plan hangs on it


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 27)
    yield
    ray.shutdown()


@pytest.fixture
def two_workers(cluster, monkeypatch):
    monkeypatch.setattr(ours, "RayCluster", partial(ours.RayCluster, workers=2, cpus=1))
    for executor in (LocalExecutor, Fleet):
        monkeypatch.setattr(executor, "measure_speed", lambda self, **_: SPEED)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def workers():
    return [p for p in psutil.Process().children(recursive=True) if "RemoteWorker" in " ".join(p.cmdline())]


def told(answer, directory):
    """All of ``recommendation.json`` that is no time and names no place."""
    found = json.loads((directory / "recommendation.json").read_text())
    for name in ("created", "command", "run_directory"):
        found["provenance"].pop(name)
    del found["cost"], found["checksum"]
    for step in found["to_decide"]:
        del step["minutes"]
    return found


def test_two_workers_one_of_them_killed_give_the_answer_of_one_process(two_workers, tmp_path):
    model, rows = save_model(tmp_path / "model"), save_rows(tmp_path / "rows.jsonl", small_rows())
    here = rightrank.recommend(str(model), str(rows), device="cpu", out=tmp_path / "here", **OPTIONS)
    killed: list[int] = []

    def kill_one(what, done, whole):
        finished = len(list((tmp_path / "there" / "packs").glob("[0-9]*.safetensors")))
        if finished >= 2 and not killed:
            killed.append(workers()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    there = rightrank.recommend(
        str(model), str(rows), executor="ray", out=tmp_path / "there", on_progress=kill_one, **OPTIONS
    )
    assert len(killed) == 1
    (note,) = set(there.warnings) - set(here.warnings)
    assert "of the cluster was lost while it was training r=" in note and "that was done again" in note
    one, other = told(here, tmp_path / "here"), told(there, tmp_path / "there")
    other["warnings"].remove(note)
    assert len(one["points"]) > 10 and one == other
    packs = [sorted((tmp_path / where / "packs").glob("[0-9]*.json")) for where in ("here", "there")]
    assert [p.name for p in packs[0]] == [p.name for p in packs[1]]
    assert there.cost.device == f"2 × {here.cost.device}"
    adapters = [
        (tmp_path / w / "adapter" / "adapter_model.safetensors").read_bytes() for w in ("here", "there")
    ]
    assert adapters[0] == adapters[1]


def test_no_more_workers_than_the_cluster_has_room_for(cluster, monkeypatch):
    monkeypatch.setattr(ours, "SECONDS_FOR_ROOM", 0.1)
    with pytest.raises(ours.WorkerLostError, match="no room"):
        ours.RayCluster(Order("model", {}, None, None), workers=1, cpus=3).start("one")


def test_one_worker_a_machine_where_no_machine_has_a_gpu(cluster):
    found = ours.RayCluster(Order("model", {"revision": "main"}, None, None))
    assert found.names == ("machine 1 of the cluster",)
    assert found.order(found.names[0]) == Order("model", {"revision": "main"}, "cpu", 2)


def test_another_version_on_a_machine_of_the_cluster_is_refused():
    answer = ours.RemoteWorker().ask("0.0.0", "open", Order("model", {}, "cpu", 1))
    with pytest.raises(ConfigurationError, match=r"has rightrank .*, and this one has 0\.0\.0"):
        answer.unpacked()


def test_nothing_is_sent_home(cluster):
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    try:
        from ray._common.usage import usage_lib
    except ImportError:  # before 2.50 or so it lived elsewhere
        from ray._private.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


@pytest.mark.parametrize(
    ("address", "why"),
    [("", "Could not find any running Ray instance"), ("127.0.0.1:9", "Connection refused")],
)
def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch, address, why):
    def absent(**_):
        assert not address, "Ray would try for minutes"
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", absent)
    with pytest.raises(ResourceError, match=rf"cannot be joined \({why}\)\."):
        ours.RayCluster(Order("model", {}, None, None))
