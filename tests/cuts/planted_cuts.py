"""Held-out results of versions of an adapter whose true losses are known."""

from __future__ import annotations

import numpy as np

from rightrank.stats.cuts import CutEvidence


def planted(
    true_V,
    *,
    base=3.0,
    decide=150,
    score=150,
    noise=0.05,
    seed=0,
    sizes_V=None,
    controls=0,
    wrong_V=None,
):
    """Losses of ``true_V`` nats a token (the last ``controls`` of them controls); rows share their difficulty, not the ``noise``.

    ``wrong_V``: share of tokens that each gets wrong.
    """
    rng = np.random.default_rng(seed)
    versions, rows = len(true_V), decide + score
    tokens_E = rng.integers(4, 12, rows)
    hard_E = rng.normal(0, 0.5, rows)
    loss_VE = (np.array(true_V)[:, None] + hard_E + noise * rng.standard_normal((versions, rows))) * tokens_E
    wrong_V = np.full(versions, 0.3) if wrong_V is None else np.array(wrong_V)
    luck_E = rng.random(rows)
    right_VE = np.where(luck_E < wrong_V[:, None], 0, tokens_E)
    return CutEvidence(
        loss_VE=loss_VE,
        right_VE=right_VE,
        tokens_E=tokens_E,
        scores_E=np.arange(rows) >= decide,
        base_loss_E=(base + hard_E) * tokens_E,
        parameters_V=np.arange(1, versions + 1) * 100 if sizes_V is None else np.array(sizes_V),
        candidate_V=np.arange(versions) < versions - controls,
    )
