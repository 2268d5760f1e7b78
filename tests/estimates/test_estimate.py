"""The whole estimate, of a folder without weights, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import rightrank
from rightrank import Recipe
from rightrank.bank.memory import GIB
from rightrank.errors import ConfigurationError, ModelError
from rightrank.estimates.costs import _probe_minutes, capacity_floor, memory_model, this_machine
from rightrank.estimates.estimation import likeness_of
from rightrank.priors import grids
from rightrank.priors.characteristics import foretold
from rightrank.probe.budget import affordable_plan
from rightrank.probe.plan import Job, Speed, make_plan
from rightrank.probe.plan_words import plan_lines
from small_run import save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

    from commands import Run

BATCH_4 = Recipe().given(epochs=2, batch_size=4)
RECIPE = Recipe().given(epochs=1, batch_size=16)
BLUEPRINT: Any = SimpleNamespace(parameters_per_rank=1)
PROFILE: Any = SimpleNamespace(train=1600, at_hand=1600, held_out=400, score=200, mean_length=1.0)


@pytest.fixture
def bare(model: Path) -> str:
    """The model's folder without its weights."""
    (model / "model.safetensors").unlink()
    return str(model)


def test_every_number_by_hand(bare: str, rows: Path) -> None:
    """100 rows: <|im_start|> user + 5 words + <|im_end|> and <|im_start|> assistant + 3 words + <|im_end|>, 14 tokens, 4 trained."""
    found = rightrank.estimate(bare, str(rows), recipe=BATCH_4, gpu="l4", yours=(8, 16.0, 1e-3))
    data, model = found.data, found.model
    assert (data.train, data.held_out, data.score) == (80, 20, 10)
    assert (data.median_length, data.length_95, data.longest, data.total_tokens) == (14, 14, 14, 80 * 14)
    assert (data.trained_tokens, data.trained_tokens_a_row) == (80 * 4, 4)
    assert data.distinct_tokens == 11  # ten words and the token that ends
    assert found.steps == 40
    assert (
        model.parameters_per_rank == 16 * 2 + (16 + 8) * 2 + 16 * 2 + (16 + 32) * 3
    )  # width 16, half as wide keys, 32 in the MLP
    mine = found.setting("yours")
    assert mine is not None
    assert mine.parameters == 8 * model.parameters_per_rank
    assert mine.optimiser_gib == pytest.approx(mine.parameters * 8 / 2**30)
    assert mine.adapter_mb == pytest.approx(mine.parameters * 2e-6)
    assert [s.rank for s in found.settings if s.kind == "rank"] == [
        4,
        8,
        16,
    ]  # no module is wider than 16 both ways
    assert found.floor.rank == pytest.approx(320 / 2 / model.parameters_per_rank)
    assert "your run has 40 steps; the recorded runs had 300 to 600" in found.outside
    assert [s.learning_rate for s in found.settings if s.kind == "rank"] == [None] * 3
    looks = found.characteristics
    assert (looks.examples, looks.tokens, looks.trained_tokens) == (80, 80 * 14, 80 * 4)
    assert found.foretold is None  # too unlike all that was recorded
    assert "Smallest rank within" not in str(found)
    assert "10 rows would score, and 30 are the least" in found.no_answer
    assert not any("optimiser steps" in caution for caution in found.cautions), "40 are enough"


def test_rank_and_learning_rate_are_foretold_where_recorded_runs_are_like_this_one(
    bare: str, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "OUTSIDE", 1e9)
    found = rightrank.estimate(bare, str(rows), recipe=BATCH_4, gpu="l4")
    like = likeness_of(found.model, found.data, found.recipe, found.steps)
    told = foretold(found.characteristics.features(2.0), found.model.widest_rank, like)
    assert found.foretold == told
    said = " ".join(str(found).split())
    assert (
        f"Smallest rank within 1 % of the best: about {told.rank.value:.0f}, 1 to 16" in said
    )  # as wide as the model
    assert json.loads(found.to_json())["foretold"]["sets"] == told.sets


