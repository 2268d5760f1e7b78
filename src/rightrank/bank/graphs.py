"""Training a bank in captured CUDA graphs: a micro-step for each of a few shapes of row, and one update. The host only feeds and replays.

Everything is captured before the first step, so that what does not fit or cannot be captured is known before anything is trained, and
the model is given back before the first replay. Where there is no CUDA the same steps run as they are, so that everything but the capture
is tested anywhere.

Dimensions: K adapters.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank.batch import shared_tokens, split_to_capacity, trained_tokens
from rightrank.bank.rows import Shape, StaticRow, choose_shapes, fitting, shape_of
from rightrank.bank.static import StaticForward
from rightrank.bank.step import Trained, batches
from rightrank.bank.update import FlatUpdate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe

WARM_UPS = 2
"""Runs before the first capture: compilation, libraries' workspaces and lazy initialisation may not happen inside one."""
AHEAD = 8
"""Steps that the host runs ahead of the device: enough to keep it busy, few enough for progress and Ctrl-C to be timely. Assumed."""


class CaptureError(Exception):
    """A model whose steps cannot be captured; nothing was trained."""


@dataclass(frozen=True)
class MicroBatch:
    """Part of a recipe's batch that goes through the model at once."""

    examples: list[TokenizedExample]
    batch_tokens: int
    """Trained tokens of the whole batch, which its loss is divided by."""
    need: Shape
    shared: int = 0
    """Tokens that its examples begin with, and that are computed once."""

    @classmethod
    def of(cls, examples: list[TokenizedExample], batch_tokens: int, *, shares: bool) -> MicroBatch:
        """``shares``: compute once what all begin with."""
        if not shares:
            return cls(examples, batch_tokens, shape_of(examples))
        shared = shared_tokens(examples)
        return cls(examples, batch_tokens, shape_of(examples, shared), shared)


def split(examples: Sequence[TokenizedExample], capacity: int, *, shares: bool = False) -> list[MicroBatch]:
    """A batch in rows of at most ``capacity`` tokens, those without a trained token left out; ``shares`` as ``MicroBatch.of`` has it."""
    total = sum(trained_tokens(example) for example in examples)
    groups = split_to_capacity(examples, capacity)
    return [MicroBatch.of(group, total, shares=shares) for group in groups if any(map(trained_tokens, group))]


class GraphedSteps:
    """Micro-steps and updates of one bank over ``base``, captured for ``work``: all the micro-batches that will come.

    Raises CaptureError where the model cannot be captured, and torch.OutOfMemoryError.
    """

    def __init__(
        self,
        base: BaseModel,
        bank: AdapterBank,
        update: FlatUpdate,
        work: Sequence[MicroBatch],
        *,
        compiled: bool,
        recomputed: bool = False,
        shares: bool = False,
        longest: int = 1,
    ) -> None:
        """``longest``: tokens of the longest example anywhere, so that all that is ever captured runs by the same kernels.

        ``shares``: as ``work`` was split.
        """
        self.bank, self.update = bank, update
        self.shapes = choose_shapes([micro.need for micro in work])
        most = max((len(micro.examples) for micro in work), default=1)
        self._rows = {
            shape: StaticRow.empty(shape, len(bank.specs), most, bank.device, shares=shares)
            for shape in self.shapes
        }
        longest = max([longest, *(self._longest(micro) for micro in work)])
        self._forward = StaticForward(
            base,
            bank,
            update.working,
            longest=longest,
            compiled=compiled,
            recomputed=recomputed,
            shares=shares,
        )
        self._graphs: dict[Shape | str, torch.cuda.CUDAGraph] = {}
        if bank.device.type == "cuda":
            try:
                with self._forward:
                    self._capture_all(work)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # PyTorch, its compiler and a model's own code raise what they like
                raise CaptureError(in_one_line(error)) from error

    def _longest(self, micro: MicroBatch) -> int:
        """Tokens of the longest sequence of its row: an example or the filling."""
        lengths = [len(example.token_ids_T) for example in micro.examples]
        shape = fitting(self.shapes, micro.need)
        return max(*lengths, shape.tokens + shape.spared - sum(lengths))

    def micro_step(self, micro: MicroBatch) -> None:
        """Add the gradients and the loss of a micro-batch."""
        shape = fitting(self.shapes, micro.need)
        row = self._rows[shape]
        self._fill(row, micro)
        if self._graphs:
            self._graphs[shape].replay()
        else:
            with self._forward:
                self._forward.micro_step(row, self.update.loss_K)

    def _fill(self, row: StaticRow, micro: MicroBatch) -> None:
        row.fill(micro.examples, len(self.bank.specs), micro.batch_tokens, shared=micro.shared)

    def apply(self) -> None:
        """The update."""
        self.update.prepare()
        if self._graphs:
            self._graphs["update"].replay()
        else:
            self.update.apply()

    def _capture_all(self, work: Sequence[MicroBatch]) -> None:
        """Largest shape first. Nothing is trained by it: gradients are forgotten, and an update from none at a rate of 0 is none.

        Everything runs once before anything is captured: captured memory is nobody else's, so that a run between two captures would
        need as much again.
        """
        steps: dict[Shape, Callable[[], None]] = {}
        for shape in reversed(self.shapes):
            row = self._rows[shape]
            some = next(micro for micro in work if fitting(self.shapes, micro.need) == shape)
            self._fill(row, some)
            steps[shape] = partial(self._forward.micro_step, row, self.update.loss_K)
        with aside(self.bank.device):
            for number, step in enumerate(steps.values()):
                for _ in range(1 if number else WARM_UPS):
                    step()
            self.bank.flat_gradient.zero_()
            self.update.loss_K.zero_()
            for _ in range(WARM_UPS):
                self.update.apply()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            pool = torch.cuda.graph_pool_handle()
            for shape, step in steps.items():
                self._graphs[shape] = _captured(step, pool)
            self._graphs["update"] = _captured(self.update.apply, pool)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """On a stream of ours, always the same, since capturing takes one: libraries keep a workspace for every stream they have seen."""
    side, main = _side_stream(device), torch.cuda.current_stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield
    main.wait_stream(side)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def in_one_line(error: Exception) -> str:
    """Compilers' errors run over pages."""
    first = next(iter(str(error).strip().splitlines()), "")[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _captured(work: Callable[[], Any], pool: Any) -> torch.cuda.CUDAGraph:
    """``work`` on the stream that is current, its memory from ``pool``. ``torch.cuda.graph`` also gives cached memory back, every time."""
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=pool)
    try:
        work()
    except Exception:
        with suppress(Exception):  # it complains of what failed already
            graph.capture_end()
        raise
    graph.capture_end()
    return graph


