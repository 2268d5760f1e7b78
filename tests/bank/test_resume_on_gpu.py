"""A probe in captured steps, killed while it trains, resumed in another process: the bits of an undisturbed one, on the same GPU.

Each part runs in a process of its own, as a person's would. Without a GPU the same is done on the CPU, where nothing is captured.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rightrank.bank.base_model import load_base
from rightrank.bank.fastest import short
from rightrank.bank.fused import fused_products_run_here
from rightrank.bank.memory import measure_graphs, measure_memory
from rightrank.bank.verify import Path as HowItRuns
from rightrank.bank.verify import Way
from rightrank.executors import local
from rightrank.probe.loss_table import LossTable, Pack
from rightrank.probe.plan import Job, Plan, Speed
from rightrank.probe.run import Probe, Subject
from rightrank.recipe import Recipe
from tiny import VOCABULARY, random_examples, tiny_model

ON_GPU = torch.cuda.is_available() and fused_products_run_here(torch.device("cuda"), torch.bfloat16)
CASES: list[tuple[Way, int]] = [("compiled", 100), ("compiled", 400)] if ON_GPU else [("captured", 100)]
"""How steps run, and the longest row: up to ``varlen.SHORT`` tokens attention is ours, beyond it PyTorch's."""
ROWS, SIDE, TOGETHER = 48, 30, 3
RECIPE = Recipe(epochs=1, batch_size=8)
KILLED_IN = 1
"""The number of the pack."""


class Killed(local.LocalExecutor):
    """Ends its process half-way through a pack, with work on its way to the device."""

    def train(self, pack: Pack, **options: Any) -> Any:
        def on_step(share: float) -> None:
            if pack.number == KILLED_IN and share > 0.4:
                os.kill(os.getpid(), signal.SIGKILL)

        return super().train(pack, **{**options, "on_step": on_step})


def executor_of(kind: type[local.LocalExecutor], way: Way, longest: int) -> local.LocalExecutor:
    local.TOGETHER_ON_GPU = local.TOGETHER_ON_CPU = TOGETHER  # several packs, of several adapters each
    device, dtype, hidden = ("cuda", torch.bfloat16, 128) if ON_GPU else ("cpu", torch.float32, 32)
    base = load_base(tiny_model("llama", dtype=dtype, hidden=hidden).to(device), object())
    rows, held_out = (random_examples(n, seed=n, longest=longest) for n in (ROWS, 2 * SIDE))
    if ON_GPU:
        compiled = way == "compiled"
        memory = measure_graphs(base, short(rows), compiled=compiled, recomputed=False, longest=longest)
    else:
        memory = measure_memory(base, base.targets, rows[:3], packed=True)
    executor = kind(base, memory, rows, RECIPE, HowItRuns(True, "", way))
    executor.judge_by(held_out[:SIDE], held_out[SIDE:])
    return executor


def probe(directory: Path, way: Way, longest: int, kind: type[local.LocalExecutor]) -> None:
    """A whole probe, or what is left of one in ``directory``."""
    executor = executor_of(kind, way, longest)
    judges = [*executor.decide, *executor.score]
    tokens_E = np.array([int(e.trained_T[1:].sum()) for e in judges])
    job = Job(ROWS, RECIPE, 1000, SIDE, SIDE, float(tokens_E.mean()))
    scores_E = np.arange(len(judges)) >= SIDE
    frequency_E = tokens_E * np.log(VOCABULARY)
    subject = Subject(job, tokens_E, scores_E, frequency_E, 1e-3, 32, 1, None, seed=0)
    plan = Plan(ROWS // 2, ROWS, (4, 8, 16), (4, 8, 16), "plain", starved=False, decide=SIDE, score=SIDE)
    table = LossTable(directory, {"way": way, "longest": longest})
    if table.base is None:
        table.set_base(executor.evaluate_base())
    speed = Speed(0.0, 1e-3, 0.0, 1e-7, TOGETHER)
    silent, endless = (lambda *_: None), float("inf")
    Probe(subject, plan, speed, table, executor, deadline=endless, on_progress=silent).run()
    assert not executor.notes, executor.notes  # such as steps that could not be captured


def bits_of(directory: Path) -> dict[str, str]:
    """A digest of every measurement, looks on the way included, and of every adapter."""
    table = LossTable.opened(directory)
    assert table.damaged == [] and table.base is not None
    named = {repr(pack): result for pack, result in zip(table.packs, table.results, strict=True)}
    found = {}
    for name, result in {"base": table.base, **named}.items():
        looks = b"" if result.looks is None else result.looks.loss_KLX.tobytes()
        losses = result.loss_KE.tobytes() + result.right_KE.tobytes() + looks
        trained = repr((result.train_loss_K, result.steps, result.train_tokens)).encode()
        found[name] = hashlib.sha256(losses + trained).hexdigest()
    for path in directory.rglob("adapter_model.safetensors"):
        found[str(path.relative_to(directory))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def in_process(folder: Path, what: str, cases: list[tuple[Way, int]]) -> int:
    here = Path(__file__).parent
    command = f"import sys; sys.path[:0] = sys.argv[1:3]; from {Path(__file__).stem} import carry_out; carry_out(*sys.argv[3:])"
    arguments = [str(here), str(here.parent), str(folder), what, json.dumps(cases)]
    done = subprocess.run([sys.executable, "-c", command, *arguments], check=False, capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()[-3000:]
    return done.returncode


def carry_out(folder: str, what: str, cases: str) -> None:
    """In the child."""
    torch.set_num_threads(1)
    for way, longest in json.loads(cases):
        where = Path(folder) / f"{'whole' if what == 'whole' else 'disturbed'}_{way}_{longest}"
        probe(where, way, longest, Killed if what == "killed" else local.LocalExecutor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undisturbed runs; and others, killed in a process each, and resumed."""
    folder = tmp_path_factory.mktemp("resumed")
    assert in_process(folder, "whole", CASES) == 0
    for case in CASES:
        assert in_process(folder, "killed", [case]) == -signal.SIGKILL
        left = bits_of(folder / "disturbed_{}_{}".format(*case))
        (folder / "left_{}_{}".format(*case)).write_text(json.dumps(left))
    assert in_process(folder, "resumed", CASES) == 0
    return folder


@pytest.mark.parametrize(("way", "longest"), CASES)
def test_killed_and_resumed_it_ends_in_the_same_bits(folder: Path, way: Way, longest: int) -> None:
    whole, disturbed = (bits_of(folder / f"{kind}_{way}_{longest}") for kind in ("whole", "disturbed"))
    left = json.loads((folder / f"left_{way}_{longest}").read_text())
    packs = [name for name in whole if name.startswith("Pack")]
    assert sum(name.startswith("Pack") for name in left) == KILLED_IN < len(packs) - 1
    assert any(name.endswith("adapter_model.safetensors") for name in whole)
    assert left.items() <= disturbed.items(), "what was measured is kept"
    assert disturbed == whole
