"""A model without its weights: its shapes from config.json or a GGUF's header, on torch's meta device, where tensors hold no numbers.

Dimensions: T tokens, I and O numbers into and out of a layer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank.base_model import load_tokenizer
from rightrank.bank.model_source import Place, explaining, has_tokenizer, locate
from rightrank.bank.targets import Target, chosen, find_targets, not_adapted
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

ATTENTION = "rightrank_counting"
COUNTED_TOKENS = 64
COUNTED_RANK = 8
# Where a model's forward pass cannot be run without numbers: bytes kept for each token, layer and unit of hidden width in 16 bits.
# Derived from a Llama block with adapters on every linear layer: two norms in float32, inputs of the adapters, attention, gated MLP of
# 8/3 the width.
BYTES_PER_WIDTH = 43.0
# Bits a weight. Published: NF4 with double quantisation takes 4 + 0.127 (QLoRA, Dettmers et al. 2023). Assumed: a scale for every row of
# 8-bit weights.
QUANTISED_BITS = {"4-bit": 4.127, "8-bit": 8.05}


@dataclass(frozen=True)
class Blueprint:
    """What is known of a model from its shapes alone."""

    name: str
    """As people call it."""
    architecture: str
    layers: int
    hidden: int
    heads_width: int
    """Numbers that all heads' queries have together."""
    vocabulary: int
    positions: int | None
    """Tokens that the model was made for; None: not said."""
    parameters: int
    head_parameters: int
    """Of the output head, whether or not it shares the input embedding's numbers."""
    embedding_parameters: int
    """Weights that are only looked up or shared with the head."""
    linear_parameters: int
    """Of all linear layers but the head, adapted or not: what 4-bit loading packs."""
    targets: tuple[Target, ...]
    not_adapted: tuple[str, ...]
    quantised: str | None
    """``4-bit``, ``8-bit``: as config.json says the weights lie on disk and in memory."""
    item: int
    """Bytes of a number that is not quantised."""
    kept_bytes_per_token: float
    """What one forward pass keeps for the backward pass, with an adapter on every target."""
    kept_counted: bool
    """Counted in a forward pass without numbers; otherwise by a formula from the width."""

    @property
    def parameters_per_rank(self) -> int:
        """Adapter parameters for each unit of rank."""
        return sum(target.width_in + target.width_out for target in self.targets)

    @property
    def body_parameters(self) -> int:
        """Weights that every token is multiplied with, the output head left out."""
        return self.parameters - self.embedding_parameters

    @property
    def narrowest(self) -> Target:
        """The target of the least width: beyond it a rank adds nothing there."""
        return min(self.targets, key=lambda target: target.max_rank)

    @property
    def widest_rank(self) -> int:
        """The largest rank that any target can have."""
        return max(target.max_rank for target in self.targets)

    def weight_bytes(self, quantised: str | None = None) -> float:
        """Bytes of the frozen base: its linear layers as ``quantised`` says (or config.json), all else ``item`` bytes a number."""
        kind = quantised or self.quantised
        if kind is None:
            return float(self.parameters * self.item)
        others = self.parameters - self.linear_parameters
        return self.linear_parameters * QUANTISED_BITS[kind] / 8 + others * self.item


def read_blueprint(
    source: Any,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    modules: Sequence[str] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Blueprint:
    """Shapes of a model folder, a GGUF file, a hub id, or of a loaded model. Reads no weights.

    ``modules``: suffixes of the modules to adapt; None: every linear layer. Raises ModelError or UnsafeModelError.
    """
    loaded = not isinstance(source, (str, Path))
    name = (
        str(getattr(source.config, "_name_or_path", "") or type(source).__name__) if loaded else str(source)
    )
    with explaining(name):
        from transformers import AutoConfig, AutoModelForCausalLM

        remote = {"trust_remote_code": trust_remote_code}
        if loaded:
            config = copy.deepcopy(source.config)
        else:
            where = place(name)
            name = where.title
            config = AutoConfig.from_pretrained(
                where.path, revision=revision or "main", **remote, **where.options
            )
        quantised = _quantised(getattr(config, "quantization_config", None))
        _register()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=ATTENTION, **remote
            )
        return _described(model, name, modules, quantised)


