"""The recommendation as PEFT takes it, the arguments of ``peft.LoraConfig``; and an ``adapter_config.json`` read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rightrank import recommendation_html as wording
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from rightrank.trainers.config import EditedConfig, TrainerConfig
from rightrank.trainers.keys import Keys
from rightrank.trainers.settings import what_changes
from rightrank.trainers.yaml_file import edited

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.settings import Places
    from rightrank.trainers.yaml_file import Document

LABEL = "PEFT"
FILE_NAME = "peft_lora_config.json"


def config_dict(recommendation: Recommendation) -> dict[str, Any]:
    """Arguments of ``peft.LoraConfig``, in JSON's types."""
    return recommendation.peft_arguments()


def text(recommendation: Recommendation) -> str:
    """The file's content: ``peft.LoraConfig(**json.loads(text))`` takes it as it is."""
    return json.dumps(config_dict(recommendation), indent=2) + "\n"


def snippet(recommendation: Recommendation) -> str:
    """Python that makes the same configuration; what LoraConfig does not hold stands in comments."""
    choice, recipe = recommendation.choice, recommendation.recipe
    arguments = "".join(f"    {name}={value!r},\n" for name, value in config_dict(recommendation).items())
    return (
        "from peft import LoraConfig\n\n"
        f"# For {wording.clean(recommendation.model.name)} on {wording.clean(recommendation.data.name)}.\n"
        "# The rank was measured together with this learning rate and these epochs; it is not meant for others:\n"
        f"# learning rate {choice.learning_rate!r}, {wording.epochs(choice.epochs)}, batch {recipe.batch_size}.\n"
        f"lora_config = LoraConfig(\n{arguments})\n"
    )


def files(recommendation: Recommendation, _: Places) -> dict[str, str]:
    """``peft_lora_config.json``."""
    return {FILE_NAME: text(recommendation)}


# What changes more than alpha / rank times B·A, or what of it is trained. PEFT writes each of these keys, empty, into every file.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "lora_bias",
)


def recognises(values: Mapping[str, Any]) -> bool:
    """``adapter_config.json``, or arguments of ``LoraConfig`` alone."""
    return "peft_type" in values or {"r", "lora_alpha"} <= values.keys()


def read(document: Document, path: Path) -> TrainerConfig:
    """Rank, alpha, dropout and target modules. There is no learning rate in it, and no data."""
    keys = Keys(document.values, document.name)
    if keys.text("peft_type") not in (None, "LORA"):
        raise ConfigurationError(
            f"{document.name} is no LoRA adapter's config.", "Name one of a LoRA adapter."
        )
    bad = next((name for name in _UNSUPPORTED if keys.raw(name)), None)
    if bad is not None or keys.raw("bias") not in (None, "none"):
        raise ConfigurationError(
            f"{document.name} uses {bad or 'trained biases'}, which cannot be measured here.",
            "Only plain LoRA with one rank is measured.",
        )
    notes = ["PEFT's file holds no learning rate, so your own setting is not measured: give it with --yours."]
    modules, named = keys.raw("target_modules"), True
    if modules == "all-linear":
        names = None
    elif isinstance(modules, str):
        raise keys.wrong(("target_modules",), modules, "a list of names")
    else:
        listed = keys.names("target_modules")
        named, names = listed is not None, None if listed is None else tuple(sorted(listed))
    if not named:
        notes.append(
            "The file names no layers and PEFT adapts only some then; measured are all linear layers."
        )
    for quiet in ("r", "lora_alpha", "use_rslora", "task_type"):
        keys.raw(quiet)
    return TrainerConfig(
        LABEL,
        path,
        model=keys.text("base_model_name_or_path"),
        data=None,
        revision=keys.text("revision"),
        recipe=Recipe().given("config", dropout=keys.number("lora_dropout")),
        target_modules=names if named else (),
        unread=keys.unread(),
        notes=tuple(notes),
    )


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The file with the recommendation in it. What it has no place for stands in the notes."""
    arguments = config_dict(recommendation)
    wanted = what_changes(config, recommendation)
    changes: dict[Any, Any] = {"r": arguments["r"], "lora_alpha": arguments["lora_alpha"]}
    if "use_rslora" in document.values:
        changes["use_rslora"] = False
    if "dropout" in wanted:
        changes["lora_dropout"] = arguments["lora_dropout"]
    if "target_modules" in wanted:
        changes["target_modules"] = arguments["target_modules"]
    text, made = edited(document, changes)
    rate = wording.learning_rate(recommendation.choice.learning_rate, 3)
    return EditedConfig(text, made, (f"PEFT's file holds no learning rate: train with {rate}.",))
