"""Axolotl's own schema takes the export and every example here; a config is read as it reads it, and edited line by line."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from report.samples import STATUSES, hostile, sample
from rightrank import data as reading
from rightrank.errors import UserError
from rightrank.recipe import Recipe
from rightrank.trainers import axolotl as ours
from rightrank.trainers.settings import Places
from rightrank.trainers.yaml_file import parse

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation, Status

PLACES = Places("base", Path("/runs/trl_rows"), Path("/runs/chat_rows"), Path("/runs/lora-adapter"))

# The shape of Axolotl's own examples/llama-3/qlora.yml (0.19).
CONFIG = """\
base_model: NousResearch/Meta-Llama-3-8B
# upload the final model
hub_model_id: me/x
load_in_8bit: false
load_in_4bit: true

datasets:
  - path: rows.jsonl
    type: chat_template     # ours
    roles_to_train: ["assistant"]
dataset_prepared_path:
val_set_size: 0.05
output_dir: ./outputs/out

adapter: qlora
sequence_len: 4096
sample_packing: true

lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true    # all

gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: paged_adamw_32bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
warmup_ratio: 0.1
weight_decay: 0.0
"""


def schema(text: str) -> Any:
    """The config as Axolotl's own schema holds it; skipped where it is not installed (``pip install --no-deps axolotl``)."""
    pytest.importorskip("axolotl.utils.schemas.config")
    from axolotl.utils.schemas.config import AxolotlInputConfig

    logging.disable(logging.WARNING)
    try:
        return AxolotlInputConfig(**yaml.safe_load(text))
    finally:
        logging.disable(logging.NOTSET)


def read(text: str = CONFIG) -> Any:
    return ours.read(parse(text, "a.yml"), Path("a.yml"))


def export(answer: Recommendation) -> str:
    return ours.files(answer, PLACES)[ours.FILE_NAME]


@pytest.mark.parametrize("status", STATUSES)
def test_the_export_says_what_is_recommended(status: Status) -> None:
    answer = sample(status)
    said, choice, recipe = yaml.safe_load(export(answer)), answer.choice, answer.recipe
    assert (said["base_model"], said["adapter"], said["load_in_4bit"]) == ("base", "qlora", True)
    assert (said["lora_r"], said["lora_alpha"], said["lora_dropout"]) == (
        choice.rank,
        choice.alpha,
        recipe.dropout,
    )
    assert "peft_use_rslora" not in said and said["lora_target_modules"] == list(choice.target_modules)
    assert said["learning_rate"] == choice.learning_rate and said["num_epochs"] == choice.epochs
    assert said["micro_batch_size"] * said["gradient_accumulation_steps"] == recipe.batch_size
    assert (said["sequence_len"], said["excess_length_strategy"]) == (recipe.max_length, "truncate")
    assert (said["lr_scheduler"], said["warmup_ratio"]) == ("linear", recipe.warmup_ratio)
    assert (said["train_on_inputs"], said["sample_packing"], said["val_set_size"]) == (False, False, 0.0)
    assert said["datasets"][0]["roles_to_train"] == ["assistant"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "4-bit", "8-bit"])
@pytest.mark.parametrize("data", ["Alpaca", "messages", "text", "strings"])
def test_axolotls_own_schema_takes_every_export(dtype: str, data: str) -> None:
    answer = sample()
    facts = replace(answer.data, format="prompt/completion" if data == "strings" else data)
    facts = replace(facts, template="none") if data == "strings" else facts
    answer = replace(answer, model=replace(answer.model, dtype=dtype), data=facts)
    found = schema(export(answer))
    assert (found.lora_r, found.lora_alpha, found.learning_rate) == (16, 32, 4e-4)
    assert found.lora_alpha / found.lora_r == answer.choice.alpha / answer.choice.rank
    assert found.adapter == ("qlora" if dtype == "4-bit" else "lora")
    assert found.lora_target_modules == list(answer.choice.target_modules)
    assert bool(found.load_in_4bit) == (dtype == "4-bit") and bool(found.load_in_8bit) == (dtype == "8-bit")
    assert not found.peft_use_rslora and len(found.datasets) == 1
    unknown = set(yaml.safe_load(export(answer))) - set(type(found).model_fields)
    assert not unknown


