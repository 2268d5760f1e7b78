"""MLX-LM: ``mlx_lm.lora --config mlx_lm.yaml`` (keys and defaults of 0.32, read in its source).

Its ``scale`` multiplies the update as it is, so alpha is ``scale * rank``. It counts micro-batches (``iters``), not epochs, clips no
gradients, and its Adam leaves out the correction of the first steps unless told otherwise.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.trainers import mlx_lm_reading as reading
from rightrank.trainers import yaml_file
from rightrank.trainers.config import EditedConfig, TrainerConfig
from rightrank.trainers.editing import edit_lines
from rightrank.trainers.keys import Keys
from rightrank.trainers.mlx_schedule import read_schedule, schedule_lines, written_schedule
from rightrank.trainers.settings import header, settings
from rightrank.trainers.step_counts import exported_rows, rows_in, steps_of
from rightrank.trainers.yaml_edit import block

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recipe import Recipe
    from rightrank.recommendation import Recommendation
    from rightrank.trainers.settings import Places, Settings
    from rightrank.trainers.yaml_edit import Place
    from rightrank.trainers.yaml_file import Document

LABEL = "MLX-LM"
FILE_NAME = "mlx_lm.yaml"

# Where linear layers sit inside a block, for the families whose names are those of transformers (read in mlx_lm/models; a place that a
# family lacks matches nothing there).
_PLACES = {
    **{name: (f"self_attn.{name}",) for name in ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")},
    **{
        name: (f"mlp.{name}",)
        for name in (
            *("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc"),
            *("dense_h_to_4h", "dense_4h_to_h"),
        )
    },
    "c_attn": ("attn.c_attn",),
    "c_proj": ("attn.c_proj", "mlp.c_proj"),
    "query_key_value": ("attention.query_key_value",),
    "dense": ("self_attn.dense", "attention.dense"),
}


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """The config. Raises ConfigurationError where the rows were measured without a chat template, or on layers that it cannot name."""
    s = settings(recommendation)
    if s.rows == "strings":
        raise ConfigurationError(
            "MLX-LM puts every prompt into the tokenizer's chat template; these rows were measured without one.",
            "Train with one of the other configs.",
        )
    wanted = _lines(recommendation, {}, {})
    groups: tuple[dict[str, Any], ...] = (
        {"model": places.model, "train": True, "fine_tune_type": "lora", "data": str(places.chat_rows)},
        {
            "num_layers": -1,
            "lora_parameters": {
                **_keys(s),
                "rank": s.rank,
                "scale": s.scale,
                "dropout": s.recipe.dropout,
            },
        },
        {
            "learning_rate": s.learning_rate,
            **_without_none(wanted["schedule"]),
            "iters": steps_of(recommendation),
            **_batch(recommendation),
            "max_seq_length": s.recipe.max_length,
            "mask_prompt": _masked(s),
            **_optimizer(s.recipe),
            "seed": s.seed,
        },
        {"adapter_path": str(places.adapter)},
    )
    command = f"mlx_lm.lora --config {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    text = header(recommendation, LABEL, _notes(recommendation), command)
    return {FILE_NAME: text + "".join("\n" + block(group) for group in groups)}


def _lines(
    recommendation: Recommendation, values: Mapping[str, Any], layers: Mapping[str, Any]
) -> dict[str, dict[Place, Any]]:
    """The places of each thing that a recommendation may change, in a config that says ``values``; ``layers`` as in ``_keys``."""
    s = settings(recommendation)
    schedule: dict[Place, Any] = {"lr_schedule": written_schedule(s, steps_of(recommendation))}
    length: dict[Place, Any] = {"iters": steps_of(recommendation), **schedule}
    length.update(_batch(recommendation).items())
    adapter: dict[Place, Any] = {
        ("lora_parameters", "rank"): s.rank,
        ("lora_parameters", "scale"): s.scale,
        ("lora_parameters", "dropout"): s.recipe.dropout,
    }
    return {
        "rank": adapter,
        "alpha": adapter,
        "dropout": adapter,
        "target_modules": {**adapter, **{("lora_parameters", name): keys for name, keys in layers.items()}},
        "learning_rate": schedule_lines(values, s.learning_rate),
        "schedule": schedule,
        "warmup_ratio": schedule,
        "epochs": length,
        "batch_size": length,
        "max_length": {"max_seq_length": s.recipe.max_length},
        "loss_on": {"mask_prompt": _masked(s)},
        # Written in any case, see ``edit``.
        **{name: {} for name in ("weight_decay", "adam_betas", "adam_epsilon")},
    }


def _without_none(values: Mapping[Place, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in values.items() if value is not None}


def _batch(recommendation: Recommendation) -> dict[str, Any]:
    """The whole batch at once: MLX-LM averages over micro-batches, however many tokens each trains."""
    rows = exported_rows(recommendation)
    return {"batch_size": min(recommendation.recipe.batch_size, rows), "grad_accumulation_steps": 1}


def _masked(s: Settings) -> bool:
    return s.recipe.loss_on == "completion" and s.rows != "text"


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    """AdamW as PyTorch has it."""
    adamw = {
        "betas": list(recipe.adam_betas),
        "eps": recipe.adam_epsilon,
        "weight_decay": recipe.weight_decay,
        "bias_correction": True,
    }
    return {"optimizer": "adamw", "optimizer_config": {"adamw": adamw}}


def _keys(s: Settings) -> dict[str, list[str]]:
    """Names of the adapted layers inside a block. Without them MLX-LM adapts every linear layer of a block."""
    if all(name in _PLACES for name in s.target_modules):
        return {"keys": [place for name in s.target_modules for place in _PLACES[name]]}
    if s.everywhere:
        return {}
    unknown = next(name for name in s.target_modules if name not in _PLACES)
    raise ConfigurationError(
        f"MLX-LM's name for the layers {cleaned(unknown, 40)} is not known here.",
        "Train with one of the other configs.",
    )


def _notes(recommendation: Recommendation) -> tuple[str, ...]:
    s, kind = settings(recommendation), recommendation.data.format.lower()
    recipe = s.recipe
    notes = [
        "MLX-LM trains one padding token a row beyond the completion, and leaves out the last rows of a pass that fill no batch.",
        f"Short of memory: halve batch_size, double grad_accumulation_steps and iters; {recipe.batch_size} rows a step were measured.",
    ]
    if recipe.max_grad_norm > 0:
        notes.append(f"MLX-LM clips no gradients; they were clipped at {recipe.max_grad_norm:g} here.")
    if s.precision in ("4-bit", "8-bit"):
        bits = s.precision[0]
        notes.append(
            f"Measured on a {s.precision} base. MLX-LM has its own format: mlx_lm.convert --hf-path MODEL -q --q-bits {bits},"
            " then name that folder as model."
        )
    if kind in ("messages", "sharegpt") and recipe.loss_on == "completion":
        notes.append("Of a conversation of several turns MLX-LM trains the last answer only.")
    if recipe.over_long == "drop":
        notes.append(
            f"MLX-LM truncates. Rows above {recipe.max_length} tokens were dropped here: drop them from the data first."
        )
    return tuple(notes)


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether these keys are MLX-LM's."""
    own = {"lora_parameters", "fine_tune_type", "mask_prompt", "adapter_path", "num_layers"}
    return "lora_parameters" in values or ("iters" in values and not own.isdisjoint(values))


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The recommendation in a config that exists, and the layers and the optimizer that its learning rate was measured with."""
    s = settings(recommendation)
    kept = config.target_modules is not None and set(config.target_modules) == set(s.target_modules)
    wanted_lines = _lines(recommendation, document.values, {} if kept else _keys(s))
    first = edit_lines(document, config, recommendation, wanted_lines)
    wanted = _optimizer(recommendation.recipe)
    always: dict[Place, Any] = {"num_layers": -1, "optimizer": wanted["optimizer"]}
    always |= {
        ("optimizer_config", "adamw", key): value
        for key, value in wanted["optimizer_config"]["adamw"].items()
    }
    text, changes = yaml_file.edited(yaml_file.parse(first.text, document.name), always)
    return EditedConfig(text, (*first.changes, *changes), first.notes)


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``document`` says. Raises ConfigurationError for what is no training of a plain LoRA adapter with Adam or AdamW."""
    keys = Keys(document.values, document.name)
    kind = keys.text("fine_tune_type") or "lora"
    if kind != "lora":
        raise ConfigurationError(
            f"{keys.name}: fine_tune_type {cleaned(kind, 20)} is no plain LoRA.", "Take lora."
        )
    if keys.text("resume_adapter_file") is not None:
        raise ConfigurationError(
            f"{keys.name}: resume_adapter_file goes on with an adapter that exists; its rank is fixed.",
            "Take it out.",
        )
    adapter = keys.part("lora_parameters")
    rank = adapter.whole("rank") or reading.RANK
    scale = adapter.number("scale") if adapter.has("scale") else reading.SCALE
    data, split, notes = reading.data_set(keys)
    recipe, adam = reading.optimizer(keys)
    recipe = recipe.given(
        "config",
        max_length=keys.whole("max_seq_length"),
        dropout=adapter.number("dropout"),
        loss_on="completion" if keys.flag("mask_prompt") else None,
    )
    recipe, steps, more = reading.length(keys, recipe, rows_in(data, split))
    recipe, rate, last = read_schedule(keys, recipe, steps)
    targets, few = reading.targets(keys, adapter)
    model, quantized = reading.model(keys)
    keys.raw("train")
    return TrainerConfig(
        trainer=LABEL,
        path=path,
        model=model,
        data=data,
        data_split=split,
        recipe=recipe,
        yours=(rank, (scale or 0.0) * rank, rate or reading.LEARNING_RATE),
        target_modules=targets,
        seed=keys.whole("seed") or 0,
        unread=keys.unread(),
        notes=(*notes, *more, *last, *few, *adam, *quantized),
    )
