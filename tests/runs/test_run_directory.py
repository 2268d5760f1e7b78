"""Which directory a run goes to, what a resumed one stands by, and the adapter that it keeps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rightrank import recommend
from rightrank.probe.loss_table import Configuration, LossTable, Pack
from rightrank.probe.plan import Plan
from rightrank.recipe import Recipe
from rightrank.runs import directory as run_directory
from rightrank.runs.directory import (
    choose_directory,
    continued,
    damaged_adapter,
    foreseen,
    keep_adapter,
    planned,
)
from rightrank.runs.durable import read_json, write_json
from small_run import small_model, small_rows, word_tokenizer

PLAN = Plan(10, 40, (4, 8), (8,), "plain", False, 5, 6, 100.0, 50.0, 30.0, 70.0)
OTHER = Plan(20, 80, (4, 8), (4,), "wide", True, 7, 8, 1000.0, 500.0, 300.0, 700.0)


class Clock:
    """A wall clock that was set back: it shows the same second again and again."""

    @staticmethod
    def now(zone: Any = None) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone)


def test_a_clock_that_is_set_back_leads_to_no_directory_of_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_directory, "datetime", Clock)
    names = []
    for _ in range(3):
        directory = choose_directory(None, "rows.jsonl", resume=False)
        directory.mkdir(parents=True)
        names.append(directory.name)
    assert names == ["rows-20260102-030405", "rows-20260102-030405-2", "rows-20260102-030405-3"]


def test_a_resumed_run_stands_by_what_was_planned_and_said(tmp_path: Path) -> None:
    write_json(
        tmp_path / "run.json",
        {"ranks": [4, 8], "plan": planned(PLAN), "about": {"foreseen": foreseen(PLAN)}},
    )
    assert continued(OTHER, tmp_path, (4, 8)) == PLAN
    assert continued(OTHER, tmp_path, (4, 8), new_budget=True) == replace(PLAN, budget_seconds=1000.0)
    assert continued(OTHER, tmp_path, (4, 16)) == OTHER, "another run: the loss table refuses it"
    assert continued(OTHER, tmp_path / "none", (4, 8)) == OTHER


def table_with_adapters(directory: Path) -> LossTable:
    """Two configurations trained on all of 80 rows, each with an adapter."""
    packs = [Pack(n, 80, (Configuration(4 << n, 16.0, 1e-3),), with_score=True) for n in (0, 1)]
    for pack in packs:
        folder = directory / "adapters" / f"{pack.number:04d}" / "0"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text(f"weights of rank {4 << pack.number}")
        (folder / "adapter_config.json").write_text("{}")
    return SimpleNamespace(directory=directory, packs=packs)  # type: ignore[return-value]


def answer_of(rank: int, status: str = "UNDECIDED") -> Any:
    return SimpleNamespace(
        choice=SimpleNamespace(rank=rank, alpha=16.0, learning_rate=1e-3),
        status=status,
        data=SimpleNamespace(train=80, fingerprint="d"),
        model=SimpleNamespace(fingerprint="m"),
        provenance=SimpleNamespace(interrupted=False, versions={"torch": "2"}),
        cost=SimpleNamespace(device="CPU"),
    )


def kept(directory: Path) -> str | None:
    path = directory / "adapter" / "adapter_model.safetensors"
    return path.read_text() if path.exists() else None


def test_the_kept_adapter_is_the_answers_and_says_so(tmp_path: Path) -> None:
    table = table_with_adapters(tmp_path)
    keep_adapter(table, answer_of(4), "r")
    assert kept(tmp_path) == "weights of rank 4" and (tmp_path / "adapters").is_dir()
    label = read_json(tmp_path / "adapter" / "rightrank.json")
    said = [label[name] for name in ("rank", "pack", "model", "data", "rows", "device")]
    assert said == [4, 0, "m", "d", "r", "CPU"]
    keep_adapter(table, answer_of(8, "SETTLED"), "r")
    assert kept(tmp_path) == "weights of rank 8"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"], "the others go once there is an answer"
    keep_adapter(table, answer_of(8, "SETTLED"), "r")
    assert kept(tmp_path) == "weights of rank 8", "answered again, with nothing left to copy"
    keep_adapter(table, answer_of(4), "r")
    assert kept(tmp_path) is None, "an adapter of another choice is not left to be taken for the answer's"


def test_killed_while_adapters_are_removed_the_kept_one_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_with_adapters(tmp_path)

    def half(folder: Path, ignore_errors: bool = False) -> None:
        if Path(folder).name == "adapters.old" and Path(folder).exists():
            next(Path(folder).rglob("*.safetensors")).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            keep_adapter(table, answer_of(4, "SETTLED"), "r")
    keep_adapter(table, answer_of(4, "SETTLED"), "r")
    assert kept(tmp_path) == "weights of rank 4" and damaged_adapter(tmp_path) == []
    assert sorted(p.name for p in tmp_path.iterdir()) in (["adapter"], ["adapter", "adapters.old"])


def test_a_damaged_adapter_is_found(tmp_path: Path) -> None:
    keep_adapter(table_with_adapters(tmp_path), answer_of(4), "r")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_text("weights of rank 5")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert damaged_adapter(tmp_path) == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]


def test_the_budget_is_the_whole_runs(tmp_path: Path) -> None:
    """What earlier parts took counts; a larger one, given anew, is spent from there on."""
    run = tmp_path / "run"
    again = {
        "tokenizer": word_tokenizer(),
        "recipe": Recipe(epochs=1, batch_size=8),
        "ranks": (4, 8),
        "device": "cpu",
        "out": run,
    }
    rows = small_rows()
    whole = recommend(small_model(), rows, budget_minutes=5.0, **again)
    table = LossTable.opened(run)
    for pack, result in zip(list(table.packs), list(table.results), strict=True):
        table.finish(pack, replace(result, seconds=1000.0))
    (run / "packs" / f"{table.packs[-1].number:04d}.safetensors").unlink()
    late = recommend(small_model(), rows, resume=True, **again)
    assert len(late.points) == len(whole.points) - 1
    assert late.cost.took_minutes > (len(whole.points) - 1) * 1000 / 60
    assert late.cost.planned_minutes == whole.cost.planned_minutes
    more = recommend(small_model(), rows, resume=True, budget_minutes=1000.0, **again)
    assert more.points == whole.points and more.options[0].loss == whole.options[0].loss
    assert json.loads((run / "run.json").read_text())["about"]["foreseen"]["budget_seconds"] == 300.0
