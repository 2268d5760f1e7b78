"""A data set that no tuning saw, from the question to the proof: recommend, then train what was named on all rows and compare.

    python -m bench.fresh make DIR [--packages numpy,scipy,sympy,networkx,torch,transformers]
    python -m bench.fresh run MODEL DIR --out OUT [--seeds 3] [--minutes M]

``make`` takes functions of installed packages apart: the code without its docstring is the prompt, the docstring's first paragraph the
completion; 3,200 rows to train on and 1,500 held out. ``run`` asks ``rightrank.recommend`` as anyone would, then trains every rank it
lists at the learning rate it gives, with several seeds, on all rows, and prints the loss foreseen against the loss reached. Writes
OUT/fresh.json as it came out.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = "numpy,scipy,sympy,networkx,torch,transformers"
TRAIN, HELD_OUT = 3200, 1500
SHORTEST, LONGEST, LONGEST_CODE = 25, 300, 1200
"""Characters of a paragraph, and of the code at most."""


def described(source: str) -> Iterator[dict[str, str]]:
    """Functions of a module with a docstring, without it, and its first paragraph."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if not SHORTEST <= len(paragraph) <= LONGEST or len(node.body) < 2:
            continue
        node.body = node.body[1:]
        code = ast.unparse(node)
        if len(code) <= LONGEST_CODE:
            yield {"prompt": f"Describe this function in a sentence.\n\n{code}", "completion": paragraph}


def make(folder: Path, packages: list[str]) -> None:
    """Write train.jsonl and held_out.jsonl; every completion once."""
    found: dict[str, dict[str, str]] = {}
    for package in packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed.")
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            if "tests" not in path.parts:
                for row in described(path.read_text(encoding="utf-8", errors="replace")):
                    found.setdefault(row["completion"], row)
    rows = sorted(found.values(), key=lambda row: row["completion"])
    random.Random(0).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:TRAIN]), ("held_out", rows[TRAIN : TRAIN + HELD_OUT])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    print(
        f"{len(rows)} functions, {len(rows[:TRAIN])} to train on, {len(rows[TRAIN : TRAIN + HELD_OUT])} held out"
    )


def run(model: str, folder: Path, out: Path, seeds: int, minutes: float | None) -> None:
    """Recommend, then train what was named."""
    import rightrank

    rows, held_out = str(folder / "train.jsonl"), str(folder / "held_out.jsonl")
    begun = (out / "run" / "run.json").exists()
    answer = rightrank.recommend(
        model,
        rows,
        eval_data=held_out,
        out=out / "run",
        budget_minutes=minutes,
        resume=begun,
        on_text=print,
    )
    named = [option for option in answer.options if option.kind in ("tuned", "guide")]
    settings = {option.label: (option.rank, option.alpha, option.learning_rate) for option in named}
    choice = answer.choice
    found: dict[str, Any] = {
        "status": answer.status,
        "choice": {"rank": choice.rank, "learning_rate": choice.learning_rate, "epochs": choice.epochs},
        "reasons": list(answer.reasons),
        "runs": len(answer.points),
        "device": answer.cost.device,
        "options": {},
    }
    reached, base, tokens = trained(model, rows, held_out, list(settings.values()), seeds)
    means = {
        label: np.mean([loss_E.sum() / tokens for loss_E in reached[place]])
        for label, place in settings.items()
    }
    best = min(means[option.label] for option in named if option.kind == "tuned")
    for option in named:
        losses = [float(loss_E.sum() / tokens) for loss_E in reached[settings[option.label]]]
        figure, lost = option.loss, option.gain_lost
        found["options"][option.label] = {
            "learning_rate": option.learning_rate,
            "verdict": option.verdict,
            "foreseen": [figure.value, figure.low, figure.high, figure.source],
            "foreseen_gain_lost": None if lost is None else [lost.value, lost.low, lost.high],
            "reached": losses,
            "gain_lost": 100 * (float(means[option.label]) - best) / (base - best),
        }
        print(option.label, json.dumps(found["options"][option.label]), flush=True)
    (out / "fresh.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def trained(
    model: str, rows: str, held_out: str, settings: list[tuple[int, float, float]], seeds: int
) -> tuple[dict[tuple[int, float, float], list[np.ndarray]], float, int]:
    """Nats of every row that scores, a seed at a time, of each setting on all rows; the base's nats a token; trained tokens."""
    from rightrank.bank.base_model import load_base
    from rightrank.data import prepare
    from rightrank.executors.worker import Worker
    from rightrank.probe.loss_table import Configuration, Pack
    from rightrank.recipe import Recipe

    base = load_base(model)
    data = prepare(rows, base.tokenizer, Recipe(), eval_data=held_out, seed=0)
    worker = Worker(base)
    worker.survey(data.train, data.train[:3], Recipe(), "base")
    worker.judge_by(data.decide, data.score)
    scores = slice(len(data.decide), None)
    tokens = sum(example.trained_tokens for example in data.score)
    untrained = float(worker.evaluate_base().loss_KE[0, scores].sum() / tokens)
    reached: dict[tuple[int, float, float], list[np.ndarray]] = {setting: [] for setting in settings}
    for seed in range(seeds):
        wanted = [Configuration(*setting, seed) for setting in reached]
        for number, group in enumerate(worker.executor.fit_together(wanted)):
            pack = Pack(100 * seed + number, len(data.train), tuple(group), with_score=True)
            result, _, _ = worker.train(pack, None, lambda share: None)
            for c, loss_E in zip(group, result.loss_KE[:, scores], strict=True):
                reached[c.rank, c.alpha, c.learning_rate].append(loss_E)
    return reached, untrained, tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="what", required=True)
    making = parts.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--packages", default=PACKAGES)
    running = parts.add_parser("run")
    running.add_argument("model")
    running.add_argument("folder", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--seeds", type=int, default=3)
    running.add_argument("--minutes", type=float, help="budget; default: that of recommend")
    chosen = parser.parse_args()
    if chosen.what == "make":
        make(chosen.folder, chosen.packages.split(","))
    else:
        run(chosen.model, chosen.folder, chosen.out, chosen.seeds, chosen.minutes)


if __name__ == "__main__":
    main()
