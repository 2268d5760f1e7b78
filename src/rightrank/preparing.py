"""What comes before the first measurement: read the rows, load the model, check and time it, and plan."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.besides.asked import Asked, Model, ask, price
from rightrank.besides.cut_price import CutsPlan, plan_cuts
from rightrank.besides.layer_price import LayersPlan, not_comparable, plan_with_layers, within
from rightrank.estimates import cautions
from rightrank.finishing import price_line
from rightrank.fitting import (
    enough_memory,
    fit_each_other,
    named,
    ranks_to_try,
    require_model,
    shapes_without_weights,
    tokens_fit,
    with_largest_rank,
)
from rightrank.request import Request, check
from rightrank.row_habits import as_its_trainer_reads, with_template_noted, with_warm_up_steps
from rightrank.runs.directory import choose_directory, continued
from rightrank.runs.facts import data_line, model_line
from rightrank.runs.recorded import refuse_another_run
from rightrank.trackers import chosen_trackers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.targets import Target
    from rightrank.bank.verify import Path as HowItRuns
    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.executors.fleet import Fleet
    from rightrank.executors.local import LocalExecutor
    from rightrank.executors.survey import BaseFacts
    from rightrank.executors.worker import Worker
    from rightrank.probe.plan import Job, Plan, Speed


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first measurement."""

    request: Request
    directory: Path
    started: float
    data: PreparedData
    base: BaseFacts
    path: HowItRuns
    memory: MemoryModel
    executor: LocalExecutor | Fleet
    job: Job
    speed: Speed
    plan: Plan
    candidates: tuple[int, ...]
    """Ranks that may be tried."""
    widest_rank: int
    asked: Asked
    """What is measured besides the loss."""
    cutting: CutsPlan
    """What is measured of cuts, without being asked for."""
    layers: LayersPlan
    """What is measured of attention and MLP alone."""

    @property
    def on_one_device(self) -> bool:
        """Whether the model lies in this process."""
        return _is_local(self.executor)

    @property
    def reserve_seconds(self) -> float:
        """Of the budget, for what is measured after the runs."""
        return self.asked.reserve_seconds + self.cutting.seconds + self.layers.seconds

    @property
    def model(self) -> Model:
        """For what is measured besides, on the one device that is used then."""
        return _model(self.executor, self.memory)


def prepare(request: Request, *, agree: bool = True) -> Prepared:
    """Read the data, load the model, check and time it, and plan. Trains nothing and writes nothing.

    ``agree``: whether a run to go on with that has other settings is refused.
    What takes longest comes last, so that a mistake shows early: whatever can be refused is, before weights are read or steps timed.
    """
    from rightrank import data as reading

    started = time.monotonic()
    check(request)
    chosen_trackers(request.report_to)
    directory = choose_directory(request.out, request.dataset, resume=request.resume)
    source: dict[str, Any] = {"config": request.data_config, "revision": request.data_revision}
    loading: dict[str, Any] = {
        "revision": request.revision,
        "trust_remote_code": request.trust_remote_code,
    }
    require_model(request)
    with enough_memory():
        rows, held_out = reading.understood(
            request.dataset, request.eval_data, split=request.data_split, **source
        )
        request = as_its_trainer_reads(request, rows)

        from rightrank.bank.base_model import load_tokenizer
        from rightrank.bank.gguf_header import header_read_once
        from rightrank.executors.choose import open_workers

        with header_read_once():
            shapes, ranks = shapes_without_weights(request, loading), None
            if shapes is not None:
                request = with_largest_rank(request, shapes.widest_rank)
                ranks = ranks_to_try(request, shapes.widest_rank)
            given = request.tokenizer
            tokenizer = load_tokenizer(request.model, **loading) if given is None else given
        data = reading.prepare(
            rows,
            tokenizer,
            request.recipe,
            eval_data=held_out,
            chat_template=request.chat_template,
            seed=request.seed,
        )
        if shapes is not None:
            tokens_fit(shapes.name, shapes.vocabulary, shapes.positions, data)
        request = with_warm_up_steps(with_template_noted(request, rows, data), data)
        if request.resume and agree:
            refuse_another_run(directory, request, data, ranks)
        request = _with_rows_told(request, data)
        asked = ask(request, tokenizer, data)
        if shapes is not None:
            request.on_text(f"Loading {shapes.name} and checking how it runs here.")
        loading |= {"only": request.target_modules, "quantization": request.quantization}
        workers = open_workers(request, tokenizer, loading, one_device=asked.anything)
        fit_each_other(workers.facts, data, asked.examples)
        return _plan(request, directory, started, data, workers, asked)


def _with_rows_told(request: Request, data: PreparedData) -> Request:
    """Say what the rows are; ``request`` with a note, said at once, where many are cut off."""
    request.on_text(data_line(data, request.recipe))
    said = cautions.of_truncation(data, request.recipe)
    for line in said:
        request.on_text(line)
    return replace(request, notes=(*request.notes, *said))


