"""``rightrank.estimate``: what can be said in seconds, from config.json, the tokenizer and the rows. Reads no weights, trains nothing.

Not named after its function: importing a module ``rightrank.estimate`` would put the module in the function's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank import from_config
from rightrank.data.characteristics import of_all
from rightrank.estimates import cautions
from rightrank.estimates.costs import capacity_floor, memory_model, this_machine, timing
from rightrank.estimates.estimation import (
    DataProfile,
    Estimate,
    GainLost,
    ModelShape,
    Range,
    SettingEstimate,
    likeness_of,
)
from rightrank.fitting import enough_memory, ranks_to_try, require_model, tokens_fit
from rightrank.priors import grids, hardware
from rightrank.priors.characteristics import foretold
from rightrank.recipe import alpha_for, equivalent_learning_rate
from rightrank.request import Request, check
from rightrank.row_habits import as_its_trainer_reads, with_template_noted, with_warm_up_steps
from rightrank.trainers import read_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rightrank.bank.blueprint import Blueprint
    from rightrank.bank.memory import MemoryModel
    from rightrank.data import PreparedData

# The popular default: QLoRA's appendix, Unsloth's and Axolotl's examples (published).
GUIDE = (16, 32.0, 2e-4)


def estimate(
    model: Any = None,
    dataset: Any = None,
    *,
    config: str | Path | None = None,
    gpu: str | None = None,
    quantization: str | None = None,
    **options: Any,
) -> Estimate:
    """What is known before anything is measured of fine-tuning ``model`` on ``dataset``.

    ``config``: a trainer's config that names them, as in ``rightrank.recommend``; ``options`` are the fields of ``Request``. ``gpu``: a
    card to estimate for, as ``h100``; None: the one that is here. ``quantization``: ``4-bit`` or ``8-bit``; None: what the config or the
    model says. Of the model only config.json (or a GGUF's header) and the tokenizer are read. Raises UserError.
    """
    read = None if config is None else read_config(config)
    return estimate_request(
        from_config.request(model, dataset, config=config, **options),
        gpu=gpu,
        quantization=quantization or (None if read is None else read.quantization),
        trainer=None if read is None else read.trainer,
    )


def estimate_request(
    request: Request, *, gpu: str | None = None, quantization: str | None = None, trainer: str | None = None
) -> Estimate:
    """The same of a request. ``trainer``: in whose convention of scale the person's own setting was written."""
    from rightrank import data as reading
    from rightrank.bank.blueprint import read_blueprint, read_tokenizer
    from rightrank.bank.gguf_header import header_read_once

    check(request)
    device = None if gpu is None else hardware.gpu(gpu)
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
        with header_read_once():
            blueprint = read_blueprint(
                request.model, modules=request.target_modules, dtype=_dtype(device), **loading
            )
            tokenizer = request.tokenizer
            if tokenizer is None:
                tokenizer = read_tokenizer(request.model, **loading)
        data = reading.prepare(
            rows,
            tokenizer,
            request.recipe,
            eval_data=held_out,
            chat_template=request.chat_template,
            seed=request.seed,
        )
    tokens_fit(blueprint.name, blueprint.vocabulary, blueprint.positions, data)
    request = with_warm_up_steps(with_template_noted(request, rows, data), data)
    return assemble(request, blueprint, data, device or this_machine(), quantization, trainer)


def assemble(
    request: Request,
    blueprint: Blueprint,
    data: PreparedData,
    device: hardware.Device | None,
    quantization: str | None = None,
    trainer: str | None = None,
) -> Estimate:
    """The estimate of what was read. Pure."""
    recipe, profile = request.recipe, data_profile(data)
    shape = model_shape(blueprint, quantization)
    ranks = ranks_to_try(request, blueprint.widest_rank)
    steps = recipe.steps(profile.train)
    like = likeness_of(shape, profile, recipe, steps)
    own_rank = None if request.yours is None else request.yours[0]
    memory = memory_model(blueprint, quantization, on_cpu=device is not None and device.name == hardware.CPU)
    batch_tokens = int(recipe.batch_size * profile.mean_length)
    settings = [
        _setting(setting, kind, shape, memory, batch_tokens, like)
        for setting, kind in _settings(request, ranks, like, shape.widest_rank)
    ]
    said = [
        *cautions.of_data(profile, recipe, steps),
        *cautions.of_modules(request.target_modules),
        *([] if device is None else cautions.of_memory(settings, shape, device.title, device.gib)),
    ]
    if request.yours is not None:
        said += cautions.of_setting(request.yours, shape, grids.learning_rates_that_were_best(like), trainer)
    looks = of_all(data.train, profile.train)
    low, high = grids.resolvable(profile.score)
    easiest, hardest = _easiest_and_hardest()
    return Estimate(
        data=profile,
        model=shape,
        recipe=recipe,
        steps=steps,
        settings=tuple(settings),
        timing=None
        if device is None
        else timing(device, blueprint, recipe, profile, memory, ranks, own_rank),
        floor=capacity_floor(profile.trained_tokens, blueprint.parameters_per_rank),
        resolvable=Range(
            low,
            high,
            "% of the gain",
            f"recorded spread of paired differences: {easiest.name} the least, {hardest.name} the most",
        ),
        nearest=_nearest(profile),
        doubts=like.unlike,
        outside=like.outside,
        no_answer=cautions.too_few_rows(profile),
        cautions=tuple(said),
        characteristics=looks,
        foretold=None if like.outside else foretold(looks.features(recipe.epochs), shape.widest_rank, like),
        notes=(*request.notes, *data.notes),
    )


def data_profile(data: PreparedData) -> DataProfile:
    """The data set in numbers; of a sample's tokens as many as the whole data set has at the same rate."""
    lengths_N = np.array([len(e.token_ids_T) for e in data.train])
    trained = [e.token_ids_T[1:][e.trained_T[1:]] for e in data.train]
    held_out = len(data.decide) + len(data.score)
    factor = data.train_rows / len(data.train)
    return DataProfile(
        name=data.name,
        format=data.format,
        template=data.template,
        rows=data.rows,
        train=data.train_rows,
        at_hand=len(data.train),
        held_out=held_out,
        score=len(data.score),
        held_out_from=data.held_out_from,
        trained_tokens=round(sum(map(len, trained)) * factor),
        distinct_tokens=len(np.unique(np.concatenate(trained))),
        total_tokens=round(int(lengths_N.sum()) * factor),
        median_length=int(np.median(lengths_N)),
        length_95=int(np.quantile(lengths_N, 0.95)),
        longest=int(lengths_N.max()),
        truncated=data.truncated,
        truncated_percent=data.truncated_percent,
        dropped=data.dropped,
        duplicates=data.duplicates,
        overlap=data.overlap_removed,
    )


def model_shape(blueprint: Blueprint, quantization: str | None = None) -> ModelShape:
    """The model in numbers."""
    from rightrank.bank.memory import GIB
    from rightrank.bank.targets import target_suffixes

    narrow = blueprint.narrowest
    return ModelShape(
        name=blueprint.name,
        architecture=blueprint.architecture,
        parameters=blueprint.parameters,
        layers=blueprint.layers,
        hidden=blueprint.hidden,
        weights=quantization or blueprint.quantised or {2: "bfloat16", 4: "float32"}[blueprint.item],
        weights_gib=blueprint.weight_bytes(quantization) / GIB,
        target_modules=target_suffixes(blueprint.targets),
        not_adapted=blueprint.not_adapted,
        parameters_per_rank=blueprint.parameters_per_rank,
        widest_rank=blueprint.widest_rank,
        narrowest=(narrow.suffix, narrow.max_rank),
    )


def _dtype(device: hardware.Device | None) -> Any:
    """What the frozen weights are loaded in: as ``recommend`` would on that device."""
    import torch

    from rightrank.bank.base_model import pick_device, pick_dtype

    return torch.bfloat16 if device is not None else pick_dtype(pick_device())


def _settings(
    request: Request, ranks: Sequence[int], like: grids.Likeness, widest: int
) -> list[tuple[tuple[int, float, float | None], Any]]:
    found: list[tuple[tuple[int, float, float | None], Any]] = []
    for rank in ranks:
        best = None if like.other_run else grids.best_learning_rate(rank, like)
        found.append(((rank, float(alpha_for(rank)), None if best is None else best[0]), "rank"))
    if GUIDE[0] <= widest:
        found.append((GUIDE, "guide"))
    if request.yours is not None:
        found.append((request.yours, "yours"))
    return found


def _setting(
    setting: tuple[int, float, float | None],
    kind: Any,
    shape: ModelShape,
    memory: MemoryModel,
    batch_tokens: int,
    like: grids.Likeness,
) -> SettingEstimate:
    rank, alpha, rate = setting
    parameters = shape.parameters_per_rank * rank
    lost = None
    if rate is not None and not like.outside:
        lost = grids.price(rank, equivalent_learning_rate(rank, alpha, rate), like)
    return SettingEstimate(
        label=f"r={rank}" if kind == "rank" else f"{kind} r={rank} a={alpha:.3g}",
        kind=kind,
        rank=rank,
        alpha=alpha,
        learning_rate=rate,
        parameters=parameters,
        adapter_mb=parameters * 2 / 1e6,
        optimiser_gib=parameters * 8 / 2**30,
        train_gib=memory.peak_gib(parameters, batch_tokens),
        gain_lost=None
        if lost is None
        else GainLost(lost.mean, lost.low, lost.high, lost.sets, grids.records().label),
    )


def _easiest_and_hardest() -> tuple[grids.RecordedSet, grids.RecordedSet]:
    by_error = sorted(grids.records().sets, key=lambda s: s.paired_error_percent * s.held_out**0.5)
    return by_error[0], by_error[-1]


def _nearest(profile: DataProfile) -> str:
    near = grids.most_like(profile.trained_tokens_a_row)
    return (
        f"{near.name} ({near.trained_tokens_a_row:.0f} trained tokens a row, {near.examples:,} rows; here"
        f" {profile.trained_tokens_a_row:.0f} and {profile.train:,})"
    )
