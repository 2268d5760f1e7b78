"""The chosen cut as a PEFT adapter, and whether it computes what was measured once it is loaded again."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.cuts.result import ServeCheck
from rightrank.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rightrank.bank.cut import Cut
    from rightrank.cuts.answer import Adapter
    from rightrank.cuts.race import Raced
    from rightrank.cuts.result import CutResult
    from rightrank.data import TokenizedExample
    from rightrank.data.held_out import HeldOutData

FOLDER = "adapter"
"""Of the cut adapter, beside ``cut.json``."""
CHECKED_ROWS = 8


def write_cut(
    read: Adapter,
    data: HeldOutData,
    raced: Raced,
    result: CutResult,
    directory: Path,
    *,
    packed: bool,
) -> CutResult:
    """Write what ``result`` chose into ``directory`` and check it; nothing where the adapter stays as it is, or gains nothing.

    Raises ResourceError where it cannot be written.
    """
    versions, evidence = raced.versions, raced.evidence
    chosen = next(v for v, version in enumerate(versions) if version.label == result.choice)
    cut = versions[chosen].cut
    padded = result.uniform and len(set(cut.ranks)) > 1
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ResourceError(
            f"Nothing can be written to {directory}.", "Name another folder with --out."
        ) from error
    if result.status == "NO_GAIN" or (versions[chosen].kind == "whole" and not padded):
        return replace(result, uniform=len(set(cut.ranks)) == 1)
    if padded:
        cut = replace(cut, ranks=(cut.rank,) * len(cut.ranks))
    folder = export_cut(read, cut, directory / FOLDER)
    rows = slice(result.decide, result.decide + CHECKED_ROWS)
    served = served_as_measured(
        read, folder, cut, data.score[:CHECKED_ROWS], evidence.loss_VE[chosen, rows], packed=packed
    )
    return replace(result, written=str(folder), served=served, uniform=len(set(cut.ranks)) == 1)


def export_cut(read: Adapter, cut: Cut, folder: Path) -> Path:
    """Write ``cut`` as PEFT saves adapters, in the number format of the adapter that was given. Raises ResourceError."""
    import torch

    from rightrank.bank.cut import bank_of_cuts
    from rightrank.bank.peft_format import export_adapter

    bank = bank_of_cuts(read.updates, [cut], device=torch.device("cpu"), dtype=torch.float32)
    return export_adapter(
        bank, 0, folder, base_name=read.base_name, dropout=read.dropout, dtype=read.dtype, whole=read.whole
    )


def served_as_measured(
    read: Adapter,
    folder: Path,
    cut: Cut,
    examples: Sequence[TokenizedExample],
    measured_E: np.ndarray,
    *,
    packed: bool,
) -> ServeCheck:
    """Load the adapter at ``folder`` with PEFT where it is installed, else with our own reader, and compare losses on a few rows.

    It holds where the mean differs by no more than two correct ways of computing may (``bank.verify``). ``measured_E``: nats, summed
    over each row's trained tokens. With modules saved whole our own reader is used: PEFT would leave them in the model.
    """
    from rightrank.bank.verify import TOLERANCE_NATS

    with_peft = find_spec("peft") is not None and not read.whole.tensors
    found_E = (
        _by_peft(read.base.model, folder, examples)
        if with_peft
        else _by_bank(read, folder, cut, examples, packed=packed)
    )
    tokens_E = np.array([example.trained_tokens for example in examples])
    apart_E = found_E - measured_E
    mean = float(apart_E.sum() / tokens_E.sum())
    return ServeCheck(
        "PEFT" if with_peft else "rightrank",
        len(examples),
        mean,
        float(np.abs(apart_E / tokens_E).max()),
        abs(mean) <= TOLERANCE_NATS.get(read.base.dtype, 0.12),
    )


def _by_peft(model: Any, folder: Path, examples: Sequence[TokenizedExample]) -> np.ndarray:
    """Nats of each example, one at a time, through the adapter as PEFT puts it on ``model``, which comes back as it was."""
    import logging
    import warnings

    import torch

    from rightrank.bank.batch import Batch
    from rightrank.bank.forward import frozen

    device = model.get_input_embeddings().weight.device
    with warnings.catch_warnings(), frozen(model):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # what it imports tells of kernels that are not needed here
        try:
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(model, folder).eval()
        finally:
            logging.disable(logging.NOTSET)
        try:
            losses = []
            for example in examples:
                batch = Batch.of([example], device)
                with torch.no_grad():
                    logits_TV = adapted(input_ids=batch.token_ids_T[None], use_cache=False).logits[0]
                picked = logits_TV[batch.predicts_S].double()
                losses.append(
                    torch.nn.functional.cross_entropy(picked, batch.targets_S, reduction="sum").item()
                )
        finally:
            adapted.unload()
            vars(model).pop("peft_config", None)
    return np.array(losses)


def _by_bank(
    read: Adapter, folder: Path, cut: Cut, examples: Sequence[TokenizedExample], *, packed: bool
) -> np.ndarray:
    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.evaluate import evaluate
    from rightrank.bank.forward import Forward
    from rightrank.bank.peft_format import import_adapter
    from rightrank.bank.whole_modules import in_place

    base = read.base
    spec = AdapterSpec(cut.rank, alpha=1.0, learning_rate=0.0, ranks=cut.ranks)
    bank = AdapterBank(base.targets, [spec], device=base.device, dtype=base.dtype, start=False)
    import_adapter(bank, 0, folder, whole=read.whole)
    longest = max(len(example.token_ids_T) for example in examples)
    with in_place(base.model, read.whole), Forward(base, bank, packed=packed) as forward:
        loss_E: np.ndarray = evaluate(forward, examples, capacity=longest).loss_KE[0]
    return loss_E
