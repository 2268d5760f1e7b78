"""Bases in 4 and 8 bits: the same contract, PEFT's QLoRA, honest names and sizes, and one sentence where it cannot be."""

from __future__ import annotations

import copy
import json
from math import ceil

import pytest
import torch

from peft_runs import SPECS, Training, bank_run, peft_run, start_of
from rightrank.bank import quantized
from rightrank.bank.base_model import load_base
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward, frozen
from rightrank.bank.memory import measure_memory
from rightrank.bank.quantized import bytes_held, describe, not_repacked
from rightrank.bank.rows import StaticRow, shape_of
from rightrank.bank.static import StaticForward
from rightrank.bank.step import gradients, trained_tokens
from rightrank.bank.targets import not_adapted, target_suffixes
from rightrank.bank.update import working_copy
from rightrank.bank.verify import choose_path
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from tiny import VOCABULARY, plain_losses, random_examples, tiny_model

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")  # bitsandbytes says much of what it lacks on a CPU

EXAMPLES = random_examples(4, shortest=8, longest=14)
TRAINING = Training(random_examples(12), Recipe(epochs=1, batch_size=4, max_grad_norm=0.5), 3, EXAMPLES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of width 64, since 4-bit weights come in blocks of 64."""
    path = tmp_path_factory.mktemp("model")
    tiny_model(hidden=64, dtype=torch.float32).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """On any machine, so that equality can be asked for closely."""
    monkeypatch.setattr("rightrank.bank.base_model.pick_dtype", lambda device: torch.float32)


def loaded(folder, quantization="4-bit"):
    return load_base(folder, tokenizer=object(), device="cpu", quantization=quantization)


def test_a_base_in_4_bits_keeps_the_contract(folder):
    base = loaded(folder)
    plain = load_base(folder, tokenizer=object(), device="cpu")
    assert (base.dtype_name, plain.dtype_name) == ("4-bit NF4", "float32")
    assert base.parameters == plain.parameters
    assert base.fingerprint != plain.fingerprint
    assert [t.name for t in base.targets] == [t.name for t in plain.targets]
    assert target_suffixes(base.targets)[0] == "q_proj"
    assert not_adapted(base.model, base.targets) == ("lm_head.weight", "model.embed_tokens.weight")
    assert choose_path(base, EXAMPLES).words == "packed rows"
    here, there = (torch.cat(plain_losses(b.model, EXAMPLES)) for b in (base, plain))
    assert 1e-3 < (here - there).abs().mean() < 0.5, "rounded, and still the same model"


@pytest.mark.parametrize("quantization", ["4-bit", "8-bit"])
def test_three_adapters_train_as_three_runs_of_peft(folder, quantization):
    base = loaded(folder, quantization)
    assert base.dtype_name.startswith(quantization)
    losses, norms, _, held_out = bank_run(base.model, SPECS, TRAINING)
    # 8-bit products round each row's inputs to 8 bits again: numbers that differ in the last place may fall on another step.
    near = 1e-4 if quantization == "4-bit" else 2e-2
    start = start_of(base.model, SPECS)
    for k in range(len(SPECS)):
        with not_repacked(base.model):  # PEFT is trained in another mode than the model is handed over in
            expected, expected_norms, expected_held_out = peft_run(base.model, k, start, TRAINING)
        assert losses[k] == pytest.approx(expected, rel=near)
        assert norms[k] == pytest.approx(expected_norms, rel=10 * near, abs=1e-3)
        assert held_out.loss_KE[k].tolist() == pytest.approx(expected_held_out, rel=near)
    bare = [nats.sum().item() for nats in plain_losses(base.model, EXAMPLES)]
    assert abs(held_out.loss_KE[0] - bare).max() > 1e-2, "training must have moved the held-out losses"


def test_steps_of_fixed_size_share_the_adapters_part_and_leave_the_packed_products_alone(folder):
    base = loaded(folder)
    plain, static = (start_of(base.model, SPECS) for _ in range(2))
    for bank in (plain, static):
        draw = torch.Generator().manual_seed(1)
        bank.flat_master.add_(torch.randn(bank.flat_master.shape, generator=draw), alpha=0.1)
        bank.refresh()
    with Forward(base, plain) as forward:
        wanted_K = gradients(forward, EXAMPLES, 1000)
    row = StaticRow.empty(shape_of(EXAMPLES), len(SPECS), len(EXAMPLES), base.device)
    row.fill(EXAMPLES, len(SPECS), sum(map(trained_tokens, EXAMPLES)))
    loss_K = torch.zeros(len(SPECS))
    with StaticForward(base, static, working_copy(static), longest=14) as static_forward:
        assert [len(group.layers) for group in static_forward._groups] == [3, 1, 2, 1] * 2
        static_forward.micro_step(row, loss_K)
    assert torch.allclose(loss_K.double(), wanted_K, rtol=1e-5)
    apart = torch.linalg.vector_norm(static.flat_gradient - plain.flat_gradient)
    assert apart < 1e-4 * torch.linalg.vector_norm(plain.flat_gradient)


def test_weights_stay_packed_as_they_were_loaded(folder):
    """bitsandbytes repacks them for inference on some CPUs, and products with those carry no gradient."""
    base = loaded(folder)
    layers = [m for m in base.model.modules() if type(m).__name__ == "Linear4bit"]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True  # as on such a CPU
    before = {name: copy.deepcopy(value) for name, value in base.model.state_dict().items()}
    with Forward(base, start_of(base.model, SPECS)) as forward:
        evaluate(forward, EXAMPLES, capacity=1000)
    after = base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(layer.support_avx512bf16_for_cpu for layer in layers)
    first, *_ = bank_run(base.model, SPECS, TRAINING)
    with Forward(base) as forward:
        evaluate(forward, EXAMPLES, capacity=1000)
    again, *_ = bank_run(base.model, SPECS, TRAINING)
    assert again == first and first[0][-1] != first[0][0]


def test_weights_that_were_repacked_are_unpacked_again(folder, monkeypatch):
    base = loaded(folder)
    layer = base.model.model.layers[0].mlp.up_proj
    layer.support_avx512bf16_for_cpu = True
    layer.weight.quant_state.packing_format_for_cpu = True
    unpacked = []
    monkeypatch.setattr(layer, "state_dict", lambda: unpacked.append(layer), raising=False)
    with frozen(base.model):
        assert unpacked == [layer]


def test_a_checkpoint_stored_in_4_bits_needs_no_asking(folder, tmp_path):
    base = loaded(folder)
    base.model.save_pretrained(tmp_path)
    for quantization in (None, "4-bit"):
        stored = load_base(tmp_path, tokenizer=object(), device="cpu", quantization=quantization)
        assert stored.dtype_name == "4-bit NF4"
        torch.testing.assert_close(
            torch.cat(plain_losses(stored.model, EXAMPLES)), torch.cat(plain_losses(base.model, EXAMPLES))
        )
    with pytest.raises(ConfigurationError, match="lie packed as 4-bit NF4 already, not as 8-bit"):
        load_base(tmp_path, tokenizer=object(), device="cpu", quantization="8-bit")


def test_packed_weights_are_counted_as_they_lie(folder):
    plain, four, eight = (loaded(folder, kind) for kind in (None, "4-bit", "8-bit"))
    linear = sum(t.width_in * t.width_out for t in four.targets)
    # By hand: half a byte a weight; one byte a block of 64 for its constant, of which each 256 share 4 bytes; and two tables (16 and 256
    # numbers of 4 bytes) a layer.
    blocks = [t.width_in * t.width_out // 64 for t in four.targets]
    constants = sum(blocks) + 4 * sum(ceil(count / 256) for count in blocks)
    by_hand = linear / 2 + constants + len(blocks) * 4 * (16 + 256)
    assert bytes_held(plain.model) - bytes_held(four.model) == 4 * linear - by_hand
    rows = sum(t.width_out for t in eight.targets)
    assert bytes_held(plain.model) - bytes_held(eight.model) == 3 * linear - 4 * rows
    memory = measure_memory(four, four.targets, EXAMPLES, packed=True)
    assert memory.base_bytes == bytes_held(four.model)


def test_what_cannot_be_is_one_sentence(folder, monkeypatch):
    with pytest.raises(ConfigurationError, match="A base in '3-bit' is not known"):
        loaded(folder, "3-bit")
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(ConfigurationError, match="loaded in float32 already, not in 4-bit"):
        load_base(model, tokenizer=object(), quantization="4-bit")
    with pytest.raises(ConfigurationError, match="GGUF file's weights are unpacked"):
        quantized.loading_options("4-bit", None, torch.device("cpu"), torch.float32, gguf=True)
    monkeypatch.setattr(quantized, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(ConfigurationError) as caught:
        loaded(folder)
    assert caught.value.problem == "Loading a base in 4-bit needs the package bitsandbytes."
    assert caught.value.mend == "Run `pip install 'rightrank[4bit]'`."


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "4-bit NF4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "4-bit FP4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "8-bit"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
    ],
)
def test_a_packing_as_a_person_reads_it(stored, words):
    assert describe(stored) == words


def test_a_model_that_needs_its_own_attention_loads_from_a_folder(tmp_path):
    """Gemma 2 knows no SDPA: it must not be asked for."""
    tiny_model("gemma2", dtype=torch.float32).save_pretrained(tmp_path)
    base = load_base(tmp_path, tokenizer=object(), device="cpu")
    assert base.model.config._attn_implementation == "eager"
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == VOCABULARY
