"""Loss surfaces of eight data sets, recorded with the project's own engine: what estimators are scored on.

    python -m bench.record MODEL DATA_DIR --out DIR [--sets nl2bash,klingon,…] [--epochs 3,1] [--minutes 9]
    python -m bench.record MODEL DATA_DIR --price
    python -m bench.tables DIR bench/surfaces

Which runs: ``bench/design.py``. Resumable: what is recorded under DIR, or lies in bench/surfaces, is not trained again. On several GPUs
run one process a GPU, each with ``--device`` and ``--sets`` of its own. ``--price`` says what the design costs and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.design import (
    DECIDE,
    EPOCHS,
    SCALE_SETS,
    SCORE,
    SEEDS,
    SETS,
    DataSet,
    Point,
    between,
    guides,
    near_best,
    next_points,
    other_scales,
    ranks_at,
    runs_foreseen,
)
from bench.tables import FOLDER, load, restore
from rightrank.probe.loss_table import LossTable, Pack
from rightrank.probe.settings import configuration
from rightrank.recipe import Recipe, alpha_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.tables import Surface
    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.executors.worker import Worker
    from rightrank.probe.pack import Configuration

TOGETHER = 32


class Recorder:
    """Trains what the design asks for, until time is up."""

    def __init__(self, worker: Worker, table: LossTable, until: float) -> None:
        self.worker, self.table, self.until = worker, table, until
        self._tokens = np.array([example.trained_tokens for example in worker.executor.decide])

    def level(self, size: int) -> dict[Point, float]:
        """Nats a token on the rows that decide, of the points of seed 0 at ``size`` under our own alpha."""
        found = {}
        for pack, result in zip(self.table.packs, self.table.results, strict=True):
            if pack.examples != size:
                continue
            loss_K = result.loss_KE[:, : len(self._tokens)].sum(1) / self._tokens.sum()
            for c, loss in zip(pack.configurations, loss_K, strict=True):
                if c.seed == 0 and c.role == "rank" and c.alpha == alpha_for(c.rank):
                    found[Point(c.rank, c.learning_rate)] = float(loss)
        return found

    def base(self) -> float:
        """Nats a token of the untrained model on the same rows."""
        assert self.table.base is not None
        return float(self.table.base.loss_KE[0, : len(self._tokens)].sum() / self._tokens.sum())

    def size(self, size: int, whole: int) -> bool:
        """All runs of a size but other seeds. False where time did not suffice."""
        while points := next_points(self.level(size), ranks_at(size, whole)):
            if not self.train([configuration(*point, "rank") for point in points], size):
                return False
        if size != whole:
            return True
        finer = [configuration(*point, "rank") for point in between(self.level(size))]
        return self.train([*guides(), *finer], size)

    def seeds(self, size: int) -> bool:
        """The noise floor at a size."""
        points = near_best(self.level(size), self.base(), seed=size)
        return all(
            self.train([configuration(*point, "rank", seed) for point in points], size) for seed in SEEDS
        )

    def train(self, wanted: Sequence[Configuration], size: int) -> bool:
        """Train what is not recorded yet. False where time did not suffice."""
        done = set(self.table.configurations(size))
        left = [c for c in wanted if c not in done]
        for start in range(0, len(left), TOGETHER):
            for group in self.worker.executor.fit_together(left[start : start + TOGETHER]):
                if time.monotonic() > self.until:
                    return False
                pack = Pack(self.table.next_number, size, tuple(group), with_score=True)
                self.table.begin(pack)
                result, notes, _ = self.worker.train(pack, None, lambda share: None)
                self.table.finish(pack, result)
                words = f"{len(group)} × {size} rows, seed {group[0].seed}: {result.seconds:.0f} s"
                print("  ", words, *notes, flush=True)
        return True


def sides(data: PreparedData) -> tuple[list[TokenizedExample], list[TokenizedExample]]:
    """The rows that decide and those that score; what neither side needs goes to those that score."""
    return list(data.decide[:DECIDE]), [*data.score, *data.decide[DECIDE:]][:SCORE]


def record(
    worker: Worker, tokenizer: object, data_set: DataSet, folder: Path, out: Path, epochs: float, until: float
) -> bool:
    """One data set under one recipe. False where time did not suffice."""
    recipe, data = prepared(tokenizer, data_set, folder, epochs)
    sizes = data_set.sizes(len(data.train), recipe)
    if not sizes:
        print(f"{data_set.name}, {epochs:g} epochs: too few steps", flush=True)
        return True
    train, (decide, score) = data.train[: sizes[0]], sides(data)
    survey = worker.survey(train, train[:3], recipe, "base")
    worker.judge_by(decide, score)
    place = out / data_set.name / f"{epochs:g}"
    settings = {
        "model": worker.facts.fingerprint,
        "data": data.fingerprint,
        "epochs": epochs,
        "what": "surface",
    }
    path = FOLDER / f"{data_set.name}-{epochs:g}.npz"
    kept = load(path) if path.exists() else None
    about = _about(worker, survey.path.words, epochs)
    if kept is not None:
        about["gone_on_from"] = kept.about
    table = LossTable(place, settings, about)
    if table.base is None and kept is not None:
        go_on_from(kept, table, [*decide, *score])
    if table.base is None:
        table.set_base(worker.evaluate_base())
    facts = _facts(data_set, recipe, sizes, train, (decide, score), worker.facts.vocabulary)
    (place / "facts.json").write_text(json.dumps(facts))
    print(f"{data_set.name}, {epochs:g} epochs, sizes {sizes}: {survey.path.words}", flush=True)
    recorder = Recorder(worker, table, until)
    whole = sizes[0]
    if not all(recorder.size(size, whole) for size in sizes):
        return False
    if not all(recorder.seeds(size) for size in (whole, whole // 8) if size in sizes):
        return False
    scales = (
        other_scales(recorder.level(whole)) if data_set.name in SCALE_SETS and epochs == EPOCHS[0] else []
    )
    return recorder.train(scales, whole)


def go_on_from(surface: Surface, table: LossTable, judges: Sequence[TokenizedExample]) -> None:
    """Fill ``table`` with what was recorded before, if that was on the same held-out rows."""
    lengths, tokens = ([len(e.token_ids_T) for e in judges], [e.trained_tokens for e in judges])
    if np.array_equal(surface.lengths_E, lengths) and np.array_equal(surface.tokens_E, tokens):
        restore(surface, table)


def prepared(
    tokenizer: object, data_set: DataSet, folder: Path, epochs: float
) -> tuple[Recipe, PreparedData]:
    from rightrank.data import prepare

    recipe = Recipe().given(epochs=epochs)
    test = None if data_set.test is None else str(folder / data_set.test)
    return recipe, prepare(str(folder / data_set.rows), tokenizer, recipe, eval_data=test, seed=0)


def _about(worker: Worker, path: str, epochs: float) -> dict[str, Any]:
    from rightrank.runs.facts import versions

    return {
        "device": worker.facts.device_words,
        "path": path,
        "epochs": epochs,
        "versions": versions(),
        "command": "python -m bench.record MODEL DATA_DIR --out DIR",
    }


def _facts(
    data_set: DataSet,
    recipe: Recipe,
    sizes: Sequence[int],
    train: Sequence[TokenizedExample],
    held_out: tuple[Sequence[TokenizedExample], Sequence[TokenizedExample]],
    vocabulary: int,
) -> dict[str, Any]:
    """What estimators need to know beside the losses."""
    from rightrank.data import token_frequency_loss

    judges = [*held_out[0], *held_out[1]]
    return {
        "name": data_set.name,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "sizes": list(sizes),
        "train_tokens": {n: sum(len(e.token_ids_T) for e in train[:n]) for n in sizes},
        "trained_tokens": {n: sum(e.trained_tokens for e in train[:n]) for n in sizes},
        "decide": len(held_out[0]),
        "tokens": [example.trained_tokens for example in judges],
        "lengths": [len(example.token_ids_T) for example in judges],
        "frequency_loss": [round(float(v), 4) for v in token_frequency_loss(train, judges, vocabulary)],
    }


def say_price(tokenizer: object, names: Sequence[str], folder: Path) -> None:
    """Millions of tokens through adapters, of every set and recipe; evaluation at the price of a forward pass, half of training."""
    total = 0.0
    for epochs in EPOCHS:
        for name in names:
            recipe, data = prepared(tokenizer, SETS[name], folder, epochs)
            sizes, held_out = SETS[name].sizes(len(data.train), recipe), sides(data)
            if not sizes:
                continue
            row = float(np.mean([len(e.token_ids_T) for e in data.train[: sizes[0]]]))
            judged = sum(len(e.token_ids_T) for side in held_out for e in side)
            millions = 0.0
            for size in sizes:
                millions += runs_foreseen(size, sizes[0]) * (size * row * epochs + judged / 2) / 1e6
            print(f"{name:15} {epochs:g} epochs, sizes {sizes}: {millions:4.0f} million tokens")
            total += millions
    print(f"together {total:.0f} million, other scales left out")


def main() -> None:
    from rightrank.bank.base_model import load_base
    from rightrank.executors.worker import Worker

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--epochs", default=",".join(f"{e:g}" for e in EPOCHS))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device")
    parser.add_argument("--price", action="store_true")
    chosen = parser.parse_args()
    until = time.monotonic() + 60 * chosen.minutes
    base = load_base(chosen.model, device=chosen.device)
    names = chosen.sets.split(",")
    if chosen.price or chosen.out is None:
        return say_price(base.tokenizer, names, chosen.data)
    for epochs in map(float, chosen.epochs.split(",")):
        for name in names:
            worker = Worker(base)
            if not record(worker, base.tokenizer, SETS[name], chosen.data, chosen.out, epochs, until):
                print("out of time; run again to go on", flush=True)
                return None
    print("complete", flush=True)
    return None


if __name__ == "__main__":
    main()