def test_axolotl_makes_the_lora_config_that_peft_gets() -> None:
    """The arguments that its loader passes on, by its own table of keys."""
    found, answer = schema(export(sample())), sample()
    from peft import LoraConfig

    made = LoraConfig(
        r=found.lora_r,
        lora_alpha=found.lora_alpha,
        lora_dropout=found.lora_dropout,
        target_modules=found.lora_target_modules,
        bias="none",
        task_type="CAUSAL_LM",
        use_rslora=bool(found.peft_use_rslora),
    )
    assert made.to_dict() == answer.to_peft().to_dict()


@pytest.mark.parametrize("kind", ["chat", "strings", "text"])
def test_axolotl_trains_the_tokens_that_were_measured(kind: str) -> None:
    """Its own tokenizing strategies, by the export's data set entry, on rows as they are written for it."""
    pytest.importorskip("axolotl.prompt_strategies")
    from axolotl.prompt_strategies import load
    from axolotl.utils.dict import DictDefault

    from small_run import small_rows, word_tokenizer

    tokenizer, answer = word_tokenizer(), sample()
    tokenizer.eos_token = "<|im_end|>"
    facts = replace(
        answer.data,
        format="text" if kind == "text" else "Alpaca",
        template="chat template of the tokenizer" if kind == "chat" else "none",
    )
    text = export(replace(answer, data=facts))
    cfg = DictDefault(schema(text).model_dump(exclude_none=True))
    entry = yaml.safe_load(text)["datasets"][0]
    rows = [{"prompt": f"{row['prompt']} ", "completion": row["completion"]} for row in small_rows(4)]
    if kind == "text":
        rows = [{"text": row["prompt"]} for row in rows]
    conversations = reading.understand(rows).conversations
    examples = reading.tokenize(
        conversations, tokenizer, answer.recipe, chat_template=kind == "chat"
    ).examples
    own = isinstance(entry["type"], dict)
    strategy = load(
        "user_defined" if own else entry["type"], tokenizer, cfg, DictDefault(entry["type"] if own else entry)
    )
    for row, example in zip(rows, examples, strict=True):
        if kind == "text":
            made = {key: value[0] for key, value in strategy.tokenize_prompt({"text": [row["text"]]}).items()}
        elif kind == "chat":
            turns = [("user", row["prompt"].strip()), ("assistant", row["completion"])]
            made = strategy.tokenize_prompt({"messages": [{"role": r, "content": c} for r, c in turns]})
        else:
            made = strategy.tokenize_prompt(row)
        assert list(made["input_ids"]) == example.token_ids_T.tolist()
        assert [label != -100 for label in made["labels"]] == example.trained_T.tolist()


def test_a_config_is_read() -> None:
    found = read()
    r = found.recipe
    assert (found.model, found.data, found.yours) == (
        "NousResearch/Meta-Llama-3-8B",
        "rows.jsonl",
        (32, 16.0, 2e-4),
    )
    assert (r.epochs, r.batch_size, r.max_length, r.schedule) == (4.0, 8, 4096, "cosine")
    assert (r.warmup_ratio, r.dropout, r.loss_on, r.over_long) == (0.1, 0.05, "completion", "drop")
    assert (found.quantization, found.target_modules, found.string_template) == ("4-bit", None, True)
    assert (r.origins["epochs"], r.origins["over_long"]) == ("config", "trainer")
    assert found.unread == ("hub_model_id", "val_set_size", "bf16") and "pack" in found.notes[0]


def test_defaults_are_those_of_the_schema() -> None:
    text = "base_model: m\ndatasets: [{path: d, type: alpaca}]\nadapter: lora\nlearning_rate: 1e-4\n"
    found, held = read(text).recipe, schema(text)
    assert (found.epochs, found.batch_size) == (
        held.num_epochs,
        held.micro_batch_size * held.gradient_accumulation_steps,
    )
    assert (found.max_length, found.schedule, found.dropout) == (
        held.sequence_len,
        held.lr_scheduler,
        held.lora_dropout,
    )
    assert (found.weight_decay, found.over_long) == (held.weight_decay, held.excess_length_strategy or "drop")
    assert (found.loss_on == "all") == held.train_on_inputs


