"""The answer and everything that backs it, as saved in ``recommendation.json``. Reports and exports read this and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rightrank.besides.results import (  # noqa: TC001  (pydantic resolves them at run time)
    CutsOfRun,
    Forgetting,
    LayersCompared,
    OwnMeasure,
)
from rightrank.circumstances import (
    Cost,
    DataFacts,
    Figure,
    Finished,
    ModelFacts,
    Provenance,
    Source,
)
from rightrank.errors import ConfigurationError, DataError, UserError
from rightrank.recipe import Recipe  # noqa: TC001  (pydantic resolves it at run time)
from rightrank.runs.durable import sealed, unsealed, write_whole
from rightrank.runs.saved_answer import parsed_answer

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "Choice",
    "Cost",
    "DataFacts",
    "Figure",
    "Finished",
    "Margin",
    "MeasuredPoint",
    "ModelFacts",
    "NextStep",
    "Option",
    "Provenance",
    "Recommendation",
    "Source",
    "Status",
    "Verdict",
]

SCHEMA_VERSION = 1

Status = Literal["NO_GAIN", "UNDECIDED", "FLAT", "CEILING", "SETTLED"]
Verdict = Literal["best", "as good", "worse", "cannot tell"]


@dataclass(frozen=True)
class Choice:
    """What to type into a trainer. Plain LoRA: the update is scaled by alpha / rank."""

    rank: int
    alpha: float
    learning_rate: float
    epochs: float
    target_modules: tuple[str, ...]
    """Names as PEFT's ``target_modules`` takes them (suffixes of module names)."""


@dataclass(frozen=True)
class Option:
    """One line of the table of choices: a rank at its best learning rate, a popular default, or the user's own config."""

    label: str
    """``r=16``, ``guide r=16 a=32 2e-4``, ``yours r=32 a=16 2e-4``."""
    kind: Literal["tuned", "guide", "yours"]
    rank: int
    alpha: float
    learning_rate: float
    verdict: Verdict
    loss: Figure
    """Held-out nats a token."""
    gain_lost: Figure | None
    """Percent of what the best choice gains over the base model that this one gives away; None where no gain is certain."""
    exact: Figure | None
    """Percent of held-out examples whose whole completion is the greedy choice under teacher forcing."""
    tokens_right: Figure | None
    """Percent of held-out completion tokens that are the greedy choice under teacher forcing."""
    train_gib: Figure
    """Memory of training this one adapter with the recipe, GiB (2**30 bytes)."""
    adapter_mb: float
    """Size of the saved adapter in 16-bit weights, MB (10**6 bytes)."""
    train_minutes: Figure | None = None
    """Time of training it alone by the recipe on all the data, on the device of the probe; None where not known."""


@dataclass(frozen=True)
class Check:
    """A look at a run, under the schedule of the whole run: what a shorter run would have reached is another matter."""

    epoch: float
    loss: float
    """Held-out nats a token, on the rows of *decide* that the looks are taken on."""
    train_loss: float | None
    """Training nats a token since the look before."""
    above_end: Figure | None = None
    """Held-out nats a token above the end of the run, on the same rows; below zero: it got worse. None at the end."""


@dataclass(frozen=True)
class MeasuredPoint:
    """One finished training run, summed over the held-out examples it was evaluated on."""

    rank: int
    alpha: float
    learning_rate: float
    seed: int
    examples: int
    steps: int
    loss: float | None
    """Held-out nats a token on *decide*; None where the run diverged."""
    gain_lost: Figure | None
    """Percent, against the best run on the same number of training examples."""
    train_loss: float | None
    """Training nats a token over the last tenth of the steps."""
    role: Literal["learning rate", "rank", "seed", "guide", "yours"]
    checks: tuple[Check, ...] = ()
    """Looks at the run on its way, in order, the last at its end; none where it was not looked at."""


@dataclass(frozen=True)
class Margin:
    """Two choices closer than this count as the same. The smaller of its two readings."""

    used: Figure
    """Nats a token."""
    one_percent_of_gain: Figure
    ten_percent_more_data: Figure | None
    """Held-out nats a token that 10 % more data would buy; None where the ladder cannot tell."""
    as_percent_of_gain: float


@dataclass(frozen=True)
class NextStep:
    """Something that would turn "cannot tell yet" into an answer, and its price."""

    command: str
    why: str
    minutes: Figure | None


