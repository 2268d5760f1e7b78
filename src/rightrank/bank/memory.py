"""How much memory a bank takes, and so how many adapters and tokens go through it at once.

Counted, not guessed: what autograd keeps for the backward pass is added up during one small real forward pass; masters, gradients and
AdamW's two moments are 4 numbers an adapter parameter, the working copy is a fifth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import psutil
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec, adapter_parameters
from rightrank.bank.batch import Batch
from rightrank.bank.forward import LOGITS_ON_CPU, LOGITS_ON_GPU, Forward
from rightrank.bank.quantized import bytes_held
from rightrank.bank.rows import STEP, Shape, StaticRow
from rightrank.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.targets import Target
    from rightrank.data import TokenizedExample

GIB = 1 << 30
SMALL = AdapterSpec(rank=8, alpha=8, learning_rate=0.0)
# Buffers that live only inside one operation, the allocator's rounding, kernels' workspaces. Assumed: a quarter on top of what is
# kept, and a fifth of the memory that is free now left alone.
TRANSIENT = 1.25
LEFT_FREE = 0.2
# Rows longer than this bring no more speed on a CPU. Measured on 2 cores with SmolLM2-135M: tokens a second at 1,024 tokens are
# within 10 % of those at 256.
ENOUGH_TOKENS_ON_CPU = 1024


@dataclass(frozen=True)
class MemoryModel:
    """Bytes of everything a bank step holds at once."""

    base_bytes: int
    saved_bytes_per_token: float
    """Kept for the backward pass, for each token of each adapter."""
    logits_bytes: float
    master_item: int
    working_item: int
    transient: float = TRANSIENT
    """What lives inside operations, as a factor on what is kept; 1 where it was measured along."""

    def adapter_bytes(self, parameters: int) -> float:
        """Masters, gradients, two moments, working copy."""
        return parameters * (4 * self.master_item + self.working_item)

    def peak_gib(self, parameters: int, tokens: int) -> float:
        """Peak of a step whose adapters have ``parameters`` numbers together and see ``tokens`` tokens together in one micro-batch."""
        kept = (
            self.adapter_bytes(parameters)
            + self.transient * self.saved_bytes_per_token * tokens
            + self.logits_bytes
        )
        return (self.base_bytes + kept) / GIB

    def capacity(self, parameters: int, adapters: int, available: float) -> int:
        """Tokens a row that fit beside ``adapters`` adapters into ``available`` bytes (the base is in memory already); below 1: none."""
        left = available - self.adapter_bytes(parameters) - self.logits_bytes
        return int(left / (self.transient * self.saved_bytes_per_token * adapters))


def measure_memory(
    base: BaseModel,
    targets: Sequence[Target],
    examples: Sequence[TokenizedExample],
    *,
    packed: bool,
    dropout: float = 0.0,
    recomputed: bool = False,
) -> MemoryModel:
    """Count what autograd keeps, on ``examples`` and one small adapter, with the recipe's ``dropout``.

    ``recomputed``: of each layer what enters it, and of one layer everything.
    """
    bank = AdapterBank(targets, [SMALL], device=base.device, dtype=base.dtype)
    batch = Batch.of(examples, base.device)
    known = {p.untyped_storage().data_ptr() for p in base.model.parameters()}
    for module in bank.modules:
        known |= {module.a_RI.untyped_storage().data_ptr(), module.b_RO.untyped_storage().data_ptr()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        Forward(base, bank, packed=packed, dropout=dropout) as forward,
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        forward.dropout_seed = 0
        hidden_KTH = forward.hidden(batch)
    saved = sum(kept.values()) / batch.tokens
    if recomputed:
        saved = hidden_KTH.shape[-1] * base.dtype.itemsize * base.layers + saved / base.layers
    del hidden_KTH
    on_gpu = base.device.type == "cuda"
    numbers = min(LOGITS_ON_GPU if on_gpu else LOGITS_ON_CPU, base.vocabulary * 4096)
    item = base.dtype.itemsize
    return MemoryModel(
        base_bytes=bytes_held(base.model),
        saved_bytes_per_token=saved,
        logits_bytes=numbers * (2 * item + 8.0),  # the logits and their gradient, both also in float32
        master_item=8 if base.dtype == torch.float64 else 4,
        working_item=item,
    )


DRY_RUNS = (512, 8192)
"""Tokens of the first step that is tried, unless an example is longer, and of the largest that is measured by."""


def measure_graphs(
    base: BaseModel,
    examples: Sequence[TokenizedExample],
    *,
    compiled: bool,
    recomputed: bool = False,
    shares: bool = False,
    longest: int = 1,
    trains: bool = True,
) -> MemoryModel:
    """The peak of a real step without its loss, on a row of ``examples`` repeated that fills a quarter of what is free.

    What does not grow with the row counts as if it did; the loss's part is counted. ``longest``: tokens of the
    longest example of all, which decides the kernels. ``shares``: as where rows may share tokens; here none does, which takes most.
    ``trains``: otherwise of the forward pass alone, as rows are judged.
    """
    layers = {"compiled": compiled, "recomputed": recomputed, "shares": shares}
    row = max(len(example.token_ids_T) for example in examples)
    tokens = max(DRY_RUNS[0], -(-row // STEP) * STEP)
    peak = _dry_run(base, examples, tokens, layers, longest, trains=trains)
    more = int(min(DRY_RUNS[1], available_bytes(base.device) / 4 / (peak / tokens))) // STEP * STEP
    if more > 2 * tokens:
        tokens = more
        peak = _dry_run(base, examples, tokens, layers, longest, trains=trains)
    item, numbers = base.dtype.itemsize, min(LOGITS_ON_GPU, base.vocabulary * 4096)
    return MemoryModel(
        base_bytes=bytes_held(base.model),
        saved_bytes_per_token=peak / tokens,
        logits_bytes=numbers * (2 * item + (0.0 if compiled else 8.0)),
        master_item=4,
        working_item=item,
        transient=1.0,
    )


def _dry_run(
    base: BaseModel,
    examples: Sequence[TokenizedExample],
    tokens: int,
    layers: dict[str, bool],
    longest: int,
    *,
    trains: bool,
) -> int:
    """Bytes that one small adapter needs on a row of ``tokens`` tokens: forward and backward pass, or judging."""
    from rightrank.bank.graphs import aside
    from rightrank.bank.static import StaticForward
    from rightrank.bank.update import working_copy

    bank = AdapterBank(base.targets, [SMALL], device=base.device, dtype=base.dtype, products=False)
    taken: list[TokenizedExample] = []
    left = tokens
    for example in cycle(examples):
        if len(example.token_ids_T) > left:
            break
        taken.append(example)
        left -= len(example.token_ids_T)
    shape = Shape(tokens, tokens, STEP if layers["shares"] else 0)
    row = StaticRow.empty(shape, 1, max(1, len(taken)), base.device, shares=layers["shares"])
    row.fill(taken, 1, 1)
    longest = max([longest, left + shape.spared, *(len(example.token_ids_T) for example in taken)])
    forward = StaticForward(base, bank, working_copy(bank), longest=longest, **layers)
    with forward, aside(base.device):
        for _ in range(2):  # the first may compile
            torch.cuda.synchronize(base.device)
            torch.cuda.reset_peak_memory_stats(base.device)
            before = torch.cuda.memory_allocated(base.device)
            (forward.through if trains else forward.judged)(row)
            torch.cuda.synchronize(base.device)
    return torch.cuda.max_memory_allocated(base.device) - before


def available_bytes(device: torch.device) -> float:
    """Memory that may be used now, with some left free; ``torch.cuda.set_per_process_memory_fraction`` counts."""
    if device.type == "cuda":
        return _beyond(device, torch.cuda.memory_allocated(device))
    return float(psutil.virtual_memory().available) * (1 - LEFT_FREE)


def unheld_bytes(device: torch.device) -> float:
    """Memory that nothing holds, some left free: what may be used beside captured graphs, which keep theirs between replays."""
    if device.type != "cuda":
        return available_bytes(device)
    torch.cuda.empty_cache()
    return _beyond(device, torch.cuda.memory_reserved(device))


def _beyond(device: torch.device, held: int) -> float:
    """What a GPU has beyond the ``held`` bytes of this process, and may give it, some left free."""
    free, whole = torch.cuda.mem_get_info(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    may = whole * torch.cuda.memory.get_per_process_memory_fraction(index) - held
    return min(free + torch.cuda.memory_reserved(device) - held, may) * (1 - LEFT_FREE / 2)


def peak_gib_so_far(device: torch.device) -> float:
    """Most memory held so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return _peak_resident() / GIB


def _peak_resident() -> int:
    import sys

    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def make_packs(
    specs: Sequence[AdapterSpec],
    targets: Sequence[Target],
    memory: MemoryModel,
    *,
    available: float,
    longest: int,
    most: int,
) -> list[list[int]]:
    """Indices of ``specs`` that train together: as many as fit, at most ``most``, in the order given.

    ``longest``: tokens of the longest example, which has to fit whole. Raises ResourceError where not even one adapter does.
    """
    packs: list[list[int]] = []
    sizes = [adapter_parameters(targets, spec) for spec in specs]
    for index, size in enumerate(sizes):
        if memory.capacity(size, 1, available) < longest:
            need, have = memory.peak_gib(size, longest), (available + memory.base_bytes) / GIB
            raise ResourceError(
                f"One adapter of rank {specs[index].rank} on the longest example needs {need:.1f} GiB; {have:.1f} GiB are free.",
                "Use a smaller --max-length or --max-rank, a quantised model, or more memory.",
            )
        last = packs[-1] if packs else None
        if last is not None and len(last) < most:
            together = sum(sizes[i] for i in last) + size
            if memory.capacity(together, len(last) + 1, available) >= longest:
                last.append(index)
                continue
        packs.append([index])
    return packs