def test_memory_is_the_banks_own_sum(bare: str) -> None:
    from rightrank.bank.blueprint import read_blueprint

    shapes = read_blueprint(bare)
    memory = memory_model(shapes)
    parameters = 8 * shapes.parameters_per_rank
    numbers = shapes.vocabulary * 4096
    by_hand = (
        2 * shapes.parameters  # 16-bit weights
        + parameters * (4 + 4 + 8 + 2)  # masters, gradients, two moments, working copy
        + 1.25 * shapes.kept_bytes_per_token * 60
        + numbers * 12  # logits and their gradient, both also in float32
    )
    assert memory.peak_gib(parameters, 60) == pytest.approx(by_hand / GIB, rel=1e-6)
    assert memory_model(shapes, "4-bit").base_bytes < memory.base_bytes


def test_the_capacity_floor_by_hand() -> None:
    assert capacity_floor(46_000, 305_280).rank == pytest.approx(46_000 / (2 * 305_280))


def test_a_larger_card_is_faster_and_ranges_are_ordered(bare: str, rows: Path) -> None:
    times = [rightrank.estimate(bare, str(rows), gpu=name).timing for name in ("t4", "h100")]
    assert times[0] is not None and times[1] is not None
    for timing in times:
        for span in (timing.run, timing.probe, timing.every_rank):
            assert span is not None and 0 < span.low <= span.high and span.source.startswith("derived")
    assert times[0].run.high > times[1].run.high
    assert times[0].device == "T4"


def test_overlap_with_held_out_rows_and_duplicates_are_counted(bare: str, tmp_path: Path) -> None:
    train = small_rows(80)
    held = [*small_rows(40, seed=1), *train[:3]]
    files = save_rows(tmp_path / "t.jsonl", [*train, train[5]]), save_rows(tmp_path / "h.jsonl", held)
    found = rightrank.estimate(bare, str(files[0]), eval_data=str(files[1]), gpu="l4")
    assert found.data.overlap >= 3
    assert found.data.duplicates == 1
    assert found.data.train == 81 - found.data.overlap


def test_truncated_rows_are_counted(bare: str, rows: Path) -> None:
    found = rightrank.estimate(bare, str(rows), recipe=Recipe().given(max_length=12), gpu="l4")
    assert (found.data.truncated, found.data.truncated_percent, found.data.longest) == (100, 100.0, 12)
    assert "100 rows (100 %) are cut at 12 tokens" in found.cautions[0]


