"""At load: does the model compute under our contract what it computes untouched? If not, the slower path, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rightrank.bank.attention import UnsupportedAttentionError
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample

# Nats a token by which two correct ways of computing may differ: rounding at other shapes and with other kernels. Measured on
# SmolLM2-135M: 4e-7 in float32, 9e-3 in bfloat16; the allowance is some five times that.
TOLERANCE_NATS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}


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
        try:
            with torch.no_grad(), Forward(base, packed=packed) as forward:
                losses, _ = forward.token_losses(Batch.of(examples, base.device))
        except (UnsupportedAttentionError, TypeError, ValueError, KeyError, AttributeError) as error:
            why.append(f"{'packed' if packed else 'padded'} rows: {error}")
            continue
        worst = (losses[0].double() - truth).abs().max().item()
        if worst <= TOLERANCE_NATS.get(base.dtype, 5e-2) * _noise_room(truth):
            words = "packed rows" if packed else f"padded rows, slower ({'; '.join(why)})"
            return Path(packed, words)
        why.append(f"{'packed' if packed else 'padded'} rows differ from the untouched model by {worst:.2g} nats")
    raise ModelError(
        f"{base.name} does not compute the same in a bank of adapters as alone ({'; '.join(why)}).",
        "This architecture is not supported yet.",
    )


def _noise_room(truth: torch.Tensor) -> float:
    """Rounding grows with the logits: a token of many nats may differ by more."""
    return max(1.0, truth.abs().max().item() / 4)


@torch.no_grad()
def _untouched_losses(base: BaseModel, examples: Sequence[TokenizedExample]) -> torch.Tensor:
    """Nats of every trained token, each example alone through the model as it came."""
    losses = []
    training = base.model.training
    base.model.eval()
    for example in examples:
        batch = Batch.of([example], base.device)
        logits = base.model(input_ids=batch.token_ids_T[None], use_cache=False).logits[0]
        picked = logits[batch.predicts_S].double()
        losses.append(torch.nn.functional.cross_entropy(picked, batch.targets_S, reduction="none"))
    base.model.train(training)
    return torch.cat(losses)
