"""What is known of a base before anything is planned: told by whoever holds it, as plain values that go from process to process."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank.adapters import AdapterSpec, adapter_parameters
from rightrank.bank.fastest import fastest_judging, fastest_way, short
from rightrank.bank.forward import frozen, layers_of
from rightrank.bank.memory import MemoryModel, available_bytes, measure_graphs, measure_memory
from rightrank.bank.targets import Target, not_adapted
from rightrank.bank.verify import Path as HowItRuns
from rightrank.bank.verify import choose_path, sharing
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample
    from rightrank.recipe import Recipe

# Change before the second half, as a share of the change in it. A causal model changes by nothing at all, or by rounding where a mixture
# of experts routes otherwise; random BERTs by 0.15 to 1.2 (measured).
LOOKS_AHEAD = 0.05
# Tokens at once beyond which a GPU's matrix products gain little, and a CPU's nothing (see memory.py). The first is assumed.
ENOUGH_ON_GPU, ENOUGH_ON_CPU = 4096, 1024
USUAL_RANK = 16
LAYERS_JUDGING = 2
"""Layers whose intermediate results are held at a time where rows are judged: one's, and what it hands on. Derived; 0.036 of 32 layers'
were measured on a small model, where 0.063 are counted."""


@dataclass(frozen=True)
class BaseFacts:
    """A base model as planner and answer need it, without the model."""

    name: str
    fingerprint: str
    architecture: str
    dtype_name: str
    parameters: int
    layers: int
    vocabulary: int
    tokens_known: int
    """Rows of the input embeddings."""
    hidden: int
    """Width of what flows between the layers."""
    longest: int | None
    """Tokens that it reads at most; None where its configuration does not say."""
    targets: tuple[Target, ...]
    not_adapted: tuple[str, ...]
    device_words: str
    """``NVIDIA H100``, ``CPU, 2 threads``."""


@dataclass(frozen=True)
class Survey:
    """How a base runs and what a step of it takes, measured on a few examples."""

    path: HowItRuns
    memory: MemoryModel
    judging: float = 1.0
    """Share of what a training step keeps of a token that judging by captured steps holds of it."""

    def looked_at(self, longest: int) -> int:
        """As the function of that name. ``longest``: tokens of the longest example of all."""
        return looked_at(self.path, self.judging, longest)


def looked_at(path: HowItRuns, judging: float, longest: int) -> int:
    """Tokens a row whose memory is left for looks at a run while captured graphs hold theirs."""
    return 0 if path.way == "plain" else math.ceil(longest * judging)


def judging_share(base: BaseModel, path: HowItRuns) -> float:
    """Of a training step's memory a token: judging lets go of a layer's intermediate results when the next but one runs.

    Where layers are recomputed a step keeps little more than that itself, and where their number is in doubt nothing is taken off.
    """
    layers = len(layers_of(base.model))
    if path.recomputed or layers != base.layers:
        return 1.0
    return min(1.0, LAYERS_JUDGING / max(1, layers))


def facts_of(base: BaseModel) -> BaseFacts:
    """Raises ModelError for a base that lies on more than one device, or has nothing to adapt."""
    require_one_device(base)
    config: Any = base.model.config.get_text_config()
    targets = base.targets
    return BaseFacts(
        name=base.name,
        fingerprint=base.fingerprint,
        architecture=type(base.model).__name__,
        dtype_name=base.dtype_name,
        parameters=base.parameters,
        layers=base.layers,
        vocabulary=base.vocabulary,
        tokens_known=int(base.model.get_input_embeddings().weight.shape[0]),
        hidden=int(config.hidden_size),
        longest=getattr(config, "max_position_embeddings", None),
        targets=targets,
        not_adapted=not_adapted(base.model, targets),
        device_words=device_words(base.device),
    )


def survey(
    base: BaseModel,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    longest: int = 1,
    *,
    shares: bool = False,
) -> Survey:
    """Check that ``base`` may be measured with, choose how it runs, and count what a step keeps, all on a few ``examples``.

    ``longest``: tokens of the longest example of all; ``shares``: whether so many of all begin alike that it is worth computing once.

    Raises ModelError where it reads ahead, or computes in a bank of adapters something else than alone.
    """
    path = fastest_way(base, _checked(base, examples, shares), examples, recipe, longest)
    return _surveyed(base, path, examples, recipe, longest)


def survey_to_judge(
    base: BaseModel,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    longest: int = 1,
    *,
    shares: bool = False,
) -> Survey:
    """As ``survey`` where adapters are judged and none is trained: no backward pass is tried."""
    path = fastest_judging(base, _checked(base, examples, shares), examples, longest)
    if path.way == "plain":
        return _surveyed(base, path, examples, recipe, longest)
    memory = measure_graphs(
        base, short(examples), compiled=False, shares=path.shares, longest=longest, trains=False
    )
    return Survey(path, memory)


def _checked(base: BaseModel, examples: Sequence[TokenizedExample], shares: bool) -> HowItRuns:
    """The plain way that computes what the untouched model does."""
    require_causal(base, examples[0])
    path = choose_path(base, examples)
    return sharing(base, path, examples) if shares else path


def _surveyed(
    base: BaseModel,
    path: HowItRuns,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    longest: int,
) -> Survey:
    memory = _memory_of(base, path, examples, recipe, longest)
    if _enough_tokens(base, memory):
        return Survey(path, memory, judging_share(base, path))
    path = replace(path, recomputed=True, words=f"{path.words}, layers recomputed to save memory")
    return Survey(path, _memory_of(base, path, examples, recipe, longest))


def _memory_of(
    base: BaseModel,
    path: HowItRuns,
    examples: Sequence[TokenizedExample],
    recipe: Recipe,
    longest: int,
) -> MemoryModel:
    """What a step takes, the way it runs."""
    if path.way != "plain":
        layers = {"recomputed": path.recomputed, "shares": path.shares}
        compiled = path.way == "compiled"
        return measure_graphs(base, short(examples), compiled=compiled, longest=longest, **layers)
    return measure_memory(
        base, base.targets, examples, packed=path.packed, dropout=recipe.dropout, recomputed=path.recomputed
    )


def _enough_tokens(base: BaseModel, memory: MemoryModel) -> bool:
    """Whether so many tokens fit beside one adapter that recomputing layers would buy nothing but time."""
    enough = ENOUGH_ON_GPU if base.device.type == "cuda" else ENOUGH_ON_CPU
    one = adapter_parameters(base.targets, AdapterSpec(USUAL_RANK, USUAL_RANK, 0.0))
    return memory.capacity(one, 1, available_bytes(base.device)) >= enough


def require_one_device(base: BaseModel) -> None:
    """The adapters lie beside the base, on one device: a model that accelerate has spread over several is refused."""
    places = sorted({str(parameter.device) for parameter in base.model.parameters()})
    if len(places) > 1:
        raise ModelError(
            f"{base.name} is spread over several devices ({', '.join(places)}), and is measured on one.",
            "Load it whole on one GPU, in 4-bit if need be, or use a larger GPU.",
        )


def require_causal(base: BaseModel, example: TokenizedExample) -> None:
    """Changing the second half of a text must change nothing before it. An encoder such as BERT loads as well, and would read ahead."""
    ids_1T = torch.tensor(example.token_ids_T, dtype=torch.long, device=base.device)[None]
    other_1T = ids_1T.clone()
    half = len(example.token_ids_T) // 2
    other_1T[0, half:] = (other_1T[0, half:] + 1) % base.vocabulary
    with torch.no_grad(), frozen(base.model):
        one_TV, two_TV = (
            base.model(input_ids=ids, use_cache=False).logits[0].float() for ids in (ids_1T, other_1T)
        )
    change_T = (one_TV - two_TV).abs().mean(-1)
    if change_T[:half].mean() > LOOKS_AHEAD * change_T[half:].mean():
        raise ModelError(
            f"{base.name} reads ahead: it is no causal language model.",
            "Name one that writes from left to right.",
        )


def device_words(device: torch.device) -> str:
    """A device as people call it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"CPU, {threads} {'thread' if threads == 1 else 'threads'}"
