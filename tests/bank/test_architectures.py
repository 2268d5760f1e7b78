"""The bank's contract on every architecture: the untouched model's numbers, PEFT's training, and the model handed back."""

from __future__ import annotations

import copy

import pytest
import torch

from architectures import ARCHITECTURES, WINDOW, architecture
from peft_runs import SPECS, Training, bank_run, peft_run, start_of
from rightrank.bank.base_model import load_base, run_head
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward
from rightrank.bank.targets import find_targets, not_adapted, target_suffixes
from rightrank.bank.verify import choose_path
from rightrank.recipe import Recipe
from tiny import plain_logits, plain_losses, random_examples

EXAMPLES = random_examples(4, shortest=8, longest=14)
TRAINING = Training(random_examples(12), Recipe(epochs=1, batch_size=4, weight_decay=0.01), 3, EXAMPLES)
MIXES = "padded rows, slower (packed rows: examples would see those before them)"
SLOWER = {
    "falcon": "padded rows, slower (packed rows: the attention function cannot be chosen)",
    "lfm2": MIXES,
    "mamba": MIXES,
    "qwen3_next": MIXES,
}
# Parts of these compute in float32 whatever the dtype.
IN_FLOAT32 = {"mamba": 1e-5, "gemma2": 1e-5, "gpt_oss": 1e-5}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_bank_computes_what_the_untouched_model_computes(kind, dtype):
    base = load_base(architecture(kind, dtype), tokenizer=object())
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    truth_TV = torch.cat([plain_logits(base.model, example) for example in EXAMPLES])
    truth_S = torch.cat(plain_losses(base.model, EXAMPLES))
    path = choose_path(base, EXAMPLES)
    assert path.words == SLOWER.get(kind, "packed rows")
    near = IN_FLOAT32.get(kind, 1e-8) if dtype == torch.float64 else 1e-4
    with torch.no_grad(), Forward(base, start_of(base.model, SPECS), packed=path.packed) as forward:
        batch = Batch.of(EXAMPLES)
        losses_KS, _ = forward.token_losses(batch)
        logits_KTV = run_head(base.model, forward.hidden(batch), forward._output_type)
    for k in range(len(SPECS)):  # B is zero at the start
        torch.testing.assert_close(logits_KTV[k], truth_TV, rtol=0, atol=near)
        torch.testing.assert_close(losses_KS[k], truth_S, rtol=0, atol=near)
    after = base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.cat([plain_logits(base.model, example) for example in EXAMPLES]), truth_TV)
    assert not any(module._forward_hooks or "forward" in module.__dict__ for module in base.model.modules())


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_three_adapters_train_as_three_peft_runs(kind):
    model = architecture(kind)
    untouched = copy.deepcopy(model.state_dict())
    losses, norms, _, held_out = bank_run(model, SPECS, TRAINING, packed=kind not in SLOWER)
    near = IN_FLOAT32.get(kind, 1e-8)
    start = start_of(model, SPECS)
    for k in range(len(SPECS)):
        expected, expected_norms, expected_held_out = peft_run(model, k, start, TRAINING)
        assert losses[k] == pytest.approx(expected, rel=near)
        assert norms[k] == pytest.approx(expected_norms, rel=100 * near)
        assert held_out.loss_KE[k].tolist() == pytest.approx(expected_held_out, rel=near)
    bare = [nats.sum().item() for nats in plain_losses(model, EXAMPLES)]
    assert abs(held_out.loss_KE[0] - bare).max() > 1e-2, "training must have moved the held-out losses"
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())


def losses_with(model, **changes):
    """Packed losses of ``model`` with its configuration changed."""
    for name, value in changes.items():
        setattr(model.config, name, value)
        for module in model.modules():
            if hasattr(module, name):
                setattr(module, name, value)
    with torch.no_grad(), Forward(load_base(model, tokenizer=object())) as forward:
        return forward.token_losses(Batch.of(EXAMPLES))[0][0]


@pytest.mark.parametrize(
    ("kind", "feature", "off"),
    [
        ("gemma2", "attn_logit_softcapping", None),
        ("gemma2", "final_logit_softcapping", None),
        ("gemma2", "sliding_window", None),
        ("gemma3", "sliding_window", None),
        ("phi3", "sliding_window", None),
        ("cohere", "logit_scale", 1.0),
        ("granite", "logits_scaling", 1.0),
        ("gpt_oss", "sliding_window", None),
    ],
)
def test_what_sets_an_architecture_apart_matters_here(kind, feature, off):
    """Or equality with the untouched model would say little."""
    on, without = losses_with(architecture(kind)), losses_with(architecture(kind), **{feature: off})
    assert (on - without).abs().max() > 1e-3


