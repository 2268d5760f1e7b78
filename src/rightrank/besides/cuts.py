"""Cuts of a trained adapter to smaller ranks, measured once the runs are done: would training once and cutting have done as well?

No training, and nobody asks for it. Nothing that fails here costs the answer.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.besides.cut_losses import OutOfTimeError, PairedLosses, RunLosses, rivals_of
from rightrank.besides.results import CUT_FOLDER, Change, CutOfRun, CutsOfRun
from rightrank.errors import UserError
from rightrank.runs.directory import keep_whole
from rightrank.runs.trained_adapters import remember, remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jaxtyping import Int

    from rightrank.bank.cut import Cut
    from rightrank.besides.asked import Model
    from rightrank.besides.cut_losses import Rivals
    from rightrank.besides.cut_price import CutsPlan
    from rightrank.cuts.answer import Adapter
    from rightrank.cuts.race import Version
    from rightrank.data import TokenizedExample
    from rightrank.probe.loss_table import LossTable
    from rightrank.stats.cuts import CutEvidence
    from rightrank.stats.cuts_of_runs import CutComparison, CutRivals
    from rightrank.stats.paired import Estimate
    from rightrank.stats.results import Decision

FILE_NAME = "cuts.json"
CHECKED_ROWS = 8


@dataclass(frozen=True)
class Cuts:
    """What came of it."""

    cuts: CutsOfRun | None = None
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    """By Ctrl-C, so that --resume has something left to measure."""


@dataclass(frozen=True)
class CutSubject:
    """What cuts are measured with."""

    model: Model
    table: LossTable
    decision: Decision
    decide: Sequence[TokenizedExample]
    score: Sequence[TokenizedExample]
    """Both as the runs were judged by them."""
    candidates: tuple[int, ...]
    """Ranks that may be used."""
    all_rows: int
    seconds_per_token: float
    deadline: float
    """By the monotonic clock."""
    label: dict[str, Any]
    """Of an adapter that is kept: model and data."""
    on_progress: Callable[[str, float, float], None] = lambda what, done, whole: None


def measure_cuts(plan: CutsPlan, subject: CutSubject) -> Cuts:
    """Cut the adapter of the largest rank, and keep the cut that is surely better than the recommended adapter.

    Nothing where nothing was planned, training gains nothing for sure, or no adapter on all the rows lies on disk.
    """
    decision, directory = subject.decision, subject.table.directory
    certain = decision.status != "NO_GAIN" and decision.margin is not None
    rivals = rivals_of(subject.table, decision, subject.all_rows) if certain else None
    if rivals is None:
        return no_cuts(directory)
    what: dict[str, Any] = {
        "adapter": rivals.parent.key,
        "choice": [decision.choice.rank, decision.choice.alpha, decision.choice.learning_rate],
        "held_out": [len(subject.decide), len(subject.score)],
    }
    path = directory / FILE_NAME
    earlier, kept = remembered(path, what)
    if (known := _known(kept.get("answer"), directory)) is not None:
        return Cuts(known)
    ranks = earlier.get("ranks", _ranks(subject, rivals)[-plan.cuts :] if plan.cuts else [])
    if not ranks or not rivals.parent.exists:
        return no_cuts(directory)
    begun = time.monotonic()

    def show() -> None:
        done = time.monotonic() - begun
        subject.on_progress("cuts of the largest rank", done, max(done, plan.seconds))

    try:
        what |= {"ranks": ranks, "rows": int(earlier.get("rows", plan.rows))}
        return _measured(subject, rivals, path, what, kept.get("losses", {}), show)
    except KeyboardInterrupt:
        note = "Interrupted: cuts of the trained adapters were not measured; --resume does it."
        return replace(no_cuts(directory), notes=(note,), interrupted=True)
    except OutOfTimeError:
        note = "Time ran out before cuts of the trained adapters were measured."
    except (UserError, OSError, RuntimeError, MemoryError, ValueError) as error:
        why = error.problem.rstrip(".") if isinstance(error, UserError) else type(error).__name__
        note = f"Cuts of the trained adapters could not be measured ({why})."
    return replace(no_cuts(directory), notes=(note,))


def no_cuts(directory: Path) -> Cuts:
    """Nothing, and a cut that an earlier answer kept is none of this one's."""
    shutil.rmtree(directory / CUT_FOLDER, ignore_errors=True)
    return Cuts()


def _ranks(subject: CutSubject, rivals: Rivals) -> list[int]:
    """What the adapter is cut to: no more than the choice's rank, since larger ones could not take its place."""
    chosen = subject.decision.choice.rank
    return sorted({r for r in (*subject.candidates, chosen) if r <= chosen and r < rivals.parent.setting[0]})


def _known(answer: Any, directory: Path) -> CutsOfRun | None:
    """What an earlier part of the run found, where what it kept is still there."""
    from pydantic import TypeAdapter, ValidationError

    if answer is None:
        return None
    with suppress(ValidationError):
        found = TypeAdapter(CutsOfRun).validate_python(answer)
        if found.kept is None or (directory / CUT_FOLDER).is_dir():
            return found
    return None


