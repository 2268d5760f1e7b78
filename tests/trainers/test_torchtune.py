"""torchtune: against the arguments of the functions that its configs name, and against those functions where it is installed.

It cannot be a dependency of the tests: its last releases need a torchao of their time. ``ARGUMENTS`` are what the functions take in
release 0.6.1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import STATUSES, sample
from rightrank.errors import ConfigurationError
from rightrank.recipe import Schedule, learning_rate_factor
from rightrank.trainers import torchtune as ours
from rightrank.trainers.torchtune_models import BUILDERS, builder_for
from trainers.exports import RUN, changed_lines, edited, exported, notes, places, read

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation, Status

ARGUMENTS = {
    "model": {
        *("lora_attn_modules", "apply_lora_to_mlp", "lora_rank", "lora_alpha", "lora_dropout"),
        "quantize_base",
    },
    "tokenizer": {"path", "merges_file", "max_seq_len"},
    "checkpointer": {"checkpoint_dir", "checkpoint_files", "recipe_checkpoint", "output_dir", "model_type"},
    "dataset": {
        *("source", "data_files", "split", "packed"),
        *("conversation_column", "conversation_style", "train_on_input", "column"),
    },
    "optimizer": {"lr", "weight_decay", "betas", "eps"},
    "lr_scheduler": {"num_warmup_steps", "num_cycles"},
    "loss": set(),
    "metric_logger": {"log_dir"},
}
# What the recipe lora_finetune_single_device reads without a default.
NEEDED = {
    *(
        "output_dir",
        "model",
        "tokenizer",
        "checkpointer",
        "resume_from_checkpoint",
        "dataset",
        "seed",
        "shuffle",
    ),
    *("batch_size", "optimizer", "lr_scheduler", "loss", "epochs", "max_steps_per_epoch"),
    *("gradient_accumulation_steps", "compile", "metric_logger", "device", "dtype"),
}
# As people have it: after the project's llama3_2/1B_lora_single_device.
CONFIG = """\
output_dir: /tmp/torchtune/one # /tmp may be deleted by your system
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 64  # higher increases accuracy and memory
  lora_alpha: 128  # usually alpha=2*rank
  lora_dropout: 0.0
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: /tmp/base/original/tokenizer.model
  max_seq_len: 512
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: ${base}
  checkpoint_files: [model.safetensors]
  recipe_checkpoint: null
  output_dir: ${output_dir}
  model_type: LLAMA3_2
