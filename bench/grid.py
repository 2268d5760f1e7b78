"""A grid of rank × learning rate on all the data, measured with the project's own engine: the truth a recommendation is held to.

    python bench/grid.py MODEL DATA --eval-data HELD_OUT --out DIR [--ranks 4,8,…] [--rates 3e-4,1e-3,…] [--minutes 9]
    python bench/grid.py --compare DIR RECOMMENDATION.json

Resumable: packs that are finished are not trained again. ``--compare`` prints what the recommended point gives away of the gain of the
grid's best, on the examples that only score, with a paired 95 % interval; it needs neither torch nor the model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np


def measure(args: argparse.Namespace) -> None:
    from rightrank.preparing import prepare
    from rightrank.probe.loss_table import LossTable, Pack
    from rightrank.probe.settings import configuration
    from rightrank.request import Request

    started = time.monotonic()
    request = Request(args.model, args.data, eval_data=args.eval_data, budget_minutes=1000, on_text=print)
    prepared = prepare(request)
    executor = prepared.executor
    executor.judge_by(prepared.data.decide, prepared.data.score)
    out = Path(args.out)
    table = LossTable(
        out, {"model": prepared.base.fingerprint, "data": prepared.data.fingerprint, "what": "grid"}
    )
    if table.base is None:
        table.set_base(executor.evaluate_base())
    judges = [*executor.decide, *executor.score]
    facts = {
        "tokens": [e.trained_tokens for e in judges],
        "decide": len(executor.decide),
        "rows": len(prepared.data.train),
    }
    (out / "held_out.json").write_text(json.dumps(facts))
    done = set(table.configurations())
    points = args.points or [(r, lr) for lr in args.rates for r in args.ranks]
    wanted = [configuration(r, lr, "rank", seed) for seed in args.seeds for r, lr in points]
    for seed in args.seeds:
        left = [c for c in wanted if c not in done and c.seed == seed]
        for group in [left[i : i + args.together] for i in range(0, len(left), args.together)]:
            for pack_of in executor.fit_together(group):
                if time.monotonic() - started > args.minutes * 60:
                    print("out of time; run again to go on")
                    return
                pack = Pack(table.next_number, len(prepared.data.train), tuple(pack_of), with_score=True)
                table.begin(pack)
                result = executor.train(pack, export_to=None, on_step=lambda share: None)
                table.finish(pack, result)
                print(f"{len(pack_of)} configurations in {result.seconds:.0f} s", flush=True)
    print("complete")


def compare(directory: Path, answer_path: Path) -> None:
    from rightrank.probe.loss_table import LossTable

    table = LossTable(directory, {})
    facts = json.loads((directory / "held_out.json").read_text())
    tokens, decide = np.array(facts["tokens"]), facts["decide"]
    configurations = table.configurations()
    loss = np.concatenate([r.loss_KE for r in table.results])
    base = table.base.loss_KE[0]
    level = loss[:, :decide].sum(1) / tokens[:decide].sum()
    answer = json.loads(answer_path.read_text())["choice"]
    best = int(np.argmin(level))
    print(
        f"{'rank':>5} "
        + "".join(f"{lr:>9.0e}" for lr in sorted({c.learning_rate for c in configurations}))
        + "   (decide, nats a token)"
    )
    for rank in sorted({c.rank for c in configurations}):
        row = {
            c.learning_rate: level[i] for i, c in enumerate(configurations) if c.rank == rank and c.seed == 0
        }
        print(
            f"{rank:>5} "
            + "".join(
                f"{row.get(lr, np.nan):>9.4f}" for lr in sorted({c.learning_rate for c in configurations})
            )
        )
    print(f"base {base[:decide].sum() / tokens[:decide].sum():.4f}; best on decide: {configurations[best]}")
    mine = [
        i
        for i, c in enumerate(configurations)
        if (c.rank, c.learning_rate, c.seed) == (answer["rank"], answer["learning_rate"], 0)
    ]
    score = slice(decide, None)
    gain = (base[score].sum() - loss[best, score].sum()) / tokens[score].sum()
    for name, i in [("recommended", mine[0] if mine else None), *_rivals(configurations)]:
        if i is None:
            print(f"{name}: not in the grid")
            continue
        apart = loss[i, score] - loss[best, score]
        ratio = apart.sum() / tokens[score].sum()
        spread = np.sqrt(((apart - ratio * tokens[score]) ** 2).sum()) / tokens[score].sum()
        lost, error = 100 * ratio / gain, 100 * 1.96 * spread / gain
        c = configurations[i]
        print(
            f"{name:>22}: r={c.rank} lr {c.learning_rate:.0e}: gain lost {lost:.2f} % [{lost - error:.2f}, {lost + error:.2f}] on score"
        )


def _rivals(configurations: list) -> list[tuple[str, int | None]]:
    def at(rank: int, rate: float) -> int | None:
        return next(
            (i for i, c in enumerate(configurations) if (c.rank, c.learning_rate, c.seed) == (rank, rate, 0)),
            None,
        )

    return [
        (f"fixed r={rank} {rate:.0e}", at(rank, rate))
        for rank, rate in ((16, 3e-4), (16, 1e-3), (64, 1e-3), (16, 3e-3))
    ]


def _points(text: str) -> list[tuple[int, float]]:
    return [(int(rank), float(rate)) for rank, rate in (part.split(":") for part in text.split(","))]


def _numbers(kind: type) -> object:
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--eval-data")
    parser.add_argument("--out")
    parser.add_argument("--ranks", type=_numbers(int), default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--rates", type=_numbers(float), default=[3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--points", type=_points, help="8:3e-3,32:1e-3 instead of a full grid")
    parser.add_argument("--seeds", type=_numbers(int), default=[0])
    parser.add_argument("--together", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("DIR", "ANSWER"))
    args = parser.parse_args()
    if args.compare:
        compare(*args.compare)
    else:
        measure(args)


if __name__ == "__main__":
    main()
