"""ms-swift: against the keys of its ``SftArguments``, and against its own parser where it is installed.

It cannot be a dependency of the tests: it pins older transformers, TRL and PEFT, and brings ModelScope. ``KEYS`` are fields (and
types) of ``SftArguments`` in its release 4.6.0.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from report.samples import STATUSES, sample
from rightrank.errors import ConfigurationError
from rightrank.trainers import ms_swift as ours
from trainers.exports import RUN, changed_lines, edited, exported, places, read

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Status

KEYS: dict[str, type] = {
    "model": str,
    "use_hf": bool,
    "quant_method": str,
    "quant_bits": int,
    "torch_dtype": str,
    "tuner_type": str,
    "lora_rank": int,
    "lora_alpha": int,
    "lora_dropout": float,
    "target_modules": list,
    "dataset": list,
    "split_dataset_ratio": float,
    "max_length": int,
    "truncation_strategy": str,
    "loss_scale": str,
    "packing": bool,
    "learning_rate": float,
    "lr_scheduler_type": str,
    "warmup_ratio": float,
    "num_train_epochs": float,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "optim": str,
    "weight_decay": float,
    "adam_beta1": float,
    "adam_beta2": float,
    "adam_epsilon": float,
    "max_grad_norm": float,
    "seed": int,
    "data_seed": int,
    "output_dir": str,
    "report_to": list,
}
# As people have it: the project's command lines, as the YAML file that `swift sft` takes as well.
CONFIG = """\
model: Qwen/Qwen2.5-7B-Instruct
use_hf: true
tuner_type: lora
dataset:
  - someone/rows:en
