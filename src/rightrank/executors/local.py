"""Packs trained in this process, on one device."""

from __future__ import annotations

import gc
import math
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from rightrank.bank.adapters import AdapterSpec
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.graphs import CaptureError
from rightrank.bank.memory import ENOUGH_TOKENS_ON_CPU, available_bytes, peak_gib_so_far, unheld_bytes
from rightrank.bank.peft_format import export_adapter
from rightrank.bank.runs import PlainRun, open_run
from rightrank.errors import ResourceError
from rightrank.executors.grouping import groups, spec_of
from rightrank.executors.looking import Looking
from rightrank.executors.part import Part
from rightrank.executors.survey import device_words, judging_share, looked_at
from rightrank.probe.looks import Looks, look_rows, look_steps
from rightrank.probe.loss_table import Configuration, PackResult
from rightrank.probe.plan import Speed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.runs import GraphedRun, StepTimes
    from rightrank.bank.verify import Path as HowItRuns
    from rightrank.data import TokenizedExample
    from rightrank.probe.loss_table import Pack
    from rightrank.recipe import Recipe

# A CPU trains one adapter as fast as several at once, and each that is finished is one more that nothing can take away.
TOGETHER_ON_CPU = 1
# Adapters and tokens that go through a GPU at once. A small model's step is bound by launches: 24 adapters on 26,000 tokens took 2 ×
# the time of one on 1,100, and the same in two halves twice that (measured, SmolLM2-135M, one H100). Memory sets the limit.
TOGETHER_ON_GPU = 32
ENOUGH_TOKENS_ON_GPU = 131_072
SHAPES_A_PACK = 3
"""Shapes of rows that a pack captures. Measured: 2 to 4 on nl2bash."""
BATCHES_TIMED = 4
"""Batches that captured steps are timed on: one more costs milliseconds."""
TRAIN_SHARE = 0.9
"""Of a pack's progress bar; the rest is evaluation."""


