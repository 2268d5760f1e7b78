"""``rightrank.check``: whether the rank, alpha and learning rate of a trainer's config are worth changing.

First from what is recorded, in seconds; with ``measure`` from runs on the person's own model and data.
Not named after its function: importing a module ``rightrank.check`` would put the module in the function's place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from rightrank.errors import ConfigurationError, UserError
from rightrank.estimates.estimation import Check, GainLost, Setting, Verdict, likeness_of
from rightrank.priors import grids
from rightrank.recipe import alpha_for, equivalent_learning_rate
from rightrank.trainers.keys import DID_YOU_MEAN

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.estimates.estimation import Estimate
    from rightrank.recipe import Recipe
    from rightrank.recommendation import Choice, Recommendation
    from rightrank.trainers.config import TrainerConfig

# Percent of the gain. The margin is the product's own: 1 % of the gain; a setting that may have cost more than twice that is not one to
# keep unmeasured. Chosen.
MARGIN, KEEP_WORST = 1.0, 2.0
# Another rank must have lost less by this much on average before a person is sent to it instead of to a better learning rate. Chosen.
WORTH_A_RANK = 0.5
# Data sets on which both settings must be known. Chosen.
ENOUGH_SETS = 3
# Beyond ten times the learning rates that were ever best no record is needed. Chosen.
FAR = 10.0
# Scales (alpha / rank) that are kept when only the learning rate is to change. Chosen: what trainers' defaults span.
USUAL_SCALES = (0.25, 8.0)


@dataclass(frozen=True)
class Judgement:
    """What the recorded runs say of a setting."""

    verdict: Verdict
    cost: GainLost | None
    """Percent of the gain that the setting lost; None where nothing near was recorded."""
    better: Setting | None
    """What to change it to, or to try; None where nothing recorded is better by more than a margin."""
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Suggestion:
    """What trainers' edits read of a recommendation, for a setting that was not measured."""

    choice: Choice
    recipe: Recipe
    model: Any
    data: Any
    provenance: Any


def check(
    config: str | Path,
    model: Any = None,
    dataset: Any = None,
    *,
    gpu: str | None = None,
    measure: bool = False,
    **options: Any,
) -> Check:
    """Whether to keep the rank, alpha and learning rate of a trainer's config.

    ``model``, ``dataset`` and ``options`` (fields of ``Request``) win over what the config says. Without ``measure`` the answer comes from
    recorded runs and says so; with it ``rightrank.recommend`` runs, and answers. Raises UserError.
    """
    from rightrank import from_config
    from rightrank.estimates.estimating import estimate
    from rightrank.trainers import read_config

    read = read_config(config)
    if read.yours is None:
        raise _no_setting(read)
    if measure:
        return from_measurement(read, from_config.recommend(model, dataset, config=config, **options))
    return from_estimate(read, estimate(model, dataset, config=config, gpu=gpu, **options))


def _no_setting(read: TrainerConfig) -> ConfigurationError:
    """The error of a config that lacks a rank or a learning rate, or whose keys for them are misspelt."""
    misspelt = [key for key in read.unread if DID_YOU_MEAN in key]
    if misspelt:
        return ConfigurationError(
            f"{read.path.name} has {', '.join(misspelt)}, and without it no whole setting to check.",
            "Mend the key.",
        )
    unread = f" Keys that were not read: {', '.join(read.unread)}." if read.unread else ""
    return ConfigurationError(
        f"{read.path.name} does not name both a rank and a learning rate, so there is no setting to check.{unread}",
        f"Name both, or let `rightrank recommend --config {read.path}` find them.",
    )


def judge(yours: Setting, like: grids.Likeness) -> Judgement:
    """What the recorded runs say of ``yours``. Pure."""
    rank, alpha, rate = yours
    effective = equivalent_learning_rate(rank, alpha, rate)
    priced = grids.price(rank, effective, like)
    label = grids.records().label
    cost = None
    if priced is not None and not like.outside:
        cost = GainLost(priced.mean, priced.low, priced.high, priced.sets, label)
    target = _target(rank, like)
    if target is None:
        said = f"No rank like r={rank} was recorded; the recorded ones are 1 to 128."
        return Judgement("cannot tell without measuring", cost, None, (said,))
    better = _in_their_words(yours, target)
    low, high = grids.learning_rates_that_were_best(like)
    if not low / FAR <= effective <= high * FAR:
        said = "So far from every learning rate that was ever best, no measurement is needed to change it."
        return Judgement("change these lines", cost, better, (said,))
    if like.outside:
        return Judgement("cannot tell without measuring", None, None, ())
    more = grids.excess(rank, effective, target, like)
    if more is None or more[2] < ENOUGH_SETS:
        said = "Too few recorded data sets have a learning rate near yours."
        return Judgement("cannot tell without measuring", cost, better, (said,))
    least, most, sets = more
    every = len(grids.records().sets)
    known = f"on {'each' if sets == every else sets} of {every} recorded data sets"
    if least > MARGIN:
        said = f"It lost {least:.1f} to {most:.1f} % of the gain more than the setting below, {known}."
        return Judgement("change these lines", cost, better, (said,))
    if most > MARGIN:
        said = f"Against the setting below it lost {least:.1f} to {most:.1f} % of the gain {known}: it depends on the data."
        return Judgement("cannot tell without measuring", cost, better, (said,))
    said = f"Nothing recorded does better by more than {MARGIN:g} % of the gain {known}"
    if sets == every and cost is not None and cost.high is not None and cost.high <= KEEP_WORST:
        return Judgement("keep it", cost, None, (f"{said}.",))
    said += f", but on some data it may lose more than {KEEP_WORST:g} %."
    return Judgement("cannot tell without measuring", cost, None, (said,))


