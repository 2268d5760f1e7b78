"""One base on one device and what it is asked to do, in this process or in one of its own."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rightrank.bank.verify import worth_sharing
from rightrank.errors import UserError
from rightrank.executors.local import LocalExecutor
from rightrank.executors.survey import BaseFacts, Survey, facts_of, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.probe.loss_table import Pack, PackResult
    from rightrank.probe.plan import Speed
    from rightrank.recipe import Recipe


@dataclass(frozen=True)
class Order:
    """What a worker loads, and where. Every worker finds the model by itself: nothing of it is sent."""

    source: str
    """Folder, GGUF file or hub id, as it is found from any folder."""
    loading: Mapping[str, Any]
    """Further options of ``load_base``."""
    device: str | None
    threads: int | None
    """Of a worker on the CPU: sums over threads depend on their number, in the last bits."""


@dataclass(frozen=True)
class Answer:
    """What came of a call: its value, or the error in plain values, since not every exception survives the way."""

    value: Any = None
    user_error: tuple[type[UserError], str, str] | None = None
    trace: str | None = None

    def unpacked(self) -> Any:
        """The value. Raises the person's error as it was, and any other as RuntimeError with its trace."""
        if self.user_error is not None:
            kind, problem, mend = self.user_error
            error = kind.__new__(kind)
            UserError.__init__(error, problem, mend)
            raise error
        if self.trace is not None:
            raise RuntimeError(f"A worker failed:\n{self.trace}")
        return self.value


class Worker:
    """A base and, once surveyed, the executor that trains over it."""

    def __init__(self, base: BaseModel | None = None) -> None:
        self._base = base
        self._executor: LocalExecutor | None = None
        self._said = 0

    @property
    def base(self) -> BaseModel:
        """Raises AssertionError before there is one."""
        assert self._base is not None
        return self._base

    @property
    def executor(self) -> LocalExecutor:
        """Raises AssertionError before ``survey``."""
        assert self._executor is not None
        return self._executor

    @property
    def facts(self) -> BaseFacts:
        """Of the base."""
        return facts_of(self.base)

    def open(self, order: Order) -> BaseFacts:
        """Load the base. Raises as ``load_base`` does."""
        import torch

        from rightrank.bank.base_model import load_base

        if order.threads is not None:
            torch.set_num_threads(order.threads)
        if order.device is not None and order.device.startswith("cuda:"):
            torch.cuda.set_device(order.device)  # quantised weights go to the current one
        no_words: Any = object()  # workers read token ids only
        self._base = load_base(order.source, no_words, device=order.device, **order.loading)
        return self.facts

    def survey(
        self, train: Sequence[TokenizedExample], few: Sequence[TokenizedExample], recipe: Recipe, name: str
    ) -> Survey:
        """Check base and examples against each other, on ``few`` of them; from now on packs train. ``name``: the base's, in adapters."""
        longest = max(len(example.token_ids_T) for example in train)
        found = survey(self.base, few, recipe, longest, shares=worth_sharing(train, recipe))
        self._executor = LocalExecutor(self.base, found.memory, train, recipe, found.path, base_name=name)
        return found

    def judge_by(self, decide: Sequence[TokenizedExample], score: Sequence[TokenizedExample]) -> None:
        """Set the held-out examples."""
        self.executor.judge_by(decide, score)

    def measure_speed(self, small: int, large: int) -> Speed:
        """As the executor does."""
        return self.executor.measure_speed(small=small, large=large)

    def memory(self) -> tuple[float, float]:
        """Bytes that may be used now, and the most GiB held so far."""
        return self.executor.available_bytes(), self.executor.peak_gib()

    def evaluate_base(self) -> PackResult:
        """The untrained model on every held-out example."""
        return self.executor.evaluate_base()

    def train(
        self, pack: Pack, export_to: Path | None, on_step: Callable[[float], None]
    ) -> tuple[PackResult, list[str], float]:
        """A pack's results, what is to be said about how it went, and the most GiB held so far."""
        here = export_to is None or (export_to.parents[1] / "run.json").exists()
        result = self.executor.train(pack, export_to=export_to if here else None, on_step=on_step)
        notes = self.executor.notes[self._said :]
        self._said = len(self.executor.notes)
        if not here:
            notes.append(
                "The trained adapters were not kept: a worker's machine does not see the run directory."
            )
        return result, notes, self.executor.peak_gib()


def answer(worker: Worker, method: str, arguments: tuple[Any, ...]) -> Answer:
    """Do what is asked for; whatever comes of it comes back as plain values."""
    try:
        return Answer(value=getattr(worker, method)(*arguments))
    except UserError as error:
        return Answer(user_error=(type(error), error.problem, error.mend))
    except Exception:
        return Answer(trace=traceback.format_exc())
