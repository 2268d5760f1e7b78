"""Held-out losses of many cuts of one adapter over one base: as banks, as many side by side as fit.

Dimensions: V cuts, E held-out examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from rightrank.bank.adapters import AdapterSpec
from rightrank.bank.cut import bank_of_cuts
from rightrank.bank.evaluate import HeldOut, evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.memory import ENOUGH_TOKENS_ON_CPU, available_bytes, make_packs
from rightrank.bank.static import StaticForward
from rightrank.bank.update import working_copy
from rightrank.bank.whole_modules import WholeModules, in_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.cut import Cut, Update
    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.verify import Path
    from rightrank.data import TokenizedExample

# As for training: a CPU gains nothing by several at once, a GPU on a small model much.
TOGETHER_ON_CPU, TOGETHER_ON_GPU = 1, 32
ENOUGH_TOKENS_ON_GPU = 131_072


@dataclass(frozen=True)
class CutEvaluation:
    """Evaluates cuts of the adapter that was taken apart into ``updates``."""

    base: BaseModel
    updates: tuple[Update, ...]
    memory: MemoryModel
    path: Path
    """How the base runs."""
    longest: int
    """Tokens of the longest example."""
    whole: WholeModules = field(default_factory=WholeModules)
    """In the model while cuts are evaluated, and not while it is bare."""

    def bare(self, examples: Sequence[TokenizedExample]) -> HeldOut:
        """The base model without any adapter, as one row."""
        with Forward(self.base, packed=self.path.packed, shares=self.path.shares) as forward:
            return evaluate(forward, examples, capacity=self._capacity(0, 1))

    def cuts(self, cuts: Sequence[Cut], examples: Sequence[TokenizedExample]) -> HeldOut:
        """Every cut on every example. Raises ResourceError where not even one fits."""
        on_gpu = self.base.device.type == "cuda"
        targets = [update.target for update in self.updates]
        packs = make_packs(
            [AdapterSpec(cut.rank, alpha=1.0, learning_rate=0.0, ranks=cut.ranks) for cut in cuts],
            targets,
            self.memory,
            available=available_bytes(self.base.device),
            longest=self.longest,
            most=TOGETHER_ON_GPU if on_gpu else TOGETHER_ON_CPU,
        )
        loss_VE = np.zeros((len(cuts), len(examples)))
        right_VE = np.zeros((len(cuts), len(examples)), dtype=np.int64)
        for pack in packs:
            chosen = [cuts[i] for i in pack]
            bank = bank_of_cuts(
                self._near,
                chosen,
                device=self.base.device,
                dtype=self.base.dtype,
                products=self.path.way == "plain",
            )
            capacity = self._capacity(sum(master.numel() for master in bank.masters), len(chosen))
            with in_place(self.base.model, self.whole), self._forward(bank) as forward:
                found = evaluate(forward, examples, capacity=capacity)
            loss_VE[pack], right_VE[pack] = found.loss_KE, found.right_KE
        return HeldOut(loss_VE, right_VE)

    @cached_property
    def _near(self) -> tuple[Update, ...]:
        """Taken to the device once, and not for every cut."""
        return tuple(update.on(self.base.device) for update in self.updates)

    def _forward(self, bank: AdapterBank) -> Forward | StaticForward:
        path = self.path
        if path.way == "plain":
            return Forward(self.base, bank, packed=path.packed, shares=path.shares)
        return StaticForward(
            self.base,
            bank,
            working_copy(bank),
            longest=self.longest,
            compiled=path.way == "compiled",
            recomputed=path.recomputed,
            shares=path.shares,
        )

    def _capacity(self, parameters: int, adapters: int) -> int:
        fits = self.memory.capacity(parameters, adapters, available_bytes(self.base.device))
        on_gpu = self.base.device.type == "cuda"
        enough = -(-ENOUGH_TOKENS_ON_GPU // adapters) if on_gpu else ENOUGH_TOKENS_ON_CPU
        return max(self.longest, min(fits, enough))
