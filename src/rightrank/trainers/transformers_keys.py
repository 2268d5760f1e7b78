"""The training keys that every trainer built on transformers' Trainer shares, read with the Trainer's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.recipe import Schedule
    from rightrank.trainers.keys import Keys
    from rightrank.trainers.settings import Settings
    from rightrank.trainers.yaml_edit import Place

SCHEDULES: dict[str, Schedule] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
# Optimizers that take AdamW's steps, whatever their kernels or the width of their states.
ADAMW = ("adamw", "paged_adamw")


def common_recipe(
    keys: Keys,
    *,
    batch: int,
    epochs: float,
    max_length: tuple[str, ...],
    longest: int,
    epochs_key: str = "num_train_epochs",
    batch_key: str = "per_device_train_batch_size",
    schedule_key: str = "lr_scheduler_type",
    optimizer_key: str = "optim",
    schedule: Schedule = "linear",
    warmup: float = 0.0,
) -> Recipe:
    """Epochs, batch on one device, length, schedule, warm-up, decay, Adam and clipping.

    ``batch``, ``epochs``, ``longest``, ``schedule`` and ``warmup`` are the trainer's defaults. Raises ConfigurationError for a schedule
    or an optimizer that cannot be measured.
    """
    micro, accumulation = keys.whole(batch_key), keys.whole("gradient_accumulation_steps")
    rows = (micro or batch) * (accumulation or 1)
    beta1, beta2 = keys.number("adam_beta1"), keys.number("adam_beta2")
    betas = (0.9 if beta1 is None else beta1, 0.999 if beta2 is None else beta2)
    _refuse_optimizer(keys, optimizer_key)
    known: dict[str, Any] = {
        "epochs": keys.number(epochs_key),
        "batch_size": None if micro is None and accumulation is None else rows,
        "max_length": keys.whole(*max_length),
        "schedule": read_schedule(keys, schedule_key),
        "warmup_ratio": read_warmup(keys),
        "weight_decay": keys.number("weight_decay"),
        "max_grad_norm": keys.number("max_grad_norm"),
        "adam_betas": None if beta1 is None and beta2 is None else betas,
        "adam_epsilon": keys.number("adam_epsilon"),
    }
    if known["schedule"] == "constant" and keys.text(schedule_key) == "constant":
        known["warmup_ratio"] = 0.0  # transformers' "constant" knows no warm-up
    return (
        Recipe()
        .given(
            "trainer",
            epochs=epochs,
            batch_size=batch,
            max_length=longest,
            schedule=schedule,
            warmup_ratio=warmup,
            weight_decay=0.0,
            max_grad_norm=1.0,
            adam_betas=(0.9, 0.999),
            adam_epsilon=1e-8,
        )
        .given("config", **known)
    )


def read_schedule(keys: Keys, key: str) -> Schedule | None:
    """The schedule; ``cosine`` with a floor above zero counts as another one."""
    name = keys.text(key)
    if name is None:
        return None
    if name.lower() not in SCHEDULES:
        raise ConfigurationError(
            f"{keys.name}: the schedule {cleaned(name)} cannot be measured here.",
            f"Use linear, cosine or constant in {key}.",
        )
    return SCHEDULES[name.lower()]


def read_warmup(keys: Keys) -> float | None:
    """Warm-up as a share of the steps; None where none is given, or as a number of steps. transformers takes steps below 1 for a share."""
    steps, share = keys.number("warmup_steps"), keys.number("warmup_ratio")
    if steps is None or steps >= 1:
        return None if steps else share
    return steps if steps > 0 else share


def warmup_steps(keys: Keys) -> int | None:
    """Warm-up as a number of steps, where the config gives it so: what share that is depends on the rows."""
    steps = keys.number("warmup_steps")
    return int(steps) if steps is not None and steps >= 1 else None


def refuse_step_limit(keys: Keys) -> None:
    """A run that ends after so many steps has no epochs that could be kept on fewer rows."""
    limit = keys.whole("max_steps")
    if limit is not None and limit > 0:
        raise ConfigurationError(
            f"{keys.name} ends after {limit:,} steps; a recipe is measured in epochs.",
            "Take out max_steps and give the epochs.",
        )


def _refuse_optimizer(keys: Keys, key: str) -> None:
    name = keys.text(key)
    if name is not None and not name.lower().startswith(ADAMW):
        raise ConfigurationError(
            f"{keys.name}: the optimizer {cleaned(name)} cannot be measured here; AdamW can.",
            f"Take out {key}.",
        )


def training_lines(s: Settings, warmup: Mapping[Place, Any]) -> dict[str, dict[Place, Any]]:
    """The Trainer's own keys of each thing that a recommendation may change; ``warmup`` is how this trainer is told the warm-up."""
    recipe = s.recipe
    # "constant" knows no warm-up there.
    schedule = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    return {
        "learning_rate": {"learning_rate": s.learning_rate},
        "schedule": {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": None},
        "warmup_ratio": dict(warmup),
        "epochs": {"num_train_epochs": s.epochs},
        "batch_size": {
            "per_device_train_batch_size": s.micro_batch,
            "gradient_accumulation_steps": s.accumulation,
        },
        "weight_decay": {"weight_decay": recipe.weight_decay},
        "max_grad_norm": {"max_grad_norm": recipe.max_grad_norm},
        "adam_betas": {"adam_beta1": recipe.adam_betas[0], "adam_beta2": recipe.adam_betas[1]},
        "adam_epsilon": {"adam_epsilon": recipe.adam_epsilon},
    }


def optimizer_notes(keys: Keys, key: str, trainer: str) -> list[str]:
    """A sentence where the optimizer keeps Adam's states in fewer bits."""
    name = keys.text(key) or ""
    return [f"{trainer} would keep Adam's states in 8 bits; measured is with 32."] if "8bit" in name else []