def from_estimate(config: TrainerConfig, found: Estimate) -> Check:
    """The answer in seconds."""
    assert config.yours is not None
    judged = judge(config.yours, likeness_of(found.model, found.data, found.recipe, found.steps))
    # Where its trainer would adapt other layers, that is another question than this one.
    alike = replace(config, target_modules=config.target_modules or None)
    changes, notes = _changes(
        alike, None if judged.better is None else _suggested(alike, judged.better, found)
    )
    return Check(
        verdict=judged.verdict,
        source=grids.records().label,
        config=str(config.path),
        trainer=config.trainer,
        yours=config.yours,
        cost=judged.cost,
        better=judged.better,
        changes=changes,
        reasons=(*judged.reasons, *(f"Unsure: {doubt}." for doubt in found.doubts)),
        cautions=found.cautions,
        unread=config.unread,
        notes=(*found.notes, *notes),
        estimate=found,
        recommendation=None,
    )


def from_measurement(config: TrainerConfig, answer: Recommendation) -> Check:
    """The answer that runs on the person's own model and data give."""
    assert config.yours is not None
    mine = next((option for option in answer.options if option.kind == "yours"), None)
    cost = None
    if mine is not None and mine.gain_lost is not None:
        lost = mine.gain_lost
        cost = GainLost(
            lost.value,
            lost.low,
            lost.high,
            1,
            lost.source,
        )
    verdicts: dict[str, Verdict] = {
        "best": "keep it",
        "as good": "keep it",
        "worse": "change these lines",
        "cannot tell": "cannot tell yet",
    }
    verdict: Verdict = "cannot tell yet" if mine is None else verdicts[mine.verdict]
    if answer.status == "NO_GAIN":
        verdict = "cannot tell yet"
    choice = answer.choice
    keep = verdict == "keep it"
    changes, notes = _changes(config, None if keep else answer)
    return Check(
        verdict=verdict,
        source="measured",
        config=str(config.path),
        trainer=config.trainer,
        yours=config.yours,
        cost=cost,
        better=None if keep else (choice.rank, choice.alpha, choice.learning_rate),
        changes=changes,
        reasons=_measured_reasons(answer),
        cautions=answer.warnings,
        unread=config.unread,
        notes=(*config.notes, *notes),
        estimate=None,
        recommendation=answer,
    )


def _measured_reasons(answer: Recommendation) -> tuple[str, ...]:
    """The answer's headline, and where it is open still, what the choice may lose."""
    if answer.status != "UNDECIDED" or answer.worst_case is None:
        return (answer.headline,)
    return (
        answer.headline,
        f"The safest setting so far loses at worst {answer.worst_case.value:.1f} % of the gain.",
    )


def _changes(
    config: TrainerConfig, answer: Recommendation | None
) -> tuple[tuple[tuple[str, str | None, str | None], ...], tuple[str, ...]]:
    """The lines of the config that ``answer`` changes, or a sentence on why they cannot be shown."""
    from rightrank.trainers import edit_config

    if answer is None:
        return (), ()
    try:
        return edit_config(config, answer).changes, ()
    except UserError as error:
        return (), (f"The lines to change cannot be shown: {error.problem}",)


def _target(rank: int, like: grids.Likeness) -> tuple[int, float] | None:
    """The recorded (rank, equivalent learning rate) to compare with: the same rank at its best, unless another lost clearly less."""
    own = grids.best_learning_rate(rank, like)
    if own is None:
        return None
    every = [(r, found) for r in grids.RANKS if (found := grids.best_learning_rate(r, like)) is not None]
    best, (rate, priced) = min(every, key=lambda pair: pair[1][1].mean)
    if own[1].mean - priced.mean > WORTH_A_RANK:
        return best, rate
    return rank, own[0]


def _in_their_words(yours: Setting, target: tuple[int, float]) -> Setting:
    """The target as a setting whose alpha stays the person's where the rank does and it is whole; the learning rate to two digits."""
    rank, effective = target
    alpha = float(alpha_for(rank))
    low, high = USUAL_SCALES
    if rank == yours[0] and low <= yours[1] / rank <= high and yours[1] == round(yours[1]):
        alpha = yours[1]
    return rank, alpha, float(f"{effective * alpha_for(rank) / alpha:.1e}")


def _suggested(config: TrainerConfig, better: Setting, found: Estimate) -> Recommendation:
    """``better`` in the shape that trainers' edits read: everything but rank, alpha and learning rate as the config has it."""
    from rightrank.recommendation import Choice, DataFacts, ModelFacts, Provenance

    shape, data = found.model, found.data
    modules = config.target_modules or shape.target_modules
    model = ModelFacts(
        name=config.model or shape.name,
        architecture=shape.architecture,
        fingerprint="",
        parameters=shape.parameters,
        layers=shape.layers,
        dtype=shape.weights,
        target_modules=modules,
        not_adapted=(),
        path="",
    )
    facts = DataFacts(
        name=data.name,
        format=data.format,
        fingerprint="",
        rows=data.rows,
        train=data.train,
        decide=data.held_out - data.score,
        score=data.score,
        truncated=data.truncated,
        dropped=data.dropped,
        duplicates=data.duplicates,
        trained_tokens=data.trained_tokens,
        total_tokens=data.total_tokens,
        template=data.template,
        held_out_from="split by prompt",
    )
    choice = Choice(*better, config.recipe.epochs, modules)
    origin = Provenance("", "rightrank check", config.seed or 0, {}, interrupted=False, run_directory="")
    # An edit reads these five fields of a recommendation and no measurement.
    return cast("Recommendation", Suggestion(choice, config.recipe, model, facts, origin))
