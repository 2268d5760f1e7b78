"""What an answer says of its data, its model, its cost and where it comes from."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from rightrank.recommendation import Cost, DataFacts, Figure, ModelFacts, Provenance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rightrank.bank.targets import Target
    from rightrank.data import PreparedData
    from rightrank.executors.survey import BaseFacts
    from rightrank.probe.loss_table import LossTable
    from rightrank.recipe import Recipe


def data_line(data: PreparedData, recipe: Recipe) -> str:
    """The data set in one sentence, said before anything is loaded."""
    sample = "" if data.train_of_all is None else f" ({len(data.train):,} of them drawn at random)"
    parts = [f"{data.train_rows:,} train{sample} / {len(data.decide) + len(data.score):,} held out"]
    parts += [
        f"{count:,} {'row' if count == 1 else 'rows'} {word}"
        for count, word in (
            (data.truncated, "truncated"),
            (data.dropped, f"dropped ({recipe.why_dropped})"),
        )
        if count
    ]
    return f"{data.name}: {data.format}, {', '.join(parts)}."


def model_line(base: BaseFacts, how_it_runs: str) -> str:
    """The model in one sentence."""
    count = base.parameters
    size = (
        f"{count / 1e9:,.1f}B" if count >= 1e9 else f"{count / 1e6:,.0f}M" if count >= 1e6 else f"{count:,}"
    )
    return f"{base.name}: {size} weights in {base.dtype_name}, {how_it_runs}."


def data_facts(data: PreparedData, judged: int) -> DataFacts:
    """The data set as the answer names it; tokens of rows that were not read are estimated from those that were.

    ``judged``: held-out rows that runs were judged by.
    """
    times = data.train_rows / len(data.train)
    return DataFacts(
        name=data.name,
        format=data.format,
        fingerprint=data.fingerprint,
        rows=data.rows,
        train=data.train_rows,
        decide=len(data.decide),
        score=len(data.score),
        truncated=data.truncated,
        dropped=data.dropped,
        duplicates=data.duplicates,
        trained_tokens=round(times * sum(e.trained_tokens for e in data.train)),
        total_tokens=round(times * sum(len(e.token_ids_T) for e in data.train)),
        template=data.template,
        held_out_from=data.held_out_from,
        judged=judged,
    )


def model_facts(base: BaseFacts, name: str, targets: tuple[Target, ...], how_it_runs: str) -> ModelFacts:
    """The model as the answer names it; ``name`` is what the person called it."""
    from rightrank.bank.targets import target_suffixes

    return ModelFacts(
        name=name,
        architecture=base.architecture,
        fingerprint=base.fingerprint,
        parameters=base.parameters,
        layers=base.layers,
        dtype=base.dtype_name,
        target_modules=target_suffixes(targets),
        not_adapted=base.not_adapted,
        path=how_it_runs,
    )


def runs_spent(table: LossTable, judge_tokens: Sequence[int], tokens_of_one_run: float) -> float:
    """What was measured in runs of the person's recipe: tokens trained and judged, over those of one run."""
    lengths = np.array(judge_tokens)
    spent = 0.0
    for pack, result in zip(table.packs, table.results, strict=True):
        # A forward pass is half of training, where the base is frozen: no gradients of its weights.
        judged = np.isfinite(result.loss_KE).any(0) @ lengths / 2
        if result.looks is not None:
            looks, rows = result.looks.loss_KLX.shape[1:]
            judged += looks * lengths[:rows].sum() / 2
        spent += len(pack.configurations) * (result.train_tokens + judged)
    return float(spent / tokens_of_one_run)


def cost(
    device: str,
    peak_gib: float,
    *,
    planned_seconds: float,
    took_seconds: float,
    runs: float,
    resolvable: float | None,
) -> Cost:
    """Time, runs and memory of a device. ``resolvable``: percent of the gain that the held-out rows can tell apart."""
    return Cost(
        planned_minutes=planned_seconds / 60,
        took_minutes=took_seconds / 60,
        runs=runs,
        peak_gib=peak_gib,
        device=device,
        resolvable=None if resolvable is None else Figure(resolvable, "% of the gain", "measured"),
    )


def provenance(command: str, seed: int, directory: Path, *, interrupted: bool) -> Provenance:
    """When, by what command and with which versions."""
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        seed=seed,
        versions=versions(),
        interrupted=interrupted,
        run_directory=str(directory),
    )


MATTER = (
    "rightrank",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "gguf",
    "numpy",
    "scipy",
)
"""Packages that tokens, numbers or decisions hang on."""


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in MATTER:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