@dataclass(frozen=True)
class Recommendation:
    """The answer: what to use, how sure that is, and the evidence. ``rightrank.recommend`` returns one."""

    status: Status
    headline: str
    """One sentence, in the reader's words."""
    reasons: tuple[str, ...]
    """Why this answer and no other, a sentence each."""
    choice: Choice
    """SETTLED, FLAT, CEILING: the answer. NO_GAIN, UNDECIDED: what is safe to use meanwhile."""
    worst_case: Figure | None
    """Percent of the gain that ``choice`` may give away (upper end of its 95 % interval); None where nothing bounds it."""
    options: tuple[Option, ...]
    points: tuple[MeasuredPoint, ...]
    margin: Margin | None
    """None where it is not certain that training gains anything, so that no share of the gain exists."""
    base_loss: Figure
    best_loss: Figure
    gain: Figure
    """Base loss minus best loss, nats a token."""
    frequency_loss: Figure
    """Nats a token of a model that only knows how often each token occurs."""
    ruled_out: tuple[int, ...]
    """Ranks shown to lose more than the margin, each at its best learning rate."""
    to_decide: tuple[NextStep, ...]
    more_data: tuple[str, ...]
    """How the answer would move with 2 × and 10 × the data, a sentence each, or that this cannot be told."""
    model: ModelFacts
    data: DataFacts
    recipe: Recipe
    cost: Cost
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    own_measure: OwnMeasure | None = None
    """The person's own measure of the finalists, where it was asked for."""
    forgetting: Forgetting | None = None
    """What training takes from the model's old skills, where that was asked for."""
    cuts: CutsOfRun | None = None
    """Cuts of the adapter of the largest rank, where that was trained on all the rows and time allowed it."""
    layers: LayersCompared | None = None
    """Attention alone and the MLP alone against all layers, where that was asked for."""
    recipe_from: str | None = None
    """The config that the recipe was read from, and whose it is: ``axolotl.yml (Axolotl)``; None where there was none."""
    finished: Finished | None = None
    """With ``--finish``: the adapter to use."""
    schema: int = field(default=SCHEMA_VERSION)

    def __str__(self) -> str:
        choice = self.choice
        setting = f"r={choice.rank} alpha={choice.alpha:g} learning rate {choice.learning_rate:g}"
        lead = "" if self.lead == "Use" else f"{self.lead.lower()}: "
        return f"{self.status}: {self.headline} ({lead}{setting})"

    @property
    def lead(self) -> str:
        """What stands before the choice: it is the answer, safe until there is one, or a guess that nothing bounds."""
        if self.status == "NO_GAIN":
            return "If you train anyway"
        if self.status == "UNDECIDED":
            return "Best guess meanwhile" if self.worst_case is None else "Safe meanwhile"
        return "Use"

    @property
    def gains(self) -> bool:
        """Whether training surely gains something, so that shares of the gain mean something."""
        return self.status != "NO_GAIN" and self.margin is not None

    def to_json(self) -> str:
        """This answer as JSON; numbers that do not exist are null."""
        return json.dumps(asdict(self), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Recommendation:
        """The answer that ``to_json`` wrote. Raises DataError where it is none, or of another schema."""
        from pydantic import TypeAdapter, ValidationError

        try:
            raw = parsed_answer(text)
            raw = unsealed(raw) if isinstance(raw, dict) else raw
            if not isinstance(raw, dict) or raw.get("schema") != SCHEMA_VERSION:
                raise DataError(
                    "This is no recommendation of this version of rightrank.",
                    "Run `rightrank recommend` again.",
                )
            return TypeAdapter(cls).validate_python(raw)
        except (ValidationError, ConfigurationError, ValueError, RecursionError) as error:
            raise DataError(
                "This recommendation file is damaged.", "Run `rightrank recommend` again."
            ) from error

    def save(self, directory: str | Path) -> Path:
        """Write ``recommendation.json`` into ``directory`` (made if need be), whole and with its checksum, and return its path."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "recommendation.json"
        text = json.dumps(sealed(asdict(self)), indent=1, allow_nan=False, ensure_ascii=False)
        write_whole(path, text.encode())
        return path

    def peft_arguments(self) -> dict[str, Any]:
        """Arguments of ``peft.LoraConfig`` for ``choice``, in JSON's types."""
        alpha = self.choice.alpha
        return {
            "r": self.choice.rank,
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "lora_dropout": self.recipe.dropout,
            "target_modules": list(self.choice.target_modules),
            "bias": "none",
            "use_rslora": False,
            "task_type": "CAUSAL_LM",
        }

    def to_peft(self) -> LoraConfig:
        """``choice`` as a ``peft.LoraConfig``. Raises UserError where PEFT is not installed."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise UserError("PEFT is not installed.", "Run `pip install peft`.") from error
        return LoraConfig(**self.peft_arguments())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from rightrank.recommendation_html import notebook_html

        return notebook_html(self)
