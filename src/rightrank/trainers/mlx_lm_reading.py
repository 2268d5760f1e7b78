"""The parts of an MLX-LM config, read one by one."""

from __future__ import annotations

from pathlib import Path

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from rightrank.trainers.keys import Keys
from rightrank.trainers.settings import is_here
from rightrank.trainers.step_counts import epochs_of

# What it trains with where a config says nothing. Without the number of rows nothing tells the epochs, so they stay assumed.
DEFAULTS = Recipe().given(
    "trainer",
    batch_size=4,
    max_length=2048,
    over_long="truncate",
    loss_on="all",
    schedule="constant",
    warmup_ratio=0.0,
    weight_decay=0.0,
    max_grad_norm=0.0,
    dropout=0.0,
    adam_betas=(0.9, 0.999),
    adam_epsilon=1e-8,
)
RANK, SCALE, LEARNING_RATE = 8, 20.0, 1e-5
_UNCORRECTED = "MLX-LM's Adam leaves out the correction of the first steps; measured is AdamW with it, which the edited config turns on."
_MICRO_BATCH, _ITERATIONS, _LAYERS, _ADAMW_DECAY = 4, 1000, 16, 0.01


def optimizer(keys: Keys) -> tuple[Recipe, tuple[str, ...]]:
    """The trainer's defaults with what the config says of its optimizer, and what is measured otherwise.

    Raises ConfigurationError for others than Adam and AdamW.
    """
    name = (keys.text("optimizer") or "adam").lower()
    if name not in ("adam", "adamw"):
        raise ConfigurationError(
            f"{keys.name}: the optimizer {cleaned(name, 20)} cannot be measured here; AdamW can.",
            "Take adamw.",
        )
    own = keys.part("optimizer_config").part(name)
    betas, decay = own.raw("betas"), own.number("weight_decay")
    notes = () if own.flag("bias_correction") else (_UNCORRECTED,)
    if betas is not None and not (
        isinstance(betas, list) and len(betas) == 2 and all(isinstance(beta, float) for beta in betas)
    ):
        raise own.wrong(("betas",), betas, "a pair of numbers")
    recipe = DEFAULTS.given("trainer", weight_decay=_ADAMW_DECAY if name == "adamw" else 0.0)
    recipe = recipe.given(
        "config",
        adam_betas=None if betas is None else (betas[0], betas[1]),
        adam_epsilon=own.number("eps"),
        weight_decay=decay if name == "adamw" else None,
    )
    return recipe, notes


def length(keys: Keys, recipe: Recipe, rows: int | None) -> tuple[Recipe, int, tuple[str, ...]]:
    """The recipe with its batch and epochs, the optimiser steps of a run, and what could not be told."""
    micro, accumulation = keys.whole("batch_size"), keys.whole("grad_accumulation_steps")
    if micro is not None or accumulation is not None:
        recipe = recipe.given(
            "config", batch_size=(_MICRO_BATCH if micro is None else micro) * (accumulation or 1)
        )
    iterations = keys.whole("iters") or _ITERATIONS
    steps = max(1, iterations // (accumulation or 1))
    if rows is None:
        return (
            recipe,
            steps,
            (
                f"How many epochs {iterations:,} iterations are only the rows tell: {recipe.epochs:g} are measured.",
            ),
        )
    return recipe.given("config", epochs=epochs_of(steps, rows, recipe.batch_size)), steps, ()


def targets(keys: Keys, adapter: Keys) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Suffixes of the adapted layers, None for all, and what is measured otherwise."""
    names, layers = adapter.names("keys"), keys.whole("num_layers", "lora_layers")
    layers = _LAYERS if layers is None else layers
    notes = () if layers < 0 else (f"num_layers {layers}: all layers are measured, not the last {layers}.",)
    if names is not None:
        return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names)), notes
    return None, notes


def model(keys: Keys) -> tuple[str | None, tuple[str, ...]]:
    """The model, unless only MLX can read it."""
    name = keys.text("model")
    if name is not None and name.lower().startswith("mlx-community/"):
        return None, (
            f"{cleaned(name, 80)} holds weights in MLX's own format: name the model that it was made from as well.",
        )
    return name, ()


def data_set(keys: Keys) -> tuple[str | None, str | None, tuple[str, ...]]:
    """(path or hub id, split, what could not be read)."""
    hub = keys.raw("hf_dataset")
    if isinstance(hub, list) and len(hub) != 1:
        return None, None, (f"{len(hub)} data sets are named: give rightrank one with all rows.",)
    if hub is not None:
        values = {"hf_dataset": hub[0]} if isinstance(hub, list) else {"hf_dataset": hub}
        part = Keys(values, keys.name).part("hf_dataset")
        return part.text("path", "name"), part.text("train_split"), ()
    name = keys.text("data")
    if name is None:
        return None, None, ()
    rows = Path(name) / "train.jsonl"
    return (str(rows) if is_here(rows) else name), None, ()
