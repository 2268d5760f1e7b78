"""The frozen base model: found, loaded without running anything of its own, and run by its own code."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank.model_source import SHOWN, explaining, has_tokenizer, locate
from rightrank.bank.quantized import PACKING, describe, loading_options, packing_of
from rightrank.bank.targets import chosen, find_targets
from rightrank.data.wording import cleaned, listed
from rightrank.errors import ConfigurationError, ModelError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from rightrank.bank.targets import Target


@dataclass(frozen=True)
class BaseModel:
    """A causal language model of transformers, its tokenizer, and what identifies them."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    fingerprint: str
    only: tuple[str, ...] | None = None
    """Names of the layers to adapt; None: all linear layers."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """What gets an adapter. Raises ModelError where there is nothing, or ``only`` names what is not there."""
        return chosen(find_targets(self.model), self.only)

    @cached_property
    def shared_inputs(self) -> tuple[tuple[str, ...], ...]:
        """Names of the layers to adapt that read one tensor each: query, key and value, say. Runs the model on two tokens."""
        from rightrank.bank.groups import shared_inputs

        return shared_inputs(self.model, [target.name for target in self.targets])

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that flow between its layers."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def dtype_name(self) -> str:
        """As a person reads it: ``bfloat16``, ``4-bit NF4``."""
        packed = packing_of(self.model)
        return str(self.dtype).removeprefix("torch.") if packed is None else describe(packed)

    @property
    def layers(self) -> int:
        """Decoder layers."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "num_hidden_layers", 0))

    @property
    def vocabulary(self) -> int:
        """Rows of the output head."""
        head = self.model.get_output_embeddings()
        return (
            int(head.weight.shape[0])
            if head is not None
            else int(self.model.config.get_text_config().vocab_size)
        )

    @property
    def parameters(self) -> int:
        """Weights of the base, each counted once."""
        return int(self.model.num_parameters())


def pick_device(wanted: str | None = None) -> torch.device:
    """The device asked for, else the first GPU, else the CPU."""
    if wanted is not None:
        try:
            device = torch.device(wanted)
            torch.empty(1, device=device).cpu()  # "meta" holds no numbers
        except (RuntimeError, AssertionError) as error:
            raise ResourceError(
                f"The device {wanted!r} cannot be used here.", "Try `--device cpu`."
            ) from error
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = any(
        check()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if (check := getattr(torch.cpu, name, None))
    )
    return torch.bfloat16 if fast else torch.float32


def load_base(
    source: str | Path | nn.Module,
    tokenizer: Any = None,
    *,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    only: tuple[str, ...] | None = None,
    quantization: str | None = None,
) -> BaseModel:
    """Load a model from a folder, a GGUF file or a hub id, or take one that is loaded already; adapt ``only`` these layers of it.

    Safetensors and GGUF only: pickled weights are refused, and so is code that comes with a model unless ``trust_remote_code``.
    ``quantization``: pack the weights into ``4-bit`` or ``8-bit`` as they are loaded; packed ones are taken as they are.
    Raises ModelError, UnsafeModelError, ConfigurationError or ResourceError.
    """
    if not isinstance(source, (str, Path)):
        base = _take_loaded(source, tokenizer)
        if quantization is not None and not base.dtype_name.startswith(quantization):
            raise ConfigurationError(
                f"The model is loaded in {base.dtype_name} already, not in {quantization}.",
                "Load it with a BitsAndBytesConfig, or name its folder or hub id.",
            )
        return replace(base, only=only)
    name = str(source)
    where = locate(name, trust_remote_code=trust_remote_code)
    target = pick_device(device)
    options: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "revision": revision or "main",
        **where.options,
    }
    with explaining(name):
        from transformers import AutoConfig, AutoModelForCausalLM

        gguf = "gguf_file" in options
        stored = None if gguf else getattr(AutoConfig.from_pretrained(where.path, **options), PACKING, None)
        packed = loading_options(quantization, stored, target, pick_dtype(target), gguf=gguf)
        words = tokenizer or load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            where.path,
            output_loading_info=True,
            dtype=pick_dtype(target),
            use_safetensors=None if gguf else True,
            **options,
            **packed,
            **_dense_gguf(options),
        )
        if loaded.get("missing_keys"):  # transformers makes them up
            raise ModelError(
                f"{cleaned(name, SHOWN)} lacks weights of {type(model).__name__}: {listed(sorted(loaded['missing_keys']), 2)}.",
                "Name a complete causal language model.",
            )
        if not getattr(model, "hf_device_map", None) and (gguf or not getattr(model, "is_quantized", False)):
            model = model.to(target)
    return BaseModel(where.title, model, words, target, _fingerprint(model), only)


