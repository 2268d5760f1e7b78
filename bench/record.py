"""Loss surfaces of eight data sets, recorded with the project's own engine: what estimators are scored on.

    python bench/record.py MODEL DATA_DIR --out DIR [--sets nl2bash,klingon,…] [--epochs 3,1] [--minutes 9]

Resumable: what is recorded under DIR is not trained again. The design, stated beforehand, for every set and recipe:

* Sizes n, n/2, n/4, n/8, n/16 of the training rows (n: all, up to 3,200, long texts 1,600), those of under 50 optimiser steps left out;
  of mbpp and legalbench_mix, the small sets, n and n/2 alone.
* Ranks 1 to 256 at n and n/4; 2, 8, 32 and 128 at the other sizes.
* Learning rates 3e-4, 1e-3 and 3e-3; then, at every rank whose best so far is the lowest or the highest tried, one half-decade more, until
  the best lies inside or 1e-4 or 3e-2 is reached.
* Seeds 1 and 2 at six points drawn from those within 3 % of the best's gain, at n and n/8: the noise floor.

Three disjoint sets of rows: those trained on, up to 500 that decide, up to 1,000 that score.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rightrank.executors.worker import Worker
    from rightrank.probe.loss_table import LossTable
    from rightrank.recipe import Recipe

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FIRST_RATES = RATES[1:4]
RANKS, FEW_RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (2, 8, 32, 128)
FEWEST_STEPS = 50
NEAR_PERCENT, NEAR_POINTS, SEEDS = 3.0, 6, (1, 2)
DECIDE, SCORE = 500, 1000
TOGETHER = 32


class Point(NamedTuple):
    """A rank and a learning rate."""

    rank: int
    rate: float


@dataclass(frozen=True)
class DataSet:
    """A file of rows, the file of its official test split where it has one, and the largest size."""

    name: str
    rows: str
    test: str | None
    most: int
    small: bool = False
    """Recorded at n and n/2 alone."""

    def sizes(self, rows: int, recipe: Recipe) -> list[int]:
        """Training rows of every rung, largest first."""
        whole = min(rows, self.most)
        sizes = [whole // share for share in ((1, 2) if self.small else (1, 4, 2, 8, 16))]
        return [size for size in sizes if recipe.steps(size) >= FEWEST_STEPS]


SETS = {
    one.name: one
    for one in (
        DataSet("nl2bash", "nl2bash.jsonl.gz", None, 3200),
        DataSet("klingon", "klingon.jsonl.gz", None, 3200),
        DataSet("banking77", "banking77.train.jsonl.gz", "banking77.test.jsonl.gz", 3200),
        DataSet("gsm8k", "gsm8k.train.jsonl.gz", "gsm8k.test.jsonl.gz", 1600),
        DataSet("medquad", "medquad.jsonl.gz", None, 1600),
        DataSet("mbpp", "mbpp.train.jsonl.gz", "mbpp.test.jsonl.gz", 1600, small=True),
        DataSet("legalbench_mix", "legalbench_mix.jsonl.gz", None, 1600, small=True),
        DataSet("scitldr", "scitldr.train.jsonl.gz", "scitldr.test.jsonl.gz", 1600),
    )
}


def ranks_at(size: int, whole: int) -> tuple[int, ...]:
    """Ranks that are recorded at ``size`` of ``whole`` training rows."""
    return RANKS if size in (whole, whole // 4) else FEW_RANKS


def next_points(level: Mapping[Point, float], ranks: Sequence[int]) -> list[Point]:
    """What is trained next, knowing the loss of some points: empty where the best lies inside at every rank."""
    wanted = []
    for rank in ranks:
        known = {point.rate: loss for point, loss in level.items() if point.rank == rank}
        if not known:
            wanted += [Point(rank, rate) for rate in FIRST_RATES]
            continue
        places = sorted(RATES.index(rate) for rate in known)
        best = RATES.index(min(known, key=lambda rate: known[rate]))
        if best == places[0] and best > 0:
            wanted.append(Point(rank, RATES[best - 1]))
        elif best == places[-1] and best < len(RATES) - 1:
            wanted.append(Point(rank, RATES[best + 1]))
    return wanted


def near_best(level: Mapping[Point, float], base: float, seed: int) -> list[Point]:
    """Six points drawn from those that lose at most ``NEAR_PERCENT`` of the best's gain over ``base``; fewer where there are fewer."""
    best = min(level.values())
    near = sorted(p for p, loss in level.items() if loss - best <= NEAR_PERCENT / 100 * (base - best))
    return sorted(random.Random(seed).sample(near, min(NEAR_POINTS, len(near))))


