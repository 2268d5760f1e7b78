"""LLaMA-Factory: against the keys of its argument classes, and against its own parser where it is installed.

It cannot be a dependency of the tests: it pins older transformers, TRL and PEFT, and Gradio. ``KEYS`` are the fields (and types) of
``ModelArguments``, ``DataArguments``, ``FinetuningArguments`` and ``TrainingArguments`` in its release 0.9.5.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import STATUSES, sample
from rightrank.errors import ConfigurationError
from rightrank.trainers import llama_factory as ours
from rightrank.trainers import write_configs
from trainers.exports import RUN, changed_lines, edited, exported, notes, places, read

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation, Status

KEYS: dict[str, type] = {
    "model_name_or_path": str,
    "quantization_method": str,
    "quantization_bit": int,
    "stage": str,
    "do_train": bool,
    "finetuning_type": str,
    "lora_rank": int,
    "lora_alpha": int,
    "lora_dropout": float,
    "lora_target": str,
    "dataset": str,
    "dataset_dir": str,
    "template": str,
    "cutoff_len": int,
    "train_on_prompt": bool,
    "packing": bool,
    "learning_rate": float,
    "lr_scheduler_type": str,
    "warmup_steps": int,
    "num_train_epochs": float,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "optim": str,
    "weight_decay": float,
    "adam_beta1": float,
    "adam_beta2": float,
    "adam_epsilon": float,
    "max_grad_norm": float,
    "bf16": bool,
    "fp16": bool,
    "infer_dtype": str,
    "seed": int,
    "output_dir": str,
    "report_to": str,
}
# As people have it: after the project's examples/train_lora.
CONFIG = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8  # small
lora_target: all

### dataset
dataset: rows
dataset_dir: {folder}
template: llama3
cutoff_len: 2048
preprocessing_num_workers: 16

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
"""


