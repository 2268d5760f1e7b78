"""torchtune: ``tune run lora_finetune_single_device --config torchtune.yaml`` (0.6, the last line of releases, read in its source).

Its configs name Python functions (``_component_``) and hand them their arguments. The scale is alpha / rank. It has a schedule of its
own for the cosine only; the linear one comes from transformers, and a cosine of no cycles is constant.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError
from rightrank.trainers.editing import edit_lines
from rightrank.trainers.settings import header, settings
from rightrank.trainers.step_counts import exported_rows
from rightrank.trainers.torchtune_models import Builder, builder_for, weight_files
from rightrank.trainers.torchtune_reading import ATTENTION, LABEL, MLP, read
from rightrank.trainers.yaml_edit import block

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, TrainerConfig
    from rightrank.trainers.settings import Places, Settings
    from rightrank.trainers.yaml_edit import Place
    from rightrank.trainers.yaml_file import Document

__all__ = ["FILE_NAME", "LABEL", "edit", "files", "read", "recognises"]

FILE_NAME = "torchtune.yaml"

_SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"_component_": "transformers.get_linear_schedule_with_warmup", "num_cycles": None},
    "cosine": {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
        "num_cycles": None,
    },
    "constant": {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
        "num_cycles": 0.0,
    },
}


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """The config. Raises ConfigurationError where torchtune cannot make the model, the layers or the rows that were measured."""
    s, builder = settings(recommendation), builder_for(recommendation.model)
    _refuse(s, builder)
    groups = (*_model(s, builder, places), *_training(recommendation))
    command = (
        f"tune run lora_finetune_single_device --config {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    )
    text = header(recommendation, LABEL, _notes(s, places), command)
    return {FILE_NAME: text + "".join("\n" + block(_literal(group)) for group in groups)}


def _refuse(s: Settings, builder: Builder) -> None:
    mend = "Train with one of the other configs."
    if s.rows == "strings" or (s.rows == "chat" and not builder.family.template):
        what = "no chat format for this model" if s.rows == "chat" else "a chat format around every prompt"
        raise ConfigurationError(f"torchtune has {what}, and the rows were measured otherwise.", mend)
    if s.precision in ("8-bit", "float16"):
        raise ConfigurationError(f"torchtune trains no adapter on a {s.precision} base.", mend)


def _model(s: Settings, builder: Builder, places: Places) -> tuple[dict[str, Any], ...]:
    family, folder = builder.family, _folder(places)
    names = {argument: str(folder / file) for argument, file in family.tokenizer_files}
    return (
        {"output_dir": str(places.adapter)},
        {
            "model": {
                "_component_": f"torchtune.models.{builder.function}",
                **{place[1]: value for place, value in _adapter_lines(s).items()},
                **({"quantize_base": True} if s.precision == "4-bit" else {}),
            }
        },
        {
            "tokenizer": {
                "_component_": f"torchtune.models.{family.tokenizer}",
                **names,
                "max_seq_len": s.recipe.max_length,
            }
        },
        {
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": str(folder),
                "checkpoint_files": weight_files(folder, builder),
                "recipe_checkpoint": None,
                "output_dir": str(places.adapter),
                "model_type": family.model_type,
            },
            "resume_from_checkpoint": False,
            "save_adapter_weights_only": True,
        },
        {"dataset": _dataset(s, places), "shuffle": True, "seed": s.seed},
    )


def _dataset(s: Settings, places: Places) -> dict[str, Any]:
    rows = {
        "source": "json",
        "data_files": str(places.chat_rows / "train.jsonl"),
        "split": "train",
        "packed": False,
    }
    if s.rows == "text":
        return {"_component_": "torchtune.datasets.text_completion_dataset", **rows, "column": "text"}
    return {
        "_component_": "torchtune.datasets.chat_dataset",
        **rows,
        "conversation_column": "messages",
        "conversation_style": "openai",
        "train_on_input": s.recipe.loss_on == "all",
    }


def _training(recommendation: Recommendation) -> tuple[dict[str, Any], ...]:
    s = settings(recommendation)
    recipe, passes = s.recipe, _passes(recommendation)
    schedule = {key: value for key, value in _SCHEDULES[recipe.schedule].items() if value is not None}
    return (
        {
            "epochs": passes["epochs"],
            "max_steps_per_epoch": passes["max_steps_per_epoch"],
            "batch_size": s.micro_batch,
            "gradient_accumulation_steps": s.accumulation,
        },
        {
            "optimizer": {
                "_component_": "torch.optim.AdamW",
                "lr": s.learning_rate,
                "weight_decay": recipe.weight_decay,
                "betas": list(recipe.adam_betas),
                "eps": recipe.adam_epsilon,
            },
            "lr_scheduler": {**schedule, "num_warmup_steps": _warmup(recommendation)},
            "clip_grad_norm": recipe.max_grad_norm or None,
            "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        },
        {
            "device": "cuda",
            "dtype": "fp32" if s.precision == "float32" else "bf16",
            "enable_activation_checkpointing": True,
            "compile": False,
        },
        {
            "metric_logger": {
                "_component_": "torchtune.training.metric_logging.DiskLogger",
                "log_dir": "${output_dir}/logs",
            },
            "log_every_n_steps": 1,
        },
    )


def _folder(places: Places) -> Path:
    """The model's folder; one in the run directory where it has yet to be fetched."""
    return (
        Path(places.model) if Path(places.model).is_absolute() else places.adapter.parent / "torchtune_model"
    )


