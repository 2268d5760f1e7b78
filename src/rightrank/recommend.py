"""``rightrank.recommend``: read, load, plan, measure, decide."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.answer import make_recommendation, measured_points, next_steps
from rightrank.errors import BudgetError, ConfigurationError, UserError
from rightrank.recipe import Recipe
from rightrank.recommendation import Cost, DataFacts, Figure, ModelFacts, Provenance, Recommendation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.verify import Path as HowItRuns
    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.executors.local import LocalExecutor
    from rightrank.probe.loss_table import LossTable
    from rightrank.probe.plan import Job, Plan, Speed
    from rightrank.probe.run import Outcome, Subject


@dataclass(frozen=True)
class Request:
    """Everything a person can ask for. Only model and data set are needed."""

    model: Any
    """Folder, GGUF file, hub id, or a loaded causal language model of transformers."""
    dataset: Any
    """File, folder, hub id, or loaded rows (``datasets.Dataset``, list of dicts, DataFrame)."""
    recipe: Recipe = field(default_factory=Recipe)
    budget_minutes: float | None = None
    """None: the time of one run of the recipe, an hour at most."""
    out: str | Path | None = None
    """Run directory; None: a new one under ``rightrank-runs``."""
    resume: bool = False
    eval_data: Any = None
    data_config: str | None = None
    data_split: str | None = None
    data_revision: str | None = None
    chat_template: bool = True
    tokenizer: Any = None
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    ranks: tuple[int, ...] | None = None
    """Candidate ranks; None: 4 to 128."""
    max_rank: int | None = None
    """Largest rank that can be served."""
    yours: tuple[int, float, float] | None = None
    """Rank, alpha and learning rate of the person's own config: measured as one of the points."""
    seed: int = 0
    command: str = "rightrank recommend MODEL DATA"
    """How to ask again; appears in what would decide."""
    on_text: Callable[[str], None] = lambda line: None
    """Hears what was found and planned, a line at a time."""
    on_progress: Callable[[str, float, float], None] = lambda what, done, whole: None
    """Hears (what, seconds done, seconds in all) while it measures."""


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first measurement."""

    request: Request
    started: float
    data: PreparedData
    base: BaseModel
    path: HowItRuns
    memory: MemoryModel
    executor: LocalExecutor
    job: Job
    speed: Speed
    plan: Plan
    widest_rank: int


def recommend(model: Any, dataset: Any, **options: Any) -> Recommendation:
    """Which LoRA rank, learning rate and alpha to fine-tune ``model`` on ``dataset`` with, measured.

    ``options`` are the fields of ``Request``. Ctrl-C answers from what is measured by then. Everything is kept in the run directory
    (``recommendation.provenance.run_directory``). Raises UserError (``rightrank.UserError``) with one sentence and its mend.
    """
    request = Request(model, dataset, **options)
    return measure(prepare(request))


def prepare(request: Request) -> Prepared:
    """Read the data, load the model, check and time it, and plan. Trains nothing."""
    from rightrank import data as reading
    from rightrank.bank.base_model import load_base, load_tokenizer

    started = time.monotonic()
    by_name = isinstance(request.model, (str, Path))
    options: dict[str, Any] = {"revision": request.revision, "trust_remote_code": request.trust_remote_code}
    tokenizer = request.tokenizer
    if tokenizer is None and by_name:
        tokenizer = load_tokenizer(request.model, **options)
    data = reading.prepare(
        request.dataset,
        tokenizer,
        request.recipe,
        eval_data=request.eval_data,
        config=request.data_config,
        split=request.data_split,
        revision=request.data_revision,
        chat_template=request.chat_template,
        seed=request.seed,
    )
    request.on_text(_data_line(data))
    base = load_base(request.model, tokenizer, device=request.device, **options)
    return _plan(request, started, data, base)


def _plan(request: Request, started: float, data: PreparedData, base: BaseModel) -> Prepared:
    from rightrank.bank.memory import GIB, available_bytes, measure_memory
    from rightrank.bank.targets import find_targets
    from rightrank.bank.verify import choose_path
    from rightrank.executors.local import LocalExecutor
    from rightrank.probe.plan import Job, make_plan, plan_lines

    targets = find_targets(base.model)
    widest = max(target.max_rank for target in targets)
    ranks = _candidates(request, widest)
    few = _middling(data.train, 3)
    path = choose_path(base, few)
    memory = measure_memory(base, targets, few, packed=path.packed)
    request.on_text(f"{base.name}: {base.parameters / 1e6:,.0f}M weights in {base.dtype_name}, {path.words}.")
    executor = LocalExecutor(base, memory, data.train, request.recipe, packed=path.packed)
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
    budget = None if request.budget_minutes is None else request.budget_minutes * 60
    plan = make_plan(job, speed, ranks, budget, spent_seconds=time.monotonic() - started)
    executor.judge_by(data.decide[: plan.decide], data.score[: plan.score])
    batch_tokens = int(request.recipe.batch_size * np.mean([len(e.token_ids_T) for e in data.train]))
    peak = memory.peak_gib(job.parameters_per_rank * max(ranks), min(batch_tokens, 1024))
    card = available_bytes(base.device) / GIB
    for line in plan_lines(plan, job, peak, card):
        request.on_text(line)
    return Prepared(request, started, data, base, path, memory, executor, job, speed, plan, widest)


def measure(prepared: Prepared) -> Recommendation:
    """Carry out the plan and answer."""
    from rightrank.probe.loss_table import LossTable
    from rightrank.probe.run import Probe
    from rightrank.stats.decision import decide

    request, plan, executor = prepared.request, prepared.plan, prepared.executor
    table = LossTable(_run_directory(request, prepared.data.name), _settings(prepared))
    for damage in table.damaged:
        request.on_text(f"A damaged file was left out and is measured again: {damage}")
    interrupted = False
    if table.base is None:
        request.on_progress("the untrained model", 0.0, plan.planned_seconds)
        table.set_base(executor.evaluate_base())
    outcome: Outcome | None = None
    probe = Probe(
        _subject(prepared),
        plan,
        prepared.speed,
        table,
        executor,
        deadline=prepared.started + plan.budget_seconds,
        on_progress=request.on_progress,
    )
    outcome = probe.run()
    interrupted = outcome.stopped == "interrupted"
    if not table.packs:
        if interrupted:
            raise KeyboardInterrupt
        raise BudgetError(
            "Time ran out before the first comparison was measured.", "Allow more with --budget."
        )
    decision = decide(outcome.evidence, yours=request.yours, seed=request.seed)
    if decision.best_loss is None:
        raise ConfigurationError(
            "Every run diverged, at every learning rate tried.",
            "Check the data for broken rows; a base in float32 (`--device cpu`) may help to see why.",
        )
    answer = _answer(prepared, table, outcome, decision, interrupted)
    answer.save(table.directory)
    _deliver(table.directory, table, answer)
    return answer


def _answer(
    prepared: Prepared, table: LossTable, outcome: Outcome, decision: Any, interrupted: bool
) -> Recommendation:
    request, job, memory = prepared.request, prepared.job, prepared.memory
    tokens = sum(len(e.token_ids_T) for e in prepared.data.train) / len(prepared.data.train)
    batch_tokens = int(request.recipe.batch_size * tokens)

    def parameters(rank: int) -> int:
        return job.parameters_per_rank * rank

    return make_recommendation(
        decision,
        recipe=request.recipe,
        model=_model_facts(prepared),
        data=_data_facts(prepared.data),
        cost=_cost(prepared, table, decision.resolvable_difference_percent),
        provenance=Provenance(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=request.command,
            seed=request.seed,
            versions=_versions(),
            interrupted=interrupted,
            run_directory=str(table.directory),
        ),
        points=measured_points(table, decision, request.recipe),
        next_steps=next_steps(decision, prepared.plan, outcome.evidence, request.command),
        train_gib=lambda rank: memory.peak_gib(parameters(rank), batch_tokens),
        adapter_mb=lambda rank: parameters(rank) * 2 / 1e6,
        warnings=(*prepared.data.notes, *prepared.executor.notes),
    )


def _candidates(request: Request, widest: int) -> tuple[int, ...]:
    from rightrank.probe.plan import CANDIDATE_RANKS

    ranks = request.ranks or tuple(r for r in CANDIDATE_RANKS if r <= widest)
    if request.ranks and any(not 1 <= r <= widest for r in request.ranks):
        bad = next(r for r in request.ranks if not 1 <= r <= widest)
        raise ConfigurationError(
            f"Rank {bad} is beyond the width of every module of this model ({widest})."
            if bad > widest
            else f"{bad} is no rank.",
            f"Give ranks from 1 to {widest}.",
        )
    kept = tuple(sorted({r for r in ranks if request.max_rank is None or r <= request.max_rank}))
    if not kept:
        raise ConfigurationError("No rank to try is left under --max-rank.", "Raise --max-rank.")
    return kept


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
        widest_rank=ceiling if request.ranks is None else max(request.ranks),
        yours=request.yours,
        seed=request.seed,
    )


def _run_directory(request: Request, data_name: str) -> Path:
    if request.out is not None:
        folder = Path(request.out)
        if not request.resume and (folder / "run.json").exists():
            raise ConfigurationError(
                f"{folder} holds a run already.", "Add --resume to go on with it, or name another --out."
            )
        return folder
    if request.resume:
        raise ConfigurationError("--resume needs the run to go on with.", "Name its directory with --out.")
    stem = (
        "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(data_name).stem)[:40].strip(".-")
        or "data"
    )
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("rightrank-runs") / f"{stem}-{stamp}"


def _settings(prepared: Prepared) -> dict[str, Any]:
    """What must be the same for measurements to belong together. The held-out sizes and the plan's are part of it."""
    request, plan = prepared.request, prepared.plan
    return {
        "model": prepared.base.fingerprint,
        "dtype": prepared.base.dtype_name,
        "data": prepared.data.fingerprint,
        "recipe": {k: v for k, v in asdict(request.recipe).items() if k != "origins"},
        "seed": request.seed,
        "chat_template": request.chat_template,
        "held_out": [plan.decide, plan.score],
    }


