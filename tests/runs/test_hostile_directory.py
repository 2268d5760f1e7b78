"""A run directory that someone else has made, under checksums that are right: read as far as it can be, or refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rightrank.cli import app
from rightrank.errors import ConfigurationError, ResourceError, UserError
from rightrank.probe.loss_table import Configuration, LossTable, Pack, PackResult, run_record
from rightrank.probe.pack import packed
from rightrank.probe.plan import Plan
from rightrank.runs import durable
from rightrank.runs.comparison import compare, read_side
from rightrank.runs.directory import choose_directory, continued, damaged_adapter, foreseen, planned
from rightrank.runs.durable import DamagedError, array_bytes, read_json, read_whole, write_json
from rightrank.runs.history import list_runs
from rightrank.runs.recorded import request_of
from runs_on_disk import answered, base_E

PLAN = Plan(10, 40, (4, 8), (8,), "plain", False, 5, 6, 100.0, 50.0, 30.0, 70.0)
CHOSEN, OTHER = (16, 32.0, 1e-3), (8, 32.0, 1e-3)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    losses = {CHOSEN: base_E() - 2, OTHER: base_E() - 1}
    answered(tmp_path / "run", losses, choose=CHOSEN)
    return tmp_path / "run"


def facts_and_arrays(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays, facts = durable.arrays_and_facts((run / "packs" / "0000.safetensors").read_bytes())
    return facts, arrays


@pytest.mark.parametrize(
    "place",
    [
        "run.json",
        "recommendation.json",
        "packs/0000.json",
        "packs/0000.safetensors",
        "packs/base.safetensors",
    ],
)
def test_a_pipe_in_the_place_of_a_file_keeps_no_one_waiting(run: Path, place: str) -> None:
    (run / place).unlink()
    os.mkfifo(run / place)
    assert list_runs(run.parent)[0].directory == str(run)
    if place == "recommendation.json":
        with pytest.raises(UserError, match="cannot be read"):
            read_side(run)
    else:
        compare(read_side(run), read_side(run))


def test_a_file_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "MOST_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").write_bytes(b"x" * 11)
    assert read_whole(tmp_path / "a") == b"x" * 10
    with pytest.raises(OSError, match="too large"):
        read_whole(tmp_path / "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"pack": {"number": 0, "examples": 80, "configurations": [], "with_score": True}},
        {"pack": {"number": 0, "examples": 80, "configurations": 5, "with_score": True}},
        {"pack": {"number": 0, "examples": True, "configurations": [asdict(Configuration(8, 16.0, 1e-3))], "with_score": True}},
        {"pack": asdict(Pack(0, 80, (Configuration(2**40, 16.0, 1e-3),), True))},
        {"pack": asdict(Pack(0, 80, (Configuration(8, -16.0, 1e-3),), True))},
        {"pack": asdict(Pack(0, 80, (Configuration(8, 16.0, 1e-3, role="x"),), True))},  # type: ignore[arg-type]
        {"pack": asdict(Pack(0, 80, (Configuration(8, 16.0, 1e-3), Configuration(4, 16.0, 1e-3)), True))},
        {"pack": asdict(Pack(7, 80, (Configuration(8, 16.0, 1e-3),), True))},
        {"run": ["x"]},
        {"train_loss": None},
        {"train_loss": [1.0, 1.0]},
        {"train_loss": ["x"]},
        {"steps": float("inf")},
        {"steps": 10**30},
        {"seconds": -1.0},
        {"seconds": "x"},
        {"look_epochs": [0.5]},
    ],
)  # fmt: skip
def test_what_cannot_have_been_measured_is_left_out_and_named(run: Path, changes: dict[str, Any]) -> None:
    facts, arrays = facts_and_arrays(run)
    (run / "packs" / "0000.safetensors").write_bytes(array_bytes(arrays, {**facts, **changes}))
    table = LossTable.opened(run)
    assert [pack.number for pack in table.packs] == [1]
    assert len(table.damaged) == 1 and table.damaged[0].startswith("0000.safetensors: ")


@pytest.mark.parametrize(
    "odd",
    [
        {"loss": np.zeros(100)},
        {"loss": np.zeros((1, 99)), "right": np.zeros((1, 99), int)},
        {"loss": np.zeros((2, 100)), "right": np.zeros((2, 100), int)},
        {"loss": np.full((1, 100), -1.0)},
        {"loss": np.full((1, 100), -np.inf)},
        {"loss": np.full((1, 100), 1e300)},
        {"loss": np.zeros((1, 100), int)},
        {"right": np.zeros((1, 100))},
    ],
)
def test_arrays_that_do_not_belong_together_are_left_out(run: Path, odd: dict[str, Any]) -> None:
    facts, arrays = facts_and_arrays(run)
    (run / "packs" / "0000.safetensors").write_bytes(array_bytes({**arrays, **odd}, facts))
    table = LossTable.opened(run)
    assert [pack.number for pack in table.packs] == [1] and len(table.damaged) == 1


def test_looks_of_another_shape_are_left_out(run: Path) -> None:
    facts, arrays = facts_and_arrays(run)
    looks = {"looks": np.zeros((1, 2, 4)), "look_training": np.zeros((1, 2))}
    for epochs, count in (([0.5, 1.0], 2), ([0.5], 1)):
        raw = array_bytes({**arrays, **looks}, {**facts, "look_epochs": epochs})
        (run / "packs" / "0000.safetensors").write_bytes(raw)
        assert len(LossTable.opened(run).packs) == count


def test_facts_nested_for_ever_are_damage(run: Path) -> None:
    from hashlib import sha256

    from safetensors.numpy import save

    body = save({"loss": np.zeros((1, 1))}, metadata={"facts": "[" * 100_000})
    (run / "packs" / "0000.safetensors").write_bytes(sha256(body).digest() + body)
    assert len(LossTable.opened(run).packs) == 1


@pytest.mark.parametrize("name", ["0000 copy", "0000_copy", "0000.bak", "٠٠٠٣", "99999999999999999999"])
def test_a_copy_of_a_measurement_counts_once(run: Path, name: str) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(run / "packs" / f"0000{suffix}", run / "packs" / f"{name}{suffix}")
    table = LossTable.opened(run)
    assert [pack.number for pack in table.packs] == [0, 1] and not table.damaged
    assert table.next_number == 2 and not table.unfinished


def test_a_copy_under_another_number_is_left_out_and_named(run: Path) -> None:
    shutil.copy(run / "packs" / "0000.safetensors", run / "packs" / "0005.safetensors")
    table = LossTable.opened(run)
    assert [pack.number for pack in table.packs] == [0, 1]
    assert table.damaged == ["0005.safetensors: the file is in another's place"]


def test_the_untrained_model_is_one(run: Path) -> None:
    table = LossTable.opened(run)
    two = PackResult(np.zeros((2, 100)), np.zeros((2, 100), int), (None, None), 0, 0, 1.0)
    whose = {"run": table.settings, "about": {}, "pack": None}
    (run / "packs" / "base.safetensors").write_bytes(packed(two, whose))
    assert LossTable.opened(run).base is None


@pytest.mark.parametrize(
    "about", ["x", 5, [["a", "b"]], {"versions": 5, "request": "x", "foreseen": [], "device": {}}]
)
def test_what_is_no_account_of_a_run_is_none(run: Path, about: Any) -> None:
    record = read_json(run / "run.json")
    write_json(run / "run.json", {**record, "about": about})
    found = run_record(run)
    assert found is not None and not {"versions", "request", "foreseen", "device"} & found["about"].keys()
    with pytest.raises(ConfigurationError, match="does not say how its model and data were named"):
        request_of(LossTable.opened(run))


@pytest.mark.parametrize(
    "plan", [5, {"decide": "x"}, {"decide": 10**15, "score": 0}, {"decide": -1, "score": 101}, {"decide": 40}]
)
def test_answers_are_compared_where_the_plan_is_nonsense(tmp_path: Path, plan: Any) -> None:
    losses = {CHOSEN: base_E() - 2}
    answered(tmp_path / "a", losses, choose=CHOSEN, plan=plan)
    answered(tmp_path / "b", {OTHER: base_E() - 1}, choose=OTHER)
    found = compare(read_side(tmp_path / "a"), read_side(tmp_path / "b"))
    assert found.contrasts == () and found.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"scout_examples": -1},
        {"final_examples": "40"},
        {"ranks": [4, 2**40]},
        {"ranks": []},
        {"scout_ranks": 8},
        {"breadth": "x"},
        {"starved": 1},
        {"decide": True},
        {"score": 10**30},
    ],
)
def test_a_plan_that_cannot_be_is_not_carried_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    other = replace(PLAN, scout_examples=20)
    record = {"ranks": [4, 8], "about": {"foreseen": foreseen(PLAN)}}
    write_json(tmp_path / "run.json", {**record, "plan": planned(PLAN)})
    assert continued(other, tmp_path, (4, 8)) == PLAN
    write_json(tmp_path / "run.json", {**record, "plan": {**planned(PLAN), **changes}})
    assert continued(other, tmp_path, (4, 8)) == other


def test_times_that_are_none_are_not_stood_by(tmp_path: Path) -> None:
    said = {"budget_seconds": "long", "planned_seconds": -1, "run_seconds": True, "all_rows_seconds": 5.0}
    write_json(tmp_path / "run.json", {"ranks": [4, 8], "plan": planned(PLAN), "about": {"foreseen": said}})
    assert continued(PLAN, tmp_path, (4, 8)) == replace(PLAN, all_rows_seconds=5.0)


def recorded(**request: Any) -> Any:
    about = {"request": {"model": "m", "dataset": "d", **request}}
    recipe = {"epochs": 2.0, "adam_betas": [0.9, 0.999]}
    return SimpleNamespace(about=about, settings={"recipe": recipe}, directory=Path("run"))


def test_a_recorded_run_lets_no_code_run_and_starts_no_command() -> None:
    request = request_of(
        recorded(trust_remote_code=True, metric="rm -rf .", out="elsewhere", on_text="x", resume=True)
    )
    assert (request.trust_remote_code, request.metric, request.out, request.resume) == (
        False,
        None,
        None,
        False,
    )
    assert callable(request.on_text)


@pytest.mark.parametrize(
    "odd", [{"seed": "x"}, {"model": 5}, {"dataset": ["x"]}, {"ranks": "8"}, {"yours": [1]}, {"executor": {}}, {"recipe": {}, "seed": []}]
)  # fmt: skip
def test_a_recorded_request_of_other_types_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="does not say in full how its run was made"):
        request_of(recorded(**odd))


@pytest.mark.parametrize("recipe", [None, 5, {"epochs": -1.0}, {"adam_betas": 5}])
def test_a_recorded_recipe_that_is_none_is_refused(recipe: Any) -> None:
    table = recorded()
    table.settings["recipe"] = recipe
    with pytest.raises(ConfigurationError, match="does not say in full how its run was made"):
        request_of(table)


@pytest.mark.parametrize("name", ["lock", "adapters.old", "tensorboard"])
def test_no_lock_and_no_folder_is_made_through_a_link(tmp_path: Path, name: str) -> None:
    """The lock's file is emptied when it is taken."""
    (tmp_path / "diary").write_text("dear diary")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "diary")
    with pytest.raises(ResourceError, match="symbolic link"):
        choose_directory(tmp_path / "run", "rows.jsonl", resume=True)
    assert (tmp_path / "diary").read_text() == "dear diary"


def test_nothing_is_written_into_a_pipe(run: Path) -> None:
    (run / "report.html").unlink(missing_ok=True)
    os.mkfifo(run / "report.html")
    with pytest.raises(UserError) as caught:
        app(["report", str(run)], standalone_mode=False)
    assert "neither file nor folder" in caught.value.problem


@pytest.mark.parametrize("sums", [5, {"../../x": "0" * 64}, {"/etc/hostname": "0"}])
def test_a_kept_adapter_names_no_files_elsewhere(tmp_path: Path, sums: Any) -> None:
    (tmp_path / "adapter").mkdir()
    write_json(tmp_path / "adapter" / "rightrank.json", {"sha256": sums})
    assert damaged_adapter(tmp_path) == ["adapter/rightrank.json"]


def test_a_checksum_of_nonsense_is_still_nonsense(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([1]))
    with pytest.raises(DamagedError):
        read_json(tmp_path / "x.json")
