"""The recommendation as a script for Unsloth (2026.10), whose own API is Python; and a config of ``unsloth train --config`` read.

Unsloth's config file can say less than its API: its schedule is linear, its optimizer AdamW with 8-bit states.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from rightrank.trainers import trl
from rightrank.trainers.config import TrainerConfig
from rightrank.trainers.editing import edit_lines
from rightrank.trainers.keys import Keys
from rightrank.trainers.settings import header, settings
from rightrank.trainers.transformers_keys import refuse_step_limit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, Quantization
    from rightrank.trainers.settings import Places, Settings
    from rightrank.trainers.yaml_edit import Place
    from rightrank.trainers.yaml_file import Document

LABEL = "Unsloth"
FILE_NAME = "unsloth_sft.py"

# What ``SFTConfig`` takes of TRL's config file; the rest says how to load the model and where to put the adapter.
_TRAINING = (
    *("output_dir", "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "packing"),
    *("completion_only_loss", "assistant_only_loss", "optim", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "seed", "bf16", "fp16"),
)
_DTYPES = {"float16": "float16", "float32": "float32"}
# Unsloth's config names these unless told otherwise (its get_peft_model does too).
_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def arguments(recommendation: Recommendation, places: Places) -> dict[str, dict[str, Any]]:
    """Keyword arguments of the three calls that the script makes: ``from_pretrained``, ``get_peft_model`` and ``SFTConfig``."""
    s = settings(recommendation)
    training = trl.config(recommendation, places)
    return {
        "from_pretrained": {
            "model_name": places.model,
            "max_seq_length": s.recipe.max_length,
            "load_in_4bit": s.precision == "4-bit",
            "load_in_8bit": s.precision == "8-bit",
        },
        "get_peft_model": {
            "r": s.rank,
            "lora_alpha": s.alpha,
            "lora_dropout": s.recipe.dropout,
            "target_modules": list(s.target_modules),
            "bias": "none",
            "use_rslora": False,
            "use_gradient_checkpointing": "unsloth",
            "random_state": s.seed,
        },
        "SFTConfig": {key: training[key] for key in _TRAINING if key in training},
    }


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """``unsloth_sft.py``."""
    calls = arguments(recommendation, places)
    dtype = _DTYPES.get(settings(recommendation).precision, "bfloat16")
    command = f"python {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    rows, adapter = str(places.trl_rows / "train.jsonl"), str(places.adapter)
    return {
        FILE_NAME: header(recommendation, LABEL, _notes(recommendation), command) + "import torch\n"
        "from unsloth import FastLanguageModel  # before TRL, which it changes\n"
        "from datasets import load_dataset\n"
        "from trl import SFTConfig, SFTTrainer\n\n"
        "model, tokenizer = FastLanguageModel.from_pretrained(\n"
        f"{_call(calls['from_pretrained'])}    dtype=torch.{dtype},\n)\n"
        f"model = FastLanguageModel.get_peft_model(\n    model,\n{_call(calls['get_peft_model'])})\n"
        f'rows = load_dataset("json", data_files={rows!a}, split="train")\n'
        f"arguments = SFTConfig(\n{_call(calls['SFTConfig'])})\n"
        "trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=arguments)\n"
        "trainer.train()\n"
        f"model.save_pretrained({adapter!a})\n"
    }


def _call(values: Mapping[str, Any]) -> str:
    return "".join(f"    {name}={value!a},\n" for name, value in values.items())


def _notes(recommendation: Recommendation) -> tuple[str, ...]:
    s = settings(recommendation)
    notes = []
    if s.recipe.over_long == "drop":
        notes.append(
            f"Unsloth truncates. Rows above {s.recipe.max_length} tokens were dropped here: drop them from the data first."
        )
    if s.recipe.dropout:
        notes.append("With a dropout above zero Unsloth leaves its fast path; the result is the same.")
    return tuple(notes)


def recognises(values: Mapping[str, Any]) -> bool:
    """A model beside the groups ``data``, ``training`` and ``lora``."""
    groups = [values.get(name) for name in ("data", "training", "lora")]
    return sum(isinstance(group, dict) for group in groups) >= 2


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``unsloth train --config`` would train."""
    keys = Keys(document.values, document.name)
    data, training, lora = keys.part("data"), keys.part("training"), keys.part("lora")
    _refuse(keys, training, lora)
    rank = lora.whole("lora_r") or 64
    alpha = lora.number("lora_alpha") or 16.0
    notes = ["Unsloth keeps Adam's states in 8 bits; measured is with 32."]
    if lora.flag("use_rslora"):
        alpha *= rank**0.5
        notes.append(f"rsLoRA's scale was folded: alpha {alpha:.4g} divided by the rank is the same.")
    if training.flag("packing"):
        notes.append("Unsloth would pack rows together; measured is without packing, one row an example.")
    local = data.names("local_dataset")
    if local is not None and len(local) > 1:
        raise ConfigurationError(f"{keys.name} mixes {len(local)} data files.", "Join them into one file.")
    four = training.flag("load_in_4bit")
    quantization: Quantization | None = "4-bit" if four is None or four else None
    warmup = training.whole("warmup_steps")
    for quiet in ("output_dir", "training_type"):
        training.raw(quiet)
    return TrainerConfig(
        LABEL,
        path,
        model=keys.text("model"),
        data=local[0] if local else data.text("dataset"),
        recipe=_recipe(training, lora),
        yours=(rank, alpha, training.number("learning_rate") or 2e-4),
        warmup_steps=5 if warmup is None else warmup,
        message_loss_on=None,
        target_modules=lora.names("target_modules") or _MODULES,
        quantization=quantization,
        seed=training.whole("random_seed"),
        unread=keys.unread(),
        notes=tuple(notes),
    )


