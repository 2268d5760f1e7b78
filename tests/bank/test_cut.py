"""Cuts are the dense truncated SVD, come out of PEFT as they went in, and keep to their size."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.cut import (
    Cut,
    Update,
    bank_of_cuts,
    by_energy_per_number,
    by_share_of_energy,
    by_size,
    decomposed,
    take_apart,
    uniform,
)
from rightrank.bank.cut_evaluation import CutEvaluation
from rightrank.bank.memory import measure_memory
from rightrank.bank.peft_format import adapted_ranks, export_adapter, import_adapter, read_adapter_config
from rightrank.bank.targets import Target, target_suffixes
from rightrank.bank.verify import Path
from rightrank.bank.whole_modules import WholeModules, in_place, read_whole_modules
from rightrank.errors import ConfigurationError
from test_peft_format import EXAMPLES, bank_losses, bank_of, moved, some_ranks
from tiny import plain_losses, random_examples, tiny_base


@settings(max_examples=40, deadline=None)
@given(
    wide_in=st.integers(1, 40),
    wide_out=st.integers(1, 40),
    rank=st.integers(1, 24),
    kept=st.integers(1, 24),
    scale=st.floats(0.01, 10),
    seed=st.integers(0, 2**31),
)
def test_a_cut_is_the_dense_truncated_svd(wide_in, wide_out, rank, kept, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, wide_in, generator=generator), torch.randn(wide_out, rank, generator=generator)
    update = decomposed(Target("m", wide_in, wide_out), a, b, scale)
    u, s, v = np.linalg.svd(scale * (b.double() @ a.double()).numpy(), full_matrices=False)
    kept = min(kept, update.directions)
    dense = (u[:, :kept] * s[:kept]) @ v[:kept]
    ours = (update.left_OD[:, :kept] * update.size_D[:kept]) @ update.right_DI[:kept]
    np.testing.assert_allclose(ours.numpy(), dense, atol=1e-5 * max(1.0, float(s[0])))
    assert update.directions == min(rank, wide_in, wide_out)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_cut_to_its_own_rank_changes_nothing(kind):
    base = tiny_base(kind)
    ranks = some_ranks(base)
    ranks = tuple(rank or 3 for rank in ranks)
    bank = moved(bank_of(base, AdapterSpec(3, 16, 1e-3, ranks=ranks)))
    updates = take_apart(bank, 0)
    again = bank_of_cuts(
        updates, [Cut(ranks), Cut(uniform(updates, 1))], device=base.device, dtype=base.dtype
    )
    before, after = bank_losses(base, bank)[0], bank_losses(base, again)
    torch.testing.assert_close(after[0], before, rtol=0, atol=1e-10)
    assert (after[1] - before).abs().mean() > 1e-2, "a real cut must show"


def test_peft_loads_a_cut_whatever_it_was_cut_from(tmp_path):
    """rsLoRA, ranks and alphas of single layers, then other ranks, none in one layer, and scaled: the same update everywhere."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = tiny_base()
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=list(target_suffixes(base.targets)),
        task_type="CAUSAL_LM",
        use_rslora=True,
        rank_pattern={"q_proj": 6},
        alpha_pattern={"q_proj": 3},
    )
    peft = get_peft_model(copy.deepcopy(base.model), config, autocast_adapter_dtype=False)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    peft.save_pretrained(tmp_path / "given")
    ranks, dtype = adapted_ranks(tmp_path / "given", base.targets, WholeModules())
    assert dtype == torch.float64 and sorted(set(ranks.values())) == [4, 6]
    given_bank = bank_of(base, AdapterSpec(6, 1.0, 0.0, ranks=tuple(ranks.values())))
    import_adapter(given_bank, 0, tmp_path / "given")
    updates = take_apart(given_bank, 0)
    cuts = [
        Cut((0, *uniform(updates, 3)[1:-1], 1), 0.7),
        Cut((8,) * len(updates)),
    ]
    bank = bank_of_cuts(updates, cuts, device=base.device, dtype=base.dtype)
    ours = bank_losses(base, bank)
    for k in range(2):
        folder = export_adapter(bank, k, tmp_path / str(k), base_name="tiny")
        loaded = PeftModel.from_pretrained(
            copy.deepcopy(base.model), folder, autocast_adapter_dtype=False
        ).eval()
        theirs = torch.cat(plain_losses(loaded, EXAMPLES))
        torch.testing.assert_close(ours[k], theirs, rtol=0, atol=1e-10)
    whole = torch.cat(plain_losses(peft.eval(), EXAMPLES))
    torch.testing.assert_close(ours[1], whole, rtol=0, atol=1e-10)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (8, 8, {})


def line_of(width, *sizes):
    """A layer whose directions have these sizes, each costing ``width`` numbers."""
    count = len(sizes)
    return Update(
        Target("m", width - 1, 1), torch.zeros(1, count), torch.tensor(sizes), torch.zeros(count, width - 1)
    )