def _plan(
    request: Request,
    directory: Path,
    started: float,
    data: PreparedData,
    workers: Worker | Fleet,
    asked: Asked,
) -> Prepared:
    from rightrank.bank.memory import GIB
    from rightrank.probe.plan_words import plan_lines

    base, targets = workers.facts, workers.facts.targets
    widest = max(target.max_rank for target in targets)
    request = with_largest_rank(request, widest)
    ranks = ranks_to_try(request, widest)
    name = str(request.model) if named(request.model) else base.name
    survey = workers.survey(data.train, _middling(data.train, 3), request.recipe, name)
    path, memory, executor = survey.path, survey.memory, workers.executor
    request.on_text(model_line(base, path.words))
    request.on_text("Timing training steps for the plan.")
    job = _job(request, data, targets)
    executor.fit_together([_largest(ranks)])  # too little memory shows here, before anything is spent
    speed = executor.measure_speed(small=min(ranks), large=max(ranks))
    if asked.anything:
        asked = price(asked, request, _model(executor, memory), job, speed, ranks)
    plan, layers = _plans(
        request, workers.facts, job, speed, ranks, time.monotonic() - started + asked.reserve_seconds
    )
    if request.resume:
        plan = continued(plan, directory, ranks, new_budget=request.budget_minutes is not None)
        layers = within(layers, plan)
    executor.judge_by(data.decide[: plan.decide], data.score[: plan.score])
    card = executor.available_bytes() / GIB
    peak = _peak_gib(request, data, executor, memory, job, speed, plan)
    cutting = plan_cuts(plan, job, speed, ranks, several_devices=not _is_local(executor))
    priced = price_line(data, job, speed, ranks) if request.finish else None
    for line in (*plan_lines(plan, job, peak, card), layers.line, cutting.line, priced):
        if line:
            request.on_text(line)
    return Prepared(
        request,
        directory,
        started,
        data,
        base,
        path,
        memory,
        executor,
        job,
        speed,
        plan,
        ranks,
        widest,
        asked,
        cutting,
        layers,
    )


def _job(request: Request, data: PreparedData, targets: Sequence[Target]) -> Job:
    from rightrank.probe.plan import Job

    return Job(
        examples=data.train_rows,
        at_hand=len(data.train),
        recipe=request.recipe,
        parameters_per_rank=sum(target.width_in + target.width_out for target in targets),
        decide_pool=len(data.decide),
        score_pool=len(data.score),
        held_out_tokens=float(np.mean([len(e.token_ids_T) for e in (*data.decide, *data.score)])),
        own_rank=None if request.yours is None else request.yours[0],
    )


def _peak_gib(
    request: Request,
    data: PreparedData,
    executor: LocalExecutor | Fleet,
    memory: MemoryModel,
    job: Job,
    speed: Speed,
    plan: Plan,
) -> float:
    """Of the device. Loading may have taken more than training will; and what does not fit at once is trained in turn."""
    from rightrank.bank.memory import GIB
    from rightrank.probe.plan import final_ranks

    batch_tokens = int(request.recipe.batch_size * np.mean([len(e.token_ids_T) for e in data.train]))
    at_once = sorted(final_ranks(plan), reverse=True)[: speed.together]
    foreseen = memory.peak_gib(job.parameters_per_rank * sum(at_once), len(at_once) * batch_tokens)
    return max(min(foreseen, executor.available_bytes() / GIB), executor.peak_gib())


def _plans(
    request: Request, base: BaseFacts, job: Job, speed: Speed, ranks: Sequence[int], spent_seconds: float
) -> tuple[Plan, LayersPlan]:
    """The plan, and what of it is for ``--layers``."""
    from rightrank.probe.budget import affordable_plan

    budget = None if request.budget_minutes is None else request.budget_minutes * 60
    named = request.target_modules is not None
    if request.layers and (why := not_comparable(base.targets, named=named)) is None:
        return plan_with_layers(job, speed, ranks, budget, spent_seconds, named=named)
    plan = affordable_plan(job, speed, ranks, budget, spent_seconds)
    return plan, LayersPlan(line=why, named=named) if request.layers and why else LayersPlan()


def _is_local(executor: LocalExecutor | Fleet) -> bool:
    from rightrank.executors.local import LocalExecutor

    return isinstance(executor, LocalExecutor)


def _model(executor: LocalExecutor | Fleet, memory: MemoryModel) -> Model:
    from rightrank.executors.local import LocalExecutor

    assert isinstance(executor, LocalExecutor), (
        "what is measured besides was asked for, and so one device was opened"
    )
    return Model(executor.base, executor.base_name, executor.targets, memory, executor.path)


def _largest(ranks: Sequence[int]) -> Any:
    from rightrank.probe.settings import configuration

    return configuration(max(ranks), 1e-4, "rank")


def _middling(examples: Sequence[TokenizedExample], count: int) -> list[TokenizedExample]:
    """A few examples of about median length, to check and measure the model on."""
    by_length = sorted(examples, key=lambda e: len(e.token_ids_T))
    middle = len(by_length) // 2
    return by_length[max(0, middle - count // 2) :][:count]
