"""Whether model, data, ranks and memory go together: said in one sentence before anything is spent."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rightrank.errors import ConfigurationError, ModelError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.request import Request

# Change before the second half, as a share of the change in it. A causal model changes by nothing at all, or by rounding where a mixture
# of experts routes otherwise; random BERTs by 0.15 to 1.2 (measured).
LOOKS_AHEAD = 0.05


def fit_each_other(base: BaseModel, data: PreparedData) -> None:
    """Every token must be one that the model knows, and every example one that it can read."""
    examples = (*data.train, *data.decide, *data.score)
    highest = max(int(example.token_ids_T.max()) for example in examples)
    known = int(base.model.get_input_embeddings().weight.shape[0])
    if highest >= known:
        raise ModelError(
            f"The tokenizer and {base.name} do not belong together: token {highest:,} is none of its {known:,}.",
            "Use the tokenizer that came with the model.",
        )
    longest = max(len(example.token_ids_T) for example in examples)
    most = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and longest > most:
        raise ConfigurationError(
            f"The longest row has {longest:,} tokens, and {base.name} reads {most:,}.",
            f"Use --max-length {most}.",
        )


@contextmanager
def enough_memory(kept: str = "") -> Iterator[None]:
    """Where memory runs out anywhere: one sentence and its mend, which ends in ``kept``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not (
            "memory" in text and ("alloc" in text or "out of" in text)
        ):
            raise
        raise ResourceError(
            "Memory ran out.",
            f"Use a smaller --max-length or --max-rank, a quantised model, or close other programs{kept}.",
        ) from error


def require_causal(base: BaseModel, example: TokenizedExample) -> None:
    """Changing the second half of a text must change nothing before it. An encoder such as BERT loads as well, and would read ahead."""
    import torch

    ids_1T = torch.tensor(example.token_ids_T, dtype=torch.long, device=base.device)[None]
    other_1T = ids_1T.clone()
    half = len(example.token_ids_T) // 2
    other_1T[0, half:] = (other_1T[0, half:] + 1) % base.vocabulary
    training = base.model.training
    base.model.eval()
    with torch.no_grad():
        one_TV, two_TV = (
            base.model(input_ids=ids, use_cache=False).logits[0].float() for ids in (ids_1T, other_1T)
        )
    base.model.train(training)
    change_T = (one_TV - two_TV).abs().mean(-1)
    if change_T[:half].mean() > LOOKS_AHEAD * change_T[half:].mean():
        raise ModelError(
            f"{base.name} reads ahead: it is no causal language model.",
            "Name one that writes from left to right.",
        )


def ranks_to_try(request: Request, widest: int) -> tuple[int, ...]:
    """Ranks to try, in order. Raises ConfigurationError for one that no module of the model can have."""
    from rightrank.probe.plan import CANDIDATE_RANKS

    own = [] if request.yours is None else [request.yours[0]]
    bad = next((rank for rank in (*(request.ranks or ()), *own) if rank > widest), None)
    if bad is not None:
        raise ConfigurationError(
            f"Rank {bad} is beyond the width of every module of this model ({widest}).",
            f"Give ranks from 1 to {widest}.",
        )
    ceiling = min(widest, request.max_rank or widest)
    wanted = request.ranks or CANDIDATE_RANKS
    kept = tuple(sorted({rank for rank in wanted if rank <= ceiling}))
    if not kept and request.ranks:
        raise ConfigurationError(
            f"Every rank to try is above --max-rank {request.max_rank}.",
            "Raise --max-rank, or give lower --ranks.",
        )
    return kept or tuple(rank for rank in (1, 2, 3) if rank <= ceiling)
