"""The versions of an adapter against each other on held-out rows: all on a few, then those that may still be chosen on twice as many, …

Dimensions: V versions, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rightrank.errors import ConfigurationError
from rightrank.stats.cuts import CutEvidence, losing, settled

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


@dataclass(frozen=True)
class Version:
    """One version of the adapter."""

    label: str
    kind: CutKind
    cut: Cut


class Evaluates(Protocol):
    """``bank.cut_evaluation.CutEvaluation``, or what stands in its place in tests."""

    def bare(self, examples: Sequence[TokenizedExample]) -> HeldOut:
        """The base model alone."""

    def cuts(self, cuts: Sequence[Cut], examples: Sequence[TokenizedExample]) -> HeldOut:
        """Every cut on every example."""


def versions_of(updates: Sequence[Update], rank: int) -> tuple[Version, ...]:
    """The whole adapter, whose largest rank is ``rank``; cuts of it to every power of two below; and the controls."""
    from rightrank.bank.cut import Cut, uniform

    whole = tuple(update.directions for update in updates)
    ladder = [2**i for i in range(math.ceil(math.log2(rank)))] if rank > 1 else []
    cuts = [Version(f"r={k}", "cut", Cut(uniform(updates, k))) for k in ladder]
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
) -> CutEvidence:
    """Evaluate the versions on no more rows than it takes.

    What can be neither chosen nor best is dropped after 64, 128, … rows that decide; these end once the smallest that is left is surely
    as good as the others. The rest score on as many other rows, at least 128. The whole adapter is never dropped. The answer holds the
    rows that were used. Raises ConfigurationError where a loss is not finite.
    """
    kept_V = np.array([version.kind == "whole" for version in versions])
    evidence, alive_V = _nothing_yet(versions, updates), np.ones(len(versions), bool)
    ends = _rounds(len(decide))
    for start, end in zip([0, *ends], ends, strict=False):
        evidence = _more(evidence, versions, alive_V, decide[start:end], evaluation, on_text, scores=False)
        alive_V &= ~losing(evidence, alive_V, len(ends)) | kept_V
        if settled(evidence, alive_V, len(ends)):
            break
    rows = max(len(evidence.tokens_E), LEAST_SCORED)
    return _more(evidence, versions, alive_V, score[:rows], evaluation, on_text, scores=True)


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
    evidence: CutEvidence,
    versions: Sequence[Version],
    alive_V: Bool[np.ndarray, " V"],
    examples: Sequence[TokenizedExample],
    evaluation: Evaluates,
    on_text: Callable[[str], None],
    *,
    scores: bool,
) -> CutEvidence:
    """``evidence`` and, of the base and the versions that are ``alive``, their losses on ``examples``."""
    living, rows = np.flatnonzero(alive_V), len(examples)
    on_text(f"{len(living)} versions of the adapter on {rows:,} rows that {'score' if scores else 'decide'}.")
    base = evaluation.bare(examples)
    found = evaluation.cuts([versions[int(v)].cut for v in living], examples)
    if not np.isfinite(found.loss_KE).all():
        raise ConfigurationError(
            "With this adapter the model gives no finite loss on your rows.", "Train it again."
        )
    loss_VE = np.full((len(versions), rows), np.nan)
    right_VE = np.full((len(versions), rows), -1, dtype=np.int64)
    loss_VE[living], right_VE[living] = found.loss_KE, found.right_KE
    tokens_E = np.array([example.trained_tokens for example in examples])
    return replace(
        evidence,
        loss_VE=np.concatenate([evidence.loss_VE, loss_VE], axis=1),
        right_VE=np.concatenate([evidence.right_VE, right_VE], axis=1),
        tokens_E=np.concatenate([evidence.tokens_E, tokens_E]),
        scores_E=np.concatenate([evidence.scores_E, np.full(rows, scores)]),
        base_loss_E=np.concatenate([evidence.base_loss_E, base.loss_KE[0]]),
    )


def _rounds(rows: int) -> list[int]:
    """Where each round among ``rows`` ends: doubling, the last at the end."""
    ends = [min(FIRST_ROWS, rows)]
    while ends[-1] < rows:
        ends.append(min(2 * ends[-1], rows))
    return ends
