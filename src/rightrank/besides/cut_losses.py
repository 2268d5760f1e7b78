"""Which trained adapter is cut, and the losses of its cuts beside those that the runs recorded, on the same held-out rows.

Dimensions: E held-out rows (those that decide first, then those that score), V cuts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.bank.evaluate import HeldOut
from rightrank.runs.trained_adapters import trained_adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float, Int

    from rightrank.bank.cut import Cut
    from rightrank.cuts.race import Evaluates
    from rightrank.data import TokenizedExample
    from rightrank.probe.loss_table import LossTable
    from rightrank.runs.trained_adapters import Setting, TrainedAdapter
    from rightrank.stats.results import Decision

WHOLE = "whole"


class OutOfTimeError(Exception):
    """The next rows would be done after the deadline."""


@dataclass(frozen=True)
class RunLosses:
    """One run's recorded results."""

    loss_E: Float[np.ndarray, " E"]
    """Nats, summed over each row's trained tokens."""
    right_E: Int[np.ndarray, " E"]


@dataclass(frozen=True)
class Rivals:
    """The runs that cuts are compared with, all on all the rows, and the adapter that is cut."""

    parent: TrainedAdapter
    parent_losses: RunLosses
    chosen: RunLosses
    best_loss_E: Float[np.ndarray, " E"]
    """Of the best setting, its seeds averaged."""


def rivals_of(table: LossTable, decision: Decision, all_rows: int) -> Rivals | None:
    """Whose cuts are worth measuring: the largest rank's at its better learning rate, else the best's; None where there is none.

    None also where the recommended adapter itself was not trained on all the rows, so that nothing can be compared with it.
    """
    losses = _losses(table, all_rows)
    runs = [run for run in trained_adapters(table) if run.examples == all_rows and run.key in losses]
    first: dict[Setting, TrainedAdapter] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        first.setdefault(run.setting, run)
    chosen = first.get(_plain(decision.choice))
    if chosen is None or chosen.seed != 0:
        return None
    best = [losses[run.key].loss_E for run in runs if run.setting == _plain(decision.best)]
    known = [(p.loss.value, _plain(p.setting)) for p in decision.choices if p.kind == "tuned" and p.loss]
    known = [(loss, setting) for loss, setting in known if setting in first]
    if not best or not known:
        return None
    widest = max(setting[0] for _, setting in known)
    parent = first[min((loss, setting) for loss, setting in known if setting[0] == widest)[1]]
    if not parent.exists and decision.best.rank > decision.choice.rank:
        parent = first[_plain(decision.best)]
    return Rivals(parent, losses[parent.key], losses[chosen.key], np.mean(best, axis=0))


def _plain(setting: Any) -> Setting:
    return setting.rank, setting.alpha, setting.learning_rate


def _losses(table: LossTable, all_rows: int) -> dict[str, RunLosses]:
    """By ``TrainedAdapter.key``; only runs that were judged by every held-out row."""
    return {
        f"{pack.number:04d}/{k}": RunLosses(result.loss_KE[k], result.right_KE[k])
        for pack, result in zip(table.packs, table.results, strict=True)
        for k in range(len(pack.configurations))
        if pack.examples == all_rows and np.isfinite(result.loss_KE[k]).all()
    }


