"""``recommend --config``: a trainer's config in, the same file with the answer in it out; and ``--finish`` on the way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from rightrank.recommendation import Recommendation

if TYPE_CHECKING:
    from pathlib import Path

    from commands import Run

AXOLOTL = """\
# my run
base_model: model
datasets:
  - path: rows.jsonl    # mine
    type: chat_template
adapter: lora
lora_r: 16
lora_alpha: 64
lora_target_modules:
  - q_proj
  - v_proj   # attention only
learning_rate: 2e-4
num_epochs: 1
micro_batch_size: 4
gradient_accumulation_steps: 2
warmup_steps: 2
wandb_project: x
"""
SHORT = ("--ranks", "4", "--budget", "1", "--device", "cpu", "--out", "run")


@pytest.fixture
def config(model: Path, rows: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text(AXOLOTL)
    return path


def test_a_config_is_all_that_is_needed(config: Path, run: Run, tmp_path: Path) -> None:
    from peft import LoraConfig
    from safetensors.numpy import load_file

    said = run("--config", config.name, *SHORT, "--finish")
    assert said.code == 0, said.err
    lines = said.err.splitlines()
    assert lines[0].startswith("mine.yml is a config of Axolotl: model model, rows rows.jsonl")
    assert lines[1] == "Keys not read: wandb_project."
    assert any(line.startswith("Then the winner is trained on all 100 rows") for line in lines)
    answer = Recommendation.from_json((tmp_path / "run" / "recommendation.json").read_text())
    yours = next(option for option in answer.options if option.kind == "yours")
    assert (yours.rank, yours.alpha, yours.learning_rate) == (
        16,
        64.0,
        2e-4,
    ) and yours.loss.source == "measured"
    assert (answer.recipe.batch_size, answer.recipe.schedule, answer.recipe.warmup_ratio) == (
        8,
        "cosine",
        0.153,
    )
    assert answer.recipe.origins["batch_size"] == "config" and answer.recipe.origins["schedule"] == "trainer"
    assert answer.choice.target_modules == ("q_proj", "v_proj") and answer.provenance.seed == 0

    edited = (tmp_path / "run" / "mine.yml").read_text()
    changed = {
        (a.split(":")[0], b.split(":")[0])
        for a, b in zip(AXOLOTL.splitlines(), edited.splitlines(), strict=True)
        if a != b
    }
    assert changed <= {(key, key) for key in ("lora_r", "lora_alpha", "learning_rate")} and changed
    held = yaml.safe_load(edited)
    assert (held["lora_r"], held["lora_alpha"]) == (answer.choice.rank, answer.choice.alpha)
    assert float(held["learning_rate"]) == answer.choice.learning_rate
    assert f"Config: run/mine.yml ({len(changed)} lines changed)" in said.out
    assert "In mine.yml: " in said.out and " → " in said.out
    assert "No config for torchtune: " in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines() if not line.startswith("  rightrank "))

    folder = tmp_path / "run" / "finished_adapter"
    assert "Finished adapter: run/finished_adapter (trained on all 100 rows)" in said.out
    assert answer.finished is not None and answer.finished.examples == 100
    peft = LoraConfig.from_pretrained(folder)
    assert (peft.r, peft.lora_alpha, set(peft.target_modules)) == (
        answer.choice.rank,
        answer.choice.alpha,
        {"q_proj", "v_proj"},
    )
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all(abs(t).max() > 0 for name, t in tensors.items() if "lora_B" in name)
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "v_proj"}
    seen = run("run/finished_adapter", "rows.jsonl", name="cut")
    assert seen.code == 2 and "was trained on these rows" in seen.complaint
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "chat_rows" / "train.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 100 and [turn["role"] for turn in rows[0]["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("lora_r: 16", "lora_r: 16\nrl: dpo", "preferences"),
        ("base_model: model", "", "no trainer that is known here"),
        ("  - v_proj", "  - w_proj", "no linear layer named 'w_proj'"),
        ("rows.jsonl", "none.jsonl", "no file or folder 'none.jsonl'"),
        ("lora_r: 16", "lora_r: [", "this is no YAML"),
    ],
)
def test_one_sentence_for_every_bad_config(
    before: str, after: str, says: str, config: Path, run: Run
) -> None:
    config.write_text(AXOLOTL.replace(before, after))
    said = run("--config", config.name, *SHORT)
    assert said.code == 2 and says in said.complaint


def test_without_model_or_config_it_says_what_to_name(run: Run) -> None:
    assert "No model to measure on. Name MODEL" in run().complaint
