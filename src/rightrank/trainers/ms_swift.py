"""ms-swift: ``swift sft ms_swift.yaml`` (keys and defaults of 4.6, read in its source).

The scale is PEFT's, alpha / rank; alpha is 32 whatever the rank where a config gives none. Its own defaults differ from
transformers' in the schedule (cosine), the decay (0.1) and Adam's second beta (0.95).
"""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.trainers.config import TrainerConfig
from rightrank.trainers.editing import edit_lines
from rightrank.trainers.keys import Keys
from rightrank.trainers.settings import header, is_here, settings
from rightrank.trainers.transformers_keys import (
    common_recipe,
    refuse_step_limit,
    training_lines,
    warmup_steps,
)
from rightrank.trainers.yaml_edit import block

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recipe import OverLong, Recipe
    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, Quantization
    from rightrank.trainers.settings import Places, Precision, Settings
    from rightrank.trainers.yaml_edit import Place
    from rightrank.trainers.yaml_file import Document

LABEL = "ms-swift"
FILE_NAME = "ms_swift.yaml"

# What it trains with where a config says nothing. The batch is brought to 16 by accumulation.
_RANK, _ALPHA, _DROPOUT, _LEARNING_RATE, _BATCH, _SEED = 8, 32.0, 0.05, 1e-4, 16, 42
_DECAY, _BETAS = 0.1, (0.9, 0.95)

_PRECISIONS: dict[Precision, dict[str, Any]] = {
    "4-bit": {"quant_method": "bnb", "quant_bits": 4, "torch_dtype": "bfloat16"},
    "8-bit": {"quant_method": "bnb", "quant_bits": 8, "torch_dtype": "bfloat16"},
    "bfloat16": {"torch_dtype": "bfloat16"},
    "float16": {"torch_dtype": "float16"},
    "float32": {"torch_dtype": "float32"},
}


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """The config. Raises ConfigurationError where the rows were measured without a chat template."""
    s = settings(recommendation)
    if s.rows == "strings":
        raise ConfigurationError(
            "ms-swift puts every prompt into a chat template; these rows were measured without one.",
            "Train with one of the other configs.",
        )
    if s.rows == "text":
        raise ConfigurationError(
            "ms-swift trains plain text by `swift pt`, from rows of another form.",
            "Train with one of the other configs.",
        )
    wanted = _lines(s)
    groups: tuple[dict[str, Any], ...] = (
        {"model": places.model, "use_hf": True, **_PRECISIONS[s.precision]},
        {
            "tuner_type": "lora",
            **_written(wanted, "rank", "alpha", "dropout", "target_modules"),
        },
        {
            "dataset": [str(places.chat_rows / "train.jsonl")],
            "split_dataset_ratio": 0.0,
            **_written(wanted, "max_length", "over_long", "loss_on"),
            "packing": False,
        },
        {
            **_written(wanted, "learning_rate", "schedule", "warmup_ratio", "epochs", "batch_size"),
            "optim": "adamw_torch",
            **_written(wanted, "weight_decay", "adam_betas", "adam_epsilon", "max_grad_norm"),
            "seed": s.seed,
            "data_seed": s.seed,
        },
        {"output_dir": str(places.adapter), "report_to": ["none"]},
    )
    command = f"swift sft {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    text = header(recommendation, LABEL, _NOTES, command)
    return {FILE_NAME: text + "".join("\n" + block(group) for group in groups)}


def _lines(s: Settings) -> dict[str, dict[Place, Any]]:
    """The keys of each thing that can change."""
    recipe = s.recipe
    return {
        "rank": {"lora_rank": s.rank},
        "alpha": {"lora_alpha": s.alpha, "use_rslora": None},
        "dropout": {"lora_dropout": recipe.dropout},
        "target_modules": {"target_modules": list(s.target_modules), "target_regex": None},
        "max_length": {"max_length": recipe.max_length},
        "over_long": {"truncation_strategy": "delete" if recipe.over_long == "drop" else "right"},
        "loss_on": {"loss_scale": "all" if recipe.loss_on == "all" else "default"},
        **training_lines(s, {"warmup_steps": None, "warmup_ratio": recipe.warmup_ratio}),
    }