def test_mistakes_end_in_a_sentence(bare: str, rows: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not in the table"):
        rightrank.estimate(bare, str(rows), gpu="toaster")
    with pytest.raises(ModelError, match="no linear layer named"):
        rightrank.estimate(bare, str(rows), target_modules=("w_q",), gpu="l4")
    with pytest.raises(ConfigurationError, match="beyond the width"):
        rightrank.estimate(bare, str(rows), yours=(64, 64.0, 1e-3), gpu="l4")


def test_the_cpus_rate_is_timed() -> None:
    here = this_machine()
    assert here is not None and here.tflops > 0
    assert "thread" in here.title


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model 16 wide counts as one like the recorded one."""
    monkeypatch.setattr(grids, "OUTSIDE", 1e9)


@pytest.mark.usefixtures("alike")
def test_the_command_prints_one_screen(bare: str, tmp_path: Path, run: Run) -> None:
    rows = save_rows(tmp_path / "rows.jsonl", small_rows(400))
    said = run(bare, rows, "--gpu", "l4", "--epochs", "30", name="estimate")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "ESTIMATE   Nothing was measured; no weights were read."
    assert len(lines) <= 40
    assert f"rightrank recommend {bare} {rows} --epochs 30" in lines[-1]
    assert not re.search(r"\b(bank|pack|rung|surface|regret)\b", said.out)
    for words in (
        "On L4: one run",
        "Capacity:",
        "Held out: 40 rows",
        "an estimate",
    ):
        assert words in said.out
    table = [line for line in lines if line.startswith((" r=", " guide"))]
    assert len(table) == 4 and all("%" in line for line in table[:3])


@pytest.mark.usefixtures("alike")
def test_the_command_as_json(bare: str, rows: Path, run: Run) -> None:
    said = run(bare, rows, "--gpu", "l4", "--json", "--yours", "8,16,2e-2", "--epochs", "30", name="estimate")
    found = json.loads(said.out)
    assert found["kind"] == "estimate"
    assert found["settings"][-1]["label"] == "yours r=8 a=16"
    assert "5 data sets" in found["settings"][-1]["gain_lost"]["source"]
    assert found["recipe"]["origins"] == {"epochs": "given"}


def test_of_a_run_shorter_than_any_recorded_one_no_loss_is_foretold(bare: str, rows: Path, run: Run) -> None:
    said = run(bare, rows, "--gpu", "l4", "--epochs", "1", "--yours", "8,16,2e-2", name="estimate")
    assert "gain lost: no estimate: your run has 5 steps; the recorded runs had 300 to 600;" in " ".join(
        said.out.split()
    )
    table = [line for line in said.out.splitlines() if line.startswith((" r=", " guide", " yours"))]
    assert len(table) == 5 and all(line.endswith("   –") and "%" not in line for line in table)


def test_what_no_measurement_can_answer_is_not_sold(bare: str, rows: Path, tmp_path: Path, run: Run) -> None:
    few = " ".join(run(bare, rows, "--gpu", "l4", name="estimate").out.split())
    assert "10 rows would score, and 30 are the least for an interval. Name 60 held-out rows" in few
    assert "or bring 300 rows in all" in few
    assert "rightrank recommend " not in few.partition("no measurement can end")[2]
    held = save_rows(tmp_path / "held.jsonl", small_rows(80, seed=1))
    enough = run(bare, rows, "--eval-data", held, "--gpu", "l4", name="estimate").out
    assert "rightrank recommend" in enough.splitlines()[-1]
    assert "no measurement can end" not in enough


def test_a_time_too_short_for_an_answer_is_seen_beforehand() -> None:
    """A step takes a second: 1,600 rows in batches of 16 are 100 steps, and the default is one run, 100 s, or three minutes."""
    minutes = _probe_minutes((0.0, 1.0, 1.0), 1, 16.0, BLUEPRINT, RECIPE, PROFILE, (8, 32, 128))
    run, probe, every, enough = minutes
    assert run == pytest.approx(100 / 60) and probe < 5 and enough is not None
    job = Job(1600, RECIPE, 1, 200, 200, 1.0)
    speed = Speed(0.0, 1.0, 0.0, 1.0 / 32, 1)
    assert not make_plan(job, speed, [8, 32, 128], 60 * enough).starved
    assert make_plan(job, speed, [8, 32, 128], 60 * enough / 1.2).starved
    quick = _probe_minutes((0.0, 0.001, 0.001), 1, 16.0, BLUEPRINT, RECIPE, PROFILE, (8, 32, 128))
    assert quick[3] is None
    told = " ".join(plan_lines(affordable_plan(job, speed, (8, 32, 128), None), job, 1.0, 8.0))
    assert f"--budget {math.ceil(enough)} is the least that pays for runs of so many" in told
    assert f"--budget {math.ceil(every)} pays for every rank" in told


def test_an_estimate_prints_as_the_command_does(bare: str, rows: Path, run: Run) -> None:
    found = rightrank.estimate(bare, str(rows), gpu="l4")
    assert str(found) == run(bare, rows, "--gpu", "l4", name="estimate").out.rstrip()
    assert found._repr_html_().startswith("<pre>ESTIMATE   Nothing was measured")


def test_a_model_or_data_that_is_not_there(bare: str, rows: Path, run: Run) -> None:
    assert "no model at ./nowhere" in run("./nowhere", rows, name="estimate").complaint
    assert run(bare, "./nothing.jsonl", name="estimate").code == 2
    assert "No model to measure on" in run(name="estimate").complaint


def test_a_trainers_config_names_model_data_and_recipe(
    bare: str, rows: Path, tmp_path: Path, run: Run
) -> None:
    config = tmp_path / "trl.yaml"
    config.write_text(
        f"model_name_or_path: {bare}\ndataset_name: {rows}\nuse_peft: true\nlora_r: 8\nlora_alpha: 16\n"
        "lora_target_modules: [q_proj]\nlearning_rate: 2.0e-2\nnum_train_epochs: 5\nper_device_train_batch_size: 2\n"
    )
    found = json.loads(run("--config", config, "--gpu", "l4", "--json", name="estimate").out)
    assert found["steps"] == 5 * 40
    assert found["model"]["target_modules"] == ["q_proj"]
    assert found["settings"][-1]["label"] == "yours r=8 a=16"
    assert found["recipe"]["origins"]["epochs"] == "config"
