"""Which linear layers belong to attention and which to the MLP, and adapters on one of the two alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from rightrank.bank.targets import Target
    from rightrank.recipe import Layers

Kind = Literal["attention", "mlp"]
WORDS_OF_ATTENTION = ("attn", "attention")
WORDS: dict[Kind, str] = {"attention": "attention", "mlp": "the MLP"}
ADAPT_ALL = "Adapt all linear layers."
WORDS_OF_WHOLE_LAYERS = ("layer", "block")
"""How classes end that hold an MLP too: JambaAttentionDecoderLayer is no attention."""


def kind_of(modules: Mapping[str, nn.Module], name: str) -> Kind | None:
    """What the linear layer called ``name`` is part of; ``modules``: all of the model by name.

    Told by where it lies in its decoder layer (the outermost item of a ``ModuleList``). Attention: a module around it is called, or its
    class is called, *attn* or *attention*; nothing else in a model of transformers says so. MLP: all other linear layers of a decoder
    layer, whatever they are called (OPT's bare ``fc1``, experts). Neither (None): what lies outside decoder layers, and mixers of
    positions that are no attention, known by their convolution (Mamba, LFM2).
    """
    from torch import nn

    parts = name.split(".")
    around = [".".join(parts[:i]) for i in range(1, len(parts))]
    items = (i for i, path in enumerate(around) if i and isinstance(modules[around[i - 1]], nn.ModuleList))
    layer = next(items, None)
    if layer is None:
        return None
    inside = around[layer + 1 :]
    if any(_is_attention(path, modules[path]) for path in inside):
        return "attention"
    convolves = any(isinstance(part, nn.Conv1d) for path in inside for part in modules[path].children())
    return None if convolves else "mlp"


def _is_attention(path: str, module: nn.Module) -> bool:
    called, kind = path.rsplit(".", 1)[-1].lower(), type(module).__name__.lower()
    return any(
        word in called or (word in kind and not kind.endswith(WORDS_OF_WHOLE_LAYERS))
        for word in WORDS_OF_ATTENTION
    )


def ranks_on(targets: Sequence[Target], layers: Layers, rank: int) -> tuple[int, ...] | None:
    """``rank`` at every target of ``layers`` and 0 elsewhere; None: at all. Raises ModelError where there is no such target."""
    if layers == "all":
        return None
    _only(targets, layers)
    return tuple(rank if target.kind == layers else 0 for target in targets)


def rank_of_equal_size(targets: Sequence[Target], layers: Layers, rank: int) -> int:
    """The rank at which ``layers`` alone have most nearly as many parameters as all targets at ``rank``.

    Raises ModelError where there are none, or where their widest takes no such rank.
    """
    if layers == "all":
        return rank
    kept = _only(targets, layers)
    every = sum(target.width_in + target.width_out for target in targets)
    some = sum(target.width_in + target.width_out for target in kept)
    found, widest = max(1, round(rank * every / some)), max(target.max_rank for target in kept)
    if found > widest:
        raise ModelError(
            f"{WORDS[layers].capitalize()} alone cannot have as many parameters as all linear layers at rank {rank}: "
            f"that would be rank {found}, and its widest layer takes {widest}.",
            ADAPT_ALL,
        )
    return found


def _only(targets: Sequence[Target], layers: Kind) -> list[Target]:
    """The targets of ``layers``. Raises ModelError where there is none."""
    kept = [target for target in targets if target.kind == layers]
    if not kept:
        raise ModelError(
            f"None of the layers that get adapters belongs to {WORDS[layers]}, so that nothing else can be left out.",
            ADAPT_ALL,
        )
    return kept