def place(name: str) -> Place:
    """Where the model lies. Unlike for training, a folder with nothing but its config.json will do."""
    folder = Path(name).expanduser()
    try:
        bare = folder.is_dir() and (folder / "config.json").is_file()
    except (OSError, ValueError):
        bare = False
    return Place(str(folder), folder.absolute().name, {}) if bare else locate(name)


def read_tokenizer(source: Any, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer, really: data can be counted in no other way."""
    folder = Path(str(source)).expanduser()
    where = place(str(source))
    if where.options or not folder.is_dir():
        return load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    with explaining(str(source)):
        from transformers import AutoTokenizer

        if has_tokenizer(folder):
            return AutoTokenizer.from_pretrained(where.path, trust_remote_code=trust_remote_code)
    raise ModelError(
        f"{where.title} holds no tokenizer.",
        "Copy tokenizer.json and tokenizer_config.json from the base model.",
    )


def _described(model: Any, name: str, modules: Sequence[str] | None, quantised: str | None) -> Blueprint:
    config = model.config.get_text_config()
    every = find_targets(model)
    targets = chosen(every, modules)
    hidden, layers = int(config.hidden_size), int(getattr(config, "num_hidden_layers", 0))
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings().weight
    head_parameters = 0 if head is None else head.weight.numel()
    shared = head is None or head.weight is embedding
    counted = _kept_bytes(model, targets)
    item = embedding.dtype.itemsize
    return Blueprint(
        name=name,
        architecture=type(model).__name__,
        layers=layers,
        hidden=hidden,
        heads_width=heads * int(getattr(config, "head_dim", None) or (hidden // heads if heads else 0)),
        vocabulary=int(embedding.shape[0]),
        positions=getattr(config, "max_position_embeddings", None),
        parameters=int(model.num_parameters()),
        head_parameters=head_parameters,
        embedding_parameters=embedding.numel() + (0 if shared else head_parameters),
        linear_parameters=sum(target.width_in * target.width_out for target in every),
        targets=targets,
        not_adapted=not_adapted(model, targets),
        quantised=quantised,
        item=item,
        kept_bytes_per_token=counted or BYTES_PER_WIDTH * item / 2 * hidden * max(1, layers),
        kept_counted=counted is not None,
    )


def _quantised(settings: Any) -> str | None:
    """What config.json says of weights stored in fewer bits."""
    if settings is None:
        return None
    values: dict[str, Any] = settings if isinstance(settings, dict) else settings.to_dict()
    bits = values.get("bits", values.get("w_bit"))
    if values.get("load_in_4bit") or bits == 4:
        return "4-bit"
    return "8-bit" if values.get("load_in_8bit") or bits == 8 else None


class _Attention(torch.autograd.Function):
    """Computes nothing and keeps for the backward pass what fused attention keeps: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:3], value.shape[3]))
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, _ = ctx.saved_tensors
        return tuple(torch.empty_like(tensor) for tensor in (query, key, value))


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **_: Any
) -> tuple[Tensor, None]:
    out: Tensor = _Attention.apply(query, key, value)
    return out.transpose(1, 2), None


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)


def _kept_bytes(model: Any, targets: Sequence[Target]) -> float | None:
    """Bytes that autograd keeps for each token, by a forward pass over shapes alone; None where the model needs numbers to run."""
    model.requires_grad_(False)
    model.eval()
    kept: dict[int, Tensor] = {}
    known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    handles = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in known:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    named, dtype = dict(model.named_modules()), model.get_input_embeddings().weight.dtype
    for target in targets:
        a_RI, b_RO = (
            torch.empty(COUNTED_RANK, width, dtype=dtype, device="meta", requires_grad=True)
            for width in (target.width_in, target.width_out)
        )
        known |= {a_RI.untyped_storage()._cdata, b_RO.untyped_storage()._cdata}

        def add(module: Any, inputs: Any, output: Tensor, a_RI: Tensor = a_RI, b_RO: Tensor = b_RO) -> Tensor:
            added: Tensor = output + inputs[0] @ a_RI.T @ b_RO
            return added

        handles.append(named[target.name].register_forward_hook(add))
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            ids_1T = torch.zeros(1, COUNTED_TOKENS, dtype=torch.long, device="meta")
            out = model.base_model(input_ids=ids_1T, use_cache=False)
            del out
    except Exception:  # whatever an architecture does with numbers that are not there
        return None
    finally:
        for handle in handles:
            handle.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / COUNTED_TOKENS