def _measured(
    subject: CutSubject,
    rivals: Rivals,
    path: Path,
    what: dict[str, Any],
    losses: dict[str, Any],
    show: Callable[[], None],
) -> Cuts:
    """``what``: the ranks to cut to and the rows to use at most; ``losses``: what of it an earlier part of the run measured."""
    from rightrank.bank.cut import Cut, uniform
    from rightrank.cuts.answer import opened
    from rightrank.cuts.race import Version, race
    from rightrank.cuts.words import beside
    from rightrank.stats.cuts_of_runs import compare_cuts

    def measured(so_far: dict[str, Any]) -> None:
        remember(path, what, {"losses": so_far})
        show()

    show()
    decision, ranks, rows = subject.decision, what["ranks"], what["rows"]
    assert decision.margin is not None
    percent = decision.margin.percent
    read = opened(rivals.parent.directory, subject.model.base, subject.model.base_name)
    versions = [Version(f"r={rank}", "cut", Cut(uniform(read.updates, rank))) for rank in ranks]
    trained = Version("as trained", "whole", Cut((decision.choice.rank,) * len(read.updates)))
    evaluation = _evaluation(subject, rivals, read, trained.cut, versions, losses, measured)
    found = race([*versions, trained], read.updates, subject.decide[:rows], subject.score[:rows], evaluation)
    scored = int(found.evidence.scores_E.sum())
    decided = len(found.evidence.scores_E) - scored
    place = np.r_[:decided, len(subject.decide) : len(subject.decide) + scored]
    comparison = compare_cuts(_against(found.evidence, ranks, rivals, place), margin_percent=percent)
    if comparison is None:
        return no_cuts(subject.table.directory)
    problem = None
    if comparison.better is not None:
        cut = next(version.cut for version in versions if version.cut.rank == comparison.better)
        problem = _keep(subject, rivals, read, cut, evaluation)
    kept = None if problem else comparison.better
    if kept is None:
        no_cuts(subject.table.directory)
    result = _result(decision, rivals, comparison, decide=decided, score=scored, kept=kept)
    result = replace(result, sentence=beside(result, comparison.better, comparison.as_good, percent))
    remember(path, what, {"answer": asdict(result)})
    return Cuts(result, () if problem is None else (problem,))


def _evaluation(
    subject: CutSubject,
    rivals: Rivals,
    read: Adapter,
    trained: Cut,
    versions: Sequence[Version],
    losses: dict[str, Any],
    on_measured: Callable[[dict[str, Any]], None],
) -> PairedLosses:
    from rightrank.bank.cut import Cut
    from rightrank.bank.cut_evaluation import CutEvaluation

    model, base = subject.model, subject.table.base
    assert base is not None
    held_out = [*subject.decide, *subject.score]
    longest = max(len(example.token_ids_T) for example in held_out)
    return PairedLosses(
        CutEvaluation(read.base, read.updates, model.memory, model.path, longest, read.whole),
        rivals,
        RunLosses(base.loss_KE[0], base.right_KE[0]),
        held_out,
        whole=Cut(tuple(update.directions for update in read.updates)),
        trained=trained,
        names={version.cut.rank: version.label for version in versions},
        one_by_one=model.base.device.type == "cpu",
        seconds_per_token=subject.seconds_per_token,
        deadline=subject.deadline,
        earlier=losses,
        on_measured=on_measured,
    )


def _against(
    evidence: CutEvidence, ranks: Sequence[int], rivals: Rivals, place: Int[np.ndarray, " e"]
) -> CutRivals:
    """The cuts and what was trained on the rows of ``evidence``, whose last version is the recommended adapter."""
    from rightrank.stats.cuts_of_runs import CutRivals

    return CutRivals(
        rank_V=np.array(ranks),
        loss_VE=evidence.loss_VE[:-1],
        right_VE=evidence.right_VE[:-1],
        chosen_loss_E=rivals.chosen.loss_E[place],
        chosen_right_E=rivals.chosen.right_E[place],
        best_loss_E=rivals.best_loss_E[place],
        base_loss_E=evidence.base_loss_E,
        tokens_E=evidence.tokens_E,
        scores_E=evidence.scores_E,
    )


def _result(
    decision: Decision,
    rivals: Rivals,
    comparison: CutComparison,
    *,
    decide: int,
    score: int,
    kept: int | None,
) -> CutsOfRun:
    assert decision.best_loss is not None

    def change(found: Estimate) -> Change:
        return Change(found.value, found.low, found.high)

    cuts = tuple(
        CutOfRun(
            cut.rank,
            decision.best_loss.value + cut.above_best.value,
            change(cut.gain_lost),
            change(cut.against),
            cut.verdict,
            cut.rows,
            cut.scored,
        )
        for cut in comparison.cuts
    )
    return CutsOfRun(*rivals.parent.setting, decision.choice.rank, decide, score, cuts, "", kept)


def _keep(
    subject: CutSubject, rivals: Rivals, read: Adapter, cut: Cut, evaluation: PairedLosses
) -> str | None:
    """Keep the cut beside the recommended adapter, loaded again and compared with what was measured; why not, where it is not."""
    from rightrank.cuts.writing import export_cut, served_as_measured

    model, few = subject.model, subject.score[:CHECKED_ROWS]
    draft = subject.table.directory / "cutting.part"
    rank, alpha, rate = rivals.parent.setting
    try:
        shutil.rmtree(draft, ignore_errors=True)
        export_cut(read, cut, draft)
        measured_E = evaluation.as_measured(cut, few)
        served = served_as_measured(read, draft, cut, few, measured_E, packed=model.path.packed)
        if not served.holds:
            return (
                f"The cut to rank {cut.rank} is not kept: loaded again, it does not give the measured losses."
            )
        label = {"rank": cut.rank, "cut_from": {"rank": rank, "alpha": alpha, "learning_rate": rate}}
        keep_whole(draft, subject.table.directory / CUT_FOLDER, {**label, **subject.label})
    except (UserError, OSError):
        return f"The cut to rank {cut.rank} could not be written."
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return None
