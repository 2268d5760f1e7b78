"""Attention and MLP in every architecture, and ranks of equal size."""

from __future__ import annotations

import pytest
import torch

from architectures import ARCHITECTURES, architecture
from rightrank.bank.adapters import AdapterSpec, adapter_parameters
from rightrank.bank.module_kinds import rank_of_equal_size, ranks_on
from rightrank.bank.targets import Target, chosen, find_targets
from rightrank.errors import ModelError
from tiny import tiny_model

WORDS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "fc1", "fc2")}
WITHOUT_MLP = {"qwen3_moe", "mixtral", "gpt_oss", "mamba"}
TARGETS = (
    Target("q", 10, 20, kind="attention"),
    Target("up", 10, 50, kind="mlp"),
    Target("conv", 5, 5),
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_told_apart(name):
    targets = find_targets(architecture(name, torch.float32))
    for target in targets:
        assert target.kind is None or any(word in target.name for word in WORDS[target.kind]), target
        if target.kind != "attention":
            assert not any(f".{word}" in target.name for word in ("self_attn", "attention")), target
    assert any(target.kind == "mlp" for target in targets) == (name not in WITHOUT_MLP)
    assert any(target.kind == "attention" for target in targets) == (name != "mamba")


def test_gpt_2_calls_two_layers_alike():
    kinds = {target.name: target.kind for target in find_targets(tiny_model("gpt2"))}
    assert kinds["transformer.h.0.attn.c_proj"] == "attention"
    assert kinds["transformer.h.0.mlp.c_proj"] == "mlp"


def test_what_is_neither_gets_no_adapter():
    outside = {t.kind for t in find_targets(architecture("opt", torch.float32)) if "project_" in t.name}
    mixers = {t.kind for t in find_targets(architecture("lfm2", torch.float32)) if ".conv." in t.name}
    assert outside == mixers == {None}
    assert ranks_on(TARGETS, "attention", 3) == (3, 0, 0)
    assert ranks_on(TARGETS, "mlp", 3) == (0, 3, 0)
    assert ranks_on(TARGETS, "all", 3) is None


def test_kinds_outlive_a_choice_of_modules():
    kept = chosen(find_targets(architecture("llama", torch.float32)), ["q_proj", "up_proj"])
    assert {target.kind for target in kept} == {"attention", "mlp"}


@pytest.mark.parametrize(("layers", "rank"), [("all", 2), ("attention", 7), ("mlp", 3)])
def test_equal_size_is_the_nearest_whole_rank(layers, rank):
    """100 numbers a rank: attention has 30 of them, the MLP 60."""
    assert rank_of_equal_size(TARGETS, layers, 2) == rank
    size = adapter_parameters(TARGETS, AdapterSpec(rank, 1.0, 1e-3, ranks=ranks_on(TARGETS, layers, rank)))
    assert abs(size - 200) <= 30


def test_a_kind_that_is_missing_or_too_small_is_refused():
    with pytest.raises(ModelError, match="belongs to the MLP"):
        ranks_on(TARGETS[:1], "mlp", 4)
    with pytest.raises(ModelError, match="belongs to attention"):
        rank_of_equal_size(TARGETS[1:], "attention", 4)
    with pytest.raises(ModelError, match="rank 33, and its widest layer takes 10"):
        rank_of_equal_size(TARGETS, "attention", 10)
