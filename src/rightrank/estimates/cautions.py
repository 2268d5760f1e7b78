"""What can be seen to be wrong or risky without a measurement, a sentence each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rightrank.data.wording import counted
from rightrank.probe.plan import LEAST_STEPS
from rightrank.probe.plan_words import few_steps
from rightrank.recipe import equivalent_learning_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.data import PreparedData
    from rightrank.estimates.estimation import DataProfile, ModelShape, SettingEstimate
    from rightrank.recipe import Recipe

# stats.paired.FEWEST_EXAMPLES, without its import of scipy; and data.split's share of rows that are held out.
FEWEST_TO_SCORE, HELD_OUT_ONE_IN = 30, 5
# Published: vLLM's documentation, engine argument --max-lora-rank.
VLLM_MAX_RANK = 16
# Chosen: a row in a hundred.
TRUNCATED_PERCENT = 1.0
# The guides' update is multiplied by 2 (alpha = 2r); trainers' defaults lie between 1 and 4, MLX's at 20 (published). Beyond this it is
# more often a mistake than a choice (assumed).
LARGE_SCALE, SMALL_SCALE = 8.0, 0.25
ATTENTION_ONLY = frozenset(
    ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value", "q", "k", "v"]
)


def of_truncation(data: DataProfile | PreparedData, recipe: Recipe) -> list[str]:
    """What the maximum length cuts off."""
    said = []
    if data.truncated_percent >= TRUNCATED_PERCENT:
        are = "is" if data.truncated == 1 else "are"
        said.append(
            f"{counted(data.truncated, 'row')} ({data.truncated_percent:.0f} %) {are} cut at {recipe.max_length:,} tokens;"
            " the model does not learn how they end."
        )
    return said


def of_data(data: DataProfile, recipe: Recipe, steps: int) -> list[str]:
    """What the data and the recipe show."""
    said = of_truncation(data, recipe)
    if data.dropped:
        longer = f"longer than {recipe.max_length:,} tokens, and dropped"
        why = (
            longer
            if recipe.over_long == "drop"
            else f"left without a trained token within {recipe.max_length:,} tokens"
        )
        said.append(f"{counted(data.dropped, 'row')} {'is' if data.dropped == 1 else 'are'} {why}.")
    if data.overlap:
        ask, they = ("asks", "it is") if data.overlap == 1 else ("ask", "they are")
        said.append(
            f"{counted(data.overlap, 'training row')} {ask} what a held-out row asks; {they} left out here, and your trainer would not."
        )
    if data.duplicates:
        repeat = "repeats" if data.duplicates == 1 else "repeat"
        said.append(f"{counted(data.duplicates, 'row')} {repeat} another one word for word.")
    if steps < LEAST_STEPS:
        said.append(few_steps(steps))
    return said


def too_few_rows(data: DataProfile) -> str:
    """Why no measurement can end in more than UNDECIDED, and what would mend that; empty where one can."""
    if data.score >= FEWEST_TO_SCORE:
        return ""
    own = data.held_out_from == "--eval-data"
    more = (
        "" if own else f", or bring {2 * FEWEST_TO_SCORE * HELD_OUT_ONE_IN} rows in all: a fifth is held out"
    )
    return (
        f"On these rows no measurement can end in an answer: {counted(data.score, 'row')} would score, and {FEWEST_TO_SCORE} are the"
        f" least for an interval. Name {2 * FEWEST_TO_SCORE} held-out rows with --eval-data{more}, half of them score."
    )


def of_setting(
    setting: tuple[int, float, float],
    model: ModelShape,
    best_rates: tuple[float, float],
    trainer: str | None = None,
) -> list[str]:
    """What the person's own rank, alpha and learning rate show.

    ``best_rates``: smallest and largest equivalent learning rate that was best of its rank on any recorded data set.
    """
    rank, alpha, learning_rate = setting
    said = []
    if rank > VLLM_MAX_RANK:
        said.append(
            f"vLLM serves ranks up to {VLLM_MAX_RANK} unless it is started with --max-lora-rank {_power(rank)}."
        )
    name, width = model.narrowest
    if rank > width:
        said.append(
            f"Rank {rank} is beyond the width of {name} ({width}); what lies above adds nothing there."
        )
    scale = alpha / rank
    if scale >= LARGE_SCALE:
        said.append(f"The update is multiplied by {scale:.3g}, the guides' by 2. {_why_large(trainer)}")
    elif scale <= SMALL_SCALE:
        said.append(
            f"The update is multiplied by {scale:.2g} only (alpha / rank), the guides' by 2; it learns slowly."
        )
    effective = equivalent_learning_rate(rank, alpha, learning_rate)
    low, high = best_rates
    if effective < low / 10:
        said.append(
            "The learning rate is more than ten times below any that was best in recorded runs; LoRA wants about ten times what full"
            " fine-tuning does."
        )
    elif effective > 10 * high:
        said.append(
            "The learning rate is more than ten times above any that was best in recorded runs; training may diverge."
        )
    return said


def of_memory(settings: Sequence[SettingEstimate], model: ModelShape, device: str, gib: float) -> list[str]:
    """Which ranks do not fit."""
    large = [setting for setting in settings if setting.train_gib > gib]
    if not large:
        return []
    least = min(large, key=lambda setting: setting.train_gib)
    packed = "" if model.weights.startswith("4-bit") else " or a 4-bit base"
    mend = f"a smaller batch in several accumulated steps{',' if packed else ' or'} gradient checkpointing{packed} takes less"
    if len(large) == len(settings):
        return [f"A whole batch at once needs {least.train_gib:.0f} GiB and {device} has {gib:.0f}: {mend}."]
    return [
        f"From r={least.rank} on a whole batch at once does not fit into the {gib:.0f} GiB of {device}: {mend}."
    ]


def of_modules(chosen: tuple[str, ...] | None) -> list[str]:
    """What the choice of modules shows."""
    if chosen and {name.rsplit(".", 1)[-1] for name in chosen} <= ATTENTION_ONLY:
        return [
            "Only attention gets adapters: published as worse than all linear layers at equal parameters (LoRA Without Regret, 2025)."
        ]
    return []


def _why_large(trainer: str | None) -> str:
    if trainer == "MLX-LM":
        return "MLX's scale is not divided by the rank."
    return (
        "rsLoRA divides alpha by the root of the rank: with it alpha = 2r is far more than the guides mean."
    )


def _power(rank: int) -> int:
    """The next of the ranks that vLLM accepts."""
    return next((n for n in (8, 16, 32, 64, 128, 256, 320, 512) if n >= rank), rank)