def with_rows(answer: Recommendation, kind: str) -> Recommendation:
    changes = {"text": {"format": "text"}, "strings": {"template": "none"}, "chat": {}}[kind]
    return replace(answer, data=replace(answer.data, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("rows", ["chat", "strings", "text"])
@pytest.mark.parametrize("dtype", ["bfloat16", "4-bit", "8-bit", "float16", "float32"])
def test_every_key_is_known_there_and_of_its_type(status: Status, rows: str, dtype: str) -> None:
    answer = with_rows(sample(status), rows)
    answer = replace(answer, model=replace(answer.model, dtype=dtype))
    for key, value in exported(ours, answer).items():
        assert type(value) is KEYS[key], key


def test_rank_scale_and_recipe_arrive() -> None:
    values = exported(ours, sample())
    assert (values["lora_rank"], values["lora_alpha"], values["learning_rate"]) == (16, 32, 4e-4)
    assert values["lora_target"] == "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] == 16
    # 3,000 rows in batches of 16 are 188 steps a pass, 376 in all, 5 % of them rounded up.
    assert (values["num_train_epochs"], values["warmup_steps"]) == (2.0, 19)
    assert (values["quantization_bit"], values["bf16"], values["train_on_prompt"]) == (4, True, False)


@pytest.mark.parametrize(
    ("rows", "entry"),
    [
        ("chat", {"formatting": "sharegpt", "columns": {"messages": "messages"}}),
        ("strings", {"columns": {"prompt": "prompt", "response": "completion"}}),
        ("text", {"columns": {"prompt": "text"}}),
    ],
)
def test_the_data_set_is_entered(rows: str, entry: dict[str, Any]) -> None:
    answer = with_rows(sample(), rows)
    files = ours.files(answer, places())
    values = exported(ours, answer)
    info = json.loads(files["dataset_info.json"])[values["dataset"]]
    assert Path(values["dataset_dir"], info.pop("file_name")) == RUN / "chat_rows" / "train.jsonl"
    tags = info.pop("tags", None)
    assert info == entry
    theirs = {
        "role": "role",
        "content": "content",
        "user": "user",
        "assistant": "assistant",
        "system": "system",
    }
    assert tags == ({f"{key}_tag": name for key, name in theirs.items()} if rows == "chat" else None)
    assert values["stage"] == ("pt" if rows == "text" else "sft")


def test_what_it_does_otherwise_stands_on_top() -> None:
    answer = sample()
    dropped = replace(answer, recipe=replace(answer.recipe, over_long="drop"))
    assert "drop them from the data first" in notes(ours, dropped)
    assert "end-of-text" in notes(ours, with_rows(answer, "strings"))


def test_a_missing_end_of_text_token_is_said_when_the_config_is_written(tmp_path: Path) -> None:
    """As 0.9.5 has it: ``empty`` formats an answer as its content alone, and no other template leaves a prompt as it is."""
    _, plain = write_configs(with_rows(sample(), "strings"), tmp_path)
    (said,) = [line for line in plain if line.startswith("llama_factory.yaml: ")]
    assert "no end-of-text token" in said and "Append your tokenizer's" in said
    _, chat = write_configs(with_rows(sample(), "chat"), tmp_path)
    assert not [line for line in chat if "end-of-text" in line]
    assert "end-of-text" not in notes(ours, sample())


@pytest.fixture
def config(tmp_path: Path) -> str:
    info = {
        "rows": {"file_name": "mine.json"},
        "hub": {"hf_hub_url": "someone/rows", "subset": "en", "split": "train_sft"},
        "pairs": {"file_name": "pairs.json", "ranking": True},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return CONFIG.replace("{folder}", str(tmp_path))


def test_a_config_is_read(config: str, tmp_path: Path) -> None:
    found = read(ours, config)
    assert (found.model, found.data) == ("meta-llama/Meta-Llama-3-8B", str(tmp_path / "mine.json"))
    assert found.yours == (8, 16.0, 1e-4)  # alpha is twice the rank unless given
    assert (found.target_modules, found.quantization, found.seed) == (None, None, 42)
    recipe = found.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.max_length) == (3.0, 8, 2048)
    assert (recipe.schedule, recipe.warmup_ratio, recipe.loss_on) == ("cosine", 0.1, "completion")
    assert recipe.origins["weight_decay"] == "trainer"
    assert recipe.origins["epochs"] == "config"
    assert found.unread == ("trust_remote_code", "preprocessing_num_workers")
    assert any("its template llama3" in note for note in found.notes)


def test_the_defaults_are_its_own() -> None:
    found = read(ours, "model_name_or_path: m\nstage: sft\n")
    assert found.yours == (8, 16.0, 5e-5)
    recipe = found.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.max_length, recipe.schedule) == (3.0, 8, 2048, "linear")
    assert not recipe.assumed()
    assert found.data is None


def test_other_ways_to_say_it(config: str) -> None:
    hub = read(ours, config.replace("dataset: rows", "dataset: hub"))
    assert (hub.data, hub.data_config, hub.data_split) == ("someone/rows", "en", "train_sft")
    folded = read(ours, config + "use_rslora: true\nlora_alpha: 8\n")
    assert folded.yours is not None
    assert folded.yours[1] == pytest.approx(8 * 8**0.5)
    assert any("folded" in note for note in folded.notes)
    steps = read(ours, config.replace("warmup_ratio: 0.1", "warmup_steps: 20"))
    assert steps.warmup_steps == 20
    whole = read(ours, config + "train_on_prompt: true\nquantization_bit: 4\n")
    assert (whole.recipe.loss_on, whole.quantization) == ("all", "4-bit")
    named = read(ours, config.replace("lora_target: all", "lora_target: q_proj,v_proj"))
    assert named.target_modules == ("q_proj", "v_proj")


def test_a_data_set_that_cannot_be_found_is_asked_for(config: str) -> None:
    found = read(ours, config.replace("dataset: rows", "dataset: others"))
    assert found.data is None
    assert any("others" in note for note in found.notes)
    lost = read(ours, config.replace("dataset_dir: ", "dataset_dir: /nowhere"))
    assert lost.data is None
    assert any("cannot be read" in note for note in lost.notes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stage: dpo", "supervised"),
        ("finetuning_type: full", "not with LoRA"),
        ("use_dora: true", "DoRA"),
        ("pissa_init: true", "PiSSA"),
        ("loraplus_lr_ratio: 16.0", "LoRA\\+"),
        ("additional_target: embed_tokens", "whole modules"),
        ("dataset: rows,hub", "2 data sets"),
        ("dataset: pairs", "preference"),
        ("max_steps: 100", "steps"),
        ("optim: adafactor", "AdamW"),
        ("lr_scheduler_type: polynomial", "polynomial"),
        ("quantization_bit: 3", "4 or 8"),
    ],
)
def test_what_cannot_be_measured_is_refused(config: str, line: str, words: str) -> None:
    key = line.split(":", maxsplit=1)[0]
    kept = [one for one in config.splitlines() if not one.startswith(f"{key}:")]
    with pytest.raises(ConfigurationError, match=words):
        read(ours, "\n".join([*kept, line, ""]))


