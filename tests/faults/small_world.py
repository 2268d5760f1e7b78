"""Two runs to disturb: a probe that trains nothing, in milliseconds; and a real one, on a model and rows that take a second or two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rightrank.probe.loss_table import LossTable
from rightrank.probe.plan import Job, Speed
from rightrank.probe.run import Outcome, Probe, Subject
from rightrank.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "probe"))

from worlds import FREQUENCY_E, SCORES_E, TOKENS_E, World, plan_of

WORLD = World(curvature=0.5, all_examples=1600)
SPEED = Speed(0.0, 0.01, 0.0, 0.0, together=2)
JOB = Job(
    examples=1600,
    recipe=Recipe(epochs=1, batch_size=8),
    parameters_per_rank=1000,
    decide_pool=30,
    score_pool=30,
    held_out_tokens=1.0,
)
SETTINGS = {"model": "world", "plan": {"ranks": [8, 32, 128]}}


class Executor:
    """Draws measurements instead of training."""

    def fit_together(self, configurations: Any) -> Any:
        return [configurations[i : i + 2] for i in range(0, len(configurations), 2)]

    def evaluate_base(self) -> Any:
        return WORLD.base()

    def train(self, pack: Any, *, export_to: Any, on_step: Any) -> Any:
        on_step(1.0)
        return WORLD.result(pack, 0.5)


def probe(directory: Path) -> Outcome:
    """A whole probe, or what is left of one in ``directory``."""
    table = LossTable(directory, SETTINGS, {"device": "none"})
    executor = Executor()
    if table.base is None:
        table.set_base(executor.evaluate_base())
    subject = Subject(JOB, TOKENS_E, SCORES_E, FREQUENCY_E, 1e-3, 128, 1, None, seed=0)
    return Probe(
        subject,
        plan_of("lean"),
        SPEED,
        table,
        executor,
        deadline=float("inf"),
        on_progress=lambda *what: None,
    ).run()


REAL_SPEED = Speed(0.0, 1e-3, 0.0, 1e-7, together=1)
"""In place of the measured one, on which plans hang: two runs on a busy machine must plan the same."""


def real_run(folder: Path, out: Path, *, resume: bool = False) -> Any:
    """``rightrank.recommend`` on ``folder``'s model and rows."""
    import torch

    from rightrank import recommend
    from rightrank.executors.local import LocalExecutor

    torch.set_num_threads(1)
    LocalExecutor.measure_speed = lambda self, **_: REAL_SPEED  # type: ignore[method-assign]
    return recommend(
        str(folder / "model"),
        str(folder / "rows.jsonl"),
        recipe=Recipe(epochs=1, batch_size=8),
        ranks=(4, 8),
        budget_minutes=60.0,
        device="cpu",
        out=out,
        resume=resume,
    )
