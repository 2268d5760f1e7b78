"""A bank on its way through training and judging: step by step, or in captured graphs. Both are used alike.

Dimensions: K adapters.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from rightrank.bank.adapters import AdapterBank
from rightrank.bank.evaluate import HeldOut, evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.graphs import GraphedSteps, split, train_in_graphs
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.static import StaticForward
from rightrank.bank.step import Trained, gradients, train
from rightrank.bank.update import FlatUpdate, working_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.adapters import AdapterSpec
    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.verify import Path
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe


class StepTimes(NamedTuple):
    """Seconds."""

    start: float
    """Before the first step: what is captured, for each shape of rows."""
    step: float
    """Mean over the batches."""
    evaluation: float
    """Of all their examples."""


def open_run(
    path: Path, base: BaseModel, specs: Sequence[AdapterSpec], *, dropout: float, longest: int = 1
) -> PlainRun | GraphedRun:
    """A bank of ``specs`` at the start of training, to run as ``path`` says. Graphs serve no ``dropout``.

    ``longest``: tokens of the longest example of all.
    """
    layers = {"recomputed": path.recomputed, "shares": path.shares}
    if path.way == "plain":
        return PlainRun(base, specs, packed=path.packed, dropout=dropout, **layers)
    return GraphedRun(base, specs, compiled=path.way == "compiled", longest=longest, **layers)


class PlainRun:
    """Step by step, by code that anyone can follow: on the CPU, and wherever nothing faster runs."""

    def __init__(
        self,
        base: BaseModel,
        specs: Sequence[AdapterSpec],
        *,
        packed: bool,
        dropout: float,
        recomputed: bool = False,
        shares: bool = False,
    ) -> None:
        self.bank = AdapterBank(base.targets, specs, device=base.device, dtype=base.dtype)
        self._forward = Forward(
            base, self.bank, packed=packed, dropout=dropout, recomputed=recomputed, shares=shares
        )
        self._stack = ExitStack()

    def __enter__(self) -> PlainRun:
        self._stack.enter_context(self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def train(self, examples: Sequence[TokenizedExample], recipe: Recipe, **options: Any) -> Trained:
        """As ``step.train`` does."""
        return train(self._forward, self.bank, examples, recipe, **options)

    def evaluate(self, examples: Sequence[TokenizedExample], capacity: int) -> HeldOut:
        """As ``evaluate`` does."""
        return evaluate(self._forward, examples, capacity=capacity)

    def time(
        self, examples: Sequence[TokenizedExample], recipe: Recipe, capacity: int, *, judges: bool = True
    ) -> StepTimes:
        """The second of two passes; ``examples`` may be several batches. ``judges``: an evaluation too."""
        plan = batched(examples, recipe)
        optimizer = BankOptimizer(self.bank, recipe, steps=2 * len(plan))
        step = evaluation = 0.0
        for _ in range(2):
            began = now(self.bank.device)
            for batch in plan:
                self.bank.zero_gradients()
                optimizer.step(gradients(self._forward, batch, capacity))
            between = now(self.bank.device)
            if judges:
                self.evaluate(examples, capacity)
            step, evaluation = (between - began) / len(plan), now(self.bank.device) - between
        return StepTimes(0.0, step, evaluation)


class GraphedRun:
    """In captured graphs, without LoRA dropout."""

    def __init__(
        self,
        base: BaseModel,
        specs: Sequence[AdapterSpec],
        *,
        compiled: bool,
        recomputed: bool = False,
        shares: bool = False,
        longest: int = 1,
    ) -> None:
        self.base, self._longest = base, longest
        self._layers: dict[str, Any] = {"compiled": compiled, "recomputed": recomputed, "shares": shares}
        self.bank = AdapterBank(base.targets, specs, device=base.device, dtype=base.dtype, products=False)

    def __enter__(self) -> GraphedRun:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: the model is given back after every capture and every judgement."""

    def train(self, examples: Sequence[TokenizedExample], recipe: Recipe, **options: Any) -> Trained:
        """As ``train_in_graphs`` does. Raises CaptureError where the model cannot be captured."""
        return train_in_graphs(
            self.base, self.bank, examples, recipe, **self._layers, longest=self._longest, **options
        )

    def evaluate(self, examples: Sequence[TokenizedExample], capacity: int) -> HeldOut:
        """By the compiled layers, not captured: its rows are long enough to keep the device busy."""
        longest = max([self._longest, *(len(example.token_ids_T) for example in examples)])
        working = working_copy(self.bank)
        with StaticForward(self.base, self.bank, working, longest=longest, **self._layers) as forward:
            return evaluate(forward, examples, capacity=capacity)

    def time(self, examples: Sequence[TokenizedExample], recipe: Recipe, capacity: int) -> StepTimes:
        """Everything once before the clock runs; ``examples`` may be several batches. Raises CaptureError as ``train`` does."""
        device = self.bank.device
        shares = self._layers["shares"]
        plan = [split(batch, capacity, shares=shares) for batch in batched(examples, recipe)]
        work = [micro for micros in plan for micro in micros]
        update = FlatUpdate(self.bank, recipe, steps=len(plan))
        options = {**self._layers, "longest": self._longest}
        GraphedSteps(self.base, self.bank, update, work, **options)
        self.evaluate(examples, capacity)
        began = now(device)
        steps = GraphedSteps(self.base, self.bank, update, work, **options)
        captured = now(device)
        for micros in plan:
            for micro in micros:
                steps.micro_step(micro)
            steps.apply()
        stepped = now(device)
        self.evaluate(examples, capacity)
        return StepTimes(
            (captured - began) / len(steps.shapes), (stepped - captured) / len(plan), now(device) - stepped
        )


def batched(examples: Sequence[TokenizedExample], recipe: Recipe) -> list[Sequence[TokenizedExample]]:
    """Batches of the recipe, in the order given."""
    return [
        examples[start : start + recipe.batch_size] for start in range(0, len(examples), recipe.batch_size)
    ]


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
