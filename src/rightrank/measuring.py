"""``rightrank.recommend``: read, load, plan, measure, decide.

Not named after its function: importing a module ``rightrank.recommend`` would put the module in the function's place.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.answer import make_recommendation, measured_points, next_steps
from rightrank.errors import BudgetError, ConfigurationError, UserError
from rightrank.fitting import enough_memory, fit_each_other, ranks_to_try, require_causal
from rightrank.request import Request, check
from rightrank.run_directory import choose_directory, continued, keep_adapter, keeping, planned
from rightrank.run_facts import cost, data_facts, data_line, model_facts, model_line, provenance, runs_spent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.verify import Path as HowItRuns
    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.executors.local import LocalExecutor
    from rightrank.probe.loss_table import LossTable
    from rightrank.probe.plan import Job, Plan, Speed
    from rightrank.probe.run import Outcome, Subject
    from rightrank.recommendation import Recommendation

SHORTEST_DEFAULT_SECONDS = 180.0
"""What anyone waits for an answer without being asked. Assumed."""


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first measurement."""

    request: Request
    directory: Path
    started: float
    data: PreparedData
    base: BaseModel
    path: HowItRuns
    memory: MemoryModel
    executor: LocalExecutor
    job: Job
    speed: Speed
    plan: Plan
    candidates: tuple[int, ...]
    """Ranks that may be tried."""
    widest_rank: int


def recommend(model: Any, dataset: Any, **options: Any) -> Recommendation:
    """Which LoRA rank, learning rate and alpha to fine-tune ``model`` on ``dataset`` with, measured.

    ``options`` are the fields of ``Request``. Ctrl-C answers from what is measured by then. Everything is kept in the run directory
    (``recommendation.provenance.run_directory``). Raises UserError (``rightrank.UserError``) with one sentence and its mend.
    """
    request = Request(model, dataset, **options)
    return measure(prepare(request))


def prepare(request: Request) -> Prepared:
    """Read the data, load the model, check and time it, and plan. Trains nothing and writes nothing.

    What takes longest comes last, so that a mistake shows early.
    """
    from rightrank import data as reading

    started = time.monotonic()
    check(request)
    directory = choose_directory(request.out, request.dataset, resume=request.resume)
    source: dict[str, Any] = {"config": request.data_config, "revision": request.data_revision}
    with enough_memory():
        rows = reading.understand(request.dataset, split=request.data_split, **source)
        held_out = None
        if request.eval_data is not None:
            held_out = reading.understand(request.eval_data, prefer=reading.EVAL_SPLITS, **source)

        from rightrank.bank.base_model import load_base, load_tokenizer

        loading: dict[str, Any] = {
            "revision": request.revision,
            "trust_remote_code": request.trust_remote_code,
        }
        tokenizer = request.tokenizer
        if tokenizer is None:
            tokenizer = load_tokenizer(request.model, **loading)
        data = reading.prepare(
            rows,
            tokenizer,
            request.recipe,
            eval_data=held_out,
            chat_template=request.chat_template,
            seed=request.seed,
        )
        request.on_text(data_line(data))
        base = load_base(request.model, tokenizer, device=request.device, **loading)
        fit_each_other(base, data)
        return _plan(request, directory, started, data, base)


