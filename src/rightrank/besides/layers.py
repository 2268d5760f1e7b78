"""``--layers``: attention alone and the MLP alone against all layers, once the answer is known, at its size.

Nothing that fails here costs the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from rightrank.bank.module_kinds import Kind
from rightrank.bank.targets import of_kind, target_suffixes
from rightrank.besides.layer_runs import LayerRuns
from rightrank.besides.layer_words import sentence
from rightrank.besides.results import LAYERS_FOLDER, Change, LayersAlone, LayersCompared
from rightrank.errors import UserError
from rightrank.probe.loss_table import LossTable
from rightrank.stats.layers import against_all

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from rightrank.besides.layer_price import LayersPlan
    from rightrank.besides.layer_runs import LayersSubject
    from rightrank.probe.pack import Configuration


@dataclass(frozen=True)
class LayersFound:
    """What came of it."""

    compared: LayersCompared | None = None
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    """By Ctrl-C, so that --resume has something left to measure."""
    table: LossTable | None = None
    """What was trained for it."""


def trained_before(directory: Path) -> LossTable | None:
    """What earlier parts of the run in ``directory`` trained for this."""
    folder = directory / LAYERS_FOLDER
    return LossTable(folder, {}, look_only=True) if (folder / "packs").is_dir() else None


def measure_layers(plan: LayersPlan, subject: LayersSubject, *, interrupted: bool) -> LayersFound:
    """Train what is needed and compare; Ctrl-C ends it with what there is. ``interrupted``: the person wants an answer now.

    Where the time that is planned does not pay for it, what an earlier part of the run trained is compared all the same.
    """
    if not plan.line:
        return LayersFound()
    before = trained_before(subject.table.directory)
    if not plan.rows and (before is None or not before.packs):
        return LayersFound(notes=(plan.line,))
    if subject.decision.status == "NO_GAIN" or subject.decision.margin is None:
        return LayersFound(
            notes=("--layers measured nothing, since it is not sure that training gains anything.",)
        )
    if interrupted:
        note = "Interrupted before --layers was measured; --resume does it."
        return LayersFound(notes=(note,), interrupted=True)
    runs, ends, stopped = None, [], False
    try:
        runs = LayerRuns(plan, subject)
        runs.train()
    except KeyboardInterrupt:
        stopped = True
        ends.append("Interrupted while --layers was measured; --resume goes on with it.")
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        why = error.problem.rstrip(".") if isinstance(error, UserError) else type(error).__name__
        ends.append(f"--layers was not measured to its end ({why}).")
    if runs is None:
        return LayersFound(notes=tuple(ends), interrupted=stopped)
    return LayersFound(_compared(runs), (*runs.notes, *ends), stopped, runs.table)


def _compared(runs: LayerRuns) -> LayersCompared | None:
    """What can be compared; None where all layers have no run, or no kind has."""
    subject, rate, margin = runs.subject, runs.best("all"), runs.subject.decision.margin
    if rate is None or margin is None:
        return None
    own, tried = runs.configuration("all", rate), runs.tried("all")
    kinds = [kind for kind in get_args(Kind) if kind in runs.ranks]
    alone = tuple(
        one for kind in kinds if (one := _alone(runs, kind, tried[rate], margin.percent)) is not None
    )
    if not alone:
        return None
    score = int(subject.scores_E.sum())
    said = sentence(
        alone,
        score=score,
        margin_percent=margin.percent,
        named=runs.plan.named,
        max_rank=subject.max_rank,
    )
    return LayersCompared(
        rank=own.rank,
        alpha=own.alpha,
        learning_rate=rate,
        learning_rates=tuple(tried),
        parameters=runs.parameters(own),
        loss=_level(subject, tried[rate]),
        examples=runs.rows,
        of_examples=subject.job.examples,
        score=score,
        alone=alone,
        sentence=said,
    )


def _alone(runs: LayerRuns, kind: Kind, all_E: np.ndarray, margin_percent: float) -> LayersAlone | None:
    """One kind at its best learning rate against all layers at theirs; None where it has no run, or all layers gain nothing."""
    subject, tried, rate = runs.subject, runs.tried(kind), runs.best(kind)
    if rate is None:
        return None
    assert subject.table.base is not None
    scores_E = subject.scores_E
    some_E, every_E, base_E = (one[scores_E] for one in (tried[rate], all_E, subject.table.base.loss_KE[0]))
    found = against_all(some_E, every_E, base_E, subject.tokens_E[scores_E], margin_percent=margin_percent)
    if found is None:
        return None
    own: Configuration = runs.configuration(kind, rate)
    return LayersAlone(
        layers=kind,
        rank=own.rank,
        alpha=own.alpha,
        learning_rate=rate,
        learning_rates=tuple(tried),
        parameters=runs.parameters(own),
        modules=target_suffixes(of_kind(subject.targets, kind)),
        loss=_level(subject, tried[rate]),
        gain_lost=Change(found.lost.value, found.lost.low, found.lost.high),
        verdict=found.verdict,
        at_the_end=rate in (min(tried), max(tried)),
    )


def _level(subject: LayersSubject, loss_E: np.ndarray) -> float:
    """Nats a token on the rows that score."""
    scores_E = subject.scores_E
    return float(loss_E[scores_E].sum() / subject.tokens_E[scores_E].sum())
