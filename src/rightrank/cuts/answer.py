"""An adapter taken apart over its base; and from the decision about its cuts to the answer that is saved and shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rightrank.cuts import words
from rightrank.cuts.result import CutLine, CutResult
from rightrank.recommendation import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.cut import Update
    from rightrank.bank.whole_modules import WholeModules
    from rightrank.cuts.race import Raced, Version
    from rightrank.data.held_out import HeldOutData
    from rightrank.stats.cuts import CutDecision, CutEvidence, VersionResult
    from rightrank.stats.paired import Estimate

NATS, PERCENT, OF_GAIN = "nats a token", "percent", "percent of the gain"


@dataclass(frozen=True)
class Adapter:
    """The adapter that was given, over its base."""

    folder: Path
    base: BaseModel
    """With this adapter's layers alone as targets."""
    base_name: str
    updates: tuple[Update, ...]
    rank: int
    """The largest of its layers."""
    dtype: torch.dtype
    """Of its file."""
    dropout: float
    whole: WholeModules


def opened(folder: Path, base: BaseModel, base_name: str) -> Adapter:
    """The adapter at ``folder`` taken apart, over ``base``. Raises ConfigurationError where they do not belong together."""
    import torch

    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.cut import take_apart
    from rightrank.bank.peft_format import adapted_ranks, import_adapter, read_adapter_config
    from rightrank.bank.whole_modules import read_whole_modules

    config = read_adapter_config(folder, whole_modules=True)
    whole = read_whole_modules(folder, config)
    ranks, dtype = adapted_ranks(folder, base.targets, whole)
    base = replace(base, only=tuple(ranks))
    by_target = tuple(ranks[target.name] for target in base.targets)
    spec = AdapterSpec(max(by_target), alpha=1.0, learning_rate=0.0, ranks=by_target)
    precise = torch.float64 if base.dtype == torch.float64 else torch.float32
    here = torch.device("cpu")
    bank = AdapterBank(base.targets, [spec], device=here, dtype=precise, start=False, products=False)
    import_adapter(bank, 0, folder, whole=whole)
    dropout = config.get("lora_dropout") or 0.0
    return Adapter(
        folder,
        base,
        base_name,
        take_apart(bank, 0),
        max(by_target),
        dtype,
        float(dropout) if isinstance(dropout, (int, float)) else 0.0,
        whole,
    )


def make_cut_result(
    read: Adapter,
    data: HeldOutData,
    raced: Raced,
    decision: CutDecision,
    *,
    uniform: bool,
) -> CutResult:
    """The answer, but for what is written and how long all took."""
    from rightrank.executors.survey import device_words

    versions, evidence = raced.versions, raced.evidence
    lines = tuple(
        _line(version, int(parameters) * read.dtype.itemsize, int(parameters), found)
        for version, parameters, found in zip(versions, evidence.parameters_V, decision.versions, strict=True)
    )
    chosen, best = lines[decision.chosen], lines[decision.best]
    lost = decision.versions[decision.chosen].gain_lost
    return CutResult(
        status=decision.status,
        headline=words.headline(decision.status, chosen, lines),
        reasons=words.reasons(decision.status, chosen, best, lines),
        choice=chosen.label,
        best=best.label,
        worst_case=None if lost is None else Figure(max(0.0, lost.high), OF_GAIN, "measured"),
        against_whole=_against_whole(evidence, versions, decision.chosen),
        lines=lines,
        margin_percent=words.MARGIN_PERCENT,
        base_loss=_figure(decision.base_loss, NATS),
        gain=_figure(decision.gain, NATS),
        adapter=str(read.folder),
        directory="",
        base_name=read.base_name,
        data_name=data.name,
        data_format=data.format,
        data_fingerprint=data.fingerprint,
        decide=int((~evidence.scores_E).sum()),
        score=int(evidence.scores_E.sum()),
        rows_given=data.rows,
        layers=len(read.updates),
        uniform=uniform,
        written=None,
        served=None,
        seconds=0.0,
        device=device_words(read.base.device),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        warnings=data.notes,
    )


def _line(version: Version, size_bytes: int, parameters: int, found: VersionResult) -> CutLine:
    return CutLine(
        label=version.label,
        kind=version.kind,
        rank=version.cut.rank,
        factor=version.cut.factor,
        parameters=parameters,
        megabytes=size_bytes / 1e6,
        loss=_figure(found.loss, NATS, measured=found.scored),
        gain_lost=None
        if found.gain_lost is None
        else _figure(found.gain_lost, OF_GAIN, measured=found.scored),
        exact=None if found.exact is None else _figure(found.exact, PERCENT),
        tokens_right=None if found.tokens_right is None else _figure(found.tokens_right, PERCENT),
        verdict=found.verdict,
        rows=found.rows,
    )


def _against_whole(evidence: CutEvidence, versions: Sequence[Version], chosen: int) -> Figure | None:
    from rightrank.stats.paired import paired_contrast

    whole = next(v for v, version in enumerate(versions) if version.kind == "whole")
    if chosen == whole:
        return None
    score_E = evidence.scores_E
    found = paired_contrast(
        evidence.loss_VE[chosen, score_E], evidence.loss_VE[whole, score_E], evidence.tokens_E[score_E]
    )
    return Figure(found.difference, NATS, "measured", found.low, found.high)


def _figure(estimate: Estimate, unit: str, *, measured: bool = True) -> Figure:
    return Figure(estimate.value, unit, "measured" if measured else "derived", estimate.low, estimate.high)
