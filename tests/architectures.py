"""Tiny random models of the architectures that people fine-tune, each with what sets it apart switched on."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from tiny import VOCABULARY, rough

WINDOW = 5
WORDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
HEADED = {**GROUPED, "head_dim": 8}
TWO_KINDS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXTRAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
RECURRENT = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
SIGHT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# name: (model class, configuration class, settings)
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "use_sliding_window": True, **TWO_KINDS}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", HEADED),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": WINDOW}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", HEADED),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**HEADED, **TWO_KINDS, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
    ),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**HEADED, **TWO_KINDS}),
    "gemma3 with sight": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": {**WORDS, **HEADED, **TWO_KINDS},
            "vision_config": SIGHT,
            "image_token_index": 60,
            "boi_token_index": 61,
            "eoi_token_index": 62,
            "mm_tokens_per_image": 4,
        },
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", {**GROUPED, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**GROUPED, "sliding_window": WINDOW}),
    "cohere": ("CohereForCausalLM", "CohereConfig", {**GROUPED, "logit_scale": 0.25}),
    "granite": (
        "GraniteForCausalLM",
        "GraniteConfig",
        {**GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SHAPE),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            **{k: v for k, v in SHAPE.items() if k != "intermediate_size"},
            "ffn_dim": 64,
            "word_embed_proj_dim": 16,
        },
    ),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {k: v for k, v in SHAPE.items() if k != "intermediate_size"},
    ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**HEADED, **EXPERTS}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, **MIXTRAL_EXPERTS}),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**HEADED, **MIXTRAL_EXPERTS, **TWO_KINDS}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            **HEADED,
            **EXPERTS,
            "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "mamba": ("MambaForCausalLM", "MambaConfig", RECURRENT),
}


def architecture(kind: str, dtype: torch.dtype = torch.float64) -> Any:
    """A tiny random model; experts are computed a token at a time, since fused ones know no float64."""
    torch.manual_seed(0)
    model_class, config_class, settings = ARCHITECTURES[kind]
    words = {} if "text_config" in settings else WORDS
    model = getattr(hf, model_class)(getattr(hf, config_class)(**words, **settings))
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return rough(model).to(dtype).eval()