def _plan(request: Request, directory: Path, started: float, data: PreparedData, base: BaseModel) -> Prepared:
    from rightrank.bank.memory import GIB, available_bytes, measure_memory, peak_gib_so_far
    from rightrank.bank.targets import find_targets
    from rightrank.bank.verify import choose_path
    from rightrank.executors.local import LocalExecutor
    from rightrank.probe.plan import Job, final_ranks, plan_lines

    targets = find_targets(base.model)
    widest = max(target.max_rank for target in targets)
    ranks = ranks_to_try(request, widest)
    few = _middling(data.train, 3)
    require_causal(base, few[0])
    path = choose_path(base, few)
    memory = measure_memory(base, targets, few, packed=path.packed, dropout=request.recipe.dropout)
    request.on_text(model_line(base, path.words))
    named = str(request.model) if isinstance(request.model, (str, Path)) else base.name
    executor = LocalExecutor(base, memory, data.train, request.recipe, packed=path.packed, base_name=named)
    job = Job(
        examples=len(data.train),
        recipe=request.recipe,
        parameters_per_rank=sum(target.width_in + target.width_out for target in targets),
        decide_pool=len(data.decide),
        score_pool=len(data.score),
        held_out_tokens=float(np.mean([len(e.token_ids_T) for e in (*data.decide, *data.score)])),
    )
    executor.fit_together([_largest(ranks)])  # too little memory shows here, before anything is spent
    speed = executor.measure_speed(small=min(ranks), large=max(ranks))
    plan = _affordable_plan(request, job, speed, ranks, started)
    if request.resume:
        plan = continued(plan, directory, ranks)
    executor.judge_by(data.decide[: plan.decide], data.score[: plan.score])
    batch_tokens = int(request.recipe.batch_size * np.mean([len(e.token_ids_T) for e in data.train]))
    at_once = sorted(final_ranks(plan), reverse=True)[: speed.together]
    card = available_bytes(base.device) / GIB
    foreseen = memory.peak_gib(job.parameters_per_rank * sum(at_once), len(at_once) * batch_tokens)
    # Loading may have taken more than training will; and what does not fit at once is trained in turn.
    peak = max(min(foreseen, card), peak_gib_so_far(base.device))
    for line in plan_lines(plan, job, peak, card):
        request.on_text(line)
    return Prepared(
        request, directory, started, data, base, path, memory, executor, job, speed, plan, ranks, widest
    )


def _affordable_plan(
    request: Request, job: Job, speed: Speed, ranks: tuple[int, ...], started: float
) -> Plan:
    """What the budget pays for. Where nobody set one and a run takes seconds, a few minutes instead of a run's time."""
    from rightrank.probe.plan import make_plan

    budget = None if request.budget_minutes is None else request.budget_minutes * 60
    spent = time.monotonic() - started
    try:
        return make_plan(job, speed, ranks, budget, spent_seconds=spent)
    except BudgetError:
        if budget is not None:
            raise
    return make_plan(job, speed, ranks, SHORTEST_DEFAULT_SECONDS + spent, spent_seconds=spent)


def measure(prepared: Prepared) -> Recommendation:
    """Carry out the plan and answer. Whatever ends it early, what was measured stays in the run directory."""
    from rightrank.probe.loss_table import LossTable

    request = prepared.request
    kept = "; what was measured is kept for --resume"
    with keeping(prepared.directory, named=request.out is not None), enough_memory(kept):
        table = LossTable(prepared.directory, _settings(prepared))
        for damage in table.damaged:
            request.on_text(f"A damaged file was left out and is measured again: {damage}")
        request.on_text(f"Everything measured is kept in {prepared.directory} as it comes.")
        outcome = _probe(prepared, table)
        try:
            return _answer(prepared, table, outcome)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(
                "Interrupted while answering; what was measured is kept. "
                f"Run the same command with --resume --out {prepared.directory}."
            ) from stop


def _probe(prepared: Prepared, table: LossTable) -> Outcome:
    """Measure until there is enough, or until time is up or Ctrl-C; at least one comparison is in the table then."""
    from rightrank.probe.run import Probe

    request, plan, executor = prepared.request, prepared.plan, prepared.executor
    if table.base is None:
        request.on_progress("the untrained model", 0.0, plan.planned_seconds)
        table.set_base(executor.evaluate_base())
    outcome = Probe(
        _subject(prepared),
        plan,
        prepared.speed,
        table,
        executor,
        deadline=prepared.started + plan.budget_seconds,
        on_progress=request.on_progress,
    ).run()
    if table.packs:
        return outcome
    if outcome.stopped == "interrupted":
        raise KeyboardInterrupt
    raise BudgetError(
        "Time ran out before the first comparison was measured.",
        f"Allow more than {plan.budget_seconds / 60:.1f} minutes with --budget.",
    )


