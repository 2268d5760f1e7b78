"""Tiny random models and examples, made on the spot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rightrank.bank.base_model import BaseModel, load_base
from rightrank.data import TokenizedExample

VOCABULARY = 64


def tiny_model(
    kind: str = "llama",
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    sliding_window: int | None = 5,
) -> Any:
    import transformers as hf

    torch.manual_seed(seed)
    common = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    if kind == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**common, **shape))
    elif kind == "qwen3":
        model = hf.Qwen3ForCausalLM(hf.Qwen3Config(**common, **shape, head_dim=hidden // 4))
    elif kind == "mistral":
        model = hf.MistralForCausalLM(hf.MistralConfig(**common, **shape, sliding_window=sliding_window))
    elif kind == "gemma2":
        model = hf.Gemma2ForCausalLM(
            hf.Gemma2Config(**common, **shape, head_dim=hidden // 4, pad_token_id=0, sliding_window=6)
        )
    elif kind == "gpt2":
        model = hf.GPT2LMHeadModel(
            hf.GPT2Config(**common, n_embd=hidden, n_layer=layers, n_head=4, n_positions=256)
        )
    else:
        raise AssertionError(kind)
    return rough(model).to(dtype).eval()


@torch.no_grad()
def rough(model: Any) -> Any:
    """Larger random weights: the default start is so small that attention hardly matters."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not any(word in name for word in ("embed", "wte", "wpe")):
            parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5)
        elif parameter.ndim >= 2:
            parameter.normal_(0, 0.5)
    return model


def tiny_base(kind: str = "llama", **options: Any) -> BaseModel:
    return load_base(tiny_model(kind, **options), tokenizer=object())


def random_examples(
    count: int, *, seed: int = 0, shortest: int = 4, longest: int = 12, shared: int = 0
) -> list[TokenizedExample]:
    """``shared``: tokens before those that all begin with, whatever their ``seed``."""
    beginning = np.arange(3, 3 + shared).astype(np.int32)
    rng = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        length = int(rng.integers(shortest, longest + 1))
        trained = np.zeros(length, dtype=bool)
        trained[int(rng.integers(1, length - 1)) :] = True
        ids = rng.integers(3, VOCABULARY, length).astype(np.int32)
        ids = np.concatenate([beginning, ids])
        trained = np.concatenate([np.zeros(shared, dtype=bool), trained])
        examples.append(TokenizedExample(token_ids_T=ids, trained_T=trained, prompt_key=str(index)))
    return examples


@torch.no_grad()
def plain_logits(model: Any, example: TokenizedExample) -> torch.Tensor:
    """[T, V] of one example alone, by the model as it is."""
    ids = torch.from_numpy(example.token_ids_T).long()[None]
    return model(input_ids=ids, use_cache=False).logits[0]


def plain_losses(model: Any, examples: list[TokenizedExample]) -> list[torch.Tensor]:
    """Nats of each example's trained tokens, an example at a time, written out."""
    losses = []
    for example in examples:
        log_p = plain_logits(model, example).log_softmax(-1)
        trained = [t for t in range(1, len(example.trained_T)) if example.trained_T[t]]
        losses.append(torch.stack([-log_p[t - 1, int(example.token_ids_T[t])] for t in trained]))
    return losses
