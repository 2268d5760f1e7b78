"""At load: does the model compute under our contract what it computes untouched? If not, the slower path, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rightrank.bank.attention import UnsupportedAttentionError
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward, frozen
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample

# Mean nats a token by which two correct ways of computing may differ: rounding at other shapes and with other kernels. Measured on
# SmolLM2-135M: 8e-6 in float32, 1.5e-2 to 6.7e-2 in bfloat16 (logits of 20 have a resolution of 1/8 there); the allowance is some twice
# that. A wrong mask, position or scale costs tenths of nats.
TOLERANCE_NATS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.12, torch.float16: 1e-2}


@dataclass(frozen=True)
class Path:
    """How the model is run, and why not faster where it is not."""

    packed: bool
    words: str


def choose_path(base: BaseModel, examples: Sequence[TokenizedExample]) -> Path:
    """Compare packed and, if need be, padded rows with the untouched model on ``examples``.

    Raises ModelError where neither agrees.
    """
    truth = _untouched_losses(base, examples)
    why = []
    for packed in (True, False):
        rows = "packed rows" if packed else "padded rows"
        try:
            with torch.no_grad(), Forward(base, packed=packed) as forward:
                losses, _ = forward.token_losses(Batch.of(examples, base.device))
        except (UnsupportedAttentionError, TypeError, ValueError, KeyError, AttributeError) as error:
            why.append(f"{rows}: {error}")
            continue
        apart = (losses[0].double() - truth).abs().mean().item()
        if apart <= TOLERANCE_NATS.get(base.dtype, 0.12):
            return Path(packed, rows if packed else f"{rows}, slower ({'; '.join(why)})")
        why.append(f"{rows} differ from the untouched model by {apart:.2g} nats a token")
    raise ModelError(
        f"{base.name} does not compute the same in a bank of adapters as alone ({'; '.join(why)}).",
        "This architecture is not supported yet.",
    )


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