def _answer(prepared: Prepared, table: LossTable, outcome: Outcome) -> Recommendation:
    """Decide, and write the answer into the run directory."""
    from rightrank.stats.decision import decide

    request, job, memory, data = prepared.request, prepared.job, prepared.memory, prepared.data
    base, how = prepared.base, prepared.path.words
    decision = decide(outcome.evidence, yours=request.yours, seed=request.seed)
    if decision.best_loss is None:
        raise ConfigurationError(
            "Every run diverged, at every learning rate tried.",
            "Check the data for broken rows; a base in float32 (`--device cpu`) may help to see why.",
        )
    one_run = sum(len(e.token_ids_T) for e in data.train)
    batch_tokens = int(request.recipe.batch_size * one_run / len(data.train))
    judges = [len(e.token_ids_T) for e in (*prepared.executor.decide, *prepared.executor.score)]
    by_name = isinstance(request.model, (str, Path))
    answer = make_recommendation(
        decision,
        recipe=request.recipe,
        model=model_facts(base, str(request.model) if by_name else base.name, prepared.executor.targets, how),
        data=data_facts(data),
        cost=cost(
            base.device,
            planned_seconds=prepared.plan.planned_seconds,
            took_seconds=time.monotonic() - prepared.started,
            runs=runs_spent(table, judges, one_run * request.recipe.epochs),
            resolvable=decision.resolvable_difference_percent,
        ),
        provenance=provenance(
            request.command, request.seed, table.directory, interrupted=outcome.stopped == "interrupted"
        ),
        points=measured_points(table, decision, request.recipe),
        next_steps=next_steps(decision, prepared.plan, outcome.evidence, request.command),
        train_gib=lambda rank: memory.peak_gib(job.parameters_per_rank * rank, batch_tokens),
        adapter_mb=lambda rank: job.parameters_per_rank * rank * 2 / 1e6,
        warnings=(*data.notes, *prepared.executor.notes),
    )
    answer.save(table.directory)
    keep_adapter(table, answer)
    return answer


def _largest(ranks: Sequence[int]) -> Any:
    from rightrank.probe.ladder import configuration

    return configuration(max(ranks), 1e-4, "rank")


def _middling(examples: Sequence[TokenizedExample], count: int) -> list[TokenizedExample]:
    """A few examples of about median length, to check and measure the model on."""
    by_length = sorted(examples, key=lambda e: len(e.token_ids_T))
    middle = len(by_length) // 2
    return by_length[max(0, middle - count // 2) :][:count]


def _subject(prepared: Prepared) -> Subject:
    from rightrank.data import token_frequency_loss
    from rightrank.probe.ladder import prior_learning_rate
    from rightrank.probe.run import Subject

    executor, data, request = prepared.executor, prepared.data, prepared.request
    judges = [*executor.decide, *executor.score]
    hidden = prepared.base.model.config.get_text_config().hidden_size
    ceiling = min(prepared.widest_rank, request.max_rank or prepared.widest_rank)
    return Subject(
        job=prepared.job,
        tokens_E=np.array([e.trained_tokens for e in judges]),
        scores_E=np.arange(len(judges)) >= len(executor.decide),
        frequency_loss_E=token_frequency_loss(data.train, judges, prepared.base.vocabulary),
        prior_learning_rate=prior_learning_rate(hidden),
        widest_rank=ceiling if request.ranks is None else max(prepared.candidates),
        narrowest_rank=1 if request.ranks is None else min(prepared.candidates),
        yours=request.yours,
        seed=request.seed,
    )


def _settings(prepared: Prepared) -> dict[str, Any]:
    """What must be the same for measurements to belong together, and the sizes that they were planned with."""
    request, plan = prepared.request, prepared.plan
    return {
        "model": prepared.base.fingerprint,
        "dtype": prepared.base.dtype_name,
        "data": prepared.data.fingerprint,
        "recipe": {k: v for k, v in asdict(request.recipe).items() if k != "origins"},
        "seed": request.seed,
        "chat_template": request.chat_template,
        "ranks": list(prepared.candidates),
        "plan": planned(plan),
    }


__all__ = ["Prepared", "Request", "UserError", "measure", "prepare", "recommend"]
