"""The recommendation as a config of ``trl sft`` (TRL >= 1.10 on transformers >= 5.17), and such a config read.

The rows that the export names are those the caller converted, since TRL would not format every kind of row as the measurement did.
Their columns decide which masking flag TRL accepts:

- ``messages`` for data in the formats ``messages`` and ``ShareGPT``,
- ``text`` for plain text,
- ``prompt`` and ``completion`` for everything else.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Literal

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.trainers import yaml_edit
from rightrank.trainers.config import TrainerConfig
from rightrank.trainers.editing import edit_lines
from rightrank.trainers.keys import Keys
from rightrank.trainers.settings import Settings, header, settings
from rightrank.trainers.transformers_keys import (
    common_recipe,
    optimizer_notes,
    refuse_step_limit,
    warmup_steps,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, Quantization
    from rightrank.trainers.settings import Places, Precision
    from rightrank.trainers.yaml_file import Document

LABEL = "TRL"
FILE_NAME = "trl_sft.yaml"

Columns = Literal["messages", "text", "prompt, completion"]

# TRL's "constant" knows no warm-up.
_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
# TRL's own default is a float32 base.
_PRECISIONS: dict[Precision, dict[str, Any]] = {
    "4-bit": {"load_in_4bit": True, "dtype": "bfloat16", "bf16": True},
    "8-bit": {"load_in_8bit": True, "dtype": "bfloat16", "bf16": True},
    "float16": {"dtype": "float16", "bf16": False, "fp16": True},
    "float32": {"dtype": "float32", "bf16": False},
    "bfloat16": {"dtype": "bfloat16", "bf16": True},
}


def columns(recommendation: Recommendation) -> Columns:
    """Columns of the converted rows."""
    kind = recommendation.data.format.lower()
    if kind in ("messages", "sharegpt"):
        return "messages"
    return "text" if kind == "text" else "prompt, completion"


def config(recommendation: Recommendation, places: Places) -> dict[str, Any]:
    """What the file says: the ``trl sft`` run that trains ``recommendation.choice`` with its recipe on the converted rows."""
    s = settings(recommendation)
    lines = _lines(s, columns(recommendation))
    return {
        "model_name_or_path": places.model,
        "dataset_name": str(places.trl_rows),
        "output_dir": str(places.adapter),
        **_PRECISIONS[s.precision],
        "use_peft": True,
        **{key: value for part in lines.values() for key, value in part.items() if value is not None},
        "packing": False,
        "optim": "adamw_torch",
        "seed": s.seed,
    }


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """``trl_sft.yaml``."""
    command = f"trl sft --config {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    top = header(recommendation, LABEL, _notes(recommendation), command)
    return {FILE_NAME: top + yaml_edit.block(config(recommendation, places))}


def _lines(s: Settings, kind: Columns) -> dict[str, dict[str, Any]]:
    """The keys and values for each thing that can change."""
    recipe = s.recipe
    only = recipe.loss_on == "completion"
    return {
        "rank": {"lora_r": s.rank},
        "alpha": {"lora_alpha": s.alpha, "use_rslora": None},
        "dropout": {"lora_dropout": recipe.dropout},
        "target_modules": {"lora_target_modules": _targets(s.target_modules)},
        "learning_rate": {"learning_rate": s.learning_rate},
        "schedule": {"lr_scheduler_type": _SCHEDULERS[recipe.schedule]},
        "warmup_ratio": {
            "warmup_ratio": None,
            "warmup_steps": recipe.warmup_ratio,
        },  # below 1: a share of the steps
        "epochs": {"num_train_epochs": s.epochs},
        "batch_size": {
            "per_device_train_batch_size": s.micro_batch,
            "gradient_accumulation_steps": s.accumulation,
        },
        "max_length": {"max_length": recipe.max_length},
        "loss_on": {
            "completion_only_loss": only and kind == "prompt, completion",
            "assistant_only_loss": only and kind == "messages",
        },
        "weight_decay": {"weight_decay": recipe.weight_decay},
        "adam_betas": {"adam_beta1": recipe.adam_betas[0], "adam_beta2": recipe.adam_betas[1]},
        "adam_epsilon": {"adam_epsilon": recipe.adam_epsilon},
        "max_grad_norm": {"max_grad_norm": recipe.max_grad_norm},
    }


def _targets(names: tuple[str, ...]) -> list[str]:
    """Target modules. TRL unpacks a list of one, and PEFT reads a lone string as a regular expression for the whole module name."""
    return [rf"(.*\.)?{re.escape(names[0])}"] if len(names) == 1 else list(names)


def _notes(recommendation: Recommendation) -> tuple[str, ...]:
    recipe = recommendation.recipe
    notes = [f"The rows were converted to the columns {columns(recommendation)}."]
    if recipe.over_long == "drop":
        notes.append(
            f"TRL truncates. Rows above {recipe.max_length} tokens were dropped here: drop them from the data first."
        )
    if settings(recommendation).precision in ("4-bit", "8-bit"):
        notes.append("TRL keeps adapters of a quantized base in bfloat16; they were measured in float32.")
    if columns(recommendation) == "messages" and recipe.loss_on == "completion":
        notes.append(
            "assistant_only_loss needs a chat template that marks the assistant's turns; TRL knows the common ones."
        )
    if recommendation.cost.device.startswith("CPU"):
        notes.append("On a machine without a GPU add --use_cpu True to the command below.")
    return tuple(notes)


def recognises(values: Mapping[str, Any]) -> bool:
    """A model, and rows as TRL names them; LLaMA-Factory names them ``dataset``."""
    return "model_name_or_path" in values and bool({"dataset_name", "datasets"} & values.keys())


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``trl sft --config`` would train. Its environment variables are not set."""
    keys = Keys(document.values, document.name)
    _refuse(keys)
    data, split, data_config = _data(keys)
    only, assistant = keys.flag("completion_only_loss"), keys.flag("assistant_only_loss")
    recipe = common_recipe(
        keys, batch=8, epochs=3.0, max_length=("max_length", "max_seq_length"), longest=1024
    )
    recipe = recipe.given("trainer", dropout=0.05, over_long="truncate").given(
        "config", dropout=keys.number("lora_dropout")
    )
    masked = None if only is None and not assistant else "completion" if only or assistant else "all"
    recipe = recipe.given("trainer", loss_on="completion").given("config", loss_on=masked)
    rank, alpha = keys.whole("lora_r") or 16, keys.number("lora_alpha") or 32.0
    notes = []
    if keys.flag("use_rslora"):
        alpha *= rank**0.5
        notes.append(f"rsLoRA's scale was folded: alpha {alpha:.4g} divided by the rank is the same.")
    modules, named = _modules(keys)
    if not named:
        notes.append(
            "TRL leaves the layers to PEFT, which adapts only some of them; measured are all linear layers."
        )
    quantization: Quantization | None = (
        "4-bit" if keys.flag("load_in_4bit") else "8-bit" if keys.flag("load_in_8bit") else None
    )
    if keys.flag("packing"):
        notes.append("TRL would pack rows together; measured is without packing, one row an example.")
    notes += optimizer_notes(keys, "optim", LABEL)
    for ignored in ("use_peft", "output_dir"):
        keys.raw(ignored)
    return TrainerConfig(
        LABEL,
        path,
        model=keys.text("model_name_or_path"),
        data=data,
        data_split=split,
        data_config=data_config,
        revision=keys.text("model_revision"),
        recipe=recipe,
        yours=(rank, alpha, keys.number("learning_rate") or 2e-5),
        string_template=False,
        message_loss_on="completion" if assistant else "all",
        warmup_steps=warmup_steps(keys),
        target_modules=modules,
        quantization=quantization,
        seed=keys.whole("seed"),
        unread=keys.unread(),
        notes=tuple(notes),
    )