def test_attention_sinks_take_their_share():
    model = architecture("gpt_oss")
    on = losses_with(model)
    for layer in model.model.layers:
        torch.nn.init.constant_(layer.self_attn.sinks, -1e9)
    assert (losses_with(model) - on).abs().max() > 1e-2


def test_a_window_that_only_the_mask_knows_takes_the_padded_path():
    """Qwen2-MoE masks its window and tells its attention function nothing of it."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    from architectures import EXPERTS, GROUPED, WORDS
    from tiny import rough

    settings = {**WORDS, **GROUPED, **EXPERTS, "shared_expert_intermediate_size": 16}
    torch.manual_seed(0)
    plain = rough(Qwen2MoeForCausalLM(Qwen2MoeConfig(**settings))).float().eval()
    windowed = Qwen2MoeConfig(**settings, use_sliding_window=True, sliding_window=100, max_window_layers=0)
    hidden = rough(Qwen2MoeForCausalLM(windowed)).float().eval()
    assert choose_path(load_base(plain, tokenizer=object()), EXAMPLES).packed
    path = choose_path(load_base(hidden, tokenizer=object()), EXAMPLES)
    assert path.words == "padded rows, slower (packed rows: a window that only the mask knows)"


def test_a_state_that_runs_on_is_found_in_bfloat16():
    """There it is smaller than what rounding may change."""
    from transformers import FalconH1Config, FalconH1ForCausalLM

    from architectures import HEADED, WORDS
    from rightrank.bank.verify import TOLERANCE_NATS
    from tiny import rough

    torch.manual_seed(0)
    mamba = {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    }
    model = rough(FalconH1ForCausalLM(FalconH1Config(**WORDS, **HEADED, **mamba))).bfloat16().eval()
    base = load_base(model, tokenizer=object())
    with torch.no_grad(), Forward(base) as forward:
        packed = forward.token_losses(Batch.of(EXAMPLES))[0][0]
    apart = (packed - torch.cat(plain_losses(model, EXAMPLES))).abs().mean()
    assert 1e-2 < apart < TOLERANCE_NATS[torch.bfloat16]
    assert choose_path(base, EXAMPLES).words == MIXES


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_fused_experts_and_routers_are_named_as_not_adapted(kind):
    model = architecture(kind)
    targets = find_targets(model)
    assert target_suffixes(targets) == ("q_proj", "k_proj", "v_proj", "o_proj")
    left = not_adapted(model, targets)
    assert {"model.layers.*.mlp.experts.gate_up_proj", "model.layers.*.mlp.experts.down_proj"} <= set(left)
    assert any(name.endswith((".gate.weight", ".router.weight")) for name in left)


def test_a_shared_expert_that_peft_takes_for_fused_ones_gets_no_adapter():
    model = architecture("qwen3_next")
    targets = find_targets(model)
    assert {"shared_expert_gate", "in_proj_qkvz", "q_proj"} <= set(target_suffixes(targets))
    assert not any(target.name.endswith("shared_expert.up_proj") for target in targets)
    assert "model.layers.*.mlp.shared_expert.up_proj.weight" in not_adapted(model, targets)


def test_a_vision_tower_gets_no_adapter_and_peft_finds_the_decoder_alone(tmp_path):
    from peft import PeftModel

    from rightrank.bank.peft_format import export_adapter

    model = architecture("gemma3 with sight")
    targets = find_targets(model)
    assert {target.name.split(".layers.")[0] for target in targets} == {"model.language_model"}
    tower = [name for name, _ in model.named_modules() if "vision" in name and name.endswith("q_proj")]
    assert tower and not any(target.name in tower for target in targets)
    folder = export_adapter(start_of(model, SPECS[:1]), 0, tmp_path / "a", base_name="tiny")
    peft = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    adapted = {name.split(".lora_A")[0] for name, _ in peft.named_parameters() if "lora_A" in name}
    assert adapted == {"base_model.model." + target.name for target in targets}


def test_layers_that_fused_kernels_pass_by_get_no_adapter():
    model = architecture("mamba")
    assert "out_proj" not in target_suffixes(find_targets(model))
    assert "backbone.layers.*.mixer.out_proj.weight" in not_adapted(model, find_targets(model))


def test_the_window_is_shorter_than_the_rows():
    assert min(len(example.token_ids_T) for example in EXAMPLES) > WINDOW


def test_a_model_that_hides_its_head_is_refused():
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    from architectures import HEADED, WORDS
    from rightrank.errors import ModelError

    model = Llama4ForCausalLM(
        Llama4TextConfig(**WORDS, **HEADED, intermediate_size_mlp=64, num_local_experts=2)
    )
    with pytest.raises(ModelError, match="Llama4ForCausalLM does not say which part of it is the head"):
        choose_path(load_base(model.eval(), tokenizer=object()), EXAMPLES)