def train_in_graphs(
    base: BaseModel,
    bank: AdapterBank,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    *,
    seed: int,
    capacity: int,
    compiled: bool,
    recomputed: bool = False,
    shares: bool = False,
    longest: int = 1,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
    look_after: Collection[int] = (),
    on_look: Callable[[int, Float[Tensor, " K"]], None] = lambda done, loss_K: None,
) -> Trained:
    """``step.train``, the same batches in the same order, in captured graphs, without LoRA dropout.

    ``longest`` as ``GraphedSteps`` takes it; ``shares``: what all examples of a row begin with is computed once.
    Raises CaptureError where the model cannot be captured, before anything is trained.
    """
    assert recipe.dropout == 0
    steps = recipe.steps(len(examples))
    update = FlatUpdate(bank, recipe, steps)
    plan = [
        split([examples[i] for i in chosen], capacity, shares=shares)
        for chosen in batches(len(examples), recipe, seed)
    ]
    work = [micro for step in plan for micro in step]
    layers: dict[str, Any] = {"compiled": compiled, "recomputed": recomputed, "shares": shares}
    graphed = GraphedSteps(base, bank, update, work, **layers, longest=longest)
    tail, look = _Mean(bank), _Mean(bank)
    for done, micros in enumerate(plan, start=1):
        for micro in micros:
            graphed.micro_step(micro)
        graphed.apply()
        trained = micros[0].batch_tokens if micros else 0
        if done > steps - max(1, math.ceil(steps / 10)):
            tail.add(trained, update.kept_loss_K)
        look.add(trained, update.kept_loss_K)
        if done in look_after:
            on_look(done, look.value())
            look = _Mean(bank)
        if done % AHEAD == 0 and bank.device.type == "cuda":
            torch.cuda.synchronize(bank.device)
        on_step(done, steps)
    diverged = update.diverged()
    bank.refresh()
    losses = tuple(None if bad else value for bad, value in zip(diverged, tail.value().tolist(), strict=True))
    order = batches(len(examples), recipe, seed)
    tokens = sum(len(examples[i].token_ids_T) for chosen in order for i in chosen)
    return Trained(losses, tuple(diverged), steps, tokens)


class _Mean:
    """Mean of every adapter's training loss over batches, weighted by their trained tokens; the host does not wait."""

    def __init__(self, bank: AdapterBank) -> None:
        self._sum_K = torch.zeros(len(bank.specs), device=bank.device, dtype=torch.float64)
        self._weight = 0

    def add(self, trained: int, loss_K: Float[Tensor, " K"]) -> None:
        self._sum_K += trained * loss_K
        self._weight += trained

    def value(self) -> Float[Tensor, " K"]:
        return self._sum_K / max(1, self._weight)
