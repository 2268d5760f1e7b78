"""How fast the bank trains, side by side in one run with a plain PEFT loop, TRL and Unsloth on the same card.

python bench/speed.py MODEL ROWS [--parts grid,peft,trl,unsloth,matrix,ranks,8b,4bit] [--out bench/results/speed.json] [--tiny]

Times are training alone, from the end of the first step on, unless the name says otherwise. PEFT, TRL and Unsloth are timed over
``PEFT_STEPS`` steps in the middle of a run and multiplied by the steps of the recipe. The bank's grid runs whole, twice: as a probe runs
it, what all examples of a row begin with computed once, and with nothing shared, which is what ``adapter_tokens_per_s`` counts. The matrix
rate is the best of ten 8,192-cubed bf16 products on random numbers. ``--tiny`` shrinks everything until a CPU carries it through: a test of
this file, no measurement.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import traceback
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from large import peak_gib, probe_in_4_bit, speed_8b, step_seconds
from peft_loop import STEPS as PEFT_STEPS
from peft_loop import time_peft
from with_unsloth import run_unsloth

from rightrank.bank.adapters import AdapterSpec
from rightrank.bank.base_model import BaseModel, load_base
from rightrank.bank.runs import now, open_run
from rightrank.bank.step import trained_tokens
from rightrank.bank.targets import find_targets, target_suffixes
from rightrank.bank.verify import Path as HowItRuns
from rightrank.bank.verify import worth_sharing
from rightrank.data import TokenizedExample, prepare
from rightrank.executors.local import ENOUGH_TOKENS_ON_GPU
from rightrank.recipe import Recipe, alpha_for
from rightrank.stats.paired import paired_contrast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rightrank.bank.verify import Way

RANKS, RATES = (1, 2, 4, 8, 16, 32, 64, 128), (3e-4, 1e-3, 3e-3)
CPU_STEP = Path(__file__).parent / "results/cpu_step.json"
"""What ``bench/cpu_step.py`` measured on a CPU."""


@dataclass(frozen=True)
class Work:
    """What is trained: a base, its rows, and a recipe."""

    base: BaseModel
    train: Sequence[TokenizedExample]
    held_out: Sequence[TokenizedExample]
    recipe: Recipe
    tiny: bool
    judged: dict[str, np.ndarray] = field(default_factory=dict)
    """Held-out losses [K, E] of the grid, by the name of the part."""

    @property
    def longest(self) -> int:
        return max(len(example.token_ids_T) for example in (*self.train, *self.held_out))

    @property
    def steps(self) -> int:
        return self.recipe.steps(len(self.train))


def work_on(model: str, rows: str, *, examples: int, tiny: bool) -> Work:
    """nl2bash's recipe over the first ``examples`` training rows, judged by 1,000 held-out ones."""
    base = load_base(model)
    recipe = Recipe().given(epochs=1 if tiny else 3, batch_size=4 if tiny else 16)
    data = prepare(rows, base.tokenizer, recipe, seed=0)
    held_out = [*data.decide, *data.score][: 8 if tiny else 1000]
    return Work(base, data.train[: 16 if tiny else examples], held_out, recipe, tiny)


def grid_specs() -> list[AdapterSpec]:
    return [AdapterSpec(rank, alpha_for(rank), rate) for rate in RATES for rank in RANKS]


