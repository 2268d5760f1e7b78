"""Llama-3-8B's shape with random weights: how fast the bank trains it in bf16, and what a pack takes over it in 4 bits. See speed.py."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rightrank.bank.adapters import AdapterBank, AdapterSpec, adapter_parameters
from rightrank.bank.base_model import BaseModel, load_base
from rightrank.bank.forward import Forward
from rightrank.bank.graphs import train_in_graphs
from rightrank.bank.runs import now
from rightrank.bank.step import train
from rightrank.data import TokenizedExample
from rightrank.executors.worker import Worker
from rightrank.probe.loss_table import Configuration, Pack
from rightrank.recipe import Recipe, alpha_for

if TYPE_CHECKING:
    from collections.abc import Sequence

LLAMA_3_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512}  # fmt: skip
CARD_GIB = 22.0
"""Memory that the 4-bit probe may take of the card: what a card of 24 GB leaves."""


def peak_gib(device: torch.device, reset: bool = False) -> float:
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return peak


def random_rows(count: int, length: int, vocabulary: int) -> list[TokenizedExample]:
    rng = np.random.default_rng(0)
    trained = np.arange(length) >= length // 2
    return [
        TokenizedExample(rng.integers(3, vocabulary, length).astype(np.int32), trained, str(index))
        for index in range(count)
    ]


def step_seconds(
    base: BaseModel, specs: Sequence[AdapterSpec], rows: Sequence[TokenizedExample], how: str, steps: int
) -> float:
    """Median seconds of a step on ``rows`` in one micro-batch, compilation and capture left out."""
    times: list[float] = []
    bank = AdapterBank(base.targets, specs, device=base.device, dtype=base.dtype, products=how == "plain")
    recipe = Recipe().given(epochs=float(steps), batch_size=len(rows), schedule="constant", warmup_ratio=0.0)

    def clock(*_: int) -> None:
        times.append(now(base.device))

    options: dict[str, Any] = {"seed": 0, "capacity": 1 << 30, "on_step": clock}
    if how == "plain":
        with Forward(base, bank) as forward:
            train(forward, bank, rows, recipe, **options)
    else:
        train_in_graphs(base, bank, rows, recipe, compiled=how == "compiled", **options)
    each = sorted(b - a for a, b in itertools.pairwise(times))
    return each[len(each) // 2]


def random_8b(device: torch.device, tiny: bool) -> tuple[BaseModel, int]:
    """A base of random weights in bf16, and how many its blocks' matrices have."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(LlamaConfig(**{**LLAMA_3_8B, **(TINY if tiny else {})}))
    finally:
        torch.set_default_dtype(torch.float32)
    blocks = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2)
    return load_base(model, object()), blocks


def speed_8b(rate: float, device: torch.device, tiny: bool, how: str) -> dict[str, Any]:
    """Its ``speed_of_blocks``."""
    return speed_of_blocks(*random_8b(device, tiny), rate, tiny, how)


def speed_of_blocks(base: BaseModel, blocks: int, rate: float, tiny: bool, how: str) -> dict[str, Any]:
    """Sequences of 512, at most 8,192 tokens a micro-step, nothing recomputed: 1 adapter and 16.

    The share of the matrix ``rate`` counts the ``blocks``' weights alone, forward and backward: head and adapters are left out.
    """
    device = base.device
    found: dict[str, Any] = {"block_parameters": blocks}
    length, tokens = (16, 256) if tiny else (512, 8192)
    for name, ranks in (("k1", (16,)), ("k16", (8, 16, 32, 64) * 4)):
        peak_gib(device, reset=True)
        specs = [AdapterSpec(r, alpha_for(r), 1e-4) for r in ranks]
        rows = random_rows(max(1, tokens // length // len(ranks)), length, base.vocabulary)
        seconds = step_seconds(base, specs, rows, how, 4 if tiny else 12)
        speed = len(ranks) * len(rows) * length / seconds
        share = 4 * blocks * speed / rate
        peak = peak_gib(device)
        found[name] = {
            "tokens_per_s": speed,
            "matrix_rate_share": share,
            "step_seconds": seconds,
            "peak_gib": peak,
        }
        print(
            f"  8B shape {name}: {speed:,.0f} tokens/s, {100 * share:.1f} % of the matrix rate, peak {peak:.1f} GiB",
            flush=True,
        )
    return found


def probe_in_4_bit(device: torch.device, tiny: bool) -> dict[str, Any]:
    """A pack of four adapters over NF4 weights, examples of 2,048 tokens, on a card of ``CARD_GIB``: surveyed, trained and judged."""
    shape, length = ({**LLAMA_3_8B, **TINY}, 64) if tiny else (LLAMA_3_8B, 2048)
    base = load_base(_in_4_bit(shape, device), object())
    peak_gib(device, reset=True)
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CARD_GIB * 2**30 / whole))
    try:
        rows = random_rows(12, length, shape["vocab_size"])
        worker = Worker(base)
        recipe = Recipe().given(epochs=1, batch_size=4)
        survey = worker.survey(rows[:8], rows[:2], recipe, "random")
        worker.judge_by(rows[8:10], rows[10:])
        configurations = tuple(Configuration(r, alpha_for(r), 1e-4) for r in (8, 16, 32, 64))
        together = [len(group) for group in worker.executor.fit_together(configurations)]
        began = now(device)
        result, notes, _ = worker.train(Pack(0, 8, configurations, with_score=True), None, lambda share: None)
        seconds = now(device) - began
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    parameters = sum(adapter_parameters(base.targets, AdapterSpec(c.rank, 1.0, 0.0)) for c in configurations)
    found = {
        "peak_gib": peak_gib(device),
        "weights_gib": survey.memory.base_bytes / 2**30,
        "path": survey.path.words,
        "packs": together,
        "seconds": seconds,
        "adapter_tokens_per_s": 4 * result.train_tokens / seconds,
        "saved_bytes_per_token": survey.memory.saved_bytes_per_token,
        "foreseen_gib_at_one_example": survey.memory.peak_gib(parameters, 4 * length),
        "notes": notes,
    }
    print(f"  4-bit: {found}", flush=True)
    return found


def _in_4_bit(shape: dict[str, Any], device: torch.device) -> Any:
    """A Llama of random weights, its layers' matrices in NF4, made one by one so that they never exist all in 16 bits."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)

    def random(like: torch.Tensor) -> torch.Tensor:
        return torch.empty(like.shape, device=device, dtype=torch.bfloat16).normal_(0, 0.02)

    for module in list(model.model.layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                packed = Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16,
                    compress_statistics=True, quant_type="nf4", device="meta",
                )  # fmt: skip
                packed.weight = Params4bit(
                    random(child.weight).cpu(),
                    requires_grad=False,
                    quant_type="nf4",
                    compress_statistics=True,
                ).to(device)
                setattr(module, name, packed)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta:
                value = torch.ones_like(weight, device=device) if weight.ndim == 1 else random(weight)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    return model.eval()
