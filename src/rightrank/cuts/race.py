"""The versions of an adapter against each other on held-out rows: all on a few, then those that may still be chosen on twice as many, …

Where the whole update does better shrunk, that and the cuts shrunk by the same factor join them. The factor is chosen on rows that decide.

Dimensions: V versions, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rightrank.errors import ConfigurationError
from rightrank.stats.cuts import CutEvidence, losing, needless, settled
from rightrank.stats.paired import paired_contrast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Bool

    from rightrank.bank.cut import Cut, Update
    from rightrank.bank.evaluate import HeldOut
    from rightrank.cuts.result import CutKind
    from rightrank.data import TokenizedExample

# Rows of the first round. Assumed: twice what an interval needs to be trusted.
FIRST_ROWS = 64
LEAST_SCORED = 128
"""Rows that score at least, where there are as many. Assumed."""
FACTORS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""By which the controls shrink the whole update. A cut shrinks it too; this tells whether that alone was what helped."""
PROMISING_SE = 1.0
"""Standard errors by which a control must beat the whole adapter on the first rows for shrunk versions to be tried. Assumed: a factor
that helps is missed once in six, and others only cost time, since what is offered must win on other rows."""


@dataclass(frozen=True)
class Version:
    """One version of the adapter."""

    label: str
    kind: CutKind
    cut: Cut


@dataclass(frozen=True)
class Raced:
    """The versions that took part, by size, and what was measured of them."""

    versions: tuple[Version, ...]
    evidence: CutEvidence


class Evaluates(Protocol):
    """``bank.cut_evaluation.CutEvaluation``, or what stands in its place in tests."""

    def bare(self, examples: Sequence[TokenizedExample]) -> HeldOut:
        """The base model alone."""

    def cuts(self, cuts: Sequence[Cut], examples: Sequence[TokenizedExample]) -> HeldOut:
        """Every cut on every example."""


def versions_of(updates: Sequence[Update], rank: int, *, by_layer: bool = False) -> tuple[Version, ...]:
    """The whole adapter, whose largest rank is ``rank``; cuts of it to every power of two below; and the controls.

    ``by_layer``: cuts of no more numbers each, with ranks of their own for the layers.
    """
    from rightrank.bank.cut import Cut, by_size, uniform

    whole = tuple(update.directions for update in updates)
    ladder = [2**i for i in range(math.ceil(math.log2(rank)))] if rank > 1 else []
    cuts = [Version(f"r={k}", "cut", Cut(uniform(updates, k))) for k in ladder]
    if by_layer:
        targets = [update.target for update in updates]
        cuts = [
            Version(f"{one.label} by layer", "cut", Cut(by_size(updates, one.cut.parameters(targets))))
            for one in cuts
        ]
    scaled = [Version(f"whole × {c:g}", "scaled", Cut(whole, c)) for c in FACTORS]
    return (*cuts, Version(f"r={rank}", "whole", Cut(whole)), *scaled)


def race(
    versions: Sequence[Version],
    updates: Sequence[Update],
    decide: Sequence[TokenizedExample],
    score: Sequence[TokenizedExample],
    evaluation: Evaluates,
    *,
    on_text: Callable[[str], None] = lambda line: None,
) -> Raced:
    """Evaluate the versions on no more rows than it takes.

    What can be neither chosen nor best is dropped after 64, 128, … rows that decide, and what is larger than one that is surely as good
    as all; of the controls the best one goes on. These rounds end once the smallest that is left is surely as good as the others. The
    rest score on as many other rows, at least 128. The whole adapter is never dropped. The answer holds the rows that were used. Raises
    ConfigurationError where a loss is not finite.
    """
    raced, alive_V = Raced(tuple(versions), _nothing_yet(versions, updates)), np.ones(len(versions), bool)
    ends = _rounds(len(decide))
    for start, end in zip([0, *ends], ends, strict=False):
        raced = _more(raced, alive_V, decide[start:end], evaluation, on_text, scores=False)
        alive_V = _alive(raced, alive_V, len(ends))
        if start == 0 and (factor := promising_factor(raced)) is not None:
            raced, alive_V = _shrunk_too(raced, alive_V, updates, factor, decide[:end], evaluation, on_text)
            alive_V = _alive(raced, alive_V, len(ends))
        elif start == 0:
            alive_V &= ~_lesser_controls(raced)
        if settled(raced.evidence, alive_V, len(ends)):
            break
    rows = max(len(raced.evidence.tokens_E), LEAST_SCORED)
    return _more(raced, alive_V, score[:rows], evaluation, on_text, scores=True)