def _written(wanted: Mapping[str, Mapping[Place, Any]], *names: str) -> dict[str, Any]:
    """The lines of ``names`` but for those that would only be taken out."""
    return {str(key): value for name in names for key, value in wanted[name].items() if value is not None}


_NOTES = (
    "ms-swift writes rows with its own template, found by the model's name: if it asks which, add model_type or template.",
    "tuner_type was train_type before ms-swift 4.",
)


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether these keys are ms-swift's: ``model``, and one that no other trainer known here has."""
    own = {
        "tuner_type",
        "train_type",
        "lora_rank",
        "truncation_strategy",
        "split_dataset_ratio",
        "loss_scale",
    }
    return "model" in values and not own.isdisjoint(values) and "model_name_or_path" not in values


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The recommendation in a config that exists."""
    return edit_lines(document, config, recommendation, _lines(settings(recommendation)))


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``swift sft`` would train."""
    keys = Keys(document.values, document.name)
    quantization = _refuse(keys)
    notes: list[str] = []
    recipe = _recipe(keys, notes)
    rank, alpha = keys.whole("lora_rank") or _RANK, keys.number("lora_alpha")
    alpha = _ALPHA if alpha is None else alpha
    if keys.flag("use_rslora"):
        alpha *= max(1, rank) ** 0.5
        notes.append(f"rsLoRA's scale was folded: alpha {alpha:.4g} divided by the rank is the same.")
    seed, targets = keys.whole("seed"), keys.names("target_modules")
    notes += _measured_otherwise(keys)
    data, data_config = _data(keys, "dataset")
    keys.raw("output_dir", "use_hf", "torch_dtype", "lora_dtype", "split_dataset_ratio", "data_seed")
    return TrainerConfig(
        LABEL,
        path,
        model=keys.text("model"),
        revision=keys.text("model_revision"),
        data=data,
        data_config=data_config,
        eval_data=_data(keys, "val_dataset")[0],
        recipe=recipe,
        yours=(rank, alpha, keys.number("learning_rate") or _LEARNING_RATE),
        warmup_steps=warmup_steps(keys),
        target_modules=None if targets in (None, ("all-linear",)) else targets,
        quantization=quantization,
        seed=_SEED if seed is None else seed,
        unread=keys.unread(),
        notes=tuple(notes),
    )