torch_dtype: bfloat16
num_train_epochs: 1
per_device_train_batch_size: 1
learning_rate: 1e-4
lora_rank: 8
lora_alpha: 32      # the default
target_modules: all-linear
gradient_accumulation_steps: 16
max_length: 2048
warmup_ratio: 0.05
dataloader_num_workers: 4
"""


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("dtype", ["bfloat16", "4-bit", "8-bit", "float16", "float32"])
def test_every_key_is_known_there_and_of_its_type(status: Status, dtype: str) -> None:
    answer = sample(status)
    answer = replace(answer, model=replace(answer.model, dtype=dtype))
    for key, value in exported(ours, answer).items():
        assert type(value) is KEYS[key], key


def test_rank_scale_and_recipe_arrive() -> None:
    values = exported(ours, sample())
    assert (values["lora_rank"], values["lora_alpha"], values["learning_rate"]) == (16, 32, 4e-4)
    assert values["target_modules"] == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] == 16
    assert (values["num_train_epochs"], values["warmup_ratio"], values["max_length"]) == (2.0, 0.05, 2048)
    assert (values["loss_scale"], values["truncation_strategy"]) == ("default", "right")
    dropped = replace(sample(), recipe=replace(sample().recipe, over_long="drop", loss_on="all"))
    assert (exported(ours, dropped)["truncation_strategy"], exported(ours, dropped)["loss_scale"]) == (
        "delete",
        "all",
    )
    assert values["dataset"] == [str(RUN / "chat_rows" / "train.jsonl")]
    # Its own defaults are others: 0.1, 0.95, cosine and 0.05.
    assert (values["weight_decay"], values["adam_beta2"], values["lora_dropout"]) == (0.0, 0.999, 0.0)
    assert values["lr_scheduler_type"] == "linear"


def test_rows_that_it_would_write_otherwise_are_refused() -> None:
    answer = sample()
    with pytest.raises(ConfigurationError, match="chat template"):
        ours.files(replace(answer, data=replace(answer.data, template="none")), places())
    with pytest.raises(ConfigurationError, match="plain text"):
        ours.files(replace(answer, data=replace(answer.data, format="text")), places())


def test_a_config_is_read() -> None:
    found = read(ours, CONFIG)
    assert (found.model, found.data, found.data_config) == ("Qwen/Qwen2.5-7B-Instruct", "someone/rows", "en")
    assert found.yours == (8, 32.0, 1e-4)
    assert (found.target_modules, found.quantization, found.seed) == (None, None, 42)
    recipe = found.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.max_length, recipe.warmup_ratio) == (1.0, 16, 2048, 0.05)
    assert (recipe.schedule, recipe.weight_decay, recipe.adam_betas) == ("cosine", 0.1, (0.9, 0.95))
    assert (recipe.over_long, recipe.dropout, recipe.loss_on) == ("drop", 0.05, "completion")
    assert recipe.origins["weight_decay"] == "trainer"
    assert (found.unread, found.notes) == (("dataloader_num_workers",), ())


def test_the_defaults_are_its_own() -> None:
    found = read(ours, "model: m\ntrain_type: lora\n")
    assert found.yours == (8, 32.0, 1e-4)
    recipe = found.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.schedule) == (3.0, 16, "cosine")
    assert not recipe.assumed()
    odd = read(ours, "model: m\ntrain_type: lora\nper_device_train_batch_size: 3\n").recipe
    assert odd.batch_size == 18  # six micro-batches are the fewest that hold 16


def test_other_ways_to_say_it() -> None:
    folded = read(ours, CONFIG + "use_rslora: true\n")
    assert folded.yours is not None
    assert folded.yours[1] == pytest.approx(32 * 8**0.5)
    found = read(
        ours, CONFIG + "quant_method: bnb\nquant_bits: 4\nloss_scale: all\ntruncation_strategy: right\n"
    )
    assert (found.quantization, found.recipe.loss_on, found.recipe.over_long) == ("4-bit", "all", "truncate")
    assert read(ours, CONFIG + "warmup_steps: 7\n").warmup_steps == 7
    weighed = read(ours, CONFIG + "loss_scale: last_round+hermes\npacking: true\n")
    assert [note.split(";")[0] for note in weighed.notes] == [
        "ms-swift would train the last answer of a conversation only",
        "ms-swift would weigh the tokens' losses",
        "ms-swift would pack rows together",
    ]
    assert any("ModelScope" in note for note in read(ours, CONFIG.replace("use_hf: true\n", "")).notes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tuner_type: full", "not with LoRA"),
        ("use_dora: true", "DoRA"),
        ("lorap_lr_ratio: 16", "LoRA\\+"),
        ("modules_to_save: [embed_tokens]", "whole modules"),
        ("dataset: [a, b]", "2 data sets"),
        ("dataset: [rows#500]", "500 rows"),
        ("init_weights: pissa", "initialisation"),
        ("quant_bits: 4", "bnb"),
        ("truncation_strategy: left", "delete or right"),
        ("max_steps: 100", "steps"),
        ("streaming: true", "streams"),
    ],
)
def test_what_cannot_be_measured_is_refused(line: str, words: str) -> None:
    key = line.split(":", maxsplit=1)[0]
    text = CONFIG.replace("  - someone/rows:en\n", "")
    kept = [one for one in text.splitlines() if not one.startswith(f"{key}:") and one != "dataset:"]
    with pytest.raises(ConfigurationError, match=words):
        read(ours, "\n".join([*kept, line, ""]))


def test_only_the_lines_that_matter_change() -> None:
    recipe = read(ours, CONFIG).recipe.given(dropout=0.0)
    answer = sample()
    choice = replace(answer.choice, alpha=48, epochs=1.0)
    found = edited(ours, CONFIG, replace(answer, recipe=recipe, choice=choice))
    assert sorted(changed_lines(CONFIG, found.text)) == [
        "+ learning_rate: 0.0004",
        "+ lora_alpha: 48      # the default",
        "+ lora_dropout: 0.0",
        "+ lora_rank: 16",
        "- learning_rate: 1e-4",
        "- lora_alpha: 32      # the default",
        "- lora_rank: 8",
    ]
    assert found.notes == ()


def test_its_own_parser_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the adapters that it makes have our rank and scale. Run where ms-swift is installed."""
    pytest.importorskip("swift")
    command = pytest.importorskip("swift.cli.main")
    arguments = pytest.importorskip("swift.arguments")
    tuner = pytest.importorskip("swift.pipelines.train.tuner")
    import torch
    from transformers import AutoModelForCausalLM, HfArgumentParser

    from small_run import save_model

    folder = save_model(tmp_path / "base")
    answer = sample()
    answer = replace(answer, model=replace(answer.model, name=str(folder), dtype="float32"))
    (tmp_path / ours.FILE_NAME).write_text(ours.files(answer, places(str(folder), tmp_path))[ours.FILE_NAME])
    words = [str(tmp_path / ours.FILE_NAME)]
    monkeypatch.setattr(sys, "argv", ["swift", "sft", *words])
    command.parse_yaml_args(words)
    # A model without a known name needs these two, as the note in the export says.
    words += ["--model_type", "llama", "--template", "llama3"]
    found, left = HfArgumentParser([arguments.SftArguments]).parse_args_into_dataclasses(
        words, return_remaining_strings=True
    )
    assert left == []
    assert (found.lora_rank, found.lora_alpha, found.lora_dropout) == (16, 32.0, 0.0)
    assert (found.max_length, found.truncation_strategy, found.loss_scale) == (2048, "right", "default")
    training = found.training_args
    assert (training.learning_rate, training.num_train_epochs) == (4e-4, 2.0)
    assert (training.weight_decay, training.adam_beta2, training.lr_scheduler_type) == (0.0, 0.999, "linear")
    assert training.get_warmup_steps(376) == 19
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 16
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    base.model_info, base.model_meta = found.model_info, found.model_meta
    made = tuner.prepare_adapter(found, base)
    layers = [layer for layer in made.modules() if hasattr(layer, "lora_A")]
    assert len(layers) == 7 * base.config.num_hidden_layers
    assert {(layer.r["default"], layer.scaling["default"]) for layer in layers} == {(16, 2.0)}
    assert {layer.lora_A["default"].weight.dtype for layer in layers} == {torch.float32}


@pytest.mark.parametrize("name", ["~nobody-of-this-name/rows", "x/" * 3000, '"\\0"'])
def test_a_name_that_no_file_can_have_is_looked_for_on_no_disk(name: str) -> None:
    found = read(ours, CONFIG.replace("someone/rows:en", name).replace("use_hf: true", "use_hf: false"))
    assert any("ModelScope" in note for note in found.notes)
