"""The numbers that `rightrank estimate` and `rightrank check` know without a measurement, from the raw tables of recorded runs.

    python bench/make_priors.py TABLES > src/rightrank/priors/recorded.json

TABLES is a folder of NAME.json as described in its README: ``runs`` with ``kind`` ``full``, ``ranks``, ``lrs``, ``hist``, ``ex`` (held-out
loss sums [K][E]) and ``ntok`` [E]. A later benchmark with more models replaces the file by writing the same fields.

Dimensions: R ranks, L learning rates, K = R × L settings, E held-out examples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Held-out loss of the base model, in nats a token, as the tables' README gives it.
BASE_LOSS = {"nl2bash": 3.331, "klingon": 8.699, "banking77": 5.276, "medquad": 2.418, "gsm8k": 1.370}
# Settings within this many percent of the gain of the best count as its rivals.
RIVALS = 5.0
HEAD = {
    "about": "Held-out loss over rank and learning rate; gain lost is the percentage of (base loss - best loss) that a setting gives"
    " away against the best of its data set's grid, in hindsight on the same held-out examples. One seed.",
    "source": "bench/make_priors.py on the project's recorded grids: one H100, bfloat16 base, all linear layers, AdamW (0.9, 0.99),"
    " 5 % warm-up, linear decay, loss on the completion.",
    "model": "SmolLM2-135M-Instruct",
    "hidden": 576,
    "batch_size": 16,
    "epochs": 3,
    "scale": "8 / sqrt(rank)",
}


def summary(name: str, table: dict[str, Any]) -> dict[str, Any]:
    run = next(run for run in table["runs"] if run["kind"] == "full")
    ranks, rates = sorted(set(run["ranks"])), sorted(set(run["lrs"]))
    ex_KE, tokens_E = np.array(run["ex"]), np.array(run["ntok"])
    loss_K = ex_KE.sum(1) / tokens_E.sum()
    best = int(np.argmin(loss_K))
    gain = BASE_LOSS[name] - loss_K[best]
    lost_K = 100 * (loss_K - loss_K[best]) / gain
    at = {(r, x): k for k, (r, x) in enumerate(zip(run["ranks"], run["lrs"], strict=True))}
    excess_KE = ex_KE - ex_KE[best]
    excess_KE = excess_KE - excess_KE.sum(1, keepdims=True) / tokens_E.sum() * tokens_E
    error_K = 100 * np.sqrt((excess_KE**2).sum(1)) / tokens_E.sum() / gain
    rivals = [k for k in range(len(loss_K)) if k != best and lost_K[k] <= RIVALS]
    return {
        "name": name,
        "examples": run["n"],
        "steps": run["steps"],
        "trained_tokens_a_row": round(float(tokens_E.mean()), 1),
        "base_loss": BASE_LOSS[name],
        "best_loss": round(float(loss_K[best]), 4),
        "held_out": len(tokens_E),
        "paired_error_percent": round(float(np.median(error_K[rivals])), 3),
        "ranks": ranks,
        "learning_rates": rates,
        "lost_percent_RL": [[round(float(lost_K[at[r, x]]), 2) for x in rates] for r in ranks],
    }


def main() -> None:
    folder = Path(sys.argv[1])
    sets = [summary(name, json.loads((folder / f"{name}.json").read_text())) for name in BASE_LOSS]
    head = json.dumps(HEAD, indent=1).removesuffix("\n}")
    rows = ",\n".join("  " + json.dumps(one) for one in sets)
    print(f'{head},\n "sets": [\n{rows}\n ]\n}}')


if __name__ == "__main__":
    main()
