"""How far the recorded data sets foretell one another: each in turn is left out and foretold from the others.

    python bench/priors_left_out.py

For settings on a grid of ranks and learning rates that lie within what was recorded of the one left out: how often what it lost lies
inside the others' range (expected for exchangeable sets: (n - 1) / (n + 1)), and what each verdict of `rightrank check` would have meant.
"""

from __future__ import annotations

import math
from collections import defaultdict

from rightrank.estimates.checking import MARGIN, judge
from rightrank.priors import grids
from rightrank.recipe import alpha_for, equivalent_learning_rate

RANKS = (4, 8, 16, 32, 64, 128)
RATES = [10 ** (x / 8) for x in range(-28, -17)]  # 3e-4 to 6e-3, eight a decade
SAME = grids.Likeness(1.0, ())


def main() -> None:
    whole = grids.records()
    inside: dict[str, list[bool]] = {}
    lost: dict[str, list[float]] = defaultdict(list)
    gained: dict[str, list[float]] = defaultdict(list)
    for out in whole.sets:
        kept = grids.Records(whole.model, whole.hidden, tuple(s for s in whole.sets if s is not out))
        grids.records = lambda kept=kept: kept  # type: ignore[assignment]
        grids.best_learning_rate.cache_clear()
        inside[out.name] = []
        for rank in RANKS:
            for rate in RATES:
                truth, price = out.lost(rank, rate), grids.price(rank, rate, SAME)
                if truth is None or price is None or price.sets < len(kept.sets):
                    continue
                inside[out.name].append(price.low <= truth <= price.high)
                found = judge((rank, float(alpha_for(rank)), rate), SAME)
                lost[found.verdict].append(truth)
                if found.better is not None:
                    other = out.lost(found.better[0], equivalent_learning_rate(*found.better))
                    gained[found.verdict].append(math.nan if other is None else truth - other)
    for name, hits in inside.items():
        print(
            f"{name:10} inside the others' range: {sum(hits)} of {len(hits)} ({100 * sum(hits) / len(hits):.0f} %)"
        )
    every = [hit for hits in inside.values() for hit in hits]
    print(f"{'together':10} {100 * sum(every) / len(every):.0f} %, expected 60 % of four exchangeable sets")
    for verdict, values in lost.items():
        known = [value for value in gained[verdict] if not math.isnan(value)]
        better = f"; the other setting was better by {min(known):.1f} to {max(known):.1f} %" if known else ""
        wrong = sum(value <= MARGIN for value in known)
        share = f", by no more than {MARGIN:g} % in {wrong} of {len(known)}" if known else ""
        print(
            f"{verdict}: {len(values)} times; lost {min(values):.1f} to {max(values):.1f} %,"
            f" mean {sum(values) / len(values):.1f}{better}{share}"
        )


if __name__ == "__main__":
    main()