def _recipe(training: Keys, lora: Keys) -> Recipe:
    micro, accumulation = training.whole("batch_size"), training.whole("gradient_accumulation_steps")
    only = training.flag("train_on_completions")
    given: dict[str, Any] = {
        "epochs": training.number("num_epochs"),
        "batch_size": None if micro is None and accumulation is None else (micro or 2) * (accumulation or 4),
        "max_length": training.whole("max_seq_length"),
        "weight_decay": training.number("weight_decay"),
        "dropout": lora.number("lora_dropout"),
        "loss_on": None if only is None else "completion" if only else "all",
    }
    return (
        Recipe()
        .given(
            "trainer",
            epochs=3.0,
            batch_size=8,
            max_length=2048,
            over_long="truncate",
            loss_on="all",
            schedule="linear",
            warmup_ratio=0.0,
            weight_decay=0.01,
            max_grad_norm=1.0,
            dropout=0.0,
            adam_betas=(0.9, 0.999),
            adam_epsilon=1e-8,
        )
        .given("config", **given)
    )


def _refuse(keys: Keys, training: Keys, lora: Keys) -> None:
    if training.text("training_type") not in (None, "lora"):
        raise ConfigurationError(
            f"{keys.name} trains all weights, not with LoRA.", "Set training_type: lora."
        )
    for name, words in (("use_dora", "DoRA"), ("use_loftq", "LoftQ")):
        if lora.flag(name):
            raise ConfigurationError(
                f"{keys.name} uses {words}, which cannot be measured here.", f"Take out {name}."
            )
    refuse_step_limit(training)


def _lines(s: Settings) -> dict[str, dict[Place, Any]]:
    """The places in the config file for each thing that can change and that it has a place for."""
    recipe = s.recipe
    return {
        "rank": {("lora", "lora_r"): s.rank},
        "alpha": {("lora", "lora_alpha"): s.alpha, ("lora", "use_rslora"): None},
        "dropout": {("lora", "lora_dropout"): recipe.dropout},
        "target_modules": {("lora", "target_modules"): ",".join(s.target_modules)},
        "learning_rate": {("training", "learning_rate"): s.learning_rate},
        "batch_size": {
            ("training", "batch_size"): s.micro_batch,
            ("training", "gradient_accumulation_steps"): s.accumulation,
        },
        "max_length": {("training", "max_seq_length"): recipe.max_length},
        "weight_decay": {("training", "weight_decay"): recipe.weight_decay},
        "loss_on": {("training", "train_on_completions"): recipe.loss_on == "completion"},
        **({"epochs": {("training", "num_epochs"): int(s.epochs)}} if s.epochs == int(s.epochs) else {}),
    }


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The config with the recommendation in it; what its file has no place for stands in the notes."""
    return edit_lines(document, config, recommendation, _lines(settings(recommendation)))
