"""Whether model, data, ranks and memory go together: said in one sentence before anything is spent."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rightrank.errors import ConfigurationError, ModelError, ResourceError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rightrank.bank.blueprint import Blueprint
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


def named(model: object) -> TypeGuard[str | Path]:
    """Whether a model is named, not loaded already."""
    return isinstance(model, (str, Path))


def require_model(request: Request) -> None:
    """Raise ModelError at once for a model of whose name nothing lies here, where it can be no hub id or the hub cannot be reached."""
    if not named(request.model):
        return
    from rightrank.bank.model_source import find

    try:
        here = Path(request.model).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, the home of nobody
        here = False
    if not here:
        find(str(request.model), revision=request.revision)


def shapes_without_weights(request: Request, loading: Mapping[str, Any]) -> Blueprint | None:
    """The shapes of a model that is only named, from its config.json or header; None where only loading can tell them.

    Raises ModelError for a name that is no model's, and where the layers to adapt are not there.
    """
    if not named(request.model):
        return None
    from rightrank.bank.blueprint import read_blueprint
    from rightrank.bank.model_source import locate
    from rightrank.bank.targets import chosen

    locate(str(request.model), trust_remote_code=request.trust_remote_code)
    try:
        shapes = read_blueprint(request.model, **loading)
    except UserError:
        return None  # an architecture that is not built without numbers; loading says what is wrong, if anything is
    return replace(shapes, targets=chosen(shapes.targets, request.target_modules))


def with_largest_rank(request: Request, widest: int) -> Request:
    """``request``, with a note, said at once, where --max-rank is more than any module of the model can have."""
    if request.max_rank is None or request.max_rank <= widest:
        return request
    note = f"--max-rank {request.max_rank:,} is wider than every module of this model: {widest:,} is the largest rank that one can have."
    request.on_text(note)
    return replace(request, max_rank=widest, notes=(*request.notes, note))


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
