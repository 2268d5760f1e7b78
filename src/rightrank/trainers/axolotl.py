"""The recommendation as a config of Axolotl (0.19), and such a config read."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

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

    from rightrank.recipe import LossOn
    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, Quantization
    from rightrank.trainers.settings import Places, Precision, RowsKind
    from rightrank.trainers.yaml_file import Document

LABEL = "Axolotl"
FILE_NAME = "axolotl.yml"

_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
_PRECISIONS: dict[Precision, dict[str, Any]] = {
    "4-bit": {"adapter": "qlora", "load_in_4bit": True, "bf16": True},
    "8-bit": {"adapter": "lora", "load_in_8bit": True, "bf16": True},
    "float16": {"adapter": "lora", "bf16": False, "fp16": True},
    "float32": {"adapter": "lora", "bf16": False, "fp16": False},
    "bfloat16": {"adapter": "lora", "bf16": True},
}
# How Axolotl is told of each kind of rows. Without a chat template it tokenizes prompt and completion each by itself and puts the
# end-of-sequence token behind; of conversations it trains the assistant's turns with the token that ends them.
_ROWS: dict[RowsKind, dict[str, Any]] = {
    "chat": {"type": "chat_template", "field_messages": "messages"},
    "strings": {
        "type": {
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        }
    },
    "text": {"type": "completion", "field": "text"},
}


def config(recommendation: Recommendation, places: Places) -> dict[str, Any]:
    """What the file says."""
    s = settings(recommendation)
    rows = {"path": str(places.chat_rows / "train.jsonl"), "ds_type": "json", **_ROWS[s.rows]}
    if s.rows == "chat":
        roles = ["assistant"] if s.recipe.loss_on == "completion" else ["system", "user", "assistant"]
        rows |= {"roles_to_train": roles, "train_on_eos": "turn"}
    return {
        "base_model": places.model,
        "datasets": [rows],
        "output_dir": str(places.adapter),
        "val_set_size": 0.0,
        **_PRECISIONS[s.precision],
        **{key: value for part in _lines(s).values() for key, value in part.items() if value is not None},
        "sample_packing": False,
        "optimizer": "adamw_torch",
        "seed": s.seed,
    }


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """``axolotl.yml``."""
    command = f"axolotl train {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    top = header(recommendation, LABEL, _notes(recommendation), command)
    return {FILE_NAME: top + yaml_edit.block(config(recommendation, places))}


def _lines(s: Settings) -> dict[str, dict[str, Any]]:
    """The keys and values for each thing that can change."""
    recipe = s.recipe
    return {
        "rank": {"lora_r": s.rank},
        "alpha": {"lora_alpha": s.alpha, "peft_use_rslora": None},
        "dropout": {"lora_dropout": recipe.dropout},
        "target_modules": {"lora_target_linear": None, "lora_target_modules": list(s.target_modules)},
        "learning_rate": {"learning_rate": s.learning_rate},
        "schedule": {"lr_scheduler": _SCHEDULERS[recipe.schedule]},
        "warmup_ratio": {"warmup_steps": None, "warmup_ratio": recipe.warmup_ratio},
        "epochs": {"num_epochs": s.epochs},
        "batch_size": {"micro_batch_size": s.micro_batch, "gradient_accumulation_steps": s.accumulation},
        "max_length": {"sequence_len": recipe.max_length},
        "over_long": {"excess_length_strategy": recipe.over_long},
        "loss_on": {"train_on_inputs": recipe.loss_on == "all"},
        "weight_decay": {"weight_decay": recipe.weight_decay},
        "adam_betas": {"adam_beta1": recipe.adam_betas[0], "adam_beta2": recipe.adam_betas[1]},
        "adam_epsilon": {"adam_epsilon": recipe.adam_epsilon},
        "max_grad_norm": {"max_grad_norm": recipe.max_grad_norm},
    }


def _notes(recommendation: Recommendation) -> tuple[str, ...]:
    s = settings(recommendation)
    notes = [
        "Axolotl rounds the warm-up down to whole steps, and makes one step two; measured was rounded up."
    ]
    if s.rows == "text":
        notes.append("Axolotl cuts texts above sequence_len into pieces and trains on all of them.")
    elif s.rows == "strings":
        notes.append("Axolotl tokenizes prompt and completion each by itself; measured was one text.")
    elif s.recipe.loss_on == "all":
        notes.append("Axolotl never trains the chat template's own tokens; measured was with them.")
    else:
        notes.append(
            "Axolotl trains the token that ends a turn only where it is the tokenizer's end-of-sequence token, or named in eot_tokens;"
            " it was trained here."
        )
    return tuple(notes)


def recognises(values: Mapping[str, Any]) -> bool:
    """``base_model`` is Axolotl's alone among the trainers known here."""
    return "base_model" in values and bool(
        {"datasets", "adapter", "micro_batch_size", "sequence_len", "pretraining_dataset"} & values.keys()
    )


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``axolotl train`` would train. Plugins are not loaded."""
    keys = Keys(document.values, document.name)
    quantization = _refuse(keys)
    rows = keys.parts("datasets")
    if len(rows) > 1:
        raise ConfigurationError(
            f"{keys.name} mixes {len(rows)} data sets; one can be measured at a time.",
            "Join them into one file, or name one of them as DATA.",
        )
    one = rows[0] if rows else Keys({}, keys.name)
    notes: list[str] = []
    kind = _kind(one, notes)
    recipe = common_recipe(
        keys,
        batch=1,
        epochs=1.0,
        max_length=("sequence_len",),
        longest=512,
        epochs_key="num_epochs",
        batch_key="micro_batch_size",
        schedule_key="lr_scheduler",
        optimizer_key="optimizer",
        schedule="cosine",
        warmup=0.03,
    )
    recipe = recipe.given("trainer", over_long="drop", loss_on="completion", dropout=0.0).given(
        "config",
        over_long=_over_long(keys),
        loss_on=_loss_on(keys, one, kind),
        dropout=keys.number("lora_dropout"),
    )
    modules = _modules(keys, notes)
    rank, alpha, rate = keys.whole("lora_r"), keys.number("lora_alpha"), keys.number("learning_rate")
    if keys.flag("peft_use_rslora") and rank is not None and alpha is not None:
        alpha *= rank**0.5
        notes.append(f"rsLoRA's scale was folded: alpha {alpha:.4g} divided by the rank is the same.")
    if keys.flag("sample_packing"):
        notes.append("Axolotl would pack rows together; measured is without packing, one row an example.")
    notes += optimizer_notes(keys, "optimizer", LABEL)
    keys.raw("output_dir")
    return TrainerConfig(
        LABEL,
        path,
        model=keys.text("base_model"),
        data=_data(one),
        data_config=one.text("name"),
        data_split=one.text("split"),
        data_revision=one.text("revision"),
        revision=keys.text("revision_of_model"),
        recipe=recipe,
        yours=None if rank is None or alpha is None or rate is None else (rank, alpha, rate),
        string_template=kind in ("chat_template", "none"),
        warmup_steps=warmup_steps(keys),
        target_modules=modules,
        quantization=quantization,
        seed=keys.whole("seed"),
        eval_data=_eval_data(keys),
        unread=keys.unread(),
        notes=tuple(notes),
    )


def _refuse(keys: Keys) -> Quantization | None:
    """How the base is loaded. Raises ConfigurationError for what cannot be measured."""
    adapter = keys.text("adapter")
    if adapter not in ("lora", "qlora"):
        what = "trains all weights" if adapter is None else f"trains with {cleaned(adapter)}"
        raise ConfigurationError(
            f"{keys.name} {what}, not with LoRA.", "Set adapter: lora or adapter: qlora."
        )
    for name, words in (
        ("rl", "is for preferences or rewards"),
        ("reward_model", "trains a reward model"),
        ("pretraining_dataset", "streams its rows"),
        ("peft_use_dora", "trains DoRA"),
        ("relora", "trains ReLoRA"),
        ("lora_modules_to_save", "trains whole modules beside LoRA"),
        ("lora_target_parameters", "trains experts' parameters"),
        ("loraplus_lr_ratio", "trains LoRA+"),
        ("gptq", "has a GPTQ base"),
        ("lora_rank_pattern", "has several ranks"),
    ):
        if keys.raw(name):
            raise ConfigurationError(
                f"{keys.name} {words}, which cannot be measured here.", f"Take out {name}."
            )
    refuse_step_limit(keys)
    if keys.flag("load_in_8bit"):
        return "8-bit"
    return "4-bit" if keys.flag("load_in_4bit") or adapter == "qlora" else None


def _kind(rows: Keys, notes: list[str]) -> str:
    """How Axolotl makes text of the rows: ``chat_template``, ``alpaca``, ``completion``, or another of its own kinds."""
    kind = rows.raw("type")
    name = kind if isinstance(kind, str) else "rows of a form of their own" if kind else "none"
    first = name.split(".")[0].split(":")[0]
    if kind is None:
        return first
    template = rows.text("chat_template")
    if template not in (None, "tokenizer_default"):
        notes.append(
            f"Axolotl would put the rows into its template {cleaned(template)}; measured is the tokenizer's own."
        )
    if first not in ("chat_template", "alpaca", "completion", "input_output"):
        notes.append(
            f"Axolotl reads the rows as {cleaned(name)}; measured is as rightrank understands them, see the line above."
        )
    return first


def _loss_on(keys: Keys, rows: Keys, kind: str) -> LossOn | None:
    whole = keys.flag("train_on_inputs")
    roles = rows.names("roles_to_train")
    if kind == "completion" or whole or (roles is not None and set(roles) - {"assistant", "gpt", "model"}):
        return "all"
    return None if whole is None and roles is None else "completion"


def _over_long(keys: Keys) -> Any:
    word = keys.text("excess_length_strategy")
    if word not in (None, "drop", "truncate", "raise"):
        raise keys.wrong(("excess_length_strategy",), word, "drop or truncate")
    return "drop" if word == "raise" else word


def _modules(keys: Keys, notes: list[str]) -> tuple[str, ...] | None:
    """Target modules: None for all linear layers, () where the config names none."""
    everywhere, names = keys.flag("lora_target_linear"), keys.names("lora_target_modules")
    if everywhere or names == ("all-linear",):
        return None
    if not names:
        notes.append(
            "The config names no layers to adapt (lora_target_modules, lora_target_linear), and Axolotl would adapt only a few: all linear"
            " layers are measured, and written into the config."
        )
        return ()
    return names


def _data(rows: Keys) -> str | None:
    files = rows.names("data_files")
    if files:
        if len(files) > 1:
            raise ConfigurationError(
                f"{rows.name} names {len(files)} data files.", "Join them into one file."
            )
        rows.raw("path")
        return files[0]
    rows.raw("ds_type", "field_messages", "field")
    return rows.text("path")


def _eval_data(keys: Keys) -> str | None:
    """Held-out rows of the config's own; a share that Axolotl would split off is not used: a fifth is held out here anyway."""
    rows = keys.parts("test_datasets")
    if len(rows) != 1:
        return None
    return _data(rows[0])


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The config with the recommendation in it."""
    return edit_lines(document, config, recommendation, _lines(settings(recommendation)))
