"""How good the answers are, on recorded surfaces: what the product's own choice loses, against what else people do.

    python -m bench.scoreboard [--json] [--folder bench/surfaces] [--resampled 208] [--resampled-at 1]
    python -m bench.scoreboard --invented 16

Offline. Per data set and recipe, at budgets of half a run to 26: a probe is replayed (``bench/replay.py``) on rows that decide and half
of those that score; the truth is what the surface says of every setting on all the data. What other data sets say of the valley leaves
the one out that is probed. The best point is chosen by the deciding rows alone and judged by all rows that score; what was certified with
scoring rows is judged by the other half of them. Surfaces of the lockbox are scored apart and never tuned on. ``--invented``: on surfaces
drawn from what the recorded ones have in common instead, whose truth is a formula: whether an idea works at all where it should.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.fit_valley import left_out
from bench.invented import invent
from bench.scores import Score, against, score_probe, score_rivals, summary
from bench.tables import FOLDER, Surface, surfaces
from bench.truth import Truth

if TYPE_CHECKING:
    from rightrank.stats.valley import Prior

BUDGETS = (0.5, 1.0, 2.0, 4.0, 8.0, 26.0)
"""In runs. The last pays for the grid on all the data, which a GPU trains in a quarter of one run's time (``bench/speed.py``)."""
ONE_RUN = 1.0
WORKERS = 2


_kept: dict[str, list[Surface]] = {}


def _surfaces(folder: str) -> list[Surface]:
    if folder not in _kept:
        _kept[folder] = surfaces(Path(folder))
    return _kept[folder]


@cache
def _prior_without(folder: str, name: str) -> Prior:
    return left_out(Path(folder), name)


def _probe(folder: str, index: int, budget: float, resample: int | None, recorded: bool) -> Score | None:
    surface = _surfaces(folder)[index]
    # What was invented was drawn from the prior that ships.
    prior = _prior_without(folder, surface.name) if recorded else None
    return score_probe(surface, budget, resample, prior)


def _rivals(folder: str, index: int, budget: float) -> list[Score]:
    surface = _surfaces(folder)[index]
    others = [truth for truth in _truths(folder) if truth.surface.name != surface.name]
    return score_rivals(surface, budget, others)


@cache
def _truths(folder: str) -> list[Truth]:
    """Of all surfaces outside the lockbox."""
    return [Truth(s, np.flatnonzero(s.sides()[1])) for s in _surfaces(folder) if not s.lockbox]


@dataclass(frozen=True)
class Board:
    """All scores."""

    probes: list[Score]
    rivals: list[Score]
    resampled: list[Score]

    def part(self, *, lockbox: bool) -> dict[str, Any]:
        """One side of the lockbox, at one run's budget, the other budgets beside it."""
        probes = [s for s in self.probes if s.lockbox == lockbox]
        others = [s for s in self.rivals if s.lockbox == lockbox]
        again = [s for s in self.resampled if s.lockbox == lockbox]
        ours = [s for s in probes if s.budget == ONE_RUN]
        found = summary(ours)
        found["frontier"] = {f"{b:g}": summary(s for s in probes if s.budget == b) for b in BUDGETS}
        found["resampled"] = summary(again)
        names = list(dict.fromkeys(s.who for s in others))
        found["baselines"] = {
            name: {f"{b:g}": summary(s for s in others if s.who == name and s.budget == b) for b in BUDGETS}
            | {
                "less_lost_by_us_pct": against(
                    ours, [s for s in others if s.who == name and s.budget == ONE_RUN]
                )
            }
            for name in names
        }
        return found


def make_board(
    folder: Path, resampled: int, *, resampled_at: float = ONE_RUN, recorded: bool = True
) -> Board:
    """Everything, on two processes."""
    kept = surfaces(folder)
    place_ = str(folder)
    again = [
        (place_, i % len(kept), resampled_at, 1 + i // len(kept), recorded)
        for i in range(resampled if kept else 0)
    ]
    with ProcessPoolExecutor(WORKERS) as pool:
        probes = [
            pool.submit(_probe, place_, i, b, None, recorded) for i in range(len(kept)) for b in BUDGETS
        ]
        others = [pool.submit(_rivals, place_, i, b) for i in range(len(kept)) for b in BUDGETS]
        resamples = [pool.submit(_probe, *one) for one in again]
        return Board(
            [s for f in probes if (s := f.result()) is not None],
            [s for f in others for s in f.result()],
            [s for f in resamples if (s := f.result()) is not None],
        )


def lines(board: Board) -> list[str]:
    """The board in words."""
    found = []
    for lockbox in (False, True):
        found.append(
            f"{'Lockbox' if lockbox else 'Data sets'}: gain lost by the best point, percent (mean, worst); cost in runs"
        )
        for who in dict.fromkeys(s.who for s in (*board.probes, *board.rivals)):
            cells = []
            for budget in BUDGETS:
                here = summary(
                    s
                    for s in (*board.probes, *board.rivals)
                    if s.who == who and s.budget == budget and s.lockbox == lockbox
                )
                lost = here.get("best_point_regret_pct")
                cells.append(
                    f"{lost['mean']:6.2f} {lost['worst']:6.2f} {here['mean_cost_runs']:5.2f}"
                    if lost
                    else " " * 19
                )
            found.append(f"  {who:44} " + " |".join(cells))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--resampled", type=int, default=208)
    parser.add_argument("--resampled-at", type=float, default=ONE_RUN, help="budget of those, in runs")
    parser.add_argument("--invented", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="with --json, every single score too")
    chosen = parser.parse_args()
    if not chosen.invented and not any(chosen.folder.glob("*.npz")):
        parser.error(
            f"{chosen.folder} holds no surfaces: record them with python -m bench.record, or use --invented 16."
        )
    with TemporaryDirectory() as made:
        if chosen.invented:
            invent(Path(made), chosen.invented)
        place_ = Path(made) if chosen.invented else chosen.folder
        board = make_board(
            place_, chosen.resampled, resampled_at=chosen.resampled_at, recorded=not chosen.invented
        )
    if not chosen.json:
        print("\n".join(lines(board)))
        return
    found = {**board.part(lockbox=False), "lockbox": board.part(lockbox=True)}
    if chosen.each:
        found["scores"] = [asdict(s) for s in (*board.probes, *board.rivals, *board.resampled)]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
