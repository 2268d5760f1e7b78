"""Whether model, data, ranks and memory go together: said in one sentence before anything is spent."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rightrank.errors import ConfigurationError, ModelError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rightrank.data import PreparedData, TokenizedExample
    from rightrank.data.held_out import HeldOutData
    from rightrank.executors.survey import BaseFacts
    from rightrank.request import Request


def fit_each_other(base: BaseFacts, data: PreparedData, more: Sequence[TokenizedExample] = ()) -> None:
    """Every token must be one that the model knows, and every example one that it can read; ``more`` are of other data."""
    tokens_fit(base.name, base.tokens_known, base.longest, data, more)


def tokens_fit(
    name: str,
    known: int,
    most: int | None,
    data: PreparedData | HeldOutData,
    more: Sequence[TokenizedExample] = (),
) -> None:
    """The same, of a model that knows ``known`` tokens and reads rows of at most ``most`` (None: of any length)."""
    examples = (*data.train, *data.decide, *data.score, *more)
    highest = max(int(example.token_ids_T.max()) for example in examples)
    if highest >= known:
        raise ModelError(
            f"The tokenizer and {name} do not belong together: token {highest:,} is none of its {known:,}.",
            "Use the tokenizer that came with the model.",
        )
    longest = max(len(example.token_ids_T) for example in examples)
    if most is not None and longest > most:
        raise ConfigurationError(
            f"The longest row has {longest:,} tokens, and {name} reads {most:,}.",
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
