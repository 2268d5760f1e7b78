"""Does "train once at a high rank, then cut" beat training at the right rank? And which way of cutting is best at equal size?

    python bench/cuts.py all   MODEL DATA --eval-data HELD_OUT --out DIR [--points 128:1e-3,128:3e-3,32:1e-3] [--epochs 3] [--batch 16]
    python bench/cuts.py time  MODEL DATA --eval-data HELD_OUT --out DIR [--points 128:1e-3,128:3e-3,128:1e-2]
    python bench/cuts.py show  DIR [--table FILE]

``all`` is ``train`` and then ``cut``, over a model that is loaded once. ``train`` trains a grid with the project's engine and keeps the
adapters: the first point alone, so that its time is one run's, the others together. ``cut`` takes each of the largest rank apart and
evaluates, on the rows that only score: uniform cuts, three allocations of as many numbers, the whole adapter and the cuts scaled down,
and what ``rightrank cut`` itself would choose by the rows that decide, and how long it takes. ``time`` asks for that alone, beside a
plain PEFT loop on the same rows (``peft_loop.py``), with and without the survey of the base; only what the races need is trained. ``show``
prints gains lost against the best of everything trained, paired, with 95 % intervals, and writes them as a small table. Runs on a GPU
or a CPU; after ``--minutes`` nothing more is begun, and what is finished is not measured again. ``show`` needs neither torch nor the
model.
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
RACED = "128:1e-3,128:3e-3,128:1e-2"
TRAINED = f"{RACED},32:1e-3,32:3e-3,8:3e-3"
PEFT = "peft.json"


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


def train(args: argparse.Namespace, prepared: Any) -> bool:
    """Whether all was trained in time."""
    from rightrank.probe.loss_table import Pack
    from rightrank.probe.settings import configuration

    executor, table, out = prepared.executor, table_of(args, prepared), Path(args.out)
    if table.base is None:
        table.set_base(executor.evaluate_base())
    judges = [*executor.decide, *executor.score]
    facts = {"tokens": [e.trained_tokens for e in judges], "decide": len(executor.decide)}
    (out / "held_out.json").write_text(json.dumps(facts))
    wanted = [configuration(rank, rate, "rank", 0) for rank, rate in args.points]
    alone = 0 if args.what == "time" else 1
    groups = [wanted[:alone], *executor.fit_together(wanted[alone:])]
    for group in groups:
        left = tuple(c for c in group if c not in table.configurations())
        if not left:
            continue
        if over(args):
            return False
        pack = Pack(table.next_number, len(prepared.data.train), left, with_score=True)
        table.begin(pack)
        place = out / "adapters" / f"{pack.number:04d}"
        result = executor.train(pack, export_to=place, on_step=lambda share: None)
        table.finish(pack, result)
        names = ", ".join(name_of(c) for c in left)
        print(f"{names}: {result.steps} steps in {result.seconds:.0f} s", flush=True)
    return True


def time_peft_beside(args: argparse.Namespace, prepared: Any) -> None:
    from peft_loop import time_peft

    path = Path(args.out) / PEFT
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rank = max(rank for rank, _ in args.points)
    path.write_text(
        json.dumps(
            time_peft(
                prepared.executor.base, prepared.data.train, prepared.request.recipe, rank=rank, most_steps=60
            )
        )
    )


def cut(args: argparse.Namespace, prepared: Any) -> bool:
    """Whether all was cut in time."""
    table = table_of(args, prepared)
    largest = max(c.rank for c in table.configurations())
    seconds = one_run_seconds(table)
    for pack, result in zip(table.packs, table.results, strict=True):
        for k, c in enumerate(pack.configurations):
            place = Path(args.out) / "adapters" / f"{pack.number:04d}" / str(k)
            there = (place / "adapter_model.safetensors").is_file() and np.isfinite(result.loss_KE[k]).all()
            if c.rank != largest or not there:
                continue
            if over(args) or not one_adapter(args, prepared, place, name_of(c), seconds):
                return False
    return True


def run(args: argparse.Namespace) -> None:
    args.deadline = time.monotonic() + 60 * args.minutes
    prepared = prepared_for(args)
    parts = {"train": (train,), "cut": (cut,)}.get(args.what, (train, cut))
    if args.what == "time":
        time_peft_beside(args, prepared)
    done = all(part(args, prepared) for part in parts)
    print("complete" if done else "out of time; run again to go on")


def over(args: argparse.Namespace) -> bool:
    return bool(time.monotonic() > args.deadline)


def name_of(configuration: Any) -> str:
    return f"r={configuration.rank} lr {configuration.learning_rate:.0e}"


def one_run_seconds(table: Any) -> float | None:
    """Of the run that was trained alone, judging included; None where none was."""
    alone = (r.seconds for p, r in zip(table.packs, table.results, strict=True) if len(p.configurations) == 1)
    return next(alone, None)


def one_adapter(
    args: argparse.Namespace, prepared: Any, place: Path, name: str, train_seconds: float | None
) -> bool:
    """Whether it was done in time."""
    from rightrank.bank.cut_evaluation import CutEvaluation
    from rightrank.bank.verify import worth_sharing
    from rightrank.cuts.answer import opened
    from rightrank.cuts.race import race, versions_of
    from rightrank.executors.survey import survey_to_judge
    from rightrank.stats.cuts import decide_cut

    path = Path(args.out) / f"cuts_{place.parent.name}_{place.name}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"name": name, "train_seconds": train_seconds}
    base = prepared.executor.base
    started = time.monotonic()
    read = opened(place, base, prepared.executor.base_name)
    updates = read.updates
    kept.setdefault("svd_seconds", time.monotonic() - started)
    decide, score = prepared.executor.decide, prepared.executor.score
    longest = max(len(e.token_ids_T) for e in (*decide, *score))
    started, recipe = time.monotonic(), prepared.request.recipe
    few, shares = list(decide[:3]), worth_sharing(decide, recipe)
    seen = survey_to_judge(base, few, recipe, longest, shares=shares)
    kept.setdefault("survey_seconds", time.monotonic() - started)
    kept.setdefault("path", seen.path.words)
    evaluation = CutEvaluation(base, updates, seen.memory, seen.path, longest)
    losses = kept.setdefault("loss_on_score", {})
    wanted = {} if args.what == "time" else versions(updates)
    for label, one in wanted.items():
        if label in losses:
            continue
        if over(args):
            return False
        found = evaluation.cuts([one], score[: args.rows])
        losses[label] = {
            "loss": rounded(found.loss_KE[0]),
            "parameters": one.parameters(base.targets),
            "right": int(found.right_KE.sum()),
        }
        path.write_text(json.dumps(kept))
        print(f"{name}: {label}", flush=True)
    if "race" not in kept:
        started = time.monotonic()

        def clock(line: str) -> None:
            print(f"  {time.monotonic() - started:4.1f} s: {line}", flush=True)

        raced = race(versions_of(updates, read.rank), updates, decide, score, evaluation, on_text=clock)
        evidence, decision, took = raced.evidence, decide_cut(raced.evidence), time.monotonic() - started
        chosen = raced.versions[decision.chosen]
        kept["race"] = {
            "seconds": took,
            "rows": [int((~evidence.scores_E).sum()), int(evidence.scores_E.sum())],
            "evaluations": int(np.isfinite(evidence.loss_VE).sum()) + evidence.loss_VE.shape[1],
            "status": decision.status,
            "choice": chosen.label,
            "parameters": chosen.cut.parameters(base.targets),
            "loss": rounded(evaluation.cuts([chosen.cut], score[: args.rows]).loss_KE[0]),
        }
        path.write_text(json.dumps(kept))
    return True


def rounded(loss_E: np.ndarray) -> list[float]:
    return [round(float(x), 5) for x in loss_E]


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
    found = summary(Path(args.model))
    if args.table:
        Path(args.table).write_text(json.dumps(found, indent=1))
    print(f"gain lost against the best trained by the rows that decide ({found['best']}), on rows that score")
    print_lines(found["trained"])
    for one in found["cuts"]:
        print(f"cuts of {one['name']} (taken apart in {one['svd_seconds']:.1f} s)")
        if race := one["race"]:
            print(
                f"  rightrank cut: {race['status']} {race['choice']}, {race['seconds']:.1f} s, {race['evaluations']:,} "
                f"evaluations of a row; {race['rows'][0]} rows chose, {race['rows'][1]} scored"
            )
            if "share_of_a_run" in race:
                print(f"  {race['share_of_a_run']:.0f} % of one run here")
            if "share_of_a_peft_run" in race:
                print(
                    f"  taken apart and raced in {race['share_of_a_peft_run']:.1f} % of a plain PEFT run, "
                    f"{race['share_with_the_survey']:.1f} % with the survey of the base"
                )
        print_lines(one["versions"])


def print_lines(lines: dict[str, Any]) -> None:
    for name, line in lines.items():
        lost = line["gain_lost"]
        size = f"  {line['parameters']:,} numbers" if "parameters" in line else ""
        print(f"  {name:<24} {line['loss']:.4f}  {lost[0]:6.2f} % [{lost[1]:.2f}, {lost[2]:.2f}]{size}")


def summary(out: Path) -> dict[str, Any]:
    """Everything that was trained and every cut, against the best trained; small enough to be sent anywhere."""
    from rightrank.probe.loss_table import LossTable
    from rightrank.stats.paired import paired_contrast

    table, facts = LossTable(out, {}, look_only=True), json.loads((out / "held_out.json").read_text())
    trained = {
        name_of(c): result.loss_KE[k]
        for pack, result in zip(table.packs, table.results, strict=True)
        for k, c in enumerate(pack.configurations)
    }
    score, tokens_E = slice(facts["decide"], None), np.array(facts["tokens"])[facts["decide"] :]
    best = min(trained, key=lambda name: float(trained[name][: facts["decide"]].sum()))
    best_E, base_E = trained[best][score], table.base.loss_KE[0][score]

    def line(loss_E: np.ndarray, **more: Any) -> dict[str, Any]:
        n = len(loss_E)
        apart = paired_contrast(loss_E, best_E[:n], tokens_E[:n])
        percent = 100 * tokens_E[:n].sum() / (base_E[:n] - best_E[:n]).sum()
        lost = [round(float(percent * x), 3) for x in (apart.difference, apart.low, apart.high)]
        return {"loss": round(float(loss_E.sum() / tokens_E[:n].sum()), 5), "gain_lost": lost, **more}

    seconds, peft = one_run_seconds(table), None
    if (out / PEFT).is_file():
        peft = json.loads((out / PEFT).read_text())
    cuts = []
    for path in sorted(out.glob("cuts_*.json")):
        kept = json.loads(path.read_text())
        versions = {
            name: line(np.array(one["loss"]), parameters=one["parameters"])
            for name, one in kept["loss_on_score"].items()
        }
        race = dict(kept.get("race", {}))
        if race:
            loss_E, parameters = np.array(race.pop("loss")), race.pop("parameters")
            versions[f"chosen: {race['choice']}"] = line(loss_E, parameters=parameters)
            if seconds:
                race["share_of_a_run"] = 100 * race["seconds"] / seconds
            if peft:
                took = kept["svd_seconds"] + race["seconds"]
                race["share_of_a_peft_run"] = 100 * took / peft["seconds"]
                race["share_with_the_survey"] = 100 * (took + kept["survey_seconds"]) / peft["seconds"]
        about = {key: kept[key] for key in ("name", "svd_seconds", "survey_seconds", "path")}
        cuts.append({**about, "race": race, "versions": versions})
    return {
        "best": best,
        "base_loss": float(base_E.sum() / tokens_E.sum()),
        "decide": facts["decide"],
        "score": len(tokens_E),
        "one_run_seconds": seconds,
        "peft": peft,
        "trained": {
            name: line(loss_E[score]) for name, loss_E in trained.items() if np.isfinite(loss_E).all()
        },
        "cuts": cuts,
    }


def _points(text: str) -> list[tuple[int, float]]:
    return [(int(rank), float(rate)) for rank, rate in (part.split(":") for part in text.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["all", "train", "cut", "time", "show"])
    parser.add_argument("model", help="for show: the directory")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--eval-data")
    parser.add_argument("--out")
    parser.add_argument("--points", type=_points, help="rank:learning rate; time: 128:1e-3,128:3e-3,128:1e-2")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1000, help="rows that score, of each version")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing after this many")
    parser.add_argument("--table", help="show: write it there as JSON too")
    args = parser.parse_args()
    args.points = args.points or _points(RACED if args.what == "time" else TRAINED)
    {"show": show}.get(args.what, run)(args)


if __name__ == "__main__":
    main()
