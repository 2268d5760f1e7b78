"""AdaLoRA and EVA, run for real: methods that choose ranks themselves, each with a learning rate of its own, against recorded surfaces.

    python -m bench.adaptive run MODEL DATA_DIR --out DIR [--sets nl2bash,klingon,banking77] [--epochs 1] [--methods lora,eva]
    python -m bench.adaptive show DIR [--epochs 1]

``run`` trains PEFT's implementation by a plain loop under the recorded recipe (same rows, batches and schedule) at three learning rates on
all rows, plain LoRA of r=32 beside them as a control of the loop, every run in a process of its own, spread over the GPUs: the loops wait
for the host. ``show`` takes the learning rate that the deciding rows choose and says what it loses against the surface's best on the rows
that score, with its standard error; three runs of price. Both methods get the budget of r=32; their other settings are PEFT's defaults,
AdaLoRA's schedule by its paper's shares (a tenth of the steps before the budget falls, the last third fixed).

Dimensions: E held-out examples, N examples of a batch, T tokens, V words.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.design import SETS
from bench.padded import padded
from bench.tables import FOLDER, load
from bench.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe

METHODS = ("lora", "adalora", "eva")
RATES = (3e-4, 1e-3, 3e-3)
RANK = 32
BEFORE, FIXED = 0.1, 1 / 3
"""Shares of the steps before AdaLoRA's budget falls and after it is fixed (Zhang et al. 2023, tables of hyperparameters)."""
FIRST_RANK = 1.5
"""AdaLoRA starts at this many times its final rank (the same)."""
EVA_BATCHES, EVA_ROWS = 16, 64
"""It looks at trained tokens alone, at more of them at once than twice the rank, until its directions stand still. Rows are ours, the rest
PEFT's default."""
JUDGED_TOGETHER = 32
WAITED = 1800.0
"""Seconds for EVA's directions at most, which another process looks for."""


@dataclass(frozen=True)
class One:
    """A run."""

    set: str
    method: str
    rate: float

    @property
    def file(self) -> str:
        return f"{self.set}-{self.method}-{self.rate:g}.json"


