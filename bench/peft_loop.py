"""A plain PEFT loop, timed: what a person's own training takes, step by step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from padded import padded

from rightrank.bank.runs import now
from rightrank.bank.step import batches
from rightrank.bank.targets import find_targets, target_suffixes
from rightrank.recipe import alpha_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe

STEPS = 100


def time_peft(
    base: BaseModel,
    rows: Sequence[TokenizedExample],
    recipe: Recipe,
    *,
    rank: int = 16,
    most_steps: int = STEPS,
) -> dict[str, Any]:
    """Seconds a step, and of the whole recipe on ``rows`` at that step; training alone.

    Right-padded rows with a mask, bf16 base, float32 adapters under autocast, fused AdamW, gradients clipped at 1. Timed are
    ``most_steps`` steps after a tenth as many.
    """
    from peft import LoraConfig, get_peft_model

    own = copy.deepcopy(base.model, {id(p): p for p in base.model.parameters()})
    names = list(target_suffixes(find_targets(base.model)))
    config = LoraConfig(r=rank, lora_alpha=alpha_for(rank), target_modules=names, task_type="CAUSAL_LM")
    model = get_peft_model(own, config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    adamw = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    steps = recipe.steps(len(rows))
    count = min(steps, most_steps)
    warm, done, began = max(1, count // 10), 0, 0.0
    for done, chosen in enumerate(batches(len(rows), recipe, 0)):
        if done == warm:
            began = now(base.device)
        if done == warm + count:
            break
        batch = padded([rows[i] for i in chosen], base.device)
        with torch.autocast(base.device.type, torch.bfloat16):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        adamw.zero_grad()
    timed = min(done, warm + count) - warm
    each = (now(base.device) - began) / max(1, timed)
    print(f"  plain PEFT: {each:.4f} s a step, {each * steps:.1f} s a run", flush=True)
    return {"seconds_a_step": each, "seconds": each * steps, "steps_timed": timed}
