"""A torchtune config, read: what the recipe ``lora_finetune_single_device`` would train."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from rightrank.trainers.config import TrainerConfig
from rightrank.trainers.keys import Keys

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recipe import LossOn, Schedule
    from rightrank.trainers.config import Quantization
    from rightrank.trainers.yaml_file import Document

LABEL = "torchtune"
ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
"""transformers' names of the attention's layers, and torchtune's."""
MLP = ("gate_proj", "up_proj", "down_proj")

# What it trains with where a config says nothing; the decay is that of PyTorch's AdamW.
_RANK, _ALPHA, _DECAY = 8, 16.0, 0.01

# The data sets that torchtune knows by a function: where they come from, and whether their prompts are trained on by default.
_KNOWN_DATA: dict[str, tuple[str, LossOn]] = {
    "alpaca_dataset": ("tatsu-lab/alpaca", "all"),
    "alpaca_cleaned_dataset": ("yahma/alpaca-cleaned", "all"),
    "slimorca_dataset": ("Open-Orca/SlimOrca-Dedup", "completion"),
    "samsum_dataset": ("Samsung/samsum", "completion"),
    "grammar_dataset": ("liweili/c4_200m", "completion"),
}
_LONGEST = 4096
"""Characters of a path (Linux has no longer ones)."""
_FILE_KINDS = ("json", "csv", "parquet", "text")


@dataclass(frozen=True)
class Data:
    """The data set of a config: a path or hub id where there is one."""

    path: str | None = None
    split: str | None = None
    loss_on: LossOn | None = None


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``document`` says. Raises ConfigurationError for what cannot be measured."""
    keys = Keys(document.values, document.name)
    notes: list[str] = []
    model, optimizer, scheduler = (keys.part(name) for name in ("model", "optimizer", "lr_scheduler"))
    quantization = _refuse(keys, model)
    data = _data_set(keys, notes)
    rank, alpha, rate = model.whole("lora_rank") or _RANK, model.number("lora_alpha"), optimizer.number("lr")
    keys.raw("output_dir", "device", "dtype", "loss", "metric_logger", "profiler", "resume_from_checkpoint")
    recipe = _recipe(keys, optimizer, notes).given(
        "config",
        schedule=_schedule(scheduler),
        dropout=model.number("lora_dropout"),
        loss_on=data.loss_on,
    )
    return TrainerConfig(
        LABEL,
        path,
        model=_model_folder(keys, notes),
        data=data.path,
        data_split=data.split,
        recipe=recipe,
        yours=None if rate is None else (rank, _ALPHA if alpha is None else alpha, rate),
        warmup_steps=scheduler.whole("num_warmup_steps") or None,
        target_modules=_targets(model),
        quantization=quantization,
        seed=keys.whole("seed"),
        unread=keys.unread(),
        notes=tuple(notes),
    )


def _component(keys: Keys) -> str:
    """Last part of the function's name."""
    return (keys.text("_component_") or "").rsplit(".", 1)[-1]


def _refuse(keys: Keys, model: Keys) -> Quantization | None:
    """How the base is loaded. Raises ConfigurationError for what cannot be measured."""
    name = _component(model)
    if not name.startswith(("lora_", "qlora_")) or "reward" in name or "vision" in name:
        raise ConfigurationError(
            f"{keys.name} trains with {cleaned(name)}, not a language model with LoRA.",
            "Name a builder that begins with lora_.",
        )
    for key, words in (
        ("use_dora", "trains DoRA"),
        ("apply_lora_to_output", "adapts the output head"),
    ):
        if model.flag(key):
            raise ConfigurationError(
                f"{keys.name} {words}, which cannot be measured here.", f"Take out {key}."
            )
    limit = keys.whole("max_steps_per_epoch")
    if limit is not None:
        raise ConfigurationError(
            f"{keys.name} ends an epoch after {limit:,} steps; a recipe is measured in whole passes.",
            "Set max_steps_per_epoch: null.",
        )
    return "4-bit" if model.flag("quantize_base") or name.startswith("qlora_") else None


