"""A model read without its weights is the model that would be loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from rightrank.bank.blueprint import QUANTISED_BITS, read_blueprint, read_tokenizer
from rightrank.bank.memory import measure_memory
from rightrank.bank.targets import find_targets, not_adapted
from rightrank.errors import ModelError, UnsafeModelError
from small_run import save_model
from tiny import random_examples, tiny_base, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("llama", "qwen3", "gemma2", "gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_the_shapes_are_those_of_the_loaded_model(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    model.config.save_pretrained(tmp_path)  # nothing else: no weights, no tokenizer
    found = read_blueprint(str(tmp_path))
    assert found.targets == find_targets(model)
    assert found.not_adapted == not_adapted(model, find_targets(model))
    assert found.parameters == model.num_parameters()
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    shared = head.data_ptr() == embedding.data_ptr()
    assert found.body_parameters == model.num_parameters() - embedding.numel() - (
        0 if shared else head.numel()
    )
    assert found.kept_counted


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_what_is_kept_for_the_backward_pass_is_what_the_bank_measures(kind: str) -> None:
    """Rows beyond 512 tokens, where the bank's attention on a CPU is the fused one that is counted."""
    base = tiny_base(kind, dtype=torch.bfloat16)
    rows = random_examples(1, shortest=600, longest=600)
    measured = measure_memory(base, find_targets(base.model), rows, packed=True)
    found = read_blueprint(base.model)
    assert found.kept_bytes_per_token == pytest.approx(measured.saved_bytes_per_token, rel=0.1)
    assert found.weight_bytes() == measured.base_bytes


def test_kept_bytes_of_a_recorded_run() -> None:
    """SmolLM2-135M on an H100: r=4 took 3.4393 GiB (bench/records), of which 704 kB a token was kept for the backward pass."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
    config = LlamaConfig(hidden_size=576, intermediate_size=1536, tie_word_embeddings=True, **shape)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    found = read_blueprint(model)
    assert found.parameters == 134_515_008
    assert found.kept_bytes_per_token == pytest.approx(704_314, rel=0.02)


def test_a_loaded_model_comes_back_as_it_was() -> None:
    model = tiny_model("llama")
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    attention = model.config._attn_implementation
    read_blueprint(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert model.config._attn_implementation == attention
    assert not any(module._forward_hooks for module in model.modules())


def test_only_the_linear_layers_are_quantised(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    plain = read_blueprint(str(tmp_path))
    linear = sum(t.width_in * t.width_out for t in plain.targets)
    others = plain.parameters - linear
    assert plain.weight_bytes() == 2 * plain.parameters
    four = linear * QUANTISED_BITS["4-bit"] / 8 + 2 * others
    assert plain.weight_bytes("4-bit") == pytest.approx(four)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_blueprint(str(tmp_path)).weight_bytes() == pytest.approx(four)
    few = read_blueprint(str(tmp_path), modules=("q_proj",))  # all are packed, whichever get adapters
    assert few.weight_bytes() == pytest.approx(four)


def test_chosen_modules_alone_count(tmp_path: Path) -> None:
    tiny_model("llama").config.save_pretrained(tmp_path)
    found = read_blueprint(str(tmp_path), modules=("q_proj", "v_proj"))
    assert {t.suffix for t in found.targets} == {"q_proj", "v_proj"}
    assert found.parameters_per_rank == 2 * (32 + 32) + 2 * (
        32 + 16
    )  # two layers; the value heads are half as wide
    with pytest.raises(ModelError, match="no linear layer named 'c_attn'"):
        read_blueprint(str(tmp_path), modules=("c_attn",))


def test_code_of_the_models_own_is_not_run(tmp_path: Path) -> None:
    tiny_model("llama").config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "bad.Bad", "AutoModelForCausalLM": "bad.Bad"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "bad.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnsafeModelError, match="wants to run code of its own"):
        read_blueprint(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_tokenizer_is_read_beside_a_bare_config(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert read_tokenizer(str(folder))("find 3").input_ids
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        read_tokenizer(str(folder))
