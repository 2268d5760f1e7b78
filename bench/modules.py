"""Which layers to adapt, at equal size: attention alone, the MLP alone, or all linear layers?

    python -m bench.modules run MODEL DATA_DIR --out DIR [--sets nl2bash,gsm8k,medquad] [--epochs 3]
        [--ranks 4,32] [--rates 3e-4,1e-3,3e-3,1e-2] [--one-seed] [--minutes 9]
    python -m bench.modules show DIR [--table FILE]

``run`` trains, over the rows and the recipe of ``bench.record``, all linear layers at every rank of ``--ranks``, and attention and MLP
alone each at the uniform rank that comes nearest to the same number of parameters (``show`` prints the numbers), all at every learning
rate, side by side with seed 0; then each at its best rate with seed 1, which is a quarter of the price. alpha = 32 · (r/16)^¼ of the
rank that the layers do have, the project's convention, so that the scale alpha/r falls as r^-3/4: attention alone at r=85 has alpha 49
and a scale of 0.57 where all layers at r=32 have alpha 38 and 1.19. Every learning rate is tried for each, so little hangs on that.

Which layer is which is told by where it lies (``rightrank.bank.module_kinds``): attention is what lies in a module called *attn* or
*attention*, or whose class is; MLP is the rest of a decoder layer. A model without either is refused.

``show`` names for each the rate that is best by the rows that decide, and prints on the rows that score what is lost against all linear
layers of the same size, each at its own best rate, in % of what training gains there: paired by row, 95 %, means over the seeds that both
have. The interval counts rows, not seeds; the difference by seed stands beside it. Resumable: what is recorded is not trained again, and
more ``--ranks`` or ``--rates`` are added to it. After ``--minutes`` nothing more is begun. ``show`` needs neither torch nor the model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from bench.design import SETS
from bench.record import Recorder, prepared, sides
from rightrank.probe.loss_table import LossTable
from rightrank.probe.settings import configuration
from rightrank.recipe import Layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.design import DataSet
    from rightrank.bank.targets import Target
    from rightrank.executors.worker import Worker
    from rightrank.probe.pack import Configuration

KINDS: tuple[Layers, ...] = get_args(Layers)
WORDS = {"all": "all linear layers", "attention": "attention alone", "mlp": "MLP alone"}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SECOND_SEED = 1


def ranks_of_equal_size(targets: Sequence[Target], rank: int) -> dict[Layers, int]:
    """The rank of each kind. Raises ModelError where the model lacks one."""
    from rightrank.bank.module_kinds import rank_of_equal_size

    return {layers: rank_of_equal_size(targets, layers, rank) for layers in KINDS}


def parameters(targets: Sequence[Target], one: Configuration) -> int:
    """Numbers that are trained."""
    from rightrank.bank.adapters import adapter_parameters
    from rightrank.executors.grouping import spec_of

    return adapter_parameters(targets, spec_of(one, targets))


def record(
    worker: Worker, tokenizer: object, data_set: DataSet, args: argparse.Namespace, until: float
) -> bool:
    """One data set. False where time did not suffice."""
    recipe, data = prepared(tokenizer, data_set, args.data, args.epochs)
    sizes = data_set.sizes(len(data.train), recipe)
    if not sizes:
        print(f"{data_set.name}, {args.epochs:g} epochs: too few steps", flush=True)
        return True
    train, (decide, score) = data.train[: sizes[0]], sides(data)
    wanted = {
        (rank, layers): [configuration(own, rate, "rank", 0, layers) for rate in args.rates]
        for rank in args.ranks
        for layers, own in ranks_of_equal_size(worker.facts.targets, rank).items()
    }
    survey = worker.survey(train, train[:3], recipe, "base")
    worker.judge_by(decide, score)
    place = args.out / data_set.name / f"{args.epochs:g}"
    what = {"model": worker.facts.fingerprint, "data": data.fingerprint, "epochs": args.epochs}
    about = {"device": worker.facts.device_words, "path": survey.path.words}
    table = LossTable(place, {**what, "what": "modules"}, about)
    if table.base is None:
        table.set_base(worker.evaluate_base())
    judges = [*decide, *score]
    facts = {"name": data_set.name, "epochs": args.epochs, "rows": len(train), "decide": len(decide)}
    facts["tokens"] = [example.trained_tokens for example in judges]
    facts["modules"] = _remembered(place, wanted, worker.facts.targets)
    (place / "facts.json").write_text(json.dumps(facts))
    print(f"{data_set.name}, {args.epochs:g} epochs, {len(train)} rows: {survey.path.words}", flush=True)
    recorder = Recorder(worker, table, until)
    if not recorder.train([c for group in wanted.values() for c in group], len(train)):
        return False
    best = [_best(table, [c.learning_rate for c in group], group[0], facts) for group in wanted.values()]
    again = [configuration(c.rank, c.learning_rate, "rank", SECOND_SEED, c.layers) for c in best]
    return not args.second_seed or recorder.train(again, len(train))


def _remembered(place: Path, wanted: dict[Any, list[Configuration]], targets: Sequence[Target]) -> list[Any]:
    """What is compared with what, of earlier calls too: rank of all layers, which layers, their own rank, numbers trained."""
    path = place / "facts.json"
    known = json.loads(path.read_text())["modules"] if path.exists() else []
    now = [[rank, layers, c.rank, parameters(targets, c)] for (rank, layers), (c, *_) in wanted.items()]
    return known + [line for line in now if line not in known]


def _runs(table: LossTable) -> dict[Configuration, np.ndarray]:
    """Nats of every held-out row, of what did not diverge."""
    return {
        c: result.loss_KE[k]
        for pack, result in zip(table.packs, table.results, strict=True)
        for k, c in enumerate(pack.configurations)
        if np.isfinite(result.loss_KE[k]).all()
    }


def _best(
    table: LossTable, rates: Sequence[float], like: Configuration, facts: dict[str, Any]
) -> Configuration:
    """Of seed 0: the rate that loses least on the rows that decide. Raises ValueError where all diverged."""
    runs = _runs(table)
    tried = [configuration(like.rank, rate, "rank", 0, like.layers) for rate in rates]
    return min((c for c in tried if c in runs), key=lambda c: float(runs[c][: facts["decide"]].sum()))


def run(args: argparse.Namespace) -> None:
    from rightrank.bank.base_model import load_base
    from rightrank.executors.worker import Worker

    until = time.monotonic() + 60 * args.minutes
    base = load_base(args.model, device=args.device)
    for name in args.sets.split(","):
        if not record(Worker(base), base.tokenizer, SETS[name], args, until):
            print("out of time; run again to go on", flush=True)
            return
    print("complete", flush=True)


def summary(place: Path) -> dict[str, Any]:
    """What one set says, small enough to be kept."""
    table = LossTable.opened(place)
    facts = json.loads((place / "facts.json").read_text())
    runs, score = _runs(table), slice(facts["decide"], None)
    assert table.base is not None
    tokens_E, base_E = np.array(facts["tokens"])[score], table.base.loss_KE[0][score]
    sizes = sorted({line[0] for line in facts["modules"]})
    return {
        **{key: facts[key] for key in ("name", "epochs", "rows", "decide")},
        "score": len(tokens_E),
        "base_loss": round(float(base_E.sum() / tokens_E.sum()), 5),
        "seconds": round(sum(result.seconds for result in table.results), 1),
        "device": table.about.get("device"),
        "sizes": [_size(rank, table, facts, runs, tokens_E, base_E) for rank in sizes],
    }


def _size(
    rank: int,
    table: LossTable,
    facts: dict[str, Any],
    runs: dict[Configuration, np.ndarray],
    tokens_E: np.ndarray,
    base_E: np.ndarray,
) -> dict[str, Any]:
    """All three kinds at the size of all layers at ``rank``."""
    score, kinds = slice(facts["decide"], None), {}
    by_seed: dict[str, dict[int, np.ndarray]] = {}
    for layers, own, count in (line[1:] for line in facts["modules"] if line[0] == rank):
        alike = {c for c in table.configurations() if (c.rank, c.layers) == (own, layers)}
        tried = sorted({c.learning_rate for c in alike if c.seed == 0})
        if not any(c.seed == 0 and c in runs for c in alike):
            continue
        best = _best(table, tried, configuration(own, 1.0, "rank", 0, layers), facts)
        loss = {c: float(runs[c][score].sum() / tokens_E.sum()) for c in alike if c in runs}
        kinds[layers] = {
            "rank": own,
            "alpha": best.alpha,
            "parameters": count,
            "rate": best.learning_rate,
            "at_the_edge": best.learning_rate in (tried[0], tried[-1]),
            "loss": round(loss[best], 5),
            "loss_by_rate": {
                f"{c.learning_rate:g}": round(loss[c], 5)
                for c in sorted(loss, key=lambda c: c.learning_rate)
                if c.seed == 0
            },
        }
        by_seed[layers] = {c.seed: runs[c][score] for c in loss if c.learning_rate == best.learning_rate}
    for layers, kind in kinds.items():
        if layers != "all" and "all" in kinds:
            kind.update(_lost(by_seed[layers], by_seed["all"], tokens_E, base_E))
    return {"rank": rank, "kinds": kinds}


def _lost(
    by_seed: dict[int, np.ndarray], reference: dict[int, np.ndarray], tokens_E: np.ndarray, base_E: np.ndarray
) -> dict[str, Any]:
    """% of the gain of ``reference`` that is lost against it, with the ends of its interval, over the seeds of both and by seed."""
    from rightrank.stats.paired import paired_contrast

    seeds = sorted(set(by_seed) & set(reference))

    def lost(of: Sequence[int]) -> list[float]:
        a_E, b_E = (np.mean([one[seed] for seed in of], axis=0) for one in (by_seed, reference))
        percent = 100 * tokens_E.sum() / float((base_E - b_E).sum())
        apart = paired_contrast(a_E, b_E, tokens_E)
        return [round(float(percent * x), 3) for x in (apart.difference, apart.low, apart.high)]

    return {"gain_lost": lost(seeds), "gain_lost_by_seed": {seed: lost([seed])[0] for seed in seeds}}


def lines(found: dict[str, Any]) -> list[str]:
    """One set, for people."""
    shown = [
        f"{found['name']}, {found['epochs']:g} epochs, {found['rows']:,} rows; {found['decide']} chose the rate, "
        f"{found['score']} scored; base {found['base_loss']:.4f}; {found['seconds']:.0f} s on {found['device']}"
    ]
    for size in found["sizes"]:
        for layers in (layers for layers in KINDS if layers in size["kinds"]):
            one = size["kinds"][layers]
            edge = " (the last tried)" if one["at_the_edge"] else ""
            shown.append(
                f"  {WORDS[layers]:<18} r={one['rank']:<4} {one['parameters']:>10,} parameters  "
                f"lr {one['rate']:g}{edge}  {one['loss']:.4f}  {_against(one)}"
            )
    return shown


def _against(one: dict[str, Any]) -> str:
    if "gain_lost" not in one:
        return "reference"
    value, low, high = one["gain_lost"]
    seeds = ", ".join(f"{lost:.2f}" for lost in one["gain_lost_by_seed"].values())
    return f"{value:6.2f} % [{low:.2f}, {high:.2f}]  by seed {seeds}"


def show(args: argparse.Namespace) -> None:
    found = [summary(path.parent) for path in sorted(Path(args.model).glob("*/*/facts.json"))]
    if args.table:
        Path(args.table).write_text(json.dumps(found, indent=1) + "\n")
    print(
        "gain lost against all linear layers of the same size, each at the rate best by the rows that decide"
    )
    for one in found:
        print("\n".join(lines(one)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "show"])
    parser.add_argument("model", help="for show: the directory")
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", default="nl2bash,gsm8k,medquad")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in text.split(",")], default=[4, 32])
    parser.add_argument(
        "--rates", type=lambda text: [float(part) for part in text.split(",")], default=list(RATES)
    )
    parser.add_argument("--one-seed", dest="second_seed", action="store_false")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after this many")
    parser.add_argument("--device")
    parser.add_argument("--table", help="show: write it there as JSON too")
    args = parser.parse_args()
    if args.what == "run" and (args.data is None or args.out is None):
        parser.error("run needs DATA_DIR and --out")
    {"run": run, "show": show}[args.what](args)


if __name__ == "__main__":
    main()
