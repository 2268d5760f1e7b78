"""Unsloth beside the others of speed.py, in processes of its own: importing it changes other libraries.

python bench/with_unsloth.py trainer|loop ASKED.json FOUND.json
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speed import Work

WAYS = ("trainer", "loop")
LIMIT = 200
"""Seconds that one way may take, importing and compiling included."""


def run_unsloth(work: Work, model: str, count: int, rank: int = 16) -> dict[str, Any]:
    """Its SFTTrainer as ``run_trl``, its model in the loop of ``peft_loop.py``, and which of them is faster."""
    from rightrank.bank.step import batches
    from rightrank.bank.targets import find_targets, target_suffixes
    from rightrank.recipe import alpha_for

    warm = max(1, count // 10)
    asked = {
        "model": str(model),
        "dtype": str(work.base.dtype).removeprefix("torch."),
        "longest": work.longest,
        "rank": rank,
        "alpha": alpha_for(rank),
        "targets": list(target_suffixes(find_targets(work.base.model))),
        "rows": [[e.token_ids_T.tolist(), e.trained_T.tolist()] for e in work.train],
        "batches": list(islice(batches(len(work.train), work.recipe, 0), warm + count)),
        "warm": warm,
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        for way in WAYS:
            found[way] = in_a_process(way, folder)
            print(f"  Unsloth, {way}: {found[way]}"[:2000], flush=True)
    timed = {way: each["seconds_a_step"] for way, each in found.items() if "seconds_a_step" in each}
    if not timed:
        said = "; ".join(f"{way}: {each['failed']}" for way, each in found.items())
        raise RuntimeError(
            "\n".join([said, *(line for each in found.values() for line in each["trace"][-15:])])
        )
    best = min(timed, key=lambda way: timed[way])
    each = timed[best]
    return {"seconds_a_step": each, "seconds": each * work.steps, "faster": best, **found}


def in_a_process(way: str, folder: Path) -> dict[str, Any]:
    """What one way took, or what its output says went wrong. Nothing that it started outlives it."""
    answer, output = folder / f"{way}.json", folder / f"{way}.txt"
    settings = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(folder / f"compiled_for_{way}"),
    }
    command = [sys.executable, __file__, way, str(folder / "asked.json"), str(answer)]
    why = ""
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True
        )
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            why = f"ended after {LIMIT} s"
        finally:
            with suppress(ProcessLookupError):  # and what compiles for it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if answer.exists():
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found
    trace = output.read_text(encoding="utf-8", errors="replace")[-3000:].splitlines()
    named = [line for line in trace if "Error" in line]
    return {"failed": why or (named or trace or [f"status {process.returncode}"])[-1][:200], "trace": trace}


def train(way: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds a step, once ``warm`` steps are done."""
    import torch
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        asked["model"], max_seq_length=asked["longest"],
        dtype=getattr(torch, asked["dtype"]), load_in_4bit=False,
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=asked["rank"], lora_alpha=asked["alpha"], lora_dropout=0, bias="none",
        target_modules=asked["targets"], use_gradient_checkpointing=False, random_state=0,
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = by_trainer if way == "trainer" else by_loop
    return {**steps(model, tokenizer, asked, device), "device": str(next(model.parameters()).device)}


def by_trainer(model: Any, tokenizer: Any, asked: dict[str, Any], device: Any) -> dict[str, Any]:
    """Unsloth's own SFTTrainer: it leaves the padding out where it thinks that is faster."""
    import datasets
    from datasets.table import InMemoryTable
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from rightrank.bank.runs import now

    datasets.disable_caching()
    columns = {
        "input_ids": [ids for ids, _ in asked["rows"]],
        "labels": [
            [token if trained else -100 for token, trained in zip(*row, strict=True)] for row in asked["rows"]
        ],
    }
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now(device))

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            folder, per_device_train_batch_size=len(asked["batches"][0]), gradient_accumulation_steps=1,
            max_steps=len(asked["batches"]), report_to="none", bf16=asked["dtype"] == "bfloat16",
            logging_strategy="no", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
            dataset_num_proc=1, use_cpu=device.type == "cpu",
            learning_rate=1e-3, weight_decay=0.0, optim="adamw_torch_fused",
        )  # fmt: skip
        rows = datasets.Dataset(InMemoryTable.from_pydict(columns), fingerprint="rows")
        trainer = SFTTrainer(
            model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()]
        )
        result = trainer.train()
    timed = times[asked["warm"] - 1 :]
    each = [after - before for before, after in pairwise(timed)]
    return {
        "seconds_a_step": statistics.fmean(each),
        "median_step": statistics.median(each),
        "slowest_step": max(each),
        "steps_timed": len(each),
        "mean_loss": result.training_loss,
        "padding_free": bool(getattr(trainer.args, "padding_free", False)),
    }


def by_loop(model: Any, _: Any, asked: dict[str, Any], device: Any) -> dict[str, Any]:
    """The loop of ``peft_loop.py`` on the same batches in the same order."""
    import numpy as np
    import torch
    from padded import padded
    from unsloth import FastLanguageModel

    from rightrank.bank.runs import now
    from rightrank.data import TokenizedExample

    rows = [
        TokenizedExample(np.array(ids, dtype=np.int32), np.array(trained), "")
        for ids, trained in asked["rows"]
    ]
    FastLanguageModel.for_training(model, use_gradient_checkpointing=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    adamw = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    losses, handed_over = [], []  # the device may be behind the second
    began = 0.0
    for done, chosen in enumerate(asked["batches"]):
        if done == asked["warm"]:
            began = now(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**padded([rows[i] for i in chosen], device), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        adamw.zero_grad()
        losses.append(loss.detach())
        handed_over.append(time.perf_counter())
    timed = len(asked["batches"]) - asked["warm"]
    each = (now(device) - began) / timed
    return {
        "seconds_a_step": each,
        "slowest_step": max(b - a for a, b in pairwise(handed_over[asked["warm"] :])),
        "steps_timed": timed,
        "first_and_last_loss": [float(losses[0]), float(losses[-1])],
    }


def main() -> None:
    way, asked, found = sys.argv[1:]
    faulthandler.dump_traceback_later(LIMIT - 5)  # where it was when it is ended
    import_module("unsloth")  # before the libraries that it changes
    answer = train(way, json.loads(Path(asked).read_text(encoding="utf-8")))
    Path(found).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
