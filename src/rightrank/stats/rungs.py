"""From finished runs to settings at each size of the training set, with replicates of their errors.

A *setting* is rank, alpha and learning rate; its seeds are averaged. Every rung speaks of the same list of settings and of the same
resampled held-out examples, so that differences between settings and between rungs stay paired.

Dimensions: C finished runs, U settings (all that were ever run), S seeds of one setting, E held-out examples, B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from rightrank.recipe import equivalent_learning_rate
from rightrank.stats.luck import FLOOR_SHARE, LuckOfRuns, noise_at
from rightrank.stats.paired import Sampled, resample_counts, resampled_ratio
from rightrank.stats.valley import Valley, fit, observations, recorded_prior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from rightrank.stats.evidence import Evidence
    from rightrank.stats.luck import AveragedLuck
    from rightrank.stats.seeds import SeedNoise


@dataclass(frozen=True, order=True)
class Setting:
    """What to type into a trainer. Plain LoRA: the update is scaled by alpha / rank."""

    rank: int
    alpha: float
    learning_rate: float

    @property
    def axis(self) -> float:
        """log10 of the learning rate at ``alpha_for(rank)`` that takes the same first steps."""
        return float(np.log10(equivalent_learning_rate(self.rank, self.alpha, self.learning_rate)))


@dataclass(frozen=True)
class Rung:
    """All settings after training on one number of examples. NaN: not run there, or diverged."""

    examples: int
    decide: Sampled
    """Nats a token on the examples that choose."""
    judge: Sampled
    """Nats a token on the examples that score; the same as ``decide`` where those were not evaluated."""
    on_score: bool
    base: Sampled
    """The untrained model and the token frequencies (two things) on the examples of ``judge``."""
    judge_E: Int[np.ndarray, " e"]
    """Which examples ``judge`` rests on: indices into the cleaned evidence."""
    diverged_U: Bool[np.ndarray, " U"]
    wrong: Sampled | None
    """Shares in percent: U times completions not wholly right, then U times tokens not right. None where not known."""

    @property
    def measured_U(self) -> Bool[np.ndarray, " U"]:
        """Settings with a finite loss here."""
        finite_U: Bool[np.ndarray, " U"] = np.isfinite(self.decide.value_K)
        return finite_U


@dataclass(frozen=True)
class Measured:
    """Everything that was measured, ready to be compared."""

    evidence: Evidence
    """Without examples that nothing can be said about, in a fixed order, every run once."""
    settings: tuple[Setting, ...]
    """By rank, then by equivalent learning rate."""
    setting_C: Int[np.ndarray, " C"]
    rungs: tuple[Rung, ...]
    """By size; only those where some setting has a finite loss."""
    noise: SeedNoise
    """At the largest size."""
    normal_BU: Float[np.ndarray, "B U"]
    """Standard normal draws, one a setting, for assumed spreads."""

    @property
    def rank_U(self) -> Int[np.ndarray, " U"]:
        """Rank of each setting."""
        return np.array([s.rank for s in self.settings])

    @property
    def axis_U(self) -> Float[np.ndarray, " U"]:
        """log10 equivalent learning rate of each setting."""
        return np.array([s.axis for s in self.settings])

    @property
    def whole(self) -> int:
        """Rows of the whole data."""
        return max(self.evidence.all_examples, self.rungs[-1].examples)

    @cached_property
    def valley(self) -> Valley:
        """The shape that other data sets share, fitted to everything measured. Needs a rung."""
        return fit(observations(self, self.whole), self.whole, recorded_prior())


def clean(evidence: Evidence) -> Evidence:
    """Without examples that have no tokens or no base loss, in a fixed order of examples, and without runs that appear twice.

    Where the same setting, seed and size was recorded twice, the later record counts: it is one run, not two samples.
    """
    usable_E = (
        (evidence.tokens_E > 0)
        & np.isfinite(evidence.base_loss_E)
        & np.isfinite(evidence.frequency_loss_E)
        & np.any(~np.isnan(evidence.loss_CE), axis=0)
    )
    order = np.lexsort((evidence.frequency_loss_E, evidence.base_loss_E, evidence.tokens_E))
    kept_E = order[usable_E[order]]
    last: dict[tuple[float, ...], int] = {}
    for c in range(len(evidence.rank_C)):
        run = (evidence.examples_C[c], evidence.rank_C[c], evidence.alpha_C[c], evidence.learning_rate_C[c])
        last[(*map(float, run), float(evidence.seed_C[c]))] = c
    kept_C = np.array([last[key] for key in sorted(last)], dtype=int)
    per_run = {name: getattr(evidence, name)[kept_C] for name in _PER_RUN}
    per_example = {name: getattr(evidence, name)[kept_E] for name in _PER_EXAMPLE}
    both = {name: getattr(evidence, name)[np.ix_(kept_C, kept_E)] for name in ("loss_CE", "right_CE")}
    return replace(evidence, **per_run, **per_example, **both)


_PER_RUN = ("rank_C", "alpha_C", "learning_rate_C", "seed_C", "examples_C")
_PER_EXAMPLE = ("tokens_E", "scores_E", "base_loss_E", "base_right_E", "frequency_loss_E")


def measure(evidence: Evidence, replicates: int, seed: int, up_to: int | None = None) -> Measured:
    """Settings, rungs (with at most ``up_to`` training examples) and the replicates of their errors.

    Held-out examples are resampled, decide and score apart; every run gets seed noise. Each setting has random numbers of its own, so
    that another candidate changes nothing for those already there, unless it was run with several seeds: these tell of everyone's luck.
    A setting with a diverged seed counts as diverged.
    """
    data = clean(evidence)
    labels = [
        Setting(int(r), float(a), float(lr))
        for r, a, lr in zip(data.rank_C, data.alpha_C, data.learning_rate_C, strict=True)
    ]
    settings = tuple(sorted(set(labels), key=lambda s: (s.rank, s.axis, s.alpha)))
    setting_C = np.array([settings.index(s) for s in labels], dtype=int)
    sizes = [n for n in sorted({int(n) for n in data.examples_C}) if up_to is None or n <= up_to]
    counts = {
        part: resample_counts(
            np.random.default_rng([seed, part]), replicates, int(np.sum(data.scores_E == part))
        )
        for part in (False, True)
        if np.any(data.scores_E == part)
    }
    usable = {n: _usable_runs(data, n) for n in sizes}
    luck = LuckOfRuns(data, settings, setting_C, seed)
    replicated = {
        n: several
        for n in sizes
        if (several := luck.replicated(usable[n], _common(data, usable[n], 0))) is not None
    }
    noise = {n: noise_at(n, replicated) for n in sizes}
    runs = _Runs(data, setting_C, settings, counts, luck)
    rungs = [_rung(runs, n, usable[n], noise[n]) for n in sizes]
    normal_BU = np.stack([_normals(seed, s, 0, replicates) for s in settings], axis=1)
    kept = tuple(r for r in rungs if r is not None)
    top = noise[kept[-1].examples] if kept else noise_at(1, {})
    return Measured(data, settings, setting_C, kept, top, normal_BU)


@dataclass(frozen=True)
class _Runs:
    """What all rungs share while they are built."""

    data: Evidence
    setting_C: Int[np.ndarray, " C"]
    settings: tuple[Setting, ...]
    counts: dict[bool, Float[np.ndarray, "B e"]]
    """How often each example of a part (True: score) is drawn in each replicate."""
    luck: LuckOfRuns


def _normals(seed: int, setting: Setting, examples: int, replicates: int) -> Float[np.ndarray, " B"]:
    """Standard normal draws that belong to this setting and this number of training examples alone."""
    key = [seed, 3, examples, setting.rank, round(setting.alpha * 1e6), round((setting.axis + 20) * 1e6)]
    return np.random.default_rng(key).standard_normal(replicates)


def _usable_runs(data: Evidence, examples: int) -> Int[np.ndarray, " c"]:
    """Runs on ``examples`` training examples that were evaluated on at least half as many held-out examples as the best of them."""
    run_c = np.flatnonzero(data.examples_C == examples)
    evaluated_c = np.sum(~np.isnan(data.loss_CE[run_c][:, ~data.scores_E]), axis=1)
    enough_c = (evaluated_c > 0) & (2 * evaluated_c >= evaluated_c.max(initial=0))
    usable_c: Int[np.ndarray, " c"] = run_c[enough_c]
    return usable_c


def _common(data: Evidence, run_c: Int[np.ndarray, " c"], part: int) -> Int[np.ndarray, " e"]:
    """Examples of a part (0 decide, 1 score) on which every one of the runs was evaluated."""
    return np.flatnonzero(np.all(~np.isnan(data.loss_CE[run_c]), axis=0) & (data.scores_E == part))


def _rung(runs: _Runs, examples: int, run_c: Int[np.ndarray, " c"], noise: SeedNoise) -> Rung | None:
    """One rung from its usable runs, or None where no setting has a finite loss."""
    data, setting_C = runs.data, runs.setting_C
    finite_c = np.all(~np.isinf(data.loss_CE[run_c]), axis=1)
    diverged_U = np.isin(np.arange(len(runs.settings)), setting_C[run_c[~finite_c]])
    run_c = run_c[finite_c & ~diverged_U[setting_C[run_c]]]
    decide_e, score_e = _common(data, run_c, 0), _common(data, run_c, 1)
    if len(run_c) == 0 or len(decide_e) == 0:
        return None
    evaluated = int(np.max(np.sum(~np.isnan(data.loss_CE[run_c][:, data.scores_E]), axis=1), initial=0))
    on_score = len(score_e) > 1 and 2 * len(score_e) >= evaluated
    judge_e = score_e if on_score else decide_e
    replicates = len(next(iter(runs.counts.values())))
    luck = runs.luck.averaged(examples, run_c, noise, replicates)
    spread = partial(_all_settings, luck, len(runs.settings))
    tokens_E = data.tokens_E.astype(float)
    base = _ratio(runs, np.stack([data.base_loss_E, data.frequency_loss_E]), tokens_E, judge_e)
    floor = FLOOR_SHARE * float(base.value_K[0])
    decide = spread(_ratio(runs, luck.mean_uc @ data.loss_CE[run_c], tokens_E, decide_e), floor)
    judge = decide
    if on_score:
        judge = spread(_ratio(runs, luck.mean_uc @ data.loss_CE[run_c], tokens_E, judge_e), floor)
    wrong = None
    if np.all(data.right_CE[np.ix_(run_c, judge_e)] >= 0):
        wrong_cE = data.tokens_E - data.right_CE[run_c]
        inexact = _ratio(runs, luck.plain_uc @ (wrong_cE > 0), np.ones_like(tokens_E), judge_e)
        amiss = _ratio(runs, luck.plain_uc @ wrong_cE, tokens_E, judge_e)
        wrong = _side_by_side([spread(part, FLOOR_SHARE) for part in (inexact, amiss)], 100.0)
    return Rung(examples, decide, judge, on_score, base, judge_e, diverged_U, wrong)


def _ratio(
    runs: _Runs,
    amount_KE: Float[np.ndarray, "K E"],
    size_E: Float[np.ndarray, " E"],
    example_e: Int[np.ndarray, " e"],
) -> Sampled:
    """Ratios over some examples, which lie all on one side of the split, with their resampling errors only."""
    part = bool(runs.data.scores_E[example_e[0]])
    among = np.searchsorted(np.flatnonzero(runs.data.scores_E == part), example_e)
    value_K, deviation_BK = resampled_ratio(
        amount_KE[:, example_e], size_E[example_e], runs.counts[part][:, among]
    )
    return Sampled(value_K, deviation_BK, np.zeros_like(deviation_BK))


def _all_settings(luck: AveragedLuck, settings: int, part: Sampled, floor: float) -> Sampled:
    """A part spread over all U settings, seed noise added in proportion to its value (at least ``floor``)."""
    shape = (len(luck.share_Bu), settings)
    out = Sampled(np.full(settings, np.nan), np.zeros(shape), np.zeros(shape))
    out.value_K[luck.settings_u] = part.value_K
    out.example_BK[:, luck.settings_u] = part.example_BK
    out.seed_BK[:, luck.settings_u] = luck.share_Bu * np.maximum(part.value_K, floor)
    return out


def _side_by_side(parts: list[Sampled], times: float) -> Sampled:
    return Sampled(
        times * np.concatenate([p.value_K for p in parts]),
        times * np.concatenate([p.example_BK for p in parts], axis=1),
        times * np.concatenate([p.seed_BK for p in parts], axis=1),
    )