def _deliver(directory: Path, table: LossTable, answer: Recommendation) -> None:
    """Keep the chosen configuration's adapter where it was trained on all the data; drop the others."""
    folder = directory / "adapters"
    if not folder.is_dir():
        return
    for pack in table.packs:
        for k, c in enumerate(pack.configurations):
            chosen = (c.rank, c.alpha, c.learning_rate, c.seed) == (
                answer.choice.rank,
                answer.choice.alpha,
                answer.choice.learning_rate,
                0,
            )
            trained = folder / f"{pack.number:04d}" / str(k)
            if chosen and trained.is_dir() and pack.examples == answer.data.train:
                kept = directory / "adapter"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(trained, kept)
    if answer.status != "UNDECIDED":
        shutil.rmtree(folder, ignore_errors=True)


def _data_line(data: PreparedData) -> str:
    parts = [f"{len(data.train):,} train / {len(data.decide) + len(data.score):,} held out"]
    parts += [
        f"{count:,} rows {word}"
        for count, word in ((data.truncated, "truncated"), (data.dropped, "dropped"))
        if count
    ]
    return f"{data.name}: {data.format}, {', '.join(parts)}."


def _data_facts(data: PreparedData) -> DataFacts:
    return DataFacts(
        name=data.name,
        format=data.format,
        fingerprint=data.fingerprint,
        rows=data.rows,
        train=len(data.train),
        decide=len(data.decide),
        score=len(data.score),
        truncated=data.truncated,
        dropped=data.dropped,
        duplicates=data.duplicates,
        trained_tokens=sum(e.trained_tokens for e in data.train),
        total_tokens=sum(len(e.token_ids_T) for e in data.train),
        template=data.template,
        held_out_from=data.held_out_from,
    )


