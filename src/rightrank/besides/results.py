"""What was measured besides the loss on held-out rows, as saved in ``recommendation.json``. Plain values; holds no row text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["chosen", "best", "smallest", "yours", "rival"]
"""Why an adapter is a finalist; ``smallest``: the smallest rank not ruled out; ``rival``: the best of the other ranks."""
OwnVerdict = Literal["agrees", "disagrees", "may be chance", "no gain", "not measured"]
CUT_FOLDER = "cut_adapter"
"""In a run directory: the cut that is better than the adapter kept beside it."""
LAYERS_FOLDER = "layers"
"""In a run directory: what was measured of adapters on some layers alone."""
CutRivalVerdict = Literal["better", "as good", "worse", "cannot tell"]
"""Of a cut against the recommended adapter, and of some layers alone against all."""


@dataclass(frozen=True)
class OwnValue:
    """What the person's own command printed for one trained adapter."""

    rank: int
    alpha: float
    learning_rate: float
    seed: int
    roles: tuple[Role, ...]
    """Empty for another seed of a finalist: a repeat."""
    value: float | None
    """None where the command failed."""


@dataclass(frozen=True)
class OwnMeasure:
    """The person's own measure of the finalists; higher is better."""

    command: str
    base: float
    """Of an adapter of zeros: the model as it is without training."""
    examples: int
    """Training rows of the adapters."""
    values: tuple[OwnValue, ...]
    verdict: OwnVerdict
    """Against the choice that the loss makes; ``may be chance``: another finalist has more, and nothing says whether by chance."""
    sentence: str

    @property
    def comes_first(self) -> bool:
        """Whether a reader must hear of it before the answer."""
        return self.verdict in ("disagrees", "may be chance", "no gain")


@dataclass(frozen=True)
class Change:
    """How much more loss an adapter has than the untrained model, with its 95 % interval over rows, paired; above zero: lost."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Forgot:
    """What one setting does to the rows of the second data set."""

    rank: int
    alpha: float
    learning_rate: float
    change: Change
    """Nats a token."""
    percent: Change
    """The same in percent of the untrained model's loss."""
    tokens_right: float
    """Percent of the tokens that are the greedy choice under teacher forcing."""


@dataclass(frozen=True)
class Forgetting:
    """What training takes from the model's old skills: its loss on a second data set before and after."""

    name: str
    format: str
    fingerprint: str
    rows: int
    of_rows: int
    """Rows of the data set, of which ``rows`` were measured, drawn at random."""
    base_loss: float
    """Nats a token."""
    base_tokens_right: float
    examples: int
    """Training rows of the adapters."""
    settings: tuple[Forgot, ...]
    """By rank, then learning rate; one run each."""


@dataclass(frozen=True)
class CutOfRun:
    """One cut of a trained adapter, not trained again."""

    rank: int
    loss: float
    """Held-out nats a token: the best choice's, and by how much the cut lies above it on the rows that it was measured on."""
    gain_lost: Change
    """Percent, against the best choice, with its 95 % interval over rows."""
    against: Change
    """Percent of the gain that it loses more than the recommended adapter; below zero: it loses less."""
    verdict: CutRivalVerdict
    rows: int
    """Held-out rows that this rests on."""
    scored: bool
    """False: it was left behind early, and its figures are of the rows that decide."""


@dataclass(frozen=True)
class CutsOfRun:
    """Cuts of one trained adapter against the adapter that the answer recommends, both trained on all the rows."""

    rank: int
    """Of the adapter that was cut, as the two below."""
    alpha: float
    learning_rate: float
    chosen_rank: int
    """Of the recommended adapter."""
    decide: int
    score: int
    cuts: tuple[CutOfRun, ...]
    """By rank; none is larger than ``chosen_rank``."""
    sentence: str
    kept: int | None = None
    """Rank of the cut that is surely better than the recommended adapter and lies beside it in ``CUT_FOLDER``; None: there is none."""


@dataclass(frozen=True)
class LayersAlone:
    """Adapters on attention alone or on the MLP alone, at the rank whose size is that of adapters on all layers."""

    layers: Literal["attention", "mlp"]
    rank: int
    alpha: float
    learning_rate: float
    """The best of ``learning_rates`` by the rows that decide."""
    learning_rates: tuple[float, ...]
    parameters: int
    modules: tuple[str, ...]
    """Names as PEFT's ``target_modules`` takes them."""
    loss: float
    """Held-out nats a token, on the rows that score."""
    gain_lost: Change
    """Percent of what all layers gain over the base model, with its 95 % interval over rows, paired."""
    verdict: CutRivalVerdict
    at_the_end: bool
    """Its best learning rate is the lowest or the highest tried, so that another may be better."""


@dataclass(frozen=True)
class LayersCompared:
    """Whether attention alone or the MLP alone does as well as all layers with as many parameters."""

    rank: int
    """Of adapters on all layers: the recommended one."""
    alpha: float
    learning_rate: float
    learning_rates: tuple[float, ...]
    parameters: int
    loss: float
    examples: int
    """Training rows of every run here."""
    of_examples: int
    score: int
    """Held-out rows that the figures are of."""
    alone: tuple[LayersAlone, ...]
    sentence: str
    """What they lose, and what to do."""
