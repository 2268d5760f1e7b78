"""Only the layers that are named get an adapter, as PEFT would choose them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.targets import chosen, find_targets, target_suffixes
from rightrank.errors import ModelError
from tiny import tiny_model


@pytest.mark.parametrize(
    "names",
    [
        ("q_proj", "v_proj"),
        ("down_proj",),
        ("self_attn.q_proj", "mlp.up_proj"),
        ("model.layers.1.self_attn.o_proj",),
        ("layers.0.mlp.gate_proj", "k_proj"),
    ],
)
def test_names_choose_the_layers_that_peft_chooses(names: tuple[str, ...]) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    ours = {target.name for target in chosen(find_targets(model), names)}
    peft = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=list(names)))
    theirs = {
        name.removeprefix("base_model.model.")
        for name, module in peft.named_modules()
        if hasattr(module, "lora_A")
    }
    assert ours == theirs
    again = LoraConfig(r=2, target_modules=list(target_suffixes(chosen(find_targets(model), names))))
    found = get_peft_model(tiny_model("llama"), again)
    assert theirs == {
        name.removeprefix("base_model.model.")
        for name, module in found.named_modules()
        if hasattr(module, "lora_A")
    }


def test_a_base_that_adapts_some_layers_has_a_bank_of_those() -> None:
    base = load_base(tiny_model("llama"), tokenizer=object(), only=("q_proj", "v_proj"))
    bank = AdapterBank(base.targets, [AdapterSpec(2, 4, 1e-3)], device=base.device, dtype=base.dtype)
    assert [module.target.suffix for module in bank.modules] == ["q_proj", "v_proj"] * 2
    assert len(replace(base, only=None).targets) == 14


def test_a_name_that_the_model_does_not_have_is_said_with_those_it_has() -> None:
    with pytest.raises(ModelError, match=r"no linear layer named 'w_proj'\. It has 'down_proj', 'gate_proj'"):
        chosen(find_targets(tiny_model("llama")), ("q_proj", "w_proj"))
