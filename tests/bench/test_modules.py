"""Attention alone, MLP alone, all layers: each adapter stays within its own, and all have the same size."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bench.design import DataSet
from safetensors import safe_open

from bench import design, modules
from rightrank.bank.base_model import load_base
from rightrank.executors.worker import Worker
from rightrank.probe.loss_table import LossTable, Pack
from rightrank.probe.settings import configuration
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

SMALL = DataSet("small", "rows.jsonl", None, 64)
PARTS = {"attention": "self_attn", "mlp": ".mlp."}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(design, "FEWEST_STEPS", 2)
    save_rows(tmp_path / "rows.jsonl", small_rows(340))


def asked(folder: Path, **more: Any) -> argparse.Namespace:
    usual = {"data": folder, "out": folder / "out", "epochs": 2.0, "ranks": [4], "rates": [3e-3, 1e-2]}
    return argparse.Namespace(**{**usual, "second_seed": True, **more})


def test_all_are_trained_once_and_compared_at_equal_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_base(save_model(tmp_path / "model"))
    args = asked(tmp_path)
    assert modules.record(Worker(base), base.tokenizer, SMALL, args, math.inf)
    table = LossTable.opened(tmp_path / "out" / "small" / "2")
    trained = table.configurations()
    assert len(trained) == len(set(trained)) == 3 * (2 + 1), "two rates, and the best again with another seed"
    assert modules.record(Worker(base), base.tokenizer, SMALL, args, until=0.0), "all of it is there"
    assert not modules.record(Worker(base), base.tokenizer, SMALL, asked(tmp_path, ranks=[4, 6]), until=0.0)

    modules.show(argparse.Namespace(model=tmp_path / "out", table=tmp_path / "table.json"))
    (found,) = json.loads((tmp_path / "table.json").read_text())
    kinds = found["sizes"][0]["kinds"]
    sizes = [one["parameters"] for one in kinds.values()]
    assert max(sizes) < 1.15 * min(sizes), "ranks are whole numbers"
    assert min(one["loss"] for one in kinds.values()) < found["base_loss"], "something was learnt"
    assert set(kinds["mlp"]["gain_lost_by_seed"]) == {"0", "1"}
    value, low, high = kinds["attention"]["gain_lost"]
    assert low < value < high
    assert value == pytest.approx(
        np.mean(list(kinds["attention"]["gain_lost_by_seed"].values())), rel=0.2, abs=2
    )
    assert "MLP alone" in capsys.readouterr().out


@pytest.mark.parametrize("layers", ["attention", "mlp"])
def test_an_adapter_stays_within_its_kind(layers: Any, tmp_path: Path) -> None:
    """All three train in one pack: what is exported has tensors of its own kind alone, and they have moved."""
    base = load_base(save_model(tmp_path / "model"))
    worker = Worker(base)
    _, data = modules.prepared(base.tokenizer, SMALL, tmp_path, 1.0)
    recipe = modules.prepared(base.tokenizer, SMALL, tmp_path, 1.0)[0]
    worker.survey(data.train, data.train[:3], recipe, "base")
    worker.judge_by(data.decide, data.score)
    own = modules.ranks_of_equal_size(base.targets, 4)
    pack = Pack(0, 64, tuple(configuration(r, 1e-2, "rank", 0, kind) for kind, r in own.items()), True)
    result = worker.executor.train(pack, export_to=tmp_path / "kept", on_step=lambda share: None)
    k = list(own).index(layers)
    with safe_open(tmp_path / "kept" / str(k) / "adapter_model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    assert all(PARTS[layers] in name for name in tensors)
    assert all(tensor.abs().sum() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    assert sum(t.numel() for t in tensors.values()) == modules.parameters(
        base.targets, pack.configurations[k]
    )
    config = json.loads((tmp_path / "kept" / str(k) / "adapter_config.json").read_text())
    assert config["r"] == own[layers]
    assert all(PARTS[layers] in f".{name}." for name in config["target_modules"])
    assert np.ptp(result.loss_KE.sum(1)) > 0, "three different adapters"


def test_a_single_kind_trains_alone_as_it_does_beside_others(tmp_path: Path) -> None:
    base = load_base(save_model(tmp_path / "model"))
    recipe, data = modules.prepared(base.tokenizer, SMALL, tmp_path, 1.0)
    worker = Worker(base)
    worker.survey(data.train, data.train[:3], recipe, "base")
    worker.judge_by(data.decide, data.score)
    one, other = (configuration(8, 1e-2, "rank", 0, kind) for kind in ("attention", "mlp"))

    def losses(*configurations: Any) -> np.ndarray:
        pack = Pack(0, 64, configurations, True)
        return worker.executor.train(pack, export_to=None, on_step=lambda share: None).loss_KE

    assert losses(one, other)[0] == pytest.approx(losses(one)[0], rel=1e-3)
