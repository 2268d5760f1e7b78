"""Does "train once at a high rank, then cut" beat training at the right rank? And which way of cutting is best at equal size?

    python bench/cuts.py train MODEL DATA --eval-data HELD_OUT --out DIR [--points 128:1e-3,128:1e-2,32:1e-3] [--epochs 3] [--batch 16]
    python bench/cuts.py cut   MODEL DATA --eval-data HELD_OUT --out DIR [--rows 400]
    python bench/cuts.py show  DIR

``train`` trains a grid with the project's engine and keeps the adapters; ``cut`` takes each of the largest rank apart and evaluates, on the
rows that only score: uniform cuts, three allocations of as many numbers, the whole adapter and the cuts scaled down, and how long
``rightrank cut`` itself would take (the race). ``show`` prints gains lost against the best of everything trained, paired, with 95 %
intervals. Runs on a GPU or a CPU; what is finished is not measured again. ``show`` needs neither torch nor the model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

LEVELS = (4, 16, 64)
"""Uniform ranks whose size the allocations are given."""
SCALES = (0.9, 0.8, 0.7, 0.6, 0.5)
SCALED_CUTS = ((8, 0.8), (16, 0.8), (16, 0.6), (32, 0.8))


def prepared_for(args: argparse.Namespace) -> Any:
    from rightrank.preparing import prepare
    from rightrank.recipe import Recipe
    from rightrank.request import Request

    recipe = Recipe().given(epochs=args.epochs, batch_size=args.batch, max_length=args.max_length)
    request = Request(
        args.model, args.data, eval_data=args.eval_data, budget_minutes=1000, recipe=recipe, on_text=print
    )
    prepared = prepare(request)
    prepared.executor.judge_by(prepared.data.decide, prepared.data.score)
    return prepared


def table_of(args: argparse.Namespace, prepared: Any) -> Any:
    from rightrank.probe.loss_table import LossTable

    what = {"model": prepared.base.fingerprint, "data": prepared.data.fingerprint, "what": "cuts"}
    return LossTable(Path(args.out), what)


def train(args: argparse.Namespace) -> None:
    from rightrank.probe.ladder import configuration
    from rightrank.probe.loss_table import Pack

    started, prepared = time.monotonic(), prepared_for(args)
    executor, table, out = prepared.executor, table_of(args, prepared), Path(args.out)
    if table.base is None:
        table.set_base(executor.evaluate_base())
    judges = [*executor.decide, *executor.score]
    facts = {"tokens": [e.trained_tokens for e in judges], "decide": len(executor.decide)}
    (out / "held_out.json").write_text(json.dumps(facts))
    done = set(table.configurations())
    for rank, rate in args.points:
        wanted = configuration(rank, rate, "rank", 0)
        if wanted in done:
            continue
        if time.monotonic() - started > args.minutes * 60:
            print("out of time; run again to go on")
            return
        pack = Pack(table.next_number, len(prepared.data.train), (wanted,), with_score=True)
        table.begin(pack)
        place = out / "adapters" / f"{pack.number:04d}"
        result = executor.train(pack, export_to=place, on_step=lambda share: None)
        table.finish(pack, result)
        print(f"r={rank} lr {rate:.0e}: {result.steps} steps in {result.seconds:.0f} s", flush=True)
    print("complete")


def cut(args: argparse.Namespace) -> None:
    prepared = prepared_for(args)
    table = table_of(args, prepared)
    largest = max(c.rank for c in table.configurations())
    for pack, result in zip(table.packs, table.results, strict=True):
        c = pack.configurations[0]
        place = Path(args.out) / "adapters" / f"{pack.number:04d}" / "0"
        if c.rank == largest and (place / "adapter_model.safetensors").is_file():
            one_adapter(args, prepared, place, f"r={c.rank} lr {c.learning_rate:.0e}", result.seconds)
    print("complete")


def one_adapter(
    args: argparse.Namespace, prepared: Any, place: Path, name: str, train_seconds: float
) -> None:
    import torch

    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.cut import take_apart
    from rightrank.bank.cut_evaluation import CutEvaluation
    from rightrank.bank.peft_format import adapted_ranks, import_adapter
    from rightrank.bank.whole_modules import WholeModules
    from rightrank.cuts.race import race, versions_of
    from rightrank.stats.cuts import decide_cut

    path = Path(args.out) / f"cuts_{place.parent.name}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"name": name, "train_seconds": train_seconds}
    base = prepared.executor.base
    ranks, _ = adapted_ranks(place, base.targets, WholeModules())
    by_target = tuple(ranks[target.name] for target in base.targets)
    spec = AdapterSpec(max(by_target), alpha=1.0, learning_rate=0.0, ranks=by_target)
    started = time.monotonic()
    bank = AdapterBank(base.targets, [spec], device=torch.device("cpu"), dtype=torch.float32, start=False)
    import_adapter(bank, 0, place)
    updates = take_apart(bank, 0)
    kept.setdefault("svd_seconds", time.monotonic() - started)
    decide, score = prepared.executor.decide, prepared.executor.score
    longest = max(len(e.token_ids_T) for e in (*decide, *score))
    evaluation = CutEvaluation(base, updates, prepared.memory, prepared.path.packed, longest)
    losses = kept.setdefault("loss_on_score", {})
    wanted = versions(updates)
    for label, one in wanted.items():
        if label in losses:
            continue
        found = evaluation.cuts([one], score[: args.rows])
        losses[label] = {
            "loss": found.loss_KE[0].tolist(),
            "parameters": one.parameters(base.targets),
            "right": int(found.right_KE.sum()),
        }
        path.write_text(json.dumps(kept))
        print(f"{name}: {label}", flush=True)
    if "race" not in kept and args.race:
        started = time.monotonic()
        ladder = versions_of(updates, max(by_target))
        evidence = race(ladder, updates, decide, score, evaluation, on_text=print)
        decision = decide_cut(evidence)
        kept["race"] = {
            "seconds": time.monotonic() - started,
            "rows": [int((~evidence.scores_E).sum()), int(evidence.scores_E.sum())],
            "evaluations": int(np.isfinite(evidence.loss_VE).sum()) + evidence.loss_VE.shape[1],
            "status": decision.status,
            "choice": ladder[decision.chosen].label,
        }
        path.write_text(json.dumps(kept))


def versions(updates: Any) -> dict[str, Any]:
    from rightrank.bank.cut import (
        Cut,
        by_energy_per_number,
        by_share_of_energy,
        by_size,
        uniform,
    )

    targets = [update.target for update in updates]
    most = max(update.directions for update in updates)
    whole = tuple(update.directions for update in updates)
    ladder = [2**i for i in range(20) if 2**i < most]
    found = {f"r={most} whole": Cut(whole)}
    found |= {f"r={rank} uniform": Cut(uniform(updates, rank)) for rank in ladder}
    ways = {
        "one threshold": by_size,
        "energy a number": by_energy_per_number,
        "equal share": by_share_of_energy,
    }
    for level in (level for level in LEVELS if level < most):
        size = Cut(uniform(updates, level)).parameters(targets)
        found |= {f"r={level} {name}": Cut(way(updates, size)) for name, way in ways.items()}
    found |= {f"r={most} × {c:g}": Cut(whole, c) for c in SCALES}
    found |= {f"r={rank} × {c:g}": Cut(uniform(updates, rank), c) for rank, c in SCALED_CUTS if rank < most}
    return found


def show(args: argparse.Namespace) -> None:
    from rightrank.probe.loss_table import LossTable
    from rightrank.stats.paired import paired_contrast

    out = Path(args.model)
    table, facts = LossTable(out, {}), json.loads((out / "held_out.json").read_text())
    trained = {
        f"r={p.configurations[0].rank} lr {p.configurations[0].learning_rate:.0e}": r
        for p, r in zip(table.packs, table.results, strict=True)
    }
    score = slice(facts["decide"], None)
    tokens = np.array(facts["tokens"])
    level = {name: r.loss_KE[0][: facts["decide"]].sum() for name, r in trained.items()}
    best = min(level, key=lambda name: level[name])
    best_E, base_E = trained[best].loss_KE[0][score], table.base.loss_KE[0][score]

    def line(name: str, loss_E: np.ndarray, more: str = "") -> None:
        n = len(loss_E)
        gain = (base_E[:n] - best_E[:n]).sum() / tokens[score][:n].sum()
        apart = paired_contrast(loss_E, best_E[:n], tokens[score][:n])
        lost = [100 * x / gain for x in (apart.difference, apart.low, apart.high)]
        mean = loss_E.sum() / tokens[score][:n].sum()
        print(f"  {name:<24} {mean:.4f}  {lost[0]:6.2f} % [{lost[1]:.2f}, {lost[2]:.2f}]{more}")

    print(f"gain lost against the best trained by the rows that decide ({best}), on rows that score")
    for name, result in trained.items():
        line(name, result.loss_KE[0][score], f"  {result.seconds:.0f} s")
    for path in sorted(out.glob("cuts_*.json")):
        kept = json.loads(path.read_text())
        print(
            f"cuts of {kept['name']} (trained in {kept['train_seconds']:.0f} s; taken apart in {kept['svd_seconds']:.1f} s)"
        )
        if "race" in kept:
            r = kept["race"]
            share = 100 * r["seconds"] / kept["train_seconds"]
            print(
                f"  rightrank cut: {r['status']} {r['choice']}, {r['seconds']:.0f} s = {share:.0f} % of the training,",
                end=" ",
            )
            print(
                f"{r['evaluations']:,} evaluations of a row, {r['rows'][0]} rows chose and {r['rows'][1]} scored"
            )
        for name, one in kept["loss_on_score"].items():
            line(name, np.array(one["loss"]), f"  {one['parameters']:,} numbers")


def _points(text: str) -> list[tuple[int, float]]:
    return [(int(rank), float(rate)) for rank, rate in (part.split(":") for part in text.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["train", "cut", "show"])
    parser.add_argument("model", help="for show: the directory")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--eval-data")
    parser.add_argument("--out")
    parser.add_argument(
        "--points", type=_points, default=_points("128:1e-3,128:3e-3,128:1e-2,32:1e-3,32:3e-3,8:3e-3")
    )
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1000, help="rows that score, of each version")
    parser.add_argument("--no-race", dest="race", action="store_false")
    parser.add_argument("--minutes", type=float, default=9.0, help="train: begin nothing after this many")
    args = parser.parse_args()
    {"train": train, "cut": cut, "show": show}[args.what](args)


if __name__ == "__main__":
    main()