class LocalExecutor:
    """Trains and evaluates packs of adapters over ``base``."""

    def __init__(
        self,
        base: BaseModel,
        memory: MemoryModel,
        train_examples: Sequence[TokenizedExample],
        recipe: Recipe,
        path: HowItRuns,
        *,
        base_name: str | None = None,
    ) -> None:
        """``memory`` and ``path``: how the base runs and what that takes, as surveyed."""
        self.base, self.memory = base, memory
        self.train_examples, self.recipe, self.path = train_examples, recipe, path
        self.base_name = base_name or base.name
        """How exported adapters name their base."""
        self.targets = base.targets
        self.decide: Sequence[TokenizedExample] = ()
        self.score: Sequence[TokenizedExample] = ()
        self.notes: list[str] = []
        self._longest = max(len(example.token_ids_T) for example in train_examples)
        self._on_gpu = base.device.type == "cuda"
        self._judging = judging_share(base, path)

    def judge_by(self, decide: Sequence[TokenizedExample], score: Sequence[TokenizedExample]) -> None:
        """Set the held-out examples."""
        self.decide, self.score = decide, score
        self._longest = max([self._longest, *(len(example.token_ids_T) for example in (*decide, *score))])

    def fit_together(self, configurations: Sequence[Configuration]) -> list[list[Configuration]]:
        """Groups that fit into memory together."""
        return groups(
            configurations,
            self.targets,
            self.memory,
            available=self.available_bytes(),
            longest=self._longest + self._looked_at,
            most=self._together,
        )

    def available_bytes(self) -> float:
        """Memory of the device that may be used now."""
        return available_bytes(self.base.device)

    def peak_gib(self) -> float:
        """Most memory held so far."""
        return peak_gib_so_far(self.base.device)

    @property
    def device_words(self) -> str:
        """What trains here, as people call it."""
        return device_words(self.base.device)

    @property
    def _together(self) -> int:
        return TOGETHER_ON_GPU if self._on_gpu else TOGETHER_ON_CPU

    def _most_together(self, rank: int) -> int:
        """Adapters of ``rank`` that train at once and fit."""
        alike = [Configuration(rank, rank, 0.0)] * self._together
        return len(self.fit_together(alike)[0])

    def evaluate_base(self) -> PackResult:
        """The untrained model on every held-out example."""
        started = time.monotonic()
        with Forward(self.base, packed=self.path.packed, shares=self.path.shares) as forward:
            held_out = evaluate(forward, [*self.decide, *self.score], capacity=self._capacity(0, 1))
        return PackResult(held_out.loss_KE, held_out.right_KE, (None,), 0, 0, time.monotonic() - started)

    def train(self, pack: Pack, *, export_to: Path | None, on_step: Callable[[float], None]) -> PackResult:
        """Train a pack by the whole recipe and evaluate it; where memory runs out after all, in halves."""
        with _explaining_memory():
            return self._train(Part(pack, pack.configurations, 0, export_to, on_step))

    def _train(self, part: Part) -> PackResult:
        again: Sequence[Part] = (part,)
        try:
            return self._train_once(part)
        except CaptureError as error:
            self.path = replace(self.path, way="plain")
            self.notes.append(
                f"Steps could not be captured and run one by one, several times slower: {error}"
            )
        except torch.cuda.OutOfMemoryError:
            if len(part.configurations) == 1:
                raise
            self.notes.append(
                f"{len(part.configurations)} adapters did not fit into the GPU's memory together and were trained in halves."
            )
            again = part.halves()
        _give_back_memory()
        return _joined([self._train(one) for one in again])

    def _train_once(self, part: Part) -> PackResult:
        started = time.monotonic()
        pack = part.pack
        judges = [*self.decide, *(self.score if pack.with_score else ())]
        few = self.decide[: look_rows(len(self.decide))]
        with self._open([spec_of(c, self.targets) for c in part.configurations]) as run:
            bank = run.bank
            capacity = self._capacity(sum(master.numel() for master in bank.masters), len(bank.specs))
            looking = Looking(lambda: run.evaluate(few, self._judging_capacity(len(bank.specs), capacity)))
            trained = run.train(
                self.train_examples[: pack.examples],
                self.recipe,
                seed=part.configurations[0].seed,
                capacity=capacity,
                on_step=lambda done, steps: part.on_step(TRAIN_SHARE * done / steps),
                look_after=look_steps(self.recipe, pack.examples) if pack.with_score else (),
                on_look=looking.look,
            )
            held_out = run.evaluate(judges, self._judging_capacity(len(bank.specs), capacity))
        part.on_step(1.0)
        if part.export_to is not None:
            self._export(bank, part.export_to, part.first)
        loss_KE, right_KE = _padded(held_out.loss_KE, held_out.right_KE, len(self.decide) + len(self.score))
        # The last update may have been the one that diverged: only the evaluation tells.
        lost_K = np.array(trained.diverged_K) | ~np.isfinite(held_out.loss_KE).all(1)
        loss_KE[lost_K, : len(judges)] = np.inf
        right_KE[lost_K, : len(judges)] = 0
        return PackResult(
            loss_KE,
            right_KE,
            trained.train_loss_K,
            trained.steps,
            trained.tokens,
            time.monotonic() - started,
            looking.looks(math.ceil(pack.examples / self.recipe.batch_size)),
        )

    def _open(self, specs: Sequence[AdapterSpec]) -> PlainRun | GraphedRun:
        return open_run(self.path, self.base, specs, dropout=self.recipe.dropout, longest=self._longest)

    def _judging_capacity(self, adapters: int, capacity: int) -> int:
        """Tokens a row when ``adapters`` are judged: ``capacity``, unless captured graphs hold memory that no one else may use."""
        if self.path.way == "plain":
            return capacity
        fits = self.memory.capacity(0, adapters, unheld_bytes(self.base.device))
        return self._row(int(fits / self._judging), adapters)

    def _capacity(self, parameters: int, adapters: int) -> int:
        """Tokens a row for ``adapters`` adapters."""
        fits = self.memory.capacity(parameters, adapters, available_bytes(self.base.device))
        return self._row(fits - self._looked_at, adapters)

    @property
    def _looked_at(self) -> int:
        return looked_at(self.path, self._judging, self._longest)

    def _row(self, fits: int, adapters: int) -> int:
        """As many tokens as fit, and no more than brings speed."""
        enough = -(-ENOUGH_TOKENS_ON_GPU // adapters) if self._on_gpu else ENOUGH_TOKENS_ON_CPU
        return max(self._longest, min(in_steps(fits), max(enough, self._longest)))

    def _export(self, bank: AdapterBank, directory: Path, first: int) -> None:
        """Keep the trained adapters; a disk that cannot take them costs a note, not the measurement."""
        size = sum(master.nbytes for master in bank.masters)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(directory.parent).free >= 4 * size:
                for k in range(len(bank.specs)):
                    export_adapter(
                        bank,
                        k,
                        directory / str(first + k),
                        base_name=self.base_name,
                        dropout=self.recipe.dropout,
                    )
                return
        except (OSError, ResourceError):
            shutil.rmtree(directory, ignore_errors=True)
        self.notes.append("The trained adapters were not kept: too little disk space.")

    def measure_speed(self, *, small: int, large: int) -> Speed:
        """Time real steps at rank ``small`` and ``large``, alone and together, and an evaluation. A few seconds."""
        captured = self.path.way != "plain"
        examples = self.train_examples[: self.recipe.batch_size * (BATCHES_TIMED if captured else 1)]
        together = self._most_together(small)
        per_rank = sum(target.width_in + target.width_out for target in self.targets)
        alone = self._time([small], examples)
        wide = self._time([large], examples) if large > small else alone
        per_parameter = max(0.0, wide.step - alone.step) / max(1, per_rank * (large - small))
        each, evaluation, start = alone.step, alone.evaluation, alone.start
        if together > 1:
            count = min(8, together)
            several = self._time([small] * count, examples)
            each = max(alone.step / 50, (several.step - alone.step) / (count - 1))
            evaluation, start = several.evaluation / count, several.start
        tokens = sum(len(example.token_ids_T) for example in examples)
        return Speed(
            floor_seconds=max(0.0, alone.step - each),
            step_seconds=max(alone.step / 100, each - per_parameter * per_rank * small),
            step_seconds_per_parameter=per_parameter,
            evaluate_seconds_per_token=evaluation / tokens,
            together=together,
            pack_seconds=SHAPES_A_PACK * start,
            trainer_step_seconds=self._trainer_step_seconds(small) if captured or self.path.shares else None,
        )

    def _trainer_step_seconds(self, rank: int) -> float | None:
        """A step of one adapter as a trainer takes it: no capture, no compilation, nothing shared by examples.

        None where that takes more memory than there is.
        """
        try:
            return self._plain_step_seconds(AdapterSpec(rank, alpha=rank, learning_rate=0.0))
        except torch.cuda.OutOfMemoryError:
            pass
        _give_back_memory()
        return None

    def _plain_step_seconds(self, spec: AdapterSpec) -> float:
        """Raises torch.OutOfMemoryError."""
        layers = {"packed": self.path.packed, "recomputed": self.path.recomputed}
        batches = 1 if self.path.way == "plain" else BATCHES_TIMED
        examples = self.train_examples[: self.recipe.batch_size * batches]
        with PlainRun(self.base, [spec], dropout=0.0, **layers) as run:
            capacity = self._capacity(run.bank.masters[0].numel(), 1)
            # These steps keep more of a token than compiled ones.
            capacity = max(self._longest, capacity // 2)
            return run.time(examples, self.recipe, capacity, judges=False).step

    def _time(self, ranks: Sequence[int], examples: Sequence[TokenizedExample]) -> StepTimes:
        """Seconds of a training step and of an evaluation of the same examples."""
        with self._open([AdapterSpec(rank, alpha=rank, learning_rate=0.0) for rank in ranks]) as run:
            capacity = self._capacity(sum(master.numel() for master in run.bank.masters), len(ranks))
            return run.time(examples, self.recipe, capacity)


@contextmanager
def _explaining_memory() -> Iterator[None]:
    """Where not even one adapter at a time fits: one sentence and its mend."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(
            "Memory ran out even with one adapter and one example at a time.",
            "Use a smaller --max-length or --max-rank, or a quantised model; what was measured is kept for --resume.",
        ) from error
    except RuntimeError as error:
        if "alloc" in str(error) and "memory" in str(error):
            raise ResourceError(
                "Memory ran out.",
                "Close other programs or use a smaller --max-length; what was measured is kept for --resume.",
            ) from error
        raise


def _give_back_memory() -> None:
    """What a failed attempt held, its graphs too: their wrappers refer to each other, so that only the collector finds them."""
    gc.collect()
    torch.cuda.empty_cache()


def _joined(results: Sequence[PackResult]) -> PackResult:
    """Of parts of a pack that were trained one after the other."""
    first = results[0]
    return PackResult(
        np.concatenate([result.loss_KE for result in results]),
        np.concatenate([result.right_KE for result in results]),
        tuple(loss for result in results for loss in result.train_loss_K),
        first.steps,
        first.train_tokens,
        sum(result.seconds for result in results),
        Looks.joined([result.looks for result in results]),
    )


def in_steps(tokens: int) -> int:
    """``tokens`` rounded down to one of eight sizes an octave: a little more or less free memory splits batches no other way.

    Where it does not, sums are rounded alike, and a resumed run repeats its bits. At most an eighth of the tokens is given away.
    """
    step = 1 << max(0, tokens.bit_length() - 4) if tokens > 0 else 1
    return tokens // step * step


def _padded(loss_KE: np.ndarray, right_KE: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of NaN and -1 for the held-out examples that were not evaluated."""
    missing = width - loss_KE.shape[1]
    return (
        np.pad(loss_KE, ((0, 0), (0, missing)), constant_values=np.nan),
        np.pad(right_KE, ((0, 0), (0, missing)), constant_values=-1),
    )