def adapted(
    base: BaseModel, method: str, steps: int, directions: Callable[[Any], dict[str, torch.Tensor]]
) -> Any:
    """The base under PEFT's ``method``, adapters in float32. ``directions``: what EVA starts from, given the model."""
    import torch
    from peft import AdaLoraConfig, EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights

    from rightrank.bank.targets import find_targets, target_suffixes
    from rightrank.recipe import alpha_for

    common: dict[str, Any] = {
        "lora_alpha": alpha_for(RANK),
        "target_modules": list(target_suffixes(find_targets(base.model))),
        "task_type": "CAUSAL_LM",
    }
    if method == "adalora":
        first = round(FIRST_RANK * RANK)
        config: Any = AdaLoraConfig(
            init_r=first, target_r=RANK, total_step=steps, tinit=math.ceil(BEFORE * steps),
            tfinal=math.ceil(FIXED * steps), deltaT=max(1, steps // 100), **common,
        )  # fmt: skip
    elif method == "eva":
        config = LoraConfig(r=RANK, init_lora_weights="eva", eva_config=EvaConfig(), **common)
    else:
        config = LoraConfig(r=RANK, **common)
    torch.manual_seed(0)
    model = get_peft_model(base.model, config, low_cpu_mem_usage=method == "eva")
    if method == "eva":
        initialize_lora_eva_weights(model, eva_state_dict=directions(model))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    return model.train()


def trained(base: BaseModel, one: One, rows: Sequence[TokenizedExample], recipe: Recipe, out: Path) -> Any:
    """Train on ``rows``: completion tokens alone, linear decay after warm-up, clipped, AdamW."""
    import torch

    from rightrank.bank.step import batches
    from rightrank.recipe import learning_rate_factor

    steps, device = recipe.steps(len(rows)), base.device
    path = out / f"{one.set}-directions.safetensors"
    model = adapted(base, one.method, steps, lambda model: eva_directions(model, path, rows, recipe))
    parameters = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(parameters, lr=one.rate, betas=recipe.adam_betas, weight_decay=0.0)
    for step, chosen in enumerate(batches(len(rows), recipe, 0)):
        for group in adamw.param_groups:
            group["lr"] = one.rate * learning_rate_factor(recipe, step, steps)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**padded([rows[i] for i in chosen], device), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        adamw.step()
        if one.method == "adalora":
            model.base_model.update_and_allocate(step)
        adamw.zero_grad()
    return model.eval()


def eva_directions(
    model: Any, path: Path, rows: Sequence[TokenizedExample], recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Found once for a set, by the first process that asks, while the others wait for the file at ``path``."""
    import time

    from peft import get_eva_state_dict
    from safetensors.torch import load_file, save_file

    device = model.get_input_embeddings().weight.device
    try:
        path.with_suffix(".lock").touch(exist_ok=False)
    except FileExistsError:
        until = time.monotonic() + WAITED
        while not path.exists():
            if time.monotonic() > until:
                raise SystemExit(f"{path} was not found in time.") from None
            time.sleep(1)
        return load_file(path, device=str(device))
    some = [padded([rows[i] for i in chosen], device) for chosen in eva_batches(len(rows), recipe)]
    began = time.monotonic()
    found = get_eva_state_dict(model, some, show_progress_bar=False)
    print(f"{path.name}: {time.monotonic() - began:.0f} s", flush=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    return found


def eva_batches(count: int, recipe: Recipe) -> list[list[int]]:
    """Rows of the recipe's own order, more at once."""
    from rightrank.bank.step import batches

    order = [i for chosen in batches(count, recipe, 0) for i in chosen][: EVA_BATCHES * EVA_ROWS]
    return [order[start : start + EVA_ROWS] for start in range(0, len(order), EVA_ROWS)]


def judged(model: Any, examples: Sequence[TokenizedExample], device: torch.device) -> list[float]:
    """Nats summed per held-out example."""
    import torch
    from torch.nn.functional import cross_entropy

    found: list[float] = []
    for start in range(0, len(examples), JUDGED_TOGETHER):
        batch = padded(examples[start : start + JUDGED_TOGETHER], device)
        labels_NT = batch.pop("labels")
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            logits_NTV = model(**batch, use_cache=False).logits
        loss_NT = cross_entropy(
            logits_NTV[:, :-1].float().transpose(1, 2), labels_NT[:, 1:], reduction="none", ignore_index=-100
        )
        found += loss_NT.sum(1).tolist()
    return found


def run_one(
    one: One, model: str, folder: Path, out: Path, epochs: float, gpu: int | None, examples: int | None
) -> None:
    """In a process of its own. ``examples``: fewer than the design's, to try it."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import time

    from bench.record import prepared, sides
    from rightrank.bank.base_model import load_base

    base = load_base(model)
    recipe, data = prepared(base.tokenizer, SETS[one.set], folder, epochs)
    rows = data.train[: SETS[one.set].most][:examples]
    decide, score = (side[:examples] for side in sides(data))
    began = time.monotonic()
    tuned = trained(base, one, rows, recipe, out)
    seconds = time.monotonic() - began
    losses = [round(x, 4) for x in judged(tuned, [*decide, *score], base.device)]
    found = {"seconds": seconds, "decide": len(decide), "loss": losses, "device": str(base.device)}
    (out / one.file).write_text(json.dumps(found))
    print(f"{one.file}: {seconds:.0f} s", flush=True)


def lines(out: Path, epochs: float = 3.0, folder: Path = FOLDER) -> list[str]:
    """What each method loses at the learning rate that the deciding rows choose."""
    found = []
    for name in SETS:
        kept = folder / f"{name}-{epochs:g}.npz"
        runs = {m: {r: out / One(name, m, r).file for r in RATES} for m in METHODS}
        if not kept.exists():
            continue
        surface = load(kept)
        decide_E, score_E = surface.sides()
        truth = Truth(surface, np.flatnonzero(score_E))
        best_E = truth.loss_UE[truth.best]
        for method, files in runs.items():
            loss = {r: np.array(json.loads(f.read_text())["loss"]) for r, f in files.items() if f.exists()}
            if len(loss) < len(RATES):
                continue
            rate = min(loss, key=lambda r: float(np.nan_to_num(loss[r][decide_E].sum(), nan=np.inf)))
            apart_E = loss[rate][score_E] - best_E
            tokens_E = surface.tokens_E[score_E]
            lost = 100 * float(apart_E.sum() / tokens_E.sum()) / truth.gain
            residual_E = apart_E - tokens_E * apart_E.sum() / tokens_E.sum()
            error = 100 * float(np.sqrt(np.sum(residual_E**2))) / tokens_E.sum() / truth.gain
            own = min(
                lost_at for (r, _), lost_at in zip(truth.settings, _lost_U(truth), strict=True) if r == RANK
            )
            found.append(
                f"{name:12} {method:8} at {rate:g}: loses {lost:5.2f} ± {error:.2f} % of the gain "
                f"(the bank's r={RANK} at its best {own:.2f})"
            )
    return found


def _lost_U(truth: Truth) -> list[float]:
    best = float(truth.level_U[truth.best])
    return [100 * (float(level) - best) / truth.gain for level in truth.level_U]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "show"])
    parser.add_argument("model", help="for show: the directory")
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", default="nl2bash,klingon,banking77")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--examples", type=int, help="of each part at most, to try it")
    chosen = parser.parse_args()
    if chosen.what == "show":
        print("\n".join(lines(Path(chosen.model), chosen.epochs)))
        return
    if chosen.data is None or chosen.out is None:
        parser.error("run needs DATA_DIR and --out.")
    chosen.out.mkdir(parents=True, exist_ok=True)
    wanted = [One(s, m, r) for r in RATES for m in chosen.methods.split(",") for s in chosen.sets.split(",")]
    spawn = multiprocessing.get_context("spawn")
    processes = []
    for number, one in enumerate(one for one in wanted if not (chosen.out / one.file).exists()):
        gpu = number % chosen.gpus if chosen.gpus else None
        arguments = (one, chosen.model, chosen.data, chosen.out, chosen.epochs, gpu, chosen.examples)
        processes.append(spawn.Process(target=run_one, args=arguments))
        processes[-1].start()
        if not chosen.gpus:
            processes[-1].join()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