def test_allocations_by_hand():
    updates = (line_of(10, 9.0, 4.0, 1.0), line_of(10, 5.0, 3.0, 2.0), line_of(40, 8.0, 0.5, 0.25))
    assert by_size(updates, 69) == (1, 1, 1)  # 9, 8 and 5 at 10 + 40 + 10 numbers; 4 more would be too many
    assert by_size(updates, 80) == (2, 2, 1)  # … 4 and 3 as well: 80 numbers, no more
    # Per number: 8.1, 1.6, 0.1; 2.5, 0.9, 0.4; 1.6, …: the wide layer's first direction ties with 4.0 and is too dear.
    assert by_energy_per_number(updates, 30) == (1, 1, 0)
    # Shares left out of each layer before a direction: 1, .17, .01; 1, .34, .11; 1, .005, .001.
    assert by_share_of_energy(updates, 70) == (1, 2, 1)
    assert uniform(updates, 5) == (3, 3, 3)
    assert by_size(updates, 1) == (1, 0, 0), "one direction, the largest, where nothing fits"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(50, 900),
    st.data(),
)
def test_allocations_keep_to_their_size_and_are_nested(sizes, budget, data):
    widths = data.draw(st.lists(st.integers(2, 50), min_size=len(sizes), max_size=len(sizes)))
    updates = [line_of(w, *sorted(s, reverse=True)) for w, s in zip(widths, sizes, strict=True)]
    for way in (by_size, by_energy_per_number, by_share_of_energy):
        small, large = way(updates, budget), way(updates, 2 * budget)
        assert Cut(small).parameters([u.target for u in updates]) <= budget
        assert all(a <= b for a, b in zip(small, large, strict=True))


@pytest.fixture
def with_whole_head(tmp_path):
    """A base, PEFT's model with an adapter and a retrained head on it, and the folder that PEFT saved."""
    from peft import LoraConfig, get_peft_model

    base = tiny_base()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["lm_head"])
    peft = get_peft_model(copy.deepcopy(base.model), config, autocast_adapter_dtype=False).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.2)
    peft.save_pretrained(tmp_path / "given")
    return base, peft, tmp_path / "given"


def test_modules_saved_whole_are_measured_and_written_with_a_cut(with_whole_head, tmp_path):
    from peft import PeftModel

    base, peft, folder = with_whole_head
    config = read_adapter_config(folder, whole_modules=True)
    whole = read_whole_modules(folder, config)
    ranks, _ = adapted_ranks(folder, base.targets, whole)
    targets = [target for target in base.targets if target.name in ranks]
    bank = AdapterBank(targets, [AdapterSpec(4, 1.0, 0.0)], device=base.device, dtype=base.dtype)
    import_adapter(bank, 0, folder, whole=whole)
    own = base.model.lm_head.weight
    bare = torch.cat(plain_losses(base.model, EXAMPLES))
    with in_place(base.model, whole):
        ours = bank_losses(base, bank)[0]
    torch.testing.assert_close(ours, torch.cat(plain_losses(peft, EXAMPLES)), rtol=0, atol=1e-10)
    assert base.model.lm_head.weight is own, "the base must come back as it was"
    assert torch.equal(torch.cat(plain_losses(base.model, EXAMPLES)), bare)
    updates = take_apart(bank, 0)
    cut = bank_of_cuts(updates, [Cut(uniform(updates, 2))], device=base.device, dtype=base.dtype)
    export_adapter(cut, 0, tmp_path / "cut", base_name="tiny", whole=whole)
    loaded = PeftModel.from_pretrained(
        copy.deepcopy(base.model), tmp_path / "cut", autocast_adapter_dtype=False
    ).eval()
    with in_place(base.model, whole):
        ours = bank_losses(base, cut)[0]
    torch.testing.assert_close(torch.cat(plain_losses(loaded, EXAMPLES)), ours, rtol=0, atol=1e-10)


def test_a_head_of_another_model_is_refused_and_nothing_changed(with_whole_head):
    _, _, folder = with_whole_head
    wider = tiny_base(hidden=64)
    whole = read_whole_modules(folder, read_adapter_config(folder, whole_modules=True))
    own = wider.model.lm_head.weight
    with (
        pytest.raises(ConfigurationError, match="of another model"),
        in_place(wider.model, whole),
    ):
        pass
    assert wider.model.lm_head.weight is own


def test_a_cut_can_be_written_in_fewer_bits(tmp_path):
    base = tiny_base()
    bank = moved(bank_of(base, AdapterSpec(4, 8, 1e-3)))
    folder = export_adapter(bank, 0, tmp_path / "a", base_name="tiny", dtype=torch.bfloat16)
    assert adapted_ranks(folder, base.targets, WholeModules())[1] == torch.bfloat16
    back = bank_of(base, AdapterSpec(4, 8, 1e-3))
    import_adapter(back, 0, folder)
    torch.testing.assert_close(back.masters[0], bank.masters[0], rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    "path",
    [
        Path(True, "", shares=True),
        Path(True, "", "captured", shares=True),
        Path(True, "", "captured", recomputed=True),
    ],
)
def test_cuts_are_judged_alike_however_the_base_runs(path):
    """Captured steps' forward pass, and rows that share their first tokens, against plain steps; uniform, shrunk and ragged cuts."""
    base = tiny_base()
    updates = take_apart(moved(bank_of(base, AdapterSpec(4, 16, 1e-3))), 0)
    examples = random_examples(12, shared=7, longest=20)
    memory = measure_memory(base, base.targets, examples, packed=True)
    small = Cut(uniform(updates, 1)).parameters([update.target for update in updates])
    cuts = [Cut(uniform(updates, 2)), Cut(uniform(updates, 4), 0.7), Cut(by_size(updates, small))]
    wanted, found = (
        CutEvaluation(base, updates, memory, way, 30).cuts(cuts, examples) for way in (Path(True, ""), path)
    )
    np.testing.assert_allclose(found.loss_KE, wanted.loss_KE, atol=1e-5)
    assert (found.right_KE == wanted.right_KE).all()
    assert np.ptp(wanted.loss_KE.sum(1)) > 0.1, "the cuts differ"