def _refuse(keys: Keys) -> Quantization | None:
    """How the base is loaded. Raises ConfigurationError for what cannot be measured."""
    kind = keys.text("tuner_type", "train_type") or "lora"
    if kind != "lora":
        raise ConfigurationError(
            f"{keys.name} trains with {cleaned(kind, 20)}, not with LoRA.", "Set tuner_type: lora."
        )
    for name, words in (
        ("rlhf_type", "is for preferences or rewards"),
        ("use_dora", "trains DoRA"),
        ("lorap_lr_ratio", "trains LoRA+"),
        ("modules_to_save", "trains whole modules beside LoRA"),
        ("target_parameters", "trains experts' parameters"),
        ("target_regex", "chooses layers by a pattern"),
        ("adapters", "goes on with an adapter that exists"),
        ("use_galore", "trains with GaLore"),
        ("streaming", "streams its rows"),
    ):
        if keys.raw(name):
            raise ConfigurationError(
                f"{keys.name} {words}, which cannot be measured here.", f"Take out {name}."
            )
    if (keys.text("init_weights") or "true").lower() != "true":
        raise ConfigurationError(
            f"{keys.name} starts from another initialisation than plain LoRA's, which cannot be measured here.",
            "Take out init_weights.",
        )
    refuse_step_limit(keys)
    bits = keys.whole("quant_bits")
    method = keys.text("quant_method")
    keys.raw("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
    if bits is None and method is None:
        return None
    if method != "bnb" or bits not in (4, 8):
        raise ConfigurationError(
            f"{keys.name}: a base in {cleaned(str(method), 20)} with {bits} bits cannot be measured here.",
            "Set quant_method: bnb with quant_bits: 4 or 8.",
        )
    return "4-bit" if bits == 4 else "8-bit"


def _recipe(keys: Keys, notes: list[str]) -> Recipe:
    recipe = common_recipe(
        keys, batch=_BATCH, epochs=3.0, max_length=("max_length",), longest=1024, schedule="cosine"
    )
    micro, accumulation = (
        keys.whole("per_device_train_batch_size") or 1,
        keys.whole("gradient_accumulation_steps"),
    )
    if accumulation is None:
        recipe = recipe.given("trainer", batch_size=micro * max(1, math.ceil(_BATCH / micro)))
    if not keys.has("weight_decay"):
        recipe = recipe.given("trainer", weight_decay=_DECAY)
    if not keys.has("adam_beta2"):
        recipe = recipe.given(
            "config" if keys.has("adam_beta1") else "trainer", adam_betas=(recipe.adam_betas[0], _BETAS[1])
        )
    if not keys.has("max_length"):
        notes.append("ms-swift would take rows as long as the model can; up to 1,024 tokens are measured.")
    recipe = recipe.given("trainer", over_long="drop", loss_on="completion", dropout=_DROPOUT)
    return recipe.given(
        "config",
        over_long=_over_long(keys),
        loss_on="all" if _whole_loss(keys, notes) else None,
        dropout=keys.number("lora_dropout"),
    )


def _over_long(keys: Keys) -> OverLong | None:
    word = keys.text("truncation_strategy")
    if word not in (None, "delete", "right"):
        raise keys.wrong(("truncation_strategy",), word, "delete or right")
    return None if word is None else "drop" if word == "delete" else "truncate"


def _whole_loss(keys: Keys, notes: list[str]) -> bool:
    words = (keys.text("loss_scale") or "default").split("+")
    if words[0] == "last_round":
        notes.append("ms-swift would train the last answer of a conversation only; measured are all answers.")
    if set(words) - {"default", "last_round", "all"}:
        notes.append("ms-swift would weigh the tokens' losses; measured is without weights.")
    return words[0] == "all"


def _data(keys: Keys, name: str) -> tuple[str | None, str | None]:
    """(path or hub id, its configuration). Raises ConfigurationError for several data sets."""
    names = keys.names(name) or ()
    if not names:
        return None, None
    if len(names) > 1:
        raise ConfigurationError(
            f"{keys.name} mixes {len(names)} data sets; one can be measured at a time.",
            "Join them into one file, or name one of them.",
        )
    path, _, count = names[0].partition("#")
    if count:
        raise ConfigurationError(
            f"{keys.name} draws {cleaned(count, 20)} rows of {cleaned(path)}; all of a data set are measured.",
            "Write those rows to a file and name it.",
        )
    path, _, subset = path.partition(":")
    return path, subset or None


def _measured_otherwise(keys: Keys) -> list[str]:
    """Sentences on keys that change what is trained, and that the measurement does without."""
    found = []
    for name, why in {
        "packing": "ms-swift would pack rows together; measured is without packing, one row an example.",
        "neftune_noise_alpha": "ms-swift would add noise to the embeddings; measured is without.",
        "system": "ms-swift would put a system prompt of its own before the rows; measured is without.",
        "enable_dft_loss": "ms-swift would weigh the tokens' losses; measured is without weights.",
    }.items():
        if keys.raw(name):
            found.append(why)
    if keys.text("template") is not None:
        found.append("ms-swift would put the rows into the template named; measured is the tokenizer's own.")
    names = [str(keys.values.get("model", "")), *(keys.names("dataset") or ())]
    if not keys.flag("use_hf") and not all(map(is_here, names)):
        found.append(
            "Without use_hf ms-swift looks names up on ModelScope; rightrank looks on the Hugging Face hub."
        )
    return found
