"""What every trainer's config is made from: the recommendation in the numbers that trainers take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rightrank import recommendation_html as wording
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import TrainerConfig

Precision = Literal["bfloat16", "float16", "float32", "4-bit", "8-bit"]
RowsKind = Literal["chat", "strings", "text"]

# Examples a device and micro-batch at most; assumed, small enough for most cards. The product with the accumulation steps is the
# recipe's batch either way, and the loss is normalised over that whole batch, so this changes speed and memory, not the result.
MICRO_BATCH = 4


@dataclass(frozen=True)
class Settings:
    """A recommendation as trainers take it. What is not here they take from ``recipe``."""

    rank: int
    alpha: int
    """Whole, since most trainers take no other; plain LoRA: the update times alpha / rank."""
    learning_rate: float
    """Goes with this ``alpha``: where alpha had to be rounded, their product is kept, and with it the first steps."""
    target_modules: tuple[str, ...]
    """Suffixes of module names."""
    everywhere: bool
    """These are all linear layers but the output head: PEFT's ``all-linear``."""
    epochs: float
    micro_batch: int
    accumulation: int
    """``micro_batch * accumulation`` is the recipe's batch, on one device."""
    precision: Precision
    """Of the frozen base as it was measured; 4- and 8-bit bases compute in bfloat16."""
    rows: RowsKind
    """How ``Places.chat_rows`` holds the data."""
    seed: int
    recipe: Recipe

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Places:
    """Where a config finds model and rows and puts the adapter. Absolute, so that it does not matter where the trainer is started."""

    model: str
    """The model's folder or file, or its hub id."""
    trl_rows: Path
    """Folder whose ``train.jsonl`` holds every row as TRL takes it, see ``trainers.trl``."""
    chat_rows: Path
    """Folder whose ``train.jsonl`` holds every row as ``{"messages": [...]}`` (``Settings.rows`` is "chat"), as
    ``{"prompt": ..., "completion": ...}`` in plain strings to be joined as they are ("strings"), or as ``{"text": ...}`` ("text"). The
    same folder as ``trl_rows`` where TRL takes the rows so, too."""
    adapter: Path
    """Folder for what is trained."""


def places(recommendation: Recommendation, directory: str | Path) -> Places:
    """The places for configs that lie in the run directory ``directory``."""
    folder = Path(directory).absolute()
    name = recommendation.model.name
    model = str(Path(name).expanduser().absolute()) if is_here(name) else name
    rows = folder / "trl_rows"
    paired = recommendation.data.format.lower() not in ("messages", "sharegpt", "text")
    chat = folder / "chat_rows" if paired and _rows(recommendation) == "chat" else rows
    return Places(model, rows, chat, folder / "lora-adapter")


def is_here(name: str | Path) -> bool:
    """Whether there is such a file or folder; not where no file can have such a name."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def settings(recommendation: Recommendation) -> Settings:
    """``recommendation.choice`` and its recipe in the numbers that trainers take."""
    choice, recipe = recommendation.choice, recommendation.recipe
    alpha = max(1, round(choice.alpha))
    micro = max(n for n in range(1, MICRO_BATCH + 1) if recipe.batch_size % n == 0)
    return Settings(
        rank=choice.rank,
        alpha=alpha,
        learning_rate=choice.learning_rate
        if alpha == choice.alpha
        else choice.learning_rate * choice.alpha / alpha,
        target_modules=choice.target_modules,
        everywhere=wording.where(choice, recommendation.model) == "all linear layers",
        epochs=choice.epochs,
        micro_batch=micro,
        accumulation=recipe.batch_size // micro,
        precision=_precision(recommendation.model.dtype),
        rows=_rows(recommendation),
        seed=recommendation.provenance.seed,
        recipe=recipe,
    )


def common_notes(recommendation: Recommendation, trainer: str) -> tuple[str, ...]:
    """Sentences that hold for every trainer: what the config is for, and what of alpha, model and batch a person must know."""
    recipe, choice, model = recommendation.recipe, recommendation.choice, recommendation.model
    notes = [
        f"For {model.name} on {recommendation.data.name}.",
        f"The batch is {recipe.batch_size} rows in all: on several devices divide the accumulation by their number.",
    ]
    if model.name.endswith(".gguf"):
        notes.append(
            f"{trainer} reads no GGUF file: put the name of the model that it was made from in its place."
        )
    if choice.alpha != round(choice.alpha):
        notes.append(
            f"{trainer} takes whole alphas only. Alpha {wording.short(choice.alpha)} at learning rate "
            f"{wording.learning_rate(choice.learning_rate, 3)} became the pair below, whose first steps are of the same size."
        )
    return tuple(notes)


def header(recommendation: Recommendation, trainer: str, notes: Sequence[str], command: str) -> str:
    """Comment lines that a config in YAML or Python begins with: what it is for, how to use it, what to know."""
    lines = (*common_notes(recommendation, trainer), *notes, f"Run: {command}")
    return "".join(f"# {wording.clean(line)}\n" for line in lines)


def _precision(dtype: str) -> Precision:
    kind = dtype.lower().removeprefix("torch.")
    known: tuple[Precision, ...] = ("4-bit", "8-bit", "float16", "float32")
    return next((one for one in known if kind.startswith(one)), "bfloat16")


def _rows(recommendation: Recommendation) -> RowsKind:
    data = recommendation.data
    if data.format.lower() == "text":
        return "text"
    return "strings" if data.template == "none" else "chat"


def what_changes(config: TrainerConfig, recommendation: Recommendation) -> tuple[str, ...]:
    """What of ``config`` must change so that its trainer trains what is recommended.

    Among ``rank``, ``alpha`` (both or neither), ``learning_rate``, ``target_modules`` and the names of ``Recipe``'s fields.
    """
    wanted = settings(recommendation)
    rank, alpha, learning_rate = config.yours or (None, None, None)
    changed = [] if (rank, alpha) == (wanted.rank, wanted.alpha) else ["rank", "alpha"]
    changed += [] if learning_rate == wanted.learning_rate else ["learning_rate"]
    if _other_modules(config.target_modules, wanted):
        changed.append("target_modules")
    recipe = recommendation.recipe
    for name in (field.name for field in fields(Recipe) if field.name != "origins"):
        origin = recipe.origins.get(name, "assumed")
        as_read = name in _DEPEND_ON_THE_ROWS and origin in ("config", "trainer")
        if getattr(config.recipe, name) != getattr(recipe, name) and not as_read:
            changed.append(name)
    return tuple(changed)


# Read from a config, these take their value only when the rows are known; a value that the person gave has another origin.
_DEPEND_ON_THE_ROWS = ("warmup_ratio", "loss_on")


def _other_modules(names: tuple[str, ...] | None, wanted: Settings) -> bool:
    if names is None:
        return not wanted.everywhere
    return set(names) != set(wanted.target_modules)