class PairedLosses:
    """Evaluates cuts of one adapter for ``cuts.race``; what the runs recorded, and what was measured before, is not measured again.

    Runs may have been judged by other kernels than the cuts are. So the adapter is judged whole by the same steps as its cuts, and each
    cut's loss is the recorded one of the whole and the difference between both: what differs between the two ways falls out.
    """

    def __init__(
        self,
        evaluation: Evaluates,
        rivals: Rivals,
        base: RunLosses,
        held_out: Sequence[TokenizedExample],
        *,
        whole: Cut,
        trained: Cut,
        names: Mapping[int, str],
        one_by_one: bool,
        seconds_per_token: float,
        deadline: float,
        earlier: Mapping[str, Any],
        on_measured: Callable[[dict[str, Any]], None],
    ) -> None:
        """``trained`` stands for the recommended adapter; ``names``: of the others by rank, under which ``earlier`` keeps losses."""
        self.evaluation, self.rivals, self.base = evaluation, rivals, base
        self.whole, self.trained, self.names = whole, trained, names
        self.one_by_one, self.seconds_per_token, self.deadline = one_by_one, seconds_per_token, deadline
        self.on_measured = on_measured
        self.place = {id(example): e for e, example in enumerate(held_out)}
        self.measured = {name: _unpacked(kept, len(held_out)) for name, kept in earlier.items()}

    def bare(self, examples: Sequence[TokenizedExample]) -> HeldOut:
        """The base model, as recorded."""
        e = self._places(examples)
        return HeldOut(self.base.loss_E[None, e], self.base.right_E[None, e])

    def cuts(self, cuts: Sequence[Cut], examples: Sequence[TokenizedExample]) -> HeldOut:
        """Every cut on every row. Raises OutOfTimeError."""
        e, recorded = self._places(examples), self.rivals
        wanted = [self.whole, *(cut for cut in cuts if cut is not self.trained)]
        missing = [cut for cut in wanted if not np.isfinite(self._kept(cut).loss_E[e]).all()]
        for together in [[cut] for cut in missing] if self.one_by_one else [missing] if missing else []:
            self._measure(together, examples, e)
        whole_E = self._kept(self.whole).loss_E[e]
        rows = [
            (recorded.chosen.loss_E[e], recorded.chosen.right_E[e])
            if cut is self.trained
            else (
                recorded.parent_losses.loss_E[e] + self._kept(cut).loss_E[e] - whole_E,
                self._kept(cut).right_E[e],
            )
            for cut in cuts
        ]
        return HeldOut(np.stack([loss for loss, _ in rows]), np.stack([right for _, right in rows]))

    def as_measured(self, cut: Cut, examples: Sequence[TokenizedExample]) -> Float[np.ndarray, " E"]:
        """Nats of each row by the cut's own evaluation."""
        loss_E: Float[np.ndarray, " E"] = self._kept(cut).loss_E[self._places(examples)]
        return loss_E

    def _measure(
        self, cuts: Sequence[Cut], examples: Sequence[TokenizedExample], e: Int[np.ndarray, " E"]
    ) -> None:
        tokens = len(cuts) * sum(len(example.token_ids_T) for example in examples)
        started = time.monotonic()
        if started + tokens * self.seconds_per_token > self.deadline:
            raise OutOfTimeError
        found = self.evaluation.cuts(cuts, examples)
        self.seconds_per_token = max(self.seconds_per_token, (time.monotonic() - started) / tokens)
        for cut, loss_E, right_E in zip(cuts, found.loss_KE, found.right_KE, strict=True):
            kept = self._kept(cut)
            kept.loss_E[e], kept.right_E[e] = loss_E, right_E
        self.on_measured({name: _packed(kept) for name, kept in self.measured.items()})

    def _kept(self, cut: Cut) -> RunLosses:
        name = WHOLE if cut is self.whole else self.names[cut.rank]
        return self.measured.setdefault(name, _nothing(len(self.place)))

    def _places(self, examples: Sequence[TokenizedExample]) -> Int[np.ndarray, " E"]:
        return np.array([self.place[id(example)] for example in examples], dtype=np.int64)


def _nothing(rows: int) -> RunLosses:
    return RunLosses(np.full(rows, np.nan), np.full(rows, -1, dtype=np.int64))


def _packed(kept: RunLosses) -> dict[str, Any]:
    """As JSON: nothing where a row was not measured."""
    loss = [float(x) if np.isfinite(x) else None for x in kept.loss_E]
    return {"loss": loss, "right": kept.right_E.tolist()}


def _unpacked(kept: Mapping[str, Any], rows: int) -> RunLosses:
    loss_E = np.array([np.nan if x is None else x for x in kept["loss"]], dtype=float)
    right_E = np.array(kept["right"], dtype=np.int64)
    return RunLosses(loss_E, right_E) if len(loss_E) == len(right_E) == rows else _nothing(rows)