base: /tmp/base
dataset:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  packed: False
seed: null
shuffle: True
batch_size: 4
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  weight_decay: 0.01
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.CEWithChunkedOutputLoss
epochs: 1
max_steps_per_epoch: null
gradient_accumulation_steps: 8
clip_grad_norm: null
"""


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("dtype", ["bfloat16", "4-bit", "float32"])
def test_every_argument_is_one_that_the_function_takes(status: Status, dtype: str) -> None:
    answer = sample(status)
    values = exported(ours, replace(answer, model=replace(answer.model, dtype=dtype)))
    assert set(values) >= NEEDED
    for name, group in values.items():
        if isinstance(group, dict):
            assert set(group) - {"_component_"} <= ARGUMENTS[name], name
            assert group["_component_"].count(".") >= 1
    assert values["model"].get("quantize_base", False) == (dtype == "4-bit")


def test_rank_scale_and_recipe_arrive() -> None:
    values = exported(ours, sample())
    model = values["model"]
    assert model["_component_"] == "torchtune.models.llama3.lora_llama3_8b"
    assert (model["lora_rank"], model["lora_alpha"], model["apply_lora_to_mlp"]) == (16, 32, True)
    assert model["lora_attn_modules"] == ["q_proj", "k_proj", "v_proj", "output_proj"]
    assert values["optimizer"]["lr"] == 4e-4
    assert values["batch_size"] * values["gradient_accumulation_steps"] == 16
    # 3,000 rows make 187 whole batches of 16 a pass, 374 in two; 5 % of them, rounded up.
    assert (values["epochs"], values["lr_scheduler"]["num_warmup_steps"]) == (2, 19)
    assert (values["tokenizer"]["max_seq_len"], values["dataset"]["train_on_input"]) == (2048, False)
    assert values["dataset"]["data_files"] == str(RUN / "chat_rows" / "train.jsonl")
    assert values["checkpointer"]["checkpoint_files"]["max_filename"] == "00004"


def test_part_of_a_pass_is_taken_from_every_pass() -> None:
    answer = sample()
    values = exported(ours, replace(answer, choice=replace(answer.choice, epochs=1.5)))
    assert (values["epochs"], values["max_steps_per_epoch"]) == (2, 140)  # of 187 steps
    assert values["lr_scheduler"]["num_warmup_steps"] == 14


def test_weight_files_that_are_there_are_named(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors", "c.bin"):
        (tmp_path / name).touch()
    where = places(str(tmp_path), tmp_path)
    assert exported(ours, sample(), where)["checkpointer"]["checkpoint_files"] == [
        "a.safetensors",
        "b.safetensors",
    ]
    assert "tune download" not in ours.files(sample(), where)[ours.FILE_NAME]
    assert "tune download" in notes(ours, sample())


def named(answer: Recommendation, name: str, parameters: int) -> Recommendation:
    return replace(answer, model=replace(answer.model, name=name, parameters=parameters))


@pytest.mark.parametrize(
    ("name", "parameters", "function"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248, "llama3.lora_llama3_8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, "llama3_1.lora_llama3_1_8b"),
        ("/data/Llama-3.2-1B", 1_235_814_400, "llama3_2.lora_llama3_2_1b"),
        ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616, "llama2.lora_llama2_7b"),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304, "qwen2_5.lora_qwen2_5_1_5b_instruct"),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304, "qwen2_5.lora_qwen2_5_1_5b_base"),
        ("google/gemma-2-2b-it", 2_614_341_888, "gemma2.lora_gemma2_2b"),
    ],
)
def test_the_model_is_found_by_name_and_size(name: str, parameters: int, function: str) -> None:
    assert builder_for(named(sample(), name, parameters).model).function == function


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("mistralai/Mistral-7B-v0.3", 7_248_023_552),  # another vocabulary
        ("/data/mine", 8_030_261_248),
        ("Qwen/Qwen2.5-72B", 8_030_261_248),
    ],
)
def test_models_that_it_cannot_make_are_refused(name: str, parameters: int) -> None:
    with pytest.raises(ConfigurationError, match="no builder"):
        ours.files(named(sample(), name, parameters), places())


def test_what_else_it_cannot_train_is_refused() -> None:
    answer = sample()
    for changes, words in (
        ({"choice": replace(answer.choice, target_modules=("q_proj", "up_proj"))}, "all of the MLP"),
        ({"choice": replace(answer.choice, target_modules=("up_proj",))}, "attention"),
        ({"model": replace(answer.model, dtype="8-bit")}, "8-bit"),
        ({"data": replace(answer.data, template="none")}, "chat format around"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            ours.files(replace(answer, **changes), places())  # type: ignore[arg-type]
    gemma = named(answer, "google/gemma-2-2b-it", 2_614_341_888)
    with pytest.raises(ConfigurationError, match="no chat format"):
        ours.files(gemma, places())
    plain = exported(ours, replace(gemma, data=replace(gemma.data, format="text")))
    assert plain["dataset"]["column"] == "text"


def test_a_config_is_read() -> None:
    found = read(ours, CONFIG)
    assert (found.model, found.data, found.yours) == ("/tmp/base", "yahma/alpaca-cleaned", (64, 128.0, 3e-4))
    assert found.target_modules == ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    recipe = found.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.max_length, recipe.schedule) == (1, 32, 512, "cosine")
    assert (recipe.weight_decay, recipe.max_grad_norm, recipe.loss_on) == (0.01, 0.0, "all")
    assert (found.warmup_steps, found.quantization, found.seed) == (100, None, None)
    assert found.unread == ("base", "shuffle", "tokenizer._component_", "tokenizer.path")
    assert found.notes == ()


def test_other_ways_to_say_it() -> None:
    own = CONFIG.replace(
        "alpaca_cleaned_dataset", "chat_dataset\n  source: json\n  data_files: ${base}/rows.json"
    )
    found = read(ours, own)
    assert (found.data, found.recipe.loss_on) == ("/tmp/base/rows.json", "completion")
    lost = read(ours, CONFIG.replace("${base}", "${oc.env:HOME}"))
    assert lost.model is None
    assert any("oc.env" in note for note in lost.notes)
    assert (
        read(ours, CONFIG.replace("models.llama3_2.lora_", "models.llama3_2.qlora_")).quantization == "4-bit"
    )
    flat = read(ours, CONFIG.replace("num_warmup_steps: 100", "num_warmup_steps: 0\n  num_cycles: 0.0"))
    assert (flat.recipe.schedule, flat.warmup_steps) == ("constant", None)
    unset = read(ours, CONFIG.replace("max_seq_len: 512", "max_seq_len: null"))
    assert any("max_seq_len" in note for note in unset.notes)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lora_llama3_2_1b", "llama3_2_1b", "not a language model with LoRA"),
        ("lora_dropout: 0.0", "use_dora: true", "DoRA"),
        ("lora_dropout: 0.0", "apply_lora_to_output: true", "output head"),
        ("torch.optim.AdamW", "torch.optim.SGD", "SGD"),
        ("max_steps_per_epoch: null", "max_steps_per_epoch: 20", "20 steps"),
        ("get_cosine_schedule_with_warmup", "my_schedule", "my_schedule"),
        (
            "  _component_: torchtune.datasets.alpaca_cleaned_dataset\n  packed: False",
            "  - {a: 1}\n  - {b: 2}",
            "2 data",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(old: str, new: str, words: str) -> None:
    assert old in CONFIG
    with pytest.raises(ConfigurationError, match=words):
        read(ours, CONFIG.replace(old, new))


def test_only_the_lines_that_matter_change() -> None:
    config = read(ours, CONFIG)
    answer = sample()
    choice = replace(answer.choice, target_modules=config.target_modules or (), epochs=1.0)
    found = edited(ours, CONFIG, replace(answer, choice=choice, recipe=config.recipe))
    assert sorted(changed_lines(CONFIG, found.text)) == [
        "+ lora_alpha: 32  # usually alpha=2*rank",
        "+ lora_rank: 16  # higher increases accuracy and memory",
        "+ lr: 0.0004",
        "- lora_alpha: 128  # usually alpha=2*rank",
        "- lora_rank: 64  # higher increases accuracy and memory",
        "- lr: 3e-4",
    ]
    assert found.notes == ()


def made(answer: Recommendation, tmp_path: Path) -> Any:
    """The export as torchtune loads it, every function's arguments checked by torchtune."""
    config = pytest.importorskip("torchtune.config")
    (tmp_path / ours.FILE_NAME).write_text(ours.files(answer, places(answer.model.name))[ours.FILE_NAME])
    loaded = pytest.importorskip("omegaconf").OmegaConf.load(tmp_path / ours.FILE_NAME)
    config.validate(loaded)
    return loaded


