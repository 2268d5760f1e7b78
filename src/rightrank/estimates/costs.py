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
    from rightrank.probe.plan import Job, Plan, Speed
    from rightrank.recipe import Recipe

# Published: about 2 bits of knowledge a parameter (Allen-Zhu & Li 2024, arXiv 2404.05405). Assumed: a trained token brings one bit.
BITS_A_PARAMETER, BITS_A_TOKEN = 2.0, 1.0
# What a default probe takes at least (measuring.SHORTEST_DEFAULT_SECONDS).
SHORTEST_MINUTES = 3.0
# Adapters of a rank in the middle of what is tried; time depends little on it.
MIDDLE_RANK = 16
# As many as were ever trained at once.
MOST_TOGETHER = 24
# Of the memory that the frozen weights leave, as bank.memory uses it.
USABLE = 0.9
TIMED_SECONDS = 0.3
# Budgets tried one after the other for the least that is long enough. Chosen: a price to a tenth.
NEXT_BUDGET = 1.1


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
        caution="A lower bound at most: on nl2bash the rule says less than 1, and 32 was best.",
    )


def timing(
    device: hardware.Device,
    blueprint: Blueprint,
    recipe: Recipe,
    profile: DataProfile,
    memory: MemoryModel,
    ranks: Sequence[int],
) -> Timing:
    """Minutes of one run and of a probe, by arithmetic over the card's published rate and the launching of kernels."""
    tokens = recipe.batch_size * profile.mean_length
    flops = hardware.step_flops(
        body_parameters=blueprint.body_parameters,
        head_parameters=blueprint.head_parameters,
        adapter_parameters=blueprint.parameters_per_rank * MIDDLE_RANK,
        layers=blueprint.layers,
        heads_width=blueprint.heads_width,
        tokens=tokens,
        row_tokens=profile.mean_length,
    )
    work = hardware.Work(flops, blueprint.layers)
    steps = recipe.steps(profile.train)
    trainer = hardware.step_seconds(device, work)
    run = [seconds * steps / 60 for seconds in trainer]
    together = _together(device, blueprint.parameters_per_rank * MIDDLE_RANK, tokens, memory)
    found = [
        _probe_minutes((*speed, one_step), together, tokens, blueprint, recipe, profile, ranks)
        for speed, one_step in zip(hardware.probe_seconds(device, work), trainer, strict=True)
    ]
    source = (
        "derived: arithmetic over the matrix rate timed just now"
        if device.name == hardware.CPU
        else "derived: arithmetic over the card's published rate, and the launching of kernels"
    )
    wholes = [whole for _, whole, _ in found if whole is not None]
    longer = [enough for _, _, enough in found if enough is not None]
    return Timing(
        device.title,
        device.gib,
        Range(run[0], run[1], "minutes", source),
        Range(found[0][0], found[-1][0], "minutes", source),
        Range(min(wholes), max(wholes), "minutes", source) if wholes else None,
        Range(min(longer), max(longer), "minutes", source) if longer else None,
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
) -> tuple[float, float | None, float | None]:
    """Minutes of a probe with the default budget, of every rank on all rows, and, where the default is too short for more than
    UNDECIDED, the budget that is not; ``seconds``: of a step's floor, of an adapter, and of a
    usual trainer's step."""
    from rightrank.probe.plan import Job, Speed

    floor, each, trainer = seconds
    job = Job(
        examples=profile.train,
        at_hand=profile.at_hand,
        recipe=recipe,
        parameters_per_rank=blueprint.parameters_per_rank,
        decide_pool=profile.held_out - profile.score,
        score_pool=profile.score,
        held_out_tokens=profile.mean_length,
    )
    speed = Speed(floor, each, 0.0, (floor + each) / tokens / 2, together, trainer_step_seconds=trainer)
    plan, enough = _plan(job, speed, ranks, None), None
    if plan is None or plan.starved:
        budget = 60 * SHORTEST_MINUTES if plan is None else max(60 * SHORTEST_MINUTES, plan.budget_seconds)
        while (longer := _plan(job, speed, ranks, budget)) is None or longer.starved:
            budget *= NEXT_BUDGET
        enough = budget / 60 if budget > 60 * SHORTEST_MINUTES else None
        plan = plan or longer
    return max(SHORTEST_MINUTES, plan.planned_seconds / 60), plan.all_rows_seconds / 60, enough


def _plan(job: Job, speed: Speed, ranks: Sequence[int], budget_seconds: float | None) -> Plan | None:
    """What that budget pays for; None: not a single comparison."""
    from rightrank.probe.plan import make_plan

    try:
        return make_plan(job, speed, ranks, budget_seconds)
    except BudgetError:
        return None


def this_machine() -> hardware.Device | None:
    """The first GPU where the table knows it, else the CPU, its matrix rate timed for a third of a second; None: an unknown GPU."""
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
    started, products = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < TIMED_SECONDS:
        torch.mm(left, right)
        products += 1
    threads = torch.get_num_threads()
    title = f"this CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    rate = 2 * size**3 * max(1, products) / took / 1e12
    return hardware.Device(hardware.CPU, title, rate, psutil.virtual_memory().total / 2**30, "timed")