def evaluations(versions: int, decide: int, score: int) -> tuple[int, int]:
    """Least and most times that a row goes through the model, bare or with a version, in ``race``.

    Least: all versions on the first rows and two on those that score at least; most: all on all rows.
    """
    first, scored = min(FIRST_ROWS, decide), min(LEAST_SCORED, score)
    return (versions + 1) * first + 3 * scored, (versions + 1) * (decide + score)


def _alive(raced: Raced, alive_V: Bool[np.ndarray, " V"], looks: int) -> Bool[np.ndarray, " V"]:
    whole_V = np.array([version.kind == "whole" for version in raced.versions])
    left_V: Bool[np.ndarray, " V"] = alive_V & (~losing(raced.evidence, alive_V, looks) | whole_V)
    left_V &= ~needless(raced.evidence, left_V, looks) | whole_V
    return left_V


def _lesser_controls(raced: Raced) -> Bool[np.ndarray, " V"]:
    """All but the best of them: where none helps, one is enough to say so."""
    controls = [v for v, version in enumerate(raced.versions) if version.kind == "scaled"]
    found_V = np.zeros(len(raced.versions), bool)
    found_V[controls] = True
    if controls:
        found_V[min(controls, key=lambda v: float(raced.evidence.loss_VE[v].sum()))] = False
    return found_V


def promising_factor(raced: Raced) -> float | None:
    """The factor whose control has the lowest loss, where that is below the whole adapter's by ``PROMISING_SE``; else None."""
    loss_VE, tokens_E = raced.evidence.loss_VE, raced.evidence.tokens_E
    whole = next(v for v, version in enumerate(raced.versions) if version.kind == "whole")
    controls = [v for v, version in enumerate(raced.versions) if version.kind == "scaled"]
    if not controls:
        return None
    best = min(controls, key=lambda v: float(loss_VE[v].sum()))
    apart = paired_contrast(loss_VE[best], loss_VE[whole], tokens_E)
    helps = apart.difference + PROMISING_SE * apart.standard_error < 0
    return raced.versions[best].cut.factor if helps else None


def _shrunk_too(
    raced: Raced,
    alive_V: Bool[np.ndarray, " V"],
    updates: Sequence[Update],
    factor: float,
    examples: Sequence[TokenizedExample],
    evaluation: Evaluates,
    on_text: Callable[[str], None],
) -> tuple[Raced, Bool[np.ndarray, " V"]]:
    """``raced`` with the living cuts shrunk by ``factor`` beside them, evaluated on ``examples``, the rows so far.

    The control of that factor may be chosen from now on; the others are left out. A cut that is hopeless has no shrunk version:
    shrinking is assumed to gain it no more than it gains the whole adapter (so it was on nl2bash).
    """
    left = [
        v
        for v, version in enumerate(raced.versions)
        if version.kind != "scaled" or version.cut.factor == factor
    ]
    cuts = [v for v in left if alive_V[v] and raced.versions[v].kind == "cut"]
    new = [
        Version(
            f"{raced.versions[v].label} × {factor:g}", "cut", replace(raced.versions[v].cut, factor=factor)
        )
        for v in cuts
    ]
    versions = [*(raced.versions[v] for v in left), *new]
    more = _nothing_yet(versions, updates)
    rows = len(examples)
    found = _evaluated(new, examples, evaluation, on_text, "shrunk cuts", "decide") if new else None
    loss_VE, right_VE = raced.evidence.loss_VE[left], raced.evidence.right_VE[left]
    if found is not None:
        loss_VE = np.concatenate([loss_VE, found.loss_KE.reshape(len(new), rows)])
        right_VE = np.concatenate([right_VE, found.right_KE.reshape(len(new), rows)])
    evidence = replace(
        raced.evidence,
        loss_VE=loss_VE,
        right_VE=right_VE,
        parameters_V=more.parameters_V,
        candidate_V=np.ones(len(versions), bool),
    )
    living = np.array([*(alive_V[v] or raced.versions[v].kind == "scaled" for v in left), *[True] * len(new)])
    return _by_size(Raced(tuple(versions), evidence), living)


