"""A step of six adapters on a CPU against six PEFT steps: the bank's, plain PEFT's, and PEFT's with logits for trained tokens alone.

python bench/cpu_step.py MODEL [--rounds 15] [--out bench/results/cpu_step.json]

Counted is processor time on one thread, so that what else the machine does counts little, and everything is measured in turns within
one run, on the same rows, ranks and learning rates. PEFT trains as its trainers do: right-padded rows with a mask, the model's own
attention (SDPA), adapters in float32 over a bfloat16 base under autocast (Trainer's bf16=True; without it PEFT is slower still). The
bank runs as a probe does, what all rows of a batch begin with computed once, and with nothing shared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base, pick_dtype
from rightrank.bank.batch import Batch, trained_tokens
from rightrank.bank.forward import Forward
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.step import gradients
from rightrank.bank.targets import find_targets, target_suffixes
from rightrank.data import prepare
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample

RANKS = (4, 8, 16, 32, 64, 128)
BATCH = 4
CAPACITY = 1024
ROWS = Path(__file__).parents[1] / "src" / "rightrank" / "demo" / "nl2bash.train.jsonl"


class PeftTrainer:
    """One PEFT model whose step is timed. ``completion_only``: logits of the positions whose next token is trained, and no others."""

    def __init__(self, base: BaseModel, rank: int, *, completion_only: bool) -> None:
        from peft import LoraConfig, get_peft_model

        names = list(target_suffixes(find_targets(base.model)))
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM")
        self.model = get_peft_model(base.model, config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.adamw = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0, fused=True)
        self.completion_only, self.autocast = completion_only, base.dtype == torch.bfloat16

    def step(self, examples: Sequence[TokenizedExample]) -> float:
        batch = Batch.of(examples)
        count, longest = batch.pad_index_NL.shape
        ids_NL = batch.token_ids_T[batch.pad_index_NL]
        mask = torch.zeros(count * longest, dtype=torch.long)
        mask[batch.unpad_index_T] = 1
        place_S = batch.unpad_index_T[batch.predicts_S]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            inputs = {"input_ids": ids_NL, "attention_mask": mask.view(count, longest), "use_cache": False}
            if self.completion_only:
                causal = self.model.get_base_model()
                hidden = causal.model(**inputs).last_hidden_state.flatten(0, 1)[place_S]
                logits = causal.lm_head(hidden)
                loss = F.cross_entropy(logits.float(), batch.targets_S)
            else:
                labels = torch.full((count * longest,), -100)
                labels[place_S + 1] = batch.targets_S
                loss = self.model(**inputs, labels=labels.view(count, longest)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.adamw.zero_grad()
        return float(loss)


def six_peft_steps(base: BaseModel, *, completion_only: bool) -> Callable[[Sequence[TokenizedExample]], Any]:
    """Six PEFT steps one after another, each with its own adapter on the one copy of the base that is in memory."""
    import copy
    from dataclasses import replace

    trainers = []
    for rank in RANKS:
        own = copy.deepcopy(
            base.model, {id(p): p for p in base.model.parameters()}
        )  # the weights themselves are shared
        trainers.append(PeftTrainer(replace(base, model=own), rank, completion_only=completion_only))
    return lambda examples: [trainer.step(examples) for trainer in trainers]


def one_bank_step(base: BaseModel, *, shares: bool) -> Callable[[Sequence[TokenizedExample]], Any]:
    """The same six adapters in one bank. The context stays open: nothing else uses this copy of the modules."""
    specs = [AdapterSpec(rank, alpha=2 * rank, learning_rate=1e-4) for rank in RANKS]
    bank = AdapterBank(find_targets(base.model), specs, device=base.device, dtype=base.dtype)
    optimizer = BankOptimizer(bank, Recipe().given(schedule="constant", warmup_ratio=0.0), steps=10**6)
    forward = Forward(base, bank, shares=shares).__enter__()

    def step(examples: Sequence[TokenizedExample]) -> list[float]:
        bank.zero_gradients()
        loss_K = gradients(forward, examples, CAPACITY)
        optimizer.step(loss_K)
        return loss_K.tolist()

    return step


def measure(base: BaseModel, rows: Sequence[TokenizedExample], rounds: int) -> dict[str, Any]:
    """Median seconds of each way over ``rounds`` turns, and the medians of the ratios within a turn."""
    import copy
    from dataclasses import replace

    shared = {id(p): p for p in base.model.parameters()}
    ways: dict[str, Callable[[Sequence[TokenizedExample]], Any]] = {}
    for name, shares in (("bank", True), ("bank, nothing shared", False)):
        own = replace(base, model=copy.deepcopy(base.model, dict(shared)))
        ways[name] = one_bank_step(own, shares=shares)
    for name, completion_only in (("plain", False), ("completion", True)):
        ways[name] = six_peft_steps(base, completion_only=completion_only)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        start = (turn * BATCH) % (len(rows) - BATCH)
        picked = rows[start : start + BATCH]
        for name, way in ways.items():
            began = time.process_time()
            way(picked)
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def ratio(way: str, bank: str = "bank") -> float:
        return statistics.median(b / p for b, p in zip(seconds[bank], seconds[way], strict=True))

    return {
        "dtype": str(base.dtype).removeprefix("torch."),
        "seconds": median,
        "least_seconds": {name: min(values) for name, values in seconds.items()},
        "cpu_bank6_over_six_peft": ratio("completion"),
        "cpu_bank6_over_six_plain_peft": ratio("plain"),
        "cpu_bank6_over_six_peft_nothing_shared": ratio("completion", "bank, nothing shared"),
    }


def tiny_base(tokenizer: Any) -> BaseModel:
    """A random Llama of width 128 and four layers with the same vocabulary of tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return load_base(LlamaForCausalLM(config).to(pick_dtype(torch.device("cpu"))), tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu_step.json"))
    chosen = parser.parse_args()
    base = load_base(chosen.model, device="cpu")
    rows = prepare(str(ROWS), base.tokenizer, Recipe(), seed=0).train
    mean = statistics.mean(len(example.token_ids_T) for example in rows)
    trained = statistics.mean(trained_tokens(example) for example in rows)
    result: dict[str, Any] = {
        "command": f"python bench/cpu_step.py {Path(chosen.model).name} --rounds {chosen.rounds}",
        "ranks": RANKS,
        "batch": BATCH,
        "rounds": chosen.rounds,
        "tokens_a_row": mean,
        "trained_tokens_a_row": trained,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    real = measure(base, rows, chosen.rounds)
    result |= {key: real[key] for key in real if key.startswith("cpu_")}
    result["smollm2_135m"], result["tiny"] = real, measure(tiny_base(base.tokenizer), rows, chosen.rounds)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