def test_its_own_functions_make_the_same_adapters(tmp_path: Path) -> None:
    """Run where torchtune is installed: every model has the parameters that it is known by here, our rank and our scale."""
    config = pytest.importorskip("torchtune.config")
    lora = pytest.importorskip("torchtune.modules.peft").LoRALinear
    import torch

    for builder in BUILDERS:
        name = builder.name.replace("\\", "")
        answer = named(sample(), f"someone/{name}", builder.parameters)
        answer = replace(answer, model=replace(answer.model, dtype="bfloat16"))
        if not builder.family.template:
            answer = replace(answer, data=replace(answer.data, format="text"))
        loaded = made(answer, tmp_path)
        with torch.device("meta"):
            model = config.instantiate(loaded.model)
        assert sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n) == builder.parameters
        layers = [layer for layer in model.modules() if isinstance(layer, lora)]
        assert len(layers) == 7 * len(model.layers)
        assert {(layer.rank, layer.alpha / layer.rank) for layer in layers} == {(16, 2.0)}


def test_its_own_functions_make_the_same_schedule_and_optimizer(tmp_path: Path) -> None:
    """Run where torchtune is installed."""
    config = pytest.importorskip("torchtune.config")
    import torch

    schedules: tuple[Schedule, ...] = ("linear", "cosine", "constant")
    for schedule in schedules:
        answer = sample()
        recipe = replace(answer.recipe, schedule=schedule, adam_betas=(0.85, 0.95), weight_decay=0.1)
        answer = replace(answer, recipe=recipe)
        loaded, steps = made(answer, tmp_path), 374
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = config.instantiate(loaded.optimizer, [parameter])
        scheduler = config.instantiate(
            loaded.lr_scheduler, optimizer, num_training_steps=steps, last_epoch=-1
        )
        assert (tuple(optimizer.defaults["betas"]), optimizer.defaults["weight_decay"]) == ((0.85, 0.95), 0.1)
        assert loaded.lr_scheduler.num_warmup_steps == math.ceil(0.05 * steps)
        for step in range(steps):
            expected = 4e-4 * learning_rate_factor(recipe, step, steps)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9, abs=1e-15)
            optimizer.step()
            scheduler.step()


def test_references_that_stand_for_more_and_more_are_not_written_out() -> None:
    """Each of a thousand would stand for a thousand, five times over."""
    many = "base: " + "${more}" * 400 + "\nmore: " + "${base}" * 400
    found = read(ours, CONFIG.replace("base: /tmp/base", many))
    assert found.model is None
    assert any(note.startswith("checkpoint_dir is too long for a name") for note in found.notes)