def _by_size(raced: Raced, alive_V: Bool[np.ndarray, " V"]) -> tuple[Raced, Bool[np.ndarray, " V"]]:
    """The same, by size; of one size what is not shrunk first, since of what is as good the first is chosen."""
    evidence = raced.evidence
    order = sorted(
        range(len(raced.versions)),
        key=lambda v: (int(evidence.parameters_V[v]), -raced.versions[v].cut.factor),
    )
    per_version = ("loss_VE", "right_VE", "parameters_V", "candidate_V")
    evidence = replace(evidence, **{name: getattr(evidence, name)[order] for name in per_version})
    return Raced(tuple(raced.versions[v] for v in order), evidence), alive_V[order]


def _nothing_yet(versions: Sequence[Version], updates: Sequence[Update]) -> CutEvidence:
    targets = [update.target for update in updates]
    return CutEvidence(
        loss_VE=np.zeros((len(versions), 0)),
        right_VE=np.zeros((len(versions), 0), dtype=np.int64),
        tokens_E=np.zeros(0, dtype=np.int64),
        scores_E=np.zeros(0, dtype=bool),
        base_loss_E=np.zeros(0),
        parameters_V=np.array([version.cut.parameters(targets) for version in versions]),
        candidate_V=np.array([version.kind != "scaled" for version in versions]),
    )


def _more(
    raced: Raced,
    alive_V: Bool[np.ndarray, " V"],
    examples: Sequence[TokenizedExample],
    evaluation: Evaluates,
    on_text: Callable[[str], None],
    *,
    scores: bool,
) -> Raced:
    """``raced`` and, of the base and the versions that are ``alive``, their losses on ``examples``."""
    evidence, versions = raced.evidence, raced.versions
    living, rows = np.flatnonzero(alive_V), len(examples)
    role = "score" if scores else "decide"
    found = _evaluated(
        [versions[int(v)] for v in living], examples, evaluation, on_text, "versions of the adapter", role
    )
    base = evaluation.bare(examples)
    loss_VE = np.full((len(versions), rows), np.nan)
    right_VE = np.full((len(versions), rows), -1, dtype=np.int64)
    loss_VE[living], right_VE[living] = found.loss_KE, found.right_KE
    tokens_E = np.array([example.trained_tokens for example in examples])
    more = replace(
        evidence,
        loss_VE=np.concatenate([evidence.loss_VE, loss_VE], axis=1),
        right_VE=np.concatenate([evidence.right_VE, right_VE], axis=1),
        tokens_E=np.concatenate([evidence.tokens_E, tokens_E]),
        scores_E=np.concatenate([evidence.scores_E, np.full(rows, scores)]),
        base_loss_E=np.concatenate([evidence.base_loss_E, base.loss_KE[0]]),
    )
    return Raced(versions, more)


def _evaluated(
    versions: Sequence[Version],
    examples: Sequence[TokenizedExample],
    evaluation: Evaluates,
    on_text: Callable[[str], None],
    what: str,
    role: str,
) -> HeldOut:
    on_text(f"{len(versions)} {what} on {len(examples):,} rows that {role}.")
    found = evaluation.cuts([version.cut for version in versions], examples)
    if not np.isfinite(found.loss_KE).all():
        raise ConfigurationError(
            "With this adapter the model gives no finite loss on your rows.", "Train it again."
        )
    return found


def _rounds(rows: int) -> list[int]:
    """Where each round among ``rows`` ends: doubling, the last at the end. A small rest belongs to the round before it."""
    ends = [min(FIRST_ROWS, rows)]
    while ends[-1] < rows:
        end = 2 * ends[-1]
        ends.append(rows if rows < 1.5 * end else end)
    return ends