def _recipe(keys: Keys, own: Keys, notes: list[str]) -> Recipe:
    """Epochs, batch, length, decay, Adam and clipping."""
    micro, accumulation = keys.whole("batch_size"), keys.whole("gradient_accumulation_steps")
    found = Recipe().given(
        "trainer",
        over_long="truncate",
        loss_on="completion",
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=_DECAY,
        max_grad_norm=0.0,
        dropout=0.0,
        adam_betas=(0.9, 0.999),
        adam_epsilon=1e-8,
    )
    if "adamw" not in _component(own).lower():
        raise ConfigurationError(
            f"{keys.name}: the optimizer {cleaned(_component(own))} cannot be measured here; AdamW can.",
            "Take torch.optim.AdamW.",
        )
    own.flag("fused")
    length = keys.part("tokenizer").whole("max_seq_len")
    if length is None:
        notes.append(
            "max_seq_len is not set, so torchtune would take rows as they are; up to 1,024 tokens are measured."
        )
    return found.given(
        "config",
        epochs=keys.whole("epochs"),
        batch_size=None if micro is None else micro * (accumulation or 1),
        max_length=length,
        weight_decay=own.number("weight_decay"),
        adam_betas=_betas(own),
        adam_epsilon=own.number("eps"),
        max_grad_norm=keys.number("clip_grad_norm"),
    )


def _betas(own: Keys) -> tuple[float, float] | None:
    value = own.raw("betas")
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, float) for one in value):
        return value[0], value[1]
    raise own.wrong(("betas",), value, "a pair of numbers")


def _schedule(own: Keys) -> Schedule | None:
    if not own.values:
        return None
    name, cycles = _component(own), own.number("num_cycles")
    if name == "get_linear_schedule_with_warmup":
        return "linear"
    if name == "get_cosine_schedule_with_warmup" and cycles in (None, 0.0, 0.5):
        return "constant" if cycles == 0.0 else "cosine"
    raise ConfigurationError(
        f"{own.name}: the schedule {cleaned(name)} cannot be measured here.",
        "Use get_cosine_schedule_with_warmup of half a cycle.",
    )


def _targets(model: Keys) -> tuple[str, ...]:
    """transformers' names of the layers that the config adapts."""
    theirs = model.names("lora_attn_modules") or ()
    names = tuple(ours for ours, name in ATTENTION.items() if name in theirs)
    return names + (MLP if model.flag("apply_lora_to_mlp") else ())


def _model_folder(keys: Keys, notes: list[str]) -> str | None:
    """The folder that the checkpointer reads."""
    own = keys.part("checkpointer")
    own.raw("_component_", "checkpoint_files", "recipe_checkpoint", "output_dir", "model_type")
    return _resolved(keys, own.text("checkpoint_dir"), "checkpoint_dir", notes)


def _data_set(keys: Keys, notes: list[str]) -> Data:
    """The data set. Raises ConfigurationError for several."""
    many = keys.raw("dataset")
    if isinstance(many, list):
        raise ConfigurationError(
            f"{keys.name} mixes {len(many)} data sets; one can be measured at a time.",
            "Join them into one file, or name one of them.",
        )
    own = keys.part("dataset")
    if own.flag("packed"):
        notes.append("torchtune would pack rows together; measured is without packing, one row an example.")
    if own.text("new_system_prompt"):
        notes.append("torchtune would put a system prompt of its own before the rows; measured is without.")
    own.raw("conversation_column", "conversation_style", "column_map", "column")
    name = _component(own)
    whole: LossOn = "all" if name == "text_completion_dataset" else "completion"
    known, loss = _KNOWN_DATA.get(name, (None, whole))
    trained = own.flag("train_on_input")
    source = _resolved(keys, own.text("source"), "source", notes) or known
    found, split = own.raw("data_files"), own.text("split")
    if source in _FILE_KINDS:
        source = _resolved(keys, found, "data_files", notes) if isinstance(found, str) else None
    if source is None:
        notes.append(
            f"Where {cleaned(name)} gets its rows cannot be told from here: name the data set as well."
        )
    return Data(source, split, loss if trained is None else "all" if trained else "completion")


def _resolved(keys: Keys, text: str | None, name: str, notes: list[str]) -> str | None:
    """``text`` with the config's own values in place of ``${key}``; None, and a sentence, where one of them is none of those."""

    def value(match: re.Match[str]) -> str:
        found: Any = keys.values
        for part in match[1].split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return match[0] if found is None or isinstance(found, (dict, list)) else str(found)[: _LONGEST + 1]

    for _ in range(5):  # a reference may lead to another; loops end here too
        if text is not None and len(text) > _LONGEST:  # each of many references may stand for many more
            notes.append(f"{name} is too long for a name: it has more than {_LONGEST:,} characters.")
            return None
        text = None if text is None else re.sub(r"\$\{([\w.]+)\}", value, text)
    if text is not None and "${" in text:
        notes.append(f"{name} refers to something outside of the config: {cleaned(text)}.")
        return None
    return text
