"""At load: does the model compute under our contract what it computes untouched? If not, the slower path, or none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from rightrank.bank.attention import UnsupportedAttentionError
from rightrank.bank.batch import Batch, shared_tokens
from rightrank.bank.forward import Forward, frozen
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe

# Mean nats a token by which two correct ways of computing may differ: rounding at other shapes and with other kernels. Measured on
# SmolLM2-135M: 8e-6 in float32, 1.5e-2 to 6.7e-2 in bfloat16 (logits of 20 have a resolution of 1/8 there); the allowance is some twice
# that. Some models take softmax or recurrence in float32 whatever the dtype: 3e-7 in float64. A wrong mask, position or scale costs
# tenths of nats.
TOLERANCE_NATS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.12, torch.float16: 1e-2}


# Mean nats a token by which an example's loss may change with the tokens of the example before it. Attention alone: none, bit by bit, in
# every dtype; experts are given other neighbours in their products, which rounds otherwise. A recurrence that runs on from one example
# to the next: 0.09 to 0.4 (measured on tiny random models), which the rounding allowed in bfloat16 would hide.
LEAK_NATS = 1e-3


Way = Literal["plain", "captured", "compiled"]
"""Step by step; in captured graphs; in captured graphs of compiled layers."""


@dataclass(frozen=True)
class Path:
    """How the model is run, and why not faster where it is not."""

    packed: bool
    words: str
    way: Way = "plain"
    recomputed: bool = False
    """Whether layers are run again in the backward pass, to keep less."""
    shares: bool = False
    """Whether tokens that all examples of a row begin with are computed once."""


def choose_path(base: BaseModel, examples: Sequence[TokenizedExample]) -> Path:
    """Compare packed and, if need be, padded rows with the untouched model on ``examples``.

    Raises ModelError where neither agrees.
    """
    truth = _untouched_losses(base, examples)
    if not truth.isfinite().all():
        raise ModelError(
            f"{base.name} gives no numbers (NaN or infinite losses) before any training.",
            "Its weights are damaged, or too large for this number format; load it anew or try another copy.",
        )
    why = []
    for packed in (True, False):
        rows = "packed rows" if packed else "padded rows"
        try:
            with torch.no_grad(), Forward(base, packed=packed) as forward:
                losses, _ = forward.token_losses(Batch.of(examples, base.device))
                leak = _leak(forward, examples, losses[0]) if packed else 0.0
        except (UnsupportedAttentionError, TypeError, ValueError, LookupError, AttributeError) as error:
            why.append(f"{rows}: {error}")
            continue
        if leak > LEAK_NATS:
            why.append(f"{rows}: examples would see those before them")
            continue
        apart = (losses[0].double() - truth).abs().mean().item()
        if apart <= TOLERANCE_NATS.get(base.dtype, 0.12):
            return Path(packed, rows if packed else f"{rows}, slower ({'; '.join(why)})")
        why.append(f"{rows} differ from the untouched model by {apart:.2g} nats a token")
    raise ModelError(
        f"{base.name} does not compute the same in a bank of adapters as alone ({'; '.join(why)}).",
        "This architecture is not supported yet.",
    )


WORTH_SHARING = 0.04
"""Share of all tokens that sharing must spare. Assumed: copying keys for attention costs a step less than that."""
BATCHES_SEEN = 16


def worth_sharing(examples: Sequence[TokenizedExample], recipe: Recipe) -> bool:
    """Whether computing once what all examples of a batch begin with would spare enough, by the first of ``examples``."""
    if recipe.dropout:
        return False  # differs from one example to the next
    size = recipe.batch_size
    groups = [examples[start : start + size] for start in range(0, len(examples), size)][:BATCHES_SEEN]
    spared = sum(shared_tokens(group) * (len(group) - 1) for group in groups)
    return spared >= WORTH_SHARING * sum(len(example.token_ids_T) for group in groups for example in group)


def sharing(base: BaseModel, path: Path, examples: Sequence[TokenizedExample]) -> Path:
    """``path``, with what all ``examples`` begin with computed once, where the losses stay the same."""
    if not path.packed or not shared_tokens(examples):
        return path
    with torch.no_grad(), Forward(base) as forward:
        alone, together = (
            forward.token_losses(Batch.of(examples, base.device, shares=shares))[0][0].double()
            for shares in (False, True)
        )
    if (together - alone).abs().mean().item() > TOLERANCE_NATS.get(base.dtype, 0.12):
        return path
    return replace(path, shares=True, words=f"{path.words}, what all prompts begin with once")


def _leak(forward: Forward, examples: Sequence[TokenizedExample], losses_S: torch.Tensor) -> float:
    """Mean change of the other examples' losses, nats a token, where the first one's tokens come in reverse order."""
    first, *others = examples
    if not others:
        return 0.0
    other_way = replace(first, token_ids_T=first.token_ids_T[::-1].copy())
    batch = Batch.of([other_way, *others], forward.base.device)
    changed, _ = forward.token_losses(batch)
    behind_S = batch.example_S > 0
    return (changed[0] - losses_S)[behind_S].abs().mean().item()


@torch.no_grad()
def _untouched_losses(base: BaseModel, examples: Sequence[TokenizedExample]) -> torch.Tensor:
    """Nats of every trained token, each example alone through the model as it came."""
    losses = []
    with frozen(base.model):
        for example in examples:
            batch = Batch.of([example], base.device)
            logits = base.model(input_ids=batch.token_ids_T[None], use_cache=False).logits[0]
            picked = logits[batch.predicts_S].double()
            losses.append(torch.nn.functional.cross_entropy(picked, batch.targets_S, reduction="none"))
    return torch.cat(losses)