def _refuse(keys: Keys) -> None:
    """What cannot be measured, in a sentence."""
    if not keys.flag("use_peft"):
        raise ConfigurationError(
            f"{keys.name} trains all weights: use_peft is not set.", "Set use_peft: true for LoRA."
        )
    for name, words in (("use_dora", "DoRA"), ("lora_modules_to_save", "whole modules beside LoRA")):
        if keys.raw(name):
            raise ConfigurationError(
                f"{keys.name} trains {words}, which cannot be measured here.", f"Take out {name}."
            )
    refuse_step_limit(keys)
    loss = keys.text("loss_type")
    if loss not in (None, "nll", "chunked_nll"):
        raise ConfigurationError(
            f"{keys.name} has the loss {cleaned(loss)}; only plain likelihood is measured.",
            "Take out loss_type.",
        )


def _data(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Data set, its split and its configuration."""
    mixture = keys.parts("datasets")
    if len(mixture) > 1:
        raise ConfigurationError(
            f"{keys.name} mixes {len(mixture)} data sets; one can be measured at a time.",
            "Join them into one file, or name one of them as DATA.",
        )
    if mixture:
        one = mixture[0]
        files = one.names("data_files")
        if one.text("path") in ("json", "csv", "parquet") and files and len(files) == 1:
            return files[0], None, None
        return one.text("path"), one.text("split"), one.text("name")
    split = keys.text("dataset_train_split")
    return keys.text("dataset_name"), split, keys.text("dataset_config")


def _modules(keys: Keys) -> tuple[tuple[str, ...] | None, bool]:
    """Target modules, and whether the config names any."""
    names = keys.names("lora_target_modules")
    if names is None:
        return (), False
    if names == ("all-linear",):
        return None, True
    alone = re.fullmatch(r"\(\.\*\\\.\)\?([\w\\.-]+)", names[0]) if len(names) == 1 else None
    if alone:
        return (alone[1].replace("\\", ""),), True
    return names, True


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The config with the recommendation in it."""
    return edit_lines(
        document, config, recommendation, _lines(settings(recommendation), columns(recommendation))
    )