def _dense_gguf(options: dict[str, Any]) -> dict[str, Any]:
    """Have a GGUF's weights unpacked: packed ones are slower to multiply many times, and their layers are no nn.Linear.

    transformers before 5.18 knows nothing else and takes no such setting.
    """
    if "gguf_file" not in options:
        return {}
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def load_tokenizer(
    source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The tokenizer alone, found and refused as by ``load_base``."""
    name = str(source)
    where = locate(name, trust_remote_code=trust_remote_code)
    with explaining(name):
        from transformers import AutoTokenizer

        if where.options or not Path(where.path).is_dir() or has_tokenizer(Path(where.path)):
            options = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
            tokenizer = AutoTokenizer.from_pretrained(where.path, **options, **where.options)
            if len(tokenizer) > len(tokenizer.all_special_tokens):
                return tokenizer
    raise ModelError(
        f"{cleaned(name)} holds no tokenizer.",
        "Copy tokenizer.json and tokenizer_config.json from the base model.",
    )


def _take_loaded(model: Any, tokenizer: Any) -> BaseModel:
    if tokenizer is None:
        raise ModelError("A loaded model needs its tokenizer.", "Pass `tokenizer=` as well.")
    if not hasattr(model, "get_output_embeddings"):
        raise ModelError(
            f"{type(model).__name__} is no model of transformers.",
            "Pass a causal language model of transformers.",
        )
    if getattr(model, "peft_config", None):
        raise ModelError(
            "The model carries adapters already.",
            "Pass the base model (`model.unload()`), or merge them first.",
        )
    device = model.get_input_embeddings().weight.device
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return BaseModel(name, model, tokenizer, device, _fingerprint(model))


def _fingerprint(model: Any) -> str:
    """16 hex digits of the configuration and of a few numbers of every weight: tells models apart, reads no whole tensor."""
    digest = hashlib.sha256()
    digest.update(json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        sample = parameter.detach().flatten()[:: max(1, parameter.numel() // 16)][:16]
        digest.update(sample.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Within this context, calling ``module`` returns ``output`` without computing anything."""
    own = module.__dict__.get("forward")  # accelerate's hooks put one on the instance
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del module.forward  # the class's own method shows again
        if own is not None:
            module.forward = own


def run_head(model: Any, hidden_KSH: Tensor, output_type: type) -> Tensor:
    """Logits [K, S, V] of last hidden states, by the model's own code: its head, soft cap and logit scale as they are.

    The model's forward runs with its decoder replaced by one that returns ``hidden_KSH`` in an ``output_type``, the decoder's own.
    """
    placeholder = torch.zeros(hidden_KSH.shape[:2], dtype=torch.long, device=hidden_KSH.device)
    output = output_type(last_hidden_state=hidden_KSH)
    with ExitStack() as stack:
        # Most call the outer one; OPT's head calls the inner one past it.
        inner = model.get_decoder()
        for module in (decoder_of(model), *(() if inner is decoder_of(model) else (inner,))):
            stack.enter_context(returning(module, output))
        logits: Tensor = model(input_ids=placeholder, use_cache=False).logits
    return logits


def decoder_of(model: Any) -> Any:
    """The part that makes last hidden states of token ids: the whole model less its head. Raises ModelError."""
    if model.base_model is model:
        raise ModelError(
            f"{type(model).__name__} does not say which part of it is the head.", "Name another architecture."
        )
    return model.base_model
