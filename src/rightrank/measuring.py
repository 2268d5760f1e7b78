"""What ``rightrank.recommend`` does once all is prepared: measure, decide, answer.

Not named after it: importing a module ``rightrank.recommend`` would put the module in the function's place.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rightrank.answer import make_recommendation, measured_points
from rightrank.arguments import asked_anew
from rightrank.besides.cuts import Cuts, CutSubject, measure_cuts, no_cuts
from rightrank.besides.layer_runs import LayersSubject
from rightrank.besides.layers import LayersFound, measure_layers, trained_before
from rightrank.besides.measuring import Besides, measure_besides
from rightrank.errors import BudgetError, ConfigurationError
from rightrank.finishing import finish
from rightrank.fitting import enough_memory
from rightrank.runs.directory import held, keep_adapter, keeping
from rightrank.runs.facts import cost, data_facts, model_facts, provenance, runs_spent
from rightrank.runs.recorded import about, mixed_origins, settings, told
from rightrank.to_decide import next_steps
from rightrank.trackers import Tracking, start_tracking

if TYPE_CHECKING:
    from rightrank.circumstances import Cost
    from rightrank.data import PreparedData
    from rightrank.preparing import Prepared
    from rightrank.probe.loss_table import LossTable
    from rightrank.probe.plan import Plan
    from rightrank.probe.run import Outcome, Subject
    from rightrank.recommendation import Recommendation
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.results import Decision


def measure(prepared: Prepared) -> Recommendation:
    """Carry out the plan and answer. Whatever ends it early, what was measured stays in the run directory."""
    from rightrank.probe.loss_table import LossTable

    request = prepared.request
    kept = "; what was measured is kept for --resume"
    named = request.out is not None
    with (
        keeping(prepared.directory, named=named),
        enough_memory(kept),
        held(prepared.directory, named=named, resume=request.resume, on_text=request.on_text) as directory,
    ):
        table = LossTable(directory, *_record(prepared))
        # What earlier parts of the run took counts: the budget is the whole run's.
        before = trained_before(directory)
        spent = table.seconds + (0.0 if before is None else before.seconds)
        prepared = replace(prepared, directory=directory, started=prepared.started - spent)
        for line in told(table):
            request.on_text(line)
        try:
            with start_tracking(request, prepared.base, prepared.data, table) as tracking:
                outcome = _probe(prepared, table, tracking)
                answer = _answer(prepared, table, outcome)
                tracking.answer = finish(prepared, answer) if request.finish else answer
                return tracking.answer
        except KeyboardInterrupt as stop:
            if not table.packs:
                raise
            raise KeyboardInterrupt(
                "Interrupted while answering; what was measured is kept. "
                f"Run the same command with --resume --out {prepared.directory}."
            ) from stop


def _probe(prepared: Prepared, table: LossTable, tracking: Tracking) -> Outcome:
    """Measure until there is enough, or until time is up or Ctrl-C; at least one comparison is in the table then."""
    from rightrank.probe.run import Probe

    request, plan, executor = prepared.request, prepared.plan, prepared.executor
    if table.base is None:
        request.on_progress("the untrained model", 0.0, plan.planned_seconds)
        table.set_base(executor.evaluate_base())
    subject = _subject(prepared)
    outcome = Probe(
        subject,
        plan,
        prepared.speed,
        table,
        executor,
        deadline=prepared.started + plan.budget_seconds - prepared.reserve_seconds,
        on_progress=request.on_progress,
        on_result=lambda pack, result: tracking.hear(pack, result, subject.tokens_E, plan.decide),
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

    request = prepared.request
    decision = decide(outcome.evidence, yours=request.yours, seed=request.seed)
    if decision.best_loss is None:
        raise ConfigurationError(
            "Every run diverged, at every learning rate tried.",
            "Check the data for broken rows; a base in float32 (`--device cpu`) may help to see why.",
        )
    found = _besides(prepared, table, decision, interrupted=outcome.stopped == "interrupted")
    answer = replace(
        _recommended(prepared, table, outcome.evidence, decision, found),
        own_measure=found.besides.own_measure,
        forgetting=found.besides.forgetting,
        cuts=found.cuts.cuts,
        layers=found.layers.compared,
        recipe_from=request.recipe_from,
    )
    answer.save(table.directory)
    keep_adapter(table, answer, prepared.data.rows_fingerprint)
    return answer


class Found(NamedTuple):
    """What was measured besides the ranks."""

    besides: Besides
    layers: LayersFound
    cuts: Cuts
    interrupted: bool


def _besides(prepared: Prepared, table: LossTable, decision: Decision, *, interrupted: bool) -> Found:
    """What was asked for besides, in turn, for as long as nobody interrupts."""
    besides = Besides()
    if prepared.asked.anything:
        besides = measure_besides(
            prepared.asked,
            prepared.request,
            prepared.model,
            table,
            decision,
            deadline=prepared.started + prepared.plan.budget_seconds,
            interrupted=interrupted,
        )
    stopped = interrupted or besides.interrupted
    layers = _layers(prepared, table, decision, interrupted=stopped)
    stopped = stopped or layers.interrupted
    cuts = no_cuts(table.directory) if stopped else _cuts(prepared, table, decision)
    return Found(besides, layers, cuts, stopped or cuts.interrupted)


def _recommended(
    prepared: Prepared, table: LossTable, evidence: Evidence, decision: Decision, found: Found
) -> Recommendation:
    """The answer, but for what was measured besides."""
    from rightrank.probe.plan import trainer_seconds

    request, job, memory, data = prepared.request, prepared.job, prepared.memory, prepared.data
    base, executor, speed = prepared.base, prepared.executor, prepared.speed
    name = str(request.model) if isinstance(request.model, (str, Path)) else base.name
    batch_tokens = int(request.recipe.batch_size * _mean_tokens(data))
    return make_recommendation(
        decision,
        recipe=request.recipe,
        model=model_facts(base, name, executor.targets, prepared.path.words),
        data=data_facts(data, len(executor.decide) + len(executor.score)),
        cost=_cost(prepared, table, decision, found.layers),
        provenance=provenance(request.command, request.seed, table.directory, interrupted=found.interrupted),
        points=measured_points(table, decision, request.recipe, evidence.tokens_E),
        next_steps=next_steps(decision, prepared.plan, evidence, request.recipe, asked_anew(request.command)),
        train_gib=lambda rank: memory.peak_gib(job.parameters_per_rank * rank, batch_tokens),
        train_minutes=lambda rank: trainer_seconds(job, speed, rank, job.examples) / 60,
        adapter_mb=lambda rank: job.parameters_per_rank * rank * 2 / 1e6,
        warnings=(
            *request.notes,
            *data.notes,
            *executor.notes,
            *found.besides.notes,
            *found.layers.notes,
            *found.cuts.notes,
            *mixed_origins(table),
            *_missed(prepared.plan, table),
        ),
    )


def _cost(prepared: Prepared, table: LossTable, decision: Decision, layers: LayersFound) -> Cost:
    executor = prepared.executor
    judges = [len(e.token_ids_T) for e in (*executor.decide, *executor.score)]
    one_run = _mean_tokens(prepared.data) * prepared.data.train_rows * prepared.request.recipe.epochs
    tables = [one for one in (table, layers.table) if one is not None]
    return cost(
        executor.device_words,
        executor.peak_gib(),
        planned_seconds=prepared.plan.planned_seconds + prepared.cutting.seconds,
        took_seconds=time.monotonic() - prepared.started,
        runs=sum(runs_spent(one, judges, one_run) for one in tables),
        resolvable=decision.resolvable_difference_percent,
    )


def _mean_tokens(data: PreparedData) -> float:
    """Of a training row."""
    return float(np.mean([len(e.token_ids_T) for e in data.train]))


def _layers(prepared: Prepared, table: LossTable, decision: Decision, *, interrupted: bool) -> LayersFound:
    """Attention alone and the MLP alone, before cuts, whose time is left to them."""
    judges = [*prepared.executor.decide, *prepared.executor.score]
    budget = prepared.plan.budget_seconds
    subject = LayersSubject(
        table,
        decision,
        prepared.executor,
        prepared.executor.targets,
        prepared.job,
        prepared.speed,
        tokens_E=np.array([e.trained_tokens for e in judges]),
        scores_E=np.arange(len(judges)) >= len(prepared.executor.decide),
        deadline=prepared.started + budget - prepared.cutting.seconds,
        budget_seconds=budget,
        max_rank=prepared.request.max_rank,
        on_progress=prepared.request.on_progress,
    )
    return measure_layers(prepared.layers, subject, interrupted=interrupted)


def _cuts(prepared: Prepared, table: LossTable, decision: Decision) -> Cuts:
    """Cuts of what the runs left on disk; nothing where that is on other machines."""
    if not prepared.on_one_device:
        return no_cuts(table.directory)
    base, data, executor = prepared.base, prepared.data, prepared.executor
    subject = CutSubject(
        prepared.model,
        table,
        decision,
        executor.decide,
        executor.score,
        prepared.candidates,
        prepared.job.examples,
        prepared.speed.evaluate_seconds_per_token,
        prepared.started + prepared.plan.budget_seconds,
        {
            "examples": data.train_rows,
            "model": base.fingerprint,
            "data": data.fingerprint,
            "rows": data.rows_fingerprint,
        },
        prepared.request.on_progress,
    )
    return measure_cuts(prepared.cutting, subject)


def _missed(plan: Plan, table: LossTable) -> tuple[str, ...]:
    """The ranks that were planned and that time did not reach, in a sentence."""
    trained = {c.rank for c in table.configurations(plan.final_examples) if c.role not in ("yours", "guide")}
    missed = sorted(set(plan.ranks) - trained)
    if not missed:
        return ()
    return (f"Planned, but not reached in time: {', '.join(f'r={rank}' for rank in missed)}.",)


def _subject(prepared: Prepared) -> Subject:
    from rightrank.data import token_frequency_loss
    from rightrank.probe.run import Subject
    from rightrank.probe.settings import prior_learning_rate

    executor, data, request = prepared.executor, prepared.data, prepared.request
    judges = [*executor.decide, *executor.score]
    ceiling = min(prepared.widest_rank, request.max_rank or prepared.widest_rank)
    return Subject(
        job=prepared.job,
        tokens_E=np.array([e.trained_tokens for e in judges]),
        scores_E=np.arange(len(judges)) >= len(executor.decide),
        frequency_loss_E=token_frequency_loss(data.train, judges, prepared.base.vocabulary),
        prior_learning_rate=prior_learning_rate(prepared.base.hidden),
        widest_rank=ceiling if request.ranks is None else max(prepared.candidates),
        narrowest_rank=1 if request.ranks is None else min(prepared.candidates),
        yours=request.yours,
        seed=request.seed,
        keeps_adapters=prepared.asked.anything,
    )


def _record(prepared: Prepared) -> tuple[dict[str, Any], dict[str, Any]]:
    """What must be the same for measurements to belong together, and how to do it again."""
    request, base, plan = prepared.request, prepared.base, prepared.plan
    return (
        settings(request, base, prepared.data, prepared.candidates, plan),
        about(request, base, prepared.path.words, plan),
    )
