"""Training a bank in captured CUDA graphs: a micro-step for each shape of row, and one update. The host only feeds and replays.

Where there is no CUDA the same steps run as they are, so that everything but the capture is tested anywhere.

Dimensions: K adapters.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from rightrank.bank.batch import split_to_capacity, trained_tokens
from rightrank.bank.rows import Shape, StaticRow, shape_of
from rightrank.bank.static import StaticForward
from rightrank.bank.step import Trained, batches
from rightrank.bank.update import FlatUpdate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe

WARM_UPS = 2
"""Runs before a capture: compilation, libraries' workspaces and lazy initialisation may not happen inside one."""
AHEAD = 8
"""Steps that the host runs ahead of the device: enough to keep it busy, few enough for progress and Ctrl-C to be timely. Assumed."""


class GraphedSteps:
    """Micro-steps and updates of one bank, captured as they are first needed and replayed from then on."""

    def __init__(self, forward: StaticForward, update: FlatUpdate, most_examples: int) -> None:
        self.forward, self.update, self.most_examples = forward, update, most_examples
        self.bank = forward.bank
        self.captured = self.bank.device.type == "cuda"
        self._rows: dict[Shape, StaticRow] = {}
        self._graphs: dict[Shape | str, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.captured else None

    def micro_step(self, examples: Sequence[TokenizedExample], total: int) -> None:
        """Gradients and loss of ``examples``, part of a batch of ``total`` trained tokens."""
        shape = shape_of(examples)
        row = self._rows.get(shape)
        if row is None:
            row = StaticRow.empty(shape, self.forward.adapters, self.most_examples, self.bank.device)
            self._rows[shape] = row
        row.fill(examples, self.forward.adapters, total)
        self._run(shape, lambda: self.forward.micro_step(row, self.update.loss_K))

    def apply(self) -> None:
        """The update."""
        self.update.prepare()
        self._run("update", self.update.apply)

    def _run(self, key: Shape | str, work: Callable[[], None]) -> None:
        if not self.captured:
            work()
        elif key in self._graphs:
            self._graphs[key].replay()
        else:
            self._graphs[key] = self._capture(work)
            self._graphs[key].replay()

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """``work`` as a graph; what it changes is as before."""
        with self._undone():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    work()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                work()
        return graph

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Warm-ups train nothing: gradients, masters, moments and losses are put back."""
        update, bank = self.update, self.bank
        changed = [
            bank.flat_gradient, bank.flat_master, update.working, update.moment, update.square, update.alive_K,
            update.loss_K, update.kept_loss_K,
        ]  # fmt: skip
        # On the host: the vectors may fill the card.
        before = [tensor.to("cpu", copy=True) for tensor in changed]
        yield
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(old)


def train_in_graphs(
    base: BaseModel,
    bank: AdapterBank,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    *,
    seed: int,
    capacity: int,
    compiled: bool,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
) -> Trained:
    """``step.train``, the same batches in the same order, in captured graphs. LoRA dropout is not served here.

    Raises what PyTorch raises where the model cannot be captured; the bank's numbers are of no use then.
    """
    assert recipe.dropout == 0
    steps = recipe.steps(len(examples))
    update = FlatUpdate(bank, recipe, steps)
    tail, tokens, trained = range(steps - max(1, math.ceil(steps / 10)), steps), 0, 0
    kept_K: Float[Tensor, " K"] = torch.zeros(len(bank.specs), device=bank.device)
    longest = max(len(example.token_ids_T) for example in examples)
    with StaticForward(base, bank, update.working, longest=longest, compiled=compiled) as forward:
        graphed = GraphedSteps(forward, update, recipe.batch_size)
        for step, chosen in enumerate(batches(len(examples), recipe, seed)):
            picked = [examples[i] for i in chosen]
            total = sum(trained_tokens(example) for example in picked)
            for group in split_to_capacity(picked, capacity):
                if any(trained_tokens(example) for example in group):
                    graphed.micro_step(group, total)
            graphed.apply()
            tokens += sum(len(example.token_ids_T) for example in picked)
            if step in tail:
                trained += total
                kept_K += total * update.kept_loss_K
            if step % AHEAD == AHEAD - 1 and bank.device.type == "cuda":
                torch.cuda.synchronize(bank.device)
            on_step(step + 1, steps)
        diverged = update.diverged()
        bank.refresh()
    mean = (kept_K.double() / max(1, trained)).tolist()
    losses = tuple(None if bad else value for bad, value in zip(diverged, mean, strict=True))
    return Trained(losses, tuple(diverged), steps, tokens)