def _steps_a_pass(recommendation: Recommendation) -> int:
    """torchtune leaves out what fills no batch at the end of a pass."""
    s = settings(recommendation)
    return max(1, exported_rows(recommendation) // s.micro_batch // s.accumulation)


def _passes(recommendation: Recommendation) -> dict[str, int | None]:
    """Whole passes, each cut short alike where the epochs are no whole number."""
    epochs, steps = recommendation.choice.epochs, _steps_a_pass(recommendation)
    whole = math.ceil(epochs)
    limit = None if whole == epochs else max(1, round(epochs * steps / whole))
    return {"epochs": whole, "max_steps_per_epoch": limit}


def _warmup(recommendation: Recommendation) -> int:
    passes = _passes(recommendation)
    steps = (passes["epochs"] or 1) * (passes["max_steps_per_epoch"] or _steps_a_pass(recommendation))
    return math.ceil(recommendation.recipe.warmup_ratio * steps)


def _adapter_lines(s: Settings) -> dict[tuple[str, str], Any]:
    """Rank, scale, dropout and layers. Raises ConfigurationError for layers that torchtune cannot choose."""
    names = set(s.target_modules)
    attention = [theirs for ours, theirs in ATTENTION.items() if ours in names]
    rest = names - set(ATTENTION)
    if not attention or rest not in (set(), set(MLP)):
        raise ConfigurationError(
            "torchtune adapts attention layers, alone or with all of the MLP; measured were others.",
            "Train with one of the other configs.",
        )
    return {
        ("model", "lora_attn_modules"): attention,
        ("model", "apply_lora_to_mlp"): bool(rest),
        ("model", "lora_rank"): s.rank,
        ("model", "lora_alpha"): s.alpha,
        ("model", "lora_dropout"): s.recipe.dropout,
    }


def _literal(group: Mapping[str, Any]) -> dict[str, Any]:
    """``group`` with what OmegaConf would take for a reference in a path kept from it; the one reference of our own stays."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(one) for key, one in value.items()}
        if isinstance(value, list):
            return [kept(one) for one in value]
        if isinstance(value, str) and not value.startswith("${output_dir}"):
            return value.replace("${", "\\${")
        return value

    return {key: kept(value) for key, value in group.items()}


def _notes(s: Settings, places: Places) -> tuple[str, ...]:
    notes = [
        "torchtune writes rows in its own chat format, without what a template adds of itself, such as a date."
    ]
    if s.rows == "text":
        notes = []
    if not Path(places.model).is_absolute():
        fetch = f"tune download {shlex.quote(places.model)} --output-dir {shlex.quote(str(_folder(places)))}"
        notes.append(
            f"First: {fetch} --ignore-patterns 'original/consolidated*'; compare checkpoint_files with what comes."
        )
    if s.precision != "float32":
        notes.append("torchtune keeps the adapter in bfloat16; it was measured in float32.")
    if s.precision == "4-bit":
        notes.append("torchtune's 4-bit weights (NF4 of torchao) are rounded otherwise than those measured.")
    if s.recipe.schedule == "linear":
        notes.append("The linear schedule is taken from transformers: pip install transformers.")
    if s.epochs != int(s.epochs):
        notes.append(f"{s.epochs:g} epochs are whole passes here, each cut short: max_steps_per_epoch.")
    if s.recipe.over_long == "drop":
        notes.append(
            f"torchtune truncates. Rows above {s.recipe.max_length} tokens were dropped here: drop them from the data first."
        )
    return tuple(notes)


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether these keys are torchtune's."""
    model = values.get("model")
    return isinstance(model, dict) and "_component_" in model


def _lines(recommendation: Recommendation) -> dict[str, dict[Place, Any]]:
    """The places of each thing that can change."""
    s = settings(recommendation)
    adapter: dict[str, Any] = {place[1]: value for place, value in _adapter_lines(s).items()}
    recipe, passes = s.recipe, _passes(recommendation)
    warmup: dict[Place, Any] = {("lr_scheduler", "num_warmup_steps"): _warmup(recommendation)}
    length: dict[Place, Any] = {key: value for key, value in passes.items() if value is not None}
    return {
        "rank": {("model", "lora_rank"): s.rank},
        "alpha": {("model", "lora_alpha"): s.alpha},
        "dropout": {("model", "lora_dropout"): recipe.dropout},
        "target_modules": {
            ("model", key): adapter[key] for key in ("lora_attn_modules", "apply_lora_to_mlp")
        },
        "learning_rate": {("optimizer", "lr"): s.learning_rate},
        "weight_decay": {("optimizer", "weight_decay"): recipe.weight_decay},
        "adam_betas": {("optimizer", "betas"): list(recipe.adam_betas)},
        "adam_epsilon": {("optimizer", "eps"): recipe.adam_epsilon},
        "schedule": {("lr_scheduler", key): value for key, value in _SCHEDULES[recipe.schedule].items()},
        "warmup_ratio": warmup,
        "epochs": {**length, **warmup},
        "batch_size": {
            "batch_size": s.micro_batch,
            "gradient_accumulation_steps": s.accumulation,
            **warmup,
        },
        "max_length": {("tokenizer", "max_seq_len"): recipe.max_length},
        "loss_on": {("dataset", "train_on_input"): recipe.loss_on == "all"},
        "max_grad_norm": {"clip_grad_norm": recipe.max_grad_norm or None},
    }


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The recommendation in a config that exists."""
    return edit_lines(document, config, recommendation, _lines(recommendation))
