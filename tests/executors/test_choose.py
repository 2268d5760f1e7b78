"""Where a request is measured: in this process, on all GPUs of the machine, or on a cluster."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from rightrank.errors import ConfigurationError
from rightrank.executors import choose, fleet, processes, ray
from rightrank.executors.worker import Order, Worker
from rightrank.request import Request, check
from small_run import save_model, word_tokenizer
from tiny import tiny_model


@pytest.fixture
def opened(monkeypatch):
    """Every fleet that is opened, as (transport's kind, order, devices)."""
    found = []
    monkeypatch.setattr(fleet, "Fleet", found.append)
    monkeypatch.setattr(processes, "Processes", lambda order, devices: ("processes", order, devices))
    monkeypatch.setattr(ray, "RayCluster", lambda order: ("ray", order))
    return found


def gpus(monkeypatch, count):
    monkeypatch.setattr(choose, "visible_gpus", lambda: [f"cuda:{index}" for index in range(count)])


def test_every_gpu_of_the_machine_unless_one_is_named(opened, monkeypatch, tmp_path):
    said = []
    request = Request(save_model(tmp_path / "model"), "rows.jsonl", on_text=said.append)
    monkeypatch.chdir(tmp_path)
    by_name = replace(request, model="model")
    order = Order(str(tmp_path / "model"), {"revision": "main"}, None, None)
    loading = {"revision": "main"}
    gpus(monkeypatch, 3)
    choose.open_workers(by_name, object(), loading, one_device=False)
    assert opened == [("processes", order, ["cuda:0", "cuda:1", "cuda:2"])], "found from any folder"
    choose.open_workers(replace(by_name, executor="ray"), object(), loading, one_device=False)
    assert opened[1:] == [("ray", order)]
    choose.open_workers(
        replace(by_name, model="someone/model", executor="ray"), object(), {}, one_device=False
    )
    assert opened[2][1].source == "someone/model", "a hub id is no path"
    one = choose.open_workers(replace(by_name, device="cpu"), object(), {}, one_device=False)
    assert isinstance(one, Worker) and one.base.device.type == "cpu"
    assert not said and len(opened) == 3
    choose.open_workers(by_name, object(), {}, one_device=True)
    assert said == ["One GPU is used: --metric and --keep are measured on one."] and len(opened) == 3


@pytest.mark.parametrize("count", [0, 1])
def test_one_gpu_or_none_needs_no_other_process(opened, monkeypatch, tmp_path, count):
    gpus(monkeypatch, count)
    request = Request(save_model(tmp_path / "model"), "rows.jsonl")
    assert isinstance(choose.open_workers(request, object(), {}, one_device=False), Worker)
    assert not opened


def test_a_loaded_model_stays_where_it_is(opened, monkeypatch):
    gpus(monkeypatch, 4)
    model = tiny_model()
    found = choose.open_workers(Request(model, []), word_tokenizer(), {}, one_device=False)
    assert isinstance(found, Worker) and found.base.model is model and not opened


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"executor": "slurm"}, "The executor 'slurm' is not known."),
        (
            {"executor": "ray", "model": SimpleNamespace(), "tokenizer": object()},
            "A loaded model cannot be sent",
        ),
        ({"executor": "ray", "device": "cpu"}, "--device and --executor ray exclude each other."),
        ({"executor": "ray", "metric": "score.py"}, "--metric and --keep are measured in this process"),
        ({"executor": "ray", "keep": "old.jsonl"}, "--metric and --keep are measured in this process"),
    ],
)
def test_what_a_cluster_cannot_do_is_said_before_anything_is_read(options, problem):
    with pytest.raises(ConfigurationError) as caught:
        check(replace(Request("model", "rows.jsonl"), **options))
    assert caught.value.problem.startswith(problem)


def test_ray_is_asked_for_only_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("rightrank.request.find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=r"needs the package ray\. Run `pip install 'rightrank\[ray\]'`"
    ):
        check(Request("model", "rows.jsonl", executor="ray"))
    check(Request("model", "rows.jsonl"))