def _model_facts(prepared: Prepared) -> ModelFacts:
    from rightrank.bank.targets import not_adapted, target_suffixes

    base, targets = prepared.base, prepared.executor.targets
    return ModelFacts(
        name=str(prepared.request.model) if isinstance(prepared.request.model, (str, Path)) else base.name,
        architecture=type(base.model).__name__,
        fingerprint=base.fingerprint,
        parameters=base.parameters,
        layers=base.layers,
        dtype=base.dtype_name,
        target_modules=target_suffixes(targets),
        not_adapted=not_adapted(base.model, targets),
        path=prepared.path.words,
    )


def _cost(prepared: Prepared, table: LossTable, resolvable: float | None) -> Cost:
    from rightrank.bank.memory import peak_gib_so_far

    request = prepared.request
    one_run = sum(len(e.token_ids_T) for e in prepared.data.train) * request.recipe.epochs
    lengths = np.array([len(e.token_ids_T) for e in (*prepared.executor.decide, *prepared.executor.score)])
    spent = 0.0
    for pack, result in zip(table.packs, table.results, strict=True):
        # A forward pass is half of training, where the base is frozen: no gradients of its weights.
        judged = np.isfinite(result.loss_KE).any(0) @ lengths / 2
        spent += len(pack.configurations) * (result.train_tokens + judged)
    return Cost(
        planned_minutes=prepared.plan.planned_seconds / 60,
        took_minutes=(time.monotonic() - prepared.started) / 60,
        runs=float(spent / one_run),
        peak_gib=peak_gib_so_far(prepared.base.device),
        device=_device_name(prepared.base.device),
        resolvable=None if resolvable is None else Figure(resolvable, "% of the gain", "measured"),
    )


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("rightrank", "torch", "transformers", "peft", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


__all__ = ["Prepared", "Request", "UserError", "measure", "prepare", "recommend"]
