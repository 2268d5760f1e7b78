"""What a run costs, foreseen from shapes: memory, minutes on a card that is only named, and the capacity that the data asks for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rightrank.errors import BudgetError
from rightrank.estimates.estimation import Floor, Range, Timing
from rightrank.priors import hardware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.blueprint import Blueprint
    from rightrank.bank.memory import MemoryModel
    from rightrank.estimates.estimation import DataProfile
    from rightrank.recipe import Recipe

# Published: about 2 bits of knowledge a parameter (Allen-Zhu & Li 2024, arXiv 2404.05405). Assumed: a trained token brings one bit.
BITS_A_PARAMETER, BITS_A_TOKEN = 2.0, 1.0
# As many as were ever trained at once.
MOST_TOGETHER = 24
# Of the memory that the frozen weights leave, as bank.memory uses it.
USABLE = 0.9
TIMED_SECONDS = 0.3


def memory_model(
    blueprint: Blueprint, quantization: str | None = None, *, on_cpu: bool = False
) -> MemoryModel:
    """The bank's own model of memory, its two measured terms counted from shapes instead."""
    from rightrank.bank.forward import LOGITS_ON_CPU, LOGITS_ON_GPU
    from rightrank.bank.memory import MemoryModel

    numbers = min(LOGITS_ON_CPU if on_cpu else LOGITS_ON_GPU, blueprint.vocabulary * 4096)
    return MemoryModel(
        base_bytes=int(blueprint.weight_bytes(quantization)),
        saved_bytes_per_token=blueprint.kept_bytes_per_token,
        logits_bytes=numbers * (2 * blueprint.item + 8.0),
        master_item=4,
        working_item=blueprint.item,
    )


def capacity_floor(trained_tokens: int, parameters_per_rank: int) -> Floor:
    """The rank at which the adapter's parameters could hold one pass's trained tokens, a bit each."""
    return Floor(
        rank=trained_tokens * BITS_A_TOKEN / (BITS_A_PARAMETER * parameters_per_rank),
        source="published: about 2 bits a parameter (Allen-Zhu & Li 2024); assumed: 1 bit a trained token",
        caution="A lower bound at most: on nl2bash the rule says less than 1, where rank 1 loses 3.4 %.",
    )


def timing(
    device: hardware.Device,
    blueprint: Blueprint,
    recipe: Recipe,
    profile: DataProfile,
    memory: MemoryModel,
    ranks: Sequence[int],
    own_rank: int | None = None,
) -> Timing:
    """Minutes of one run and of a probe, by arithmetic over the card's published rate and the launching of kernels.

    ``own_rank``: of the person's own setting, where there is one.
    """
    from rightrank.probe.plan import middle_rank

    tokens = recipe.batch_size * profile.mean_length
    of_middle = blueprint.parameters_per_rank * middle_rank(ranks)
    flops = hardware.step_flops(
        body_parameters=blueprint.body_parameters,
        head_parameters=blueprint.head_parameters,
        adapter_parameters=of_middle,
        layers=blueprint.layers,
        heads_width=blueprint.heads_width,
        tokens=tokens,
        row_tokens=profile.mean_length,
    )
    work = hardware.Work(flops, blueprint.layers)
    trainer = hardware.step_seconds(device, work)
    together = _together(device, of_middle, tokens, memory)
    found = [
        _probe_minutes((*speed, one_step), together, tokens, blueprint, recipe, profile, ranks, own_rank)
        for speed, one_step in zip(hardware.probe_seconds(device, work), trainer, strict=True)
    ]
    source = (
        "derived: arithmetic over the matrix rate timed just now"
        if device.name == hardware.CPU
        else "derived: arithmetic over the card's published rate, and the launching of kernels"
    )
    run, probe, whole, enough = (
        [one for one in each if one is not None] for each in zip(*found, strict=True)
    )
    return Timing(
        device.title,
        device.gib,
        Range(min(run), max(run), "minutes", source),
        Range(min(probe), max(probe), "minutes", source),
        Range(min(whole), max(whole), "minutes", source),
        Range(min(enough), max(enough), "minutes", source) if enough else None,
    )


def _together(device: hardware.Device, parameters: int, tokens: float, memory: MemoryModel) -> int:
    """Adapters that train at once."""
    if device.name == hardware.CPU:
        return 1  # nothing is gained by more
    left = (device.gib * 2**30 - memory.base_bytes) * USABLE - memory.logits_bytes
    each = memory.adapter_bytes(parameters) + memory.saved_bytes_per_token * tokens
    return int(min(MOST_TOGETHER, max(1, left / each)))


def _probe_minutes(
    seconds: tuple[float, float, float],
    together: int,
    tokens: float,
    blueprint: Blueprint,
    recipe: Recipe,
    profile: DataProfile,
    ranks: Sequence[int],
    own_rank: int | None = None,
) -> tuple[float, float, float, float | None]:
    """Minutes of one run, of a probe with the default budget, of every rank on all rows, and, where the default is too short for more
    than UNDECIDED, the budget that is not; ``seconds``: of a step's floor, of an adapter, and of a usual trainer's step.

    The same functions plan what is measured; only the speeds are estimated here, and loading and timing are left out.
    """
    from rightrank.probe.budget import SHORTEST_DEFAULT_SECONDS, affordable_plan, enough_seconds
    from rightrank.probe.plan import Job, Speed, make_plan, one_run_seconds

    floor, each, trainer = seconds
    job = Job(
        examples=profile.train,
        at_hand=profile.at_hand,
        recipe=recipe,
        parameters_per_rank=blueprint.parameters_per_rank,
        decide_pool=profile.held_out - profile.score,
        score_pool=profile.score,
        held_out_tokens=profile.mean_length,
        own_rank=own_rank,
    )
    speed = Speed(floor, each, 0.0, (floor + each) / tokens / 2, together, trainer_step_seconds=trainer)
    one_run = one_run_seconds(job, speed, ranks)
    try:
        plan = affordable_plan(job, speed, ranks, None)
        enough = plan.enough_seconds
    except BudgetError:
        enough = enough_seconds(job, speed, ranks, one_run)
        plan = make_plan(job, speed, ranks, enough)
    probe = max(SHORTEST_DEFAULT_SECONDS, plan.planned_seconds)
    return one_run / 60, probe / 60, plan.all_rows_seconds / 60, None if enough is None else enough / 60


def this_machine() -> hardware.Device | None:
    """The first GPU where the table knows it, else the CPU, its matrix rate timed for a third of a second; None: an unknown GPU.

    The fastest of the products counts: whatever else runs meanwhile then moves it little, and two estimates name the same minutes.
    """
    import psutil
    import torch

    from rightrank.bank.base_model import pick_dtype

    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return hardware.recognised(torch.cuda.get_device_name(0), gib)
    size, dtype = 768, pick_dtype(torch.device("cpu"))
    left = torch.ones(size, size, dtype=dtype)
    right = left.clone()
    torch.mm(left, right)
    started, fastest = time.perf_counter(), TIMED_SECONDS
    while (begun := time.perf_counter()) - started < TIMED_SECONDS:
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - begun)
    threads = torch.get_num_threads()
    title = f"this CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    rate = 2 * size**3 / fastest / 1e12
    return hardware.Device(hardware.CPU, title, rate, psutil.virtual_memory().total / 2**30, "timed")