def test_only_the_lines_that_matter_change(config: str) -> None:
    answer = sample()
    recipe = replace(
        read(ours, config).recipe,
        epochs=2.0,
        origins={**read(ours, config).recipe.origins, "epochs": "given"},
    )
    found = edited(ours, config, replace(answer, recipe=recipe))
    assert changed_lines(config, found.text) == [
        "- lora_rank: 8  # small",
        "+ lora_rank: 16  # small",
        "+ lora_alpha: 32",
        "- learning_rate: 1.0e-4",
        "+ learning_rate: 0.0004",
        "- num_train_epochs: 3.0",
        "+ num_train_epochs: 2.0",
    ]
    assert found.notes == ()


def test_its_own_parser_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the adapters that it makes have our rank and scale. Run where LLaMA-Factory is installed."""
    pytest.importorskip("llamafactory")
    monkeypatch.setitem(os.environ, "DISABLE_VERSION_CHECK", "1")
    parser = pytest.importorskip("llamafactory.hparams.parser")
    torch, tiny = pytest.importorskip("torch"), pytest.importorskip("tiny")
    answer = sample()
    answer = replace(answer, model=replace(answer.model, dtype="float32"))
    values = exported(ours, answer, places("m", tmp_path))
    model, data, training, tuning, _ = parser._parse_train_args(values)
    assert (tuning.lora_rank, tuning.lora_alpha, tuning.lora_dropout) == (16, 32, 0.0)
    assert (tuning.stage, tuning.finetuning_type, tuning.use_rslora) == ("sft", "lora", False)
    assert (data.dataset, data.cutoff_len, data.train_on_prompt) == (["rightrank_rows"], 2048, False)
    assert (training.learning_rate, training.num_train_epochs) == (4e-4, 2.0)
    assert training.get_warmup_steps(376) == 19
    assert model.infer_dtype == "float32"
    (tmp_path / "dataset_info.json").write_text(
        ours.files(answer, places("m", tmp_path))["dataset_info.json"]
    )
    if "torchaudio" not in sys.modules:
        monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    named = pytest.importorskip("llamafactory.data.parser").get_dataset_list(data.dataset, data.dataset_dir)[
        0
    ]
    assert Path(data.dataset_dir, named.dataset_name) == tmp_path / "chat_rows" / "train.jsonl"
    assert (named.formatting, named.messages, named.user_tag) == ("sharegpt", "messages", "user")
    adapter = pytest.importorskip("llamafactory.model.adapter")
    base = tiny.tiny_model(dtype=torch.bfloat16)
    made = adapter.init_adapter(base.config, base, model, tuning, is_trainable=True)
    layers = [layer for layer in made.modules() if hasattr(layer, "lora_A")]
    assert len(layers) == 7 * base.config.num_hidden_layers
    assert {(layer.r["default"], layer.scaling["default"]) for layer in layers} == {(16, 2.0)}
    assert {layer.lora_A["default"].weight.dtype for layer in layers} == {torch.float32}


def test_a_list_of_data_sets_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dataset_info.json")
    for folder in (str(tmp_path), "~nobody-of-this-name"):
        found = read(ours, CONFIG.format(folder=folder))
        assert found.data is None
        assert any("cannot be read from here: name the data set as well" in note for note in found.notes)
