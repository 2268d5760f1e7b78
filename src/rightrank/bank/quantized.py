"""Bases whose weights are packed into 4 or 8 bits: how they are loaded, what they are called, and how they stay as they were loaded."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch

from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Quantization = Literal["4-bit", "8-bit"]
PACKING = "quantization_config"
"""Where config.json says how the weights are packed."""
BITS = {"4-bit": "load_in_4bit", "8-bit": "load_in_8bit"}


def loading_options(
    wanted: str | None, stored: Any, device: torch.device, dtype: torch.dtype, *, gguf: bool
) -> dict[str, Any]:
    """What ``from_pretrained`` is told for a base of fewer bits; empty for any other.

    ``stored``: the quantization_config that lies beside the weights, if any. 4 bits are NF4 with the constants quantised once more, as
    the QLoRA paper has it (published). Raises ConfigurationError where ``wanted`` cannot be had.
    """
    if wanted is not None:
        _check(wanted, stored, gguf=gguf)
    if wanted is None and stored is None:
        return {}
    # Without a map some kinds of packed weights stay on the CPU, and they cannot be moved afterwards.
    options: dict[str, Any] = {"device_map": {"": str(device)}} if find_spec("accelerate") else {}
    if stored is None:
        from transformers import BitsAndBytesConfig

        four = {
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
        settings = {BITS[str(wanted)]: True, **(four if wanted == "4-bit" else {})}
        options["quantization_config"] = BitsAndBytesConfig(**settings)
    return options


def _check(wanted: str, stored: Any, *, gguf: bool) -> None:
    if wanted not in BITS:
        raise ConfigurationError(f"A base in {wanted!r} is not known.", "Use 4-bit or 8-bit.")
    if gguf:
        raise ConfigurationError(
            f"A GGUF file's weights are unpacked to train over them, not packed into {wanted} again.",
            "Leave out --load-in-4bit, or name the model that the file was made from.",
        )
    if stored is not None and _bits(stored) != wanted:
        raise ConfigurationError(
            f"The model's weights lie packed as {describe(stored)} already, not as {wanted}.",
            "Leave out --load-in-4bit, or name the unpacked model.",
        )
    missing = [package for package in ("bitsandbytes", "accelerate") if find_spec(package) is None]
    if missing:
        raise ConfigurationError(
            f"Loading a base in {wanted} needs the package {' and '.join(missing)}.",
            "Run `pip install 'rightrank[4bit]'`.",
        )


def packing_of(model: Any) -> Any:
    """The quantization_config of a loaded model whose weights are packed; None for any other, and for a GGUF, which was unpacked."""
    stored = getattr(model.config, PACKING, None)
    if not getattr(model, "is_quantized", False) or stored is None:
        return None
    return None if describe(stored) == "GGUF" else stored


def describe(stored: Any) -> str:
    """A quantization_config as a person reads it: ``4-bit NF4``, ``8-bit``, ``GPTQ``."""
    bits = _bits(stored)
    if bits == "4-bit":
        return f"4-bit {_setting(stored, 'bnb_4bit_quant_type', 'fp4').upper()}"  # bitsandbytes' own default
    method = _setting(stored, "quant_method", "packed")
    return bits or str(getattr(method, "value", method)).upper()


def _bits(stored: Any) -> str | None:
    """bitsandbytes' bits; None for other methods."""
    return next((bits for bits, name in BITS.items() if _setting(stored, name, False)), None)


def _setting(stored: Any, name: str, otherwise: Any) -> Any:
    value = stored.get(name) if isinstance(stored, dict) else getattr(stored, name, None)
    return otherwise if value is None else value


@contextmanager
def not_repacked(model: Any) -> Iterator[None]:
    """Keep bitsandbytes from repacking 4-bit weights for inference on a CPU.

    In eval mode its layers do that at their first input without a gradient, rounding their constants to bfloat16 for good, and products
    with repacked weights carry no gradient: training after an evaluation would go wrong without a word. Layers that were repacked
    before are unpacked: saving them does that.
    """
    layers = [m for m in model.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]
    for layer in layers:
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            layer.state_dict()
        layer.support_avx512bf16_for_cpu = False
    try:
        yield
    finally:
        for layer in layers:
            layer.support_avx512bf16_for_cpu = True


def bytes_held(model: Any) -> int:
    """Bytes of all weights as they lie in memory, packed ones with the constants that unpack them."""
    return sum(_bytes(parameter) for parameter in model.parameters())


def _bytes(tensor: Tensor) -> int:
    inner = getattr(
        tensor, "__tensor_flatten__", None
    )  # weights that torchao packs: their size is what they stand for
    if inner is not None:
        return sum(_bytes(getattr(tensor, name)) for name in inner()[0])
    total = tensor.numel() * tensor.element_size()
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        total += sum(
            part.numel() * part.element_size()
            for part in (state.absmax, state.code)
            if isinstance(part, torch.Tensor)
        )
        state = getattr(state, "state2", None)
    scales = getattr(tensor, "SCB", None)  # 8-bit: one constant a row
    return total + (scales.numel() * scales.element_size() if isinstance(scales, torch.Tensor) else 0)