def run_bank(
    name: str,
    work: Work,
    specs: Sequence[AdapterSpec],
    *,
    how: Way,
    capacity: int,
    shares: bool,
    turns: Sequence[str] = ("first", "again"),
) -> dict[str, Any]:
    """One run of ``specs`` in the bank, and the same again: the difference is what was compiled."""
    device = work.base.device
    found: dict[str, Any] = {}
    for turn in turns:
        peak_gib(device, reset=True)
        began = now(device)
        first_step: list[float] = []

        def clock(done: int, _: int, first_step: list[float] = first_step) -> None:
            if done == 1:
                first_step.append(now(device))

        path = HowItRuns(True, "", how, shares=shares)
        with open_run(path, work.base, specs, dropout=0.0, longest=work.longest) as run:
            trained = run.train(work.train, work.recipe, seed=0, capacity=capacity, on_step=clock)
            done = now(device)
            held_out = run.evaluate(work.held_out, min(capacity, ENOUGH_TOKENS_ON_GPU // len(specs)))
        ended = now(device)
        found[turn] = {
            "seconds": done - first_step[0],
            "before_the_first_step": first_step[0] - began,
            "evaluation": ended - done,
            "whole": ended - began,
            "adapter_tokens_per_s": len(specs) * trained.tokens / (done - first_step[0]),
            "peak_gib": peak_gib(device),
        }
        print(f"  {name}, {turn}: {found[turn]}", flush=True)
    tokens = sum(trained_tokens(example) for example in work.held_out)
    found["held_out_loss_K"] = (held_out.loss_KE.sum(1) / tokens).tolist()
    found["train_loss_K"] = trained.train_loss_K
    work.judged[name] = held_out.loss_KE
    return found


def moved(work: Work, one: str, other: str) -> dict[str, Any]:
    """How far the paired differences between configurations lie apart in two parts: nats a token, and standard errors of the difference."""
    tokens_E = np.array([trained_tokens(example) for example in work.held_out])
    one_KE, other_KE = work.judged[one], work.judged[other]
    nats, errors = [], []
    for i in range(len(one_KE)):
        for j in range(i):
            here, there = (paired_contrast(x[i], x[j], tokens_E) for x in (one_KE, other_KE))
            nats.append(abs(here.difference - there.difference))
            errors.append(nats[-1] / here.standard_error)
    found = {
        "pairs": len(nats),
        "nats_mean": float(np.mean(nats)),
        "nats_worst": float(np.max(nats)),
        "standard_errors_mean": float(np.mean(errors)),
        "standard_errors_worst": float(np.max(errors)),
    }
    print(f"  {found}", flush=True)
    return found


def run_trl(work: Work, rank: int = 16) -> dict[str, Any]:
    """TRL's SFTTrainer on the same token ids, its defaults but for batch and precision."""
    import copy
    import tempfile

    import datasets
    from datasets.table import InMemoryTable
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    base, device = work.base, work.base.device
    count = 4 if work.tiny else PEFT_STEPS
    datasets.disable_caching()  # nor are fingerprints taken, which fail on some versions of Arrow's types
    columns = {
        "input_ids": [e.token_ids_T.tolist() for e in work.train],
        "labels": [np.where(e.trained_T, e.token_ids_T, -100).tolist() for e in work.train],
    }
    rows = datasets.Dataset(InMemoryTable.from_pydict(columns), fingerprint="rows")
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now(device))

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            folder, per_device_train_batch_size=work.recipe.batch_size, max_steps=count + max(1, count // 10), report_to="none",
            bf16=base.dtype == torch.bfloat16, logging_strategy="no", save_strategy="no", disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},  # the rows are tokens already
            gradient_checkpointing=False, use_cpu=device.type == "cpu", learning_rate=1e-3,
        )  # fmt: skip
        names = list(target_suffixes(find_targets(base.model)))
        trainer = SFTTrainer(
            copy.deepcopy(base.model), args=config, train_dataset=rows, processing_class=base.tokenizer, callbacks=[Clock()],
            peft_config=LoraConfig(r=rank, lora_alpha=alpha_for(rank), target_modules=names, task_type="CAUSAL_LM"),
        )  # fmt: skip
        trainer.train()
    warm = max(1, count // 10)
    each = (times[-1] - times[warm - 1]) / (len(times) - warm)
    print(f"  TRL: {each:.4f} s a step, {each * work.steps:.1f} s a run", flush=True)
    return {"seconds_a_step": each, "seconds": each * work.steps, "steps_timed": len(times) - warm}


def matrix_rate(device: torch.device, size: int) -> float:
    """FLOP a second of a square bf16 product, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    best = float("inf")
    for _ in range(10):
        began = now(device)
        a @ b
        best = min(best, now(device) - began)
    return 2 * size**3 / best


def against_rank(work: Work, how: str) -> list[dict[str, Any]]:
    """Seconds of a step against the number of adapters and their rank."""
    rows = work.train[: work.recipe.batch_size]
    found = []
    for count, rank in [(k, 16) for k in (1, 2, 4, 8, 16, 24, 32)] + [
        (8, r) for r in (4, 8, 32, 64, 128, 256)
    ]:
        if work.tiny and (count > 2 or rank > 16):
            continue
        seconds = step_seconds(
            work.base, [AdapterSpec(rank, rank, 1e-4)] * count, rows, how, 4 if work.tiny else 12
        )
        found.append({"adapters": count, "rank": rank, "step_seconds": seconds})
        print(f"  {count} adapters of rank {rank}: {seconds:.4f} s a step", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--parts", default="matrix,grid,peft,trl,ranks,8b,4bit")
    parser.add_argument(
        "--how",
        default="compiled",
        help="plain, captured or compiled; several, comma separated, for the grid",
    )
    parser.add_argument("--capacity", type=int, default=16384, help="tokens a row at most")
    parser.add_argument("--examples", type=int, default=3200)
    parser.add_argument("--out", type=Path, default=Path("bench/results/speed.json"))
    parser.add_argument("--add", action="store_true", help="keep the parts that --out has already")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    parts, ways = chosen.parts.split(","), chosen.how.split(",")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = json.loads(chosen.out.read_text()) if chosen.add and chosen.out.exists() else {}
    result |= {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
    }

    @cache
    def work() -> Work:
        found = work_on(chosen.model, str(chosen.rows), examples=chosen.examples, tiny=chosen.tiny)
        result.update(examples=len(found.train), steps=found.steps, held_out=len(found.held_out))
        return found

    def part(name: str, run: Callable[[], Any]) -> None:
        if name.split(maxsplit=1)[0] in parts:
            print(name, flush=True)
            began = time.perf_counter()
            try:
                result[name] = run()
            except Exception as error:  # one part that fails takes no other with it
                trace = traceback.format_exc()[-3000:].splitlines()
                result[name] = {"failed": f"{type(error).__name__}: {error}"[:500], "trace": trace}
                print(f"  failed: {error}"[:500], flush=True)
            print(f"  took {time.perf_counter() - began:.0f} s", flush=True)
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            chosen.out.write_text(json.dumps(summary(result), indent=1) + "\n", encoding="utf-8")

    def worth() -> bool:
        return worth_sharing(work().train, work().recipe)

    specs = grid_specs()[: 3 if chosen.tiny else None]
    part("matrix", lambda: matrix_rate(device, 256 if chosen.tiny else 8192))
    for how in ways:
        alone, grid = f"grid {how}, nothing shared", partial(run_bank, how=how, capacity=chosen.capacity)
        part(f"grid {how}", lambda grid=grid, name=f"grid {how}": grid(name, work(), specs, shares=worth()))
        part(alone, lambda grid=grid, name=alone: grid(name, work(), specs, shares=False))
        if "grid" in parts and {f"grid {how}", alone} <= set(work().judged):
            part("grid moved", lambda how=how, alone=alone: moved(work(), alone, f"grid {how}"))
    few = 4 if chosen.tiny else PEFT_STEPS
    part("peft", lambda: time_peft(work().base, work().train, work().recipe, most_steps=few))
    part("trl", lambda: run_trl(work()))
    part("unsloth", lambda: run_unsloth(work(), chosen.model, 4 if chosen.tiny else PEFT_STEPS))
    part("ranks", lambda: against_rank(work(), ways[-1]))
    part("8b", lambda: speed_8b(result.get("matrix", 1.0), device, chosen.tiny, ways[-1]))
    part("4bit", lambda: probe_in_4_bit(device, chosen.tiny))


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The figures that count at the top, beside everything."""
    top: dict[str, Any] = {}
    grids = {k: v for k, v in result.items() if k.startswith("grid") and "first" in v}
    alone = [v["again"] for k, v in grids.items() if k.endswith("nothing shared")]
    best = min((v["again"] for v in grids.values()), key=lambda g: g["seconds"], default=None)
    cold = next((v["first"] for v in grids.values()), None)  # the others find what it compiled
    peft = result.get("peft", {}).get("seconds")
    if alone:
        top["adapter_tokens_per_s"] = max(grid["adapter_tokens_per_s"] for grid in alone)
    if best:
        if alone and best not in alone:
            top["adapter_tokens_per_s_with_shared_beginnings"] = best["adapter_tokens_per_s"]
        if peft:
            top["grid24_over_one_peft_run"] = best["seconds"] / peft
            top["grid24_end_to_end_over_one_peft_run"] = cold["whole"] / peft
    for name in ("k1", "k16"):
        if name in result.get("8b", {}):
            top[f"matrix_rate_share_8b_{name}"] = result["8b"][name]["matrix_rate_share"]
    if "peak_gib" in result.get("4bit", {}):
        top["peak_gib_8b_4bit"] = result["4bit"]["peak_gib"]
    if CPU_STEP.exists():
        name = "cpu_bank6_over_six_peft"
        top[name] = json.loads(CPU_STEP.read_text(encoding="utf-8"))[name]
    return {**top, **{name: value for name, value in result.items() if name not in top}}


if __name__ == "__main__":
    main()
