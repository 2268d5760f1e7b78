"""The recipe in sentences: what it is, and what of it nobody gave. Shared by the terminal and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation

_RECIPE_NAMES = {
    "epochs": "epochs",
    "batch_size": "batch size",
    "max_length": "maximum length",
    "over_long": "over-long rows",
    "loss_on": "trained tokens",
    "schedule": "schedule",
    "warmup_ratio": "warm-up",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradient clipping",
    "dropout": "LoRA dropout",
    "adam_betas": "Adam betas",
    "adam_epsilon": "Adam epsilon",
}
# Of what was assumed in the terminal; the page has all. Chosen: one line.
NAMED = 3
_ORIGINS = {
    "assumed": "assumed",
    "given": "you gave it",
    "config": "your config",
    "trainer": "the trainer's default",
}


def lines(recommendation: Recommendation) -> tuple[tuple[str, str, str], ...]:
    """Name, value and origin of every part of the recipe, in the reader's words."""
    recipe = recommendation.recipe
    return tuple(
        (name, _recipe_value(field, getattr(recipe, field)), _ORIGINS[recipe.origins.get(field, "assumed")])
        for field, name in _RECIPE_NAMES.items()
    )


def _recipe_value(field: str, value: Any) -> str:
    if field == "warmup_ratio":
        return f"{wording.short(100 * value)} % of the steps"
    if field == "max_length":
        return f"{value:,} tokens"
    if field == "loss_on":
        return "completions only" if value == "completion" else "prompts and completions"
    if field == "over_long":
        return "truncated" if value == "truncate" else "dropped"
    if field == "adam_betas":
        return " and ".join(wording.short(beta) for beta in value)
    if field == "adam_epsilon":
        return wording.learning_rate(value)
    return wording.short(value) if isinstance(value, (int, float)) else str(value)


def assumed(recommendation: Recommendation) -> str:
    """What nobody gave and was therefore assumed, with its values."""
    r = recommendation.recipe
    phrases = {
        "epochs": wording.epochs(r.epochs),
        "batch_size": f"batch {r.batch_size}",
        "max_length": f"up to {r.max_length:,} tokens",
        "over_long": f"over-long rows {_recipe_value('over_long', r.over_long)}",
        "loss_on": "loss on completions" if r.loss_on == "completion" else "loss on all tokens",
        "schedule": f"{r.schedule} schedule",
        "warmup_ratio": f"{wording.short(100 * r.warmup_ratio)} % warm-up",
        "weight_decay": f"weight decay {wording.short(r.weight_decay)}",
        "max_grad_norm": f"gradients clipped at {wording.short(r.max_grad_norm)}",
        "dropout": f"LoRA dropout {wording.short(r.dropout)}",
        "adam_betas": f"Adam betas {_recipe_value('adam_betas', r.adam_betas)}",
        "adam_epsilon": f"epsilon {wording.learning_rate(r.adam_epsilon)}",
    }
    parts = [phrases[name] for name in phrases if r.origins.get(name, "assumed") == "assumed"]
    return f"{'; '.join(parts)}." if parts else "Nothing: the whole recipe was given."


def line(recommendation: Recommendation) -> str:
    """The recipe on a line."""
    r = recommendation.recipe
    schedule = "constant rate" if r.schedule == "constant" else f"{r.schedule} decay"
    warmup = f" after {wording.short(100 * r.warmup_ratio)} % warm-up" if r.warmup_ratio else ""
    loss_on = "loss on completions" if r.loss_on == "completion" else "loss on all tokens"
    source = f"; from {recommendation.recipe_from}" if recommendation.recipe_from else ""
    return f"{wording.epochs(r.epochs)}, batch {r.batch_size}, up to {r.max_length:,} tokens, {schedule}{warmup}, {loss_on}{source}"


def assumed_names(recommendation: Recommendation) -> str:
    """The names of what was assumed, what matters most first, and how many more; empty where the whole recipe was given."""
    names = [name for name, _, origin in lines(recommendation) if origin == "assumed"]
    more = len(names) - NAMED
    if more <= 1:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {more} more (see report)"