def test_only_the_lines_that_must_change_do() -> None:
    found = read()
    answer = replace(sample(), recipe=found.recipe, choice=replace(sample().choice, epochs=4.0))
    edited = ours.edit(parse(CONFIG, "a.yml"), found, answer)
    changed = [(a, b) for a, b in zip(CONFIG.splitlines(), edited.text.splitlines(), strict=True) if a != b]
    assert changed == [
        ("lora_r: 32", "lora_r: 16"),
        ("lora_alpha: 16", "lora_alpha: 32"),
        ("learning_rate: 2e-4", "learning_rate: 0.0004"),
    ]
    assert read(edited.text).yours == (16, 32.0, 4e-4) and edited.notes == ()
    assert ours.edit(parse(edited.text, "a.yml"), read(edited.text), answer).changes == ()


def test_every_part_of_a_recipe_is_written_where_it_differs() -> None:
    recipe = Recipe(
        epochs=1.5,
        batch_size=12,
        max_length=333,
        over_long="truncate",
        loss_on="all",
        schedule="linear",
        warmup_ratio=0.25,
        weight_decay=0.01,
        max_grad_norm=0.3,
        dropout=0.07,
        adam_betas=(0.85, 0.95),
        adam_epsilon=3e-7,
    )
    answer = sample()
    answer = replace(
        answer, recipe=recipe, choice=replace(answer.choice, epochs=1.5, target_modules=("q_proj", "v_proj"))
    )
    edited = ours.edit(parse(CONFIG, "a.yml"), read(), answer)
    again = read(edited.text)
    assert replace(again.recipe, origins={}) == recipe and again.target_modules == ("q_proj", "v_proj")
    assert "lora_target_linear" not in edited.text and "# upload the final model" in edited.text


def test_the_schema_takes_what_was_edited() -> None:
    answer = replace(sample(), recipe=Recipe(epochs=1.5, loss_on="all", dropout=0.07))
    answer = replace(answer, choice=replace(answer.choice, target_modules=("q_proj", "v_proj")))
    found = schema(ours.edit(parse(CONFIG, "a.yml"), read(), answer).text)
    assert (found.lora_target_modules, found.lora_target_linear) == (["q_proj", "v_proj"], None)
    assert (found.lora_r, found.lora_alpha, found.lora_dropout) == (16, 32, 0.07)
    assert (found.train_on_inputs, found.excess_length_strategy) == (True, "truncate")


def test_rslora_is_folded_and_taken_out() -> None:
    text = CONFIG + "peft_use_rslora: true\n"
    found = read(text)
    assert found.yours[1] == pytest.approx(16 * 32**0.5)
    edited = ours.edit(parse(text, "a.yml"), found, sample())
    assert "rslora" not in edited.text and ("peft_use_rslora", "true", None) in edited.changes


@pytest.mark.parametrize(
    ("before", "line", "says"),
    [
        ("adapter: qlora", "", "all weights"),
        ("adapter: qlora", "adapter: llama-adapter", "llama-adapter"),
        ("weight_decay: 0.0", "rl: dpo", "preferences"),
        ("weight_decay: 0.0", "peft_use_dora: true", "DoRA"),
        ("weight_decay: 0.0", "max_steps: 7", "7 steps"),
        ("weight_decay: 0.0", "lora_modules_to_save: [lm_head]", "whole modules"),
        ("lr_scheduler: cosine", "lr_scheduler: rex", "rex"),
        ("optimizer: paged_adamw_32bit", "optimizer: muon", "muon"),
        ("lora_r: 32", "lora_r: many", "not a number"),
        ("datasets:", "datasets:\n  - path: other.jsonl", "2 data sets"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(before: str, line: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(CONFIG.replace(before, line))


@pytest.mark.parametrize(
    ("rows", "loss_on", "template"),
    [
        ("{path: d, type: alpaca}", "completion", False),
        ("{path: d, type: completion}", "all", False),
        ("{path: d, type: chat_template, roles_to_train: [user, assistant]}", "all", True),
        ("{path: d}", "completion", True),
    ],
)
def test_the_kind_of_rows_says_what_is_trained(rows: str, loss_on: str, template: bool) -> None:
    found = read(f"base_model: m\ndatasets: [{rows}]\nadapter: lora\nlora_target_linear: true\n")
    assert (found.recipe.loss_on, found.string_template) == (loss_on, template)


def test_hostile_names_stay_values() -> None:
    text = ours.files(hostile(), Places("a: b\n#", Path("/r/t"), Path("/r/c"), Path("/r/l")))[ours.FILE_NAME]
    assert yaml.safe_load(text)["base_model"] == "a: b\n#"