class Recorder:
    """Trains what the design asks for, until time is up."""

    def __init__(self, worker: Worker, table: LossTable, until: float) -> None:
        self.worker, self.table, self.until = worker, table, until
        executor = worker.executor
        self._tokens = np.array([example.trained_tokens for example in executor.decide])

    def levels(self, size: int) -> dict[Point, float]:
        """Nats a token on the rows that decide, of the points of seed 0 at ``size``."""
        found = {}
        for pack, result in zip(self.table.packs, self.table.results, strict=True):
            if pack.examples != size:
                continue
            loss_K = result.loss_KE[:, : len(self._tokens)].sum(1) / self._tokens.sum()
            for configuration, loss in zip(pack.configurations, loss_K, strict=True):
                if configuration.seed == 0:
                    found[Point(configuration.rank, configuration.learning_rate)] = float(loss)
        return found

    def base(self) -> float:
        """Nats a token of the untrained model on the same rows."""
        assert self.table.base is not None
        return float(self.table.base.loss_KE[0, : len(self._tokens)].sum() / self._tokens.sum())

    def rung(self, size: int, ranks: Sequence[int]) -> bool:
        """All points of a size. False where time did not suffice."""
        while points := next_points(self.levels(size), ranks):
            if not self.train(points, size, seed=0):
                return False
        return True

    def seeds(self, size: int) -> bool:
        """The noise floor at a size."""
        points = near_best(self.levels(size), self.base(), seed=size)
        return all(self.train(points, size, seed=seed) for seed in SEEDS)

    def train(self, points: Iterable[Point], size: int, *, seed: int) -> bool:
        """Train ``points`` that are not recorded yet. False where time did not suffice."""
        from rightrank.probe.ladder import configuration
        from rightrank.probe.loss_table import Pack

        done = set(self.table.configurations(size))
        wanted = [configuration(point.rank, point.rate, "rank", seed) for point in points]
        left = [c for c in wanted if c not in done]
        for start in range(0, len(left), TOGETHER):
            for group in self.worker.executor.fit_together(left[start : start + TOGETHER]):
                if time.monotonic() > self.until:
                    return False
                pack = Pack(self.table.next_number, size, tuple(group), with_score=True)
                self.table.begin(pack)
                result, notes, _ = self.worker.train(pack, None, lambda share: None)
                self.table.finish(pack, result)
                words = f"{len(group)} × {size} rows, seed {seed}: {result.seconds:.0f} s"
                print("  ", words, *notes, flush=True)
        return True


def record(
    worker: Worker, tokenizer: object, data_set: DataSet, folder: Path, out: Path, epochs: float, until: float
) -> bool:
    """One data set under one recipe. False where time did not suffice."""
    from rightrank.data import prepare
    from rightrank.probe.loss_table import LossTable
    from rightrank.recipe import Recipe

    recipe = Recipe().given(epochs=epochs)
    test = None if data_set.test is None else str(folder / data_set.test)
    data = prepare(str(folder / data_set.rows), tokenizer, recipe, eval_data=test, seed=0)
    sizes = data_set.sizes(len(data.train), recipe)
    train = data.train[: sizes[0]]
    survey = worker.survey(train, train[:3], recipe, "base")
    worker.judge_by(data.decide[:DECIDE], data.score[:SCORE])
    about = {"device": worker.facts.device_words, "path": survey.path.words, "epochs": epochs}
    settings = {
        "model": worker.facts.fingerprint,
        "data": data.fingerprint,
        "epochs": epochs,
        "what": "surface",
    }
    place = out / data_set.name / f"{epochs:g}"
    table = LossTable(place, settings, about)
    if table.base is None:
        table.set_base(worker.evaluate_base())
    held_out = {
        "tokens": [example.trained_tokens for example in (*data.decide[:DECIDE], *data.score[:SCORE])],
        "decide": len(data.decide[:DECIDE]),
        "train": len(train),
        "train_tokens": sum(len(example.token_ids_T) for example in train),
    }
    (place / "held_out.json").write_text(json.dumps(held_out))
    print(f"{data_set.name}, {epochs:g} epochs, sizes {sizes}: {about['path']}", flush=True)
    recorder = Recorder(worker, table, until)
    rungs = all(recorder.rung(size, ranks_at(size, sizes[0])) for size in sizes)
    return rungs and all(recorder.seeds(size) for size in (sizes[0], sizes[0] // 8) if size in sizes)


def main() -> None:
    from rightrank.bank.base_model import load_base
    from rightrank.executors.worker import Worker

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--epochs", default="3,1")
    parser.add_argument("--minutes", type=float, default=9.0)
    chosen = parser.parse_args()
    until = time.monotonic() + 60 * chosen.minutes
    base = load_base(chosen.model)
    for epochs in map(float, chosen.epochs.split(",")):
        for name in chosen.sets.split(","):
            worker = Worker(base)
            if not record(worker, base.tokenizer, SETS[name], chosen.data, chosen.out, epochs, until):
                print("out of time; run again to go on", flush=True)
                return
    print("complete", flush=True)


if __name__ == "__main__":
    main()
