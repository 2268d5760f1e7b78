"""The whole estimate, of a folder without weights, against numbers worked out by hand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

import rightrank
from rightrank import Recipe
from rightrank.bank.memory import GIB
from rightrank.errors import ConfigurationError, ModelError
from rightrank.estimates.costs import capacity_floor, memory_model, this_machine
from small_run import save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

    from commands import Run

BATCH_4 = Recipe().given(epochs=2, batch_size=4)


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
    assert "40 steps, the recorded ones 300 to 600" in found.doubts[-1]
    assert any("only 40 optimiser steps" in caution for caution in found.cautions)


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


def test_the_command_prints_one_screen(bare: str, rows: Path, run: Run) -> None:
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
        "Held out: 10 rows",
        "an estimate",
    ):
        assert words in said.out
    table = [line for line in lines if line.startswith((" r=", " guide"))]
    assert len(table) == 4 and all("%" in line for line in table[:3])


def test_the_command_as_json(bare: str, rows: Path, run: Run) -> None:
    said = run(bare, rows, "--gpu", "l4", "--json", "--yours", "8,16,2e-2", "--epochs", "30", name="estimate")
    found = json.loads(said.out)
    assert found["kind"] == "estimate"
    assert found["settings"][-1]["label"] == "yours r=8 a=16"
    assert "5 data sets" in found["settings"][-1]["gain_lost"]["source"]
    assert found["recipe"]["origins"] == {"epochs": "given"}


def test_of_a_run_shorter_than_any_recorded_one_no_loss_is_foretold(bare: str, rows: Path, run: Run) -> None:
    said = run(bare, rows, "--gpu", "l4", "--epochs", "1", "--yours", "8,16,2e-2", name="estimate")
    assert "gain lost: not known; nothing like this run was recorded: your run has 5 steps" in " ".join(
        said.out.split()
    )
    table = [line for line in said.out.splitlines() if line.startswith((" r=", " guide", " yours"))]
    assert len(table) == 5 and all("not recorded" in line and "%" not in line for line in table)


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
