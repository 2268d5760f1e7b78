"""What PEFT loads from us computes what the bank does, and the other way round."""

from __future__ import annotations

import copy
import json
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward
from rightrank.bank.peft_format import export_adapter, import_adapter, read_adapter_config
from rightrank.bank.targets import find_targets, target_suffixes
from rightrank.errors import ConfigurationError, ResourceError, UnsafeModelError
from tiny import plain_losses, random_examples, tiny_base

EXAMPLES = random_examples(3)


def bank_of(base, *specs):
    return AdapterBank(find_targets(base.model), specs, device=base.device, dtype=base.dtype)


def moved(bank):
    """Adapters that are far from where they started."""
    generator = torch.Generator().manual_seed(7)
    for master in bank.masters:
        master.copy_(torch.randn(len(master), generator=generator, dtype=torch.float64) / 5)
    bank.refresh()
    return bank


def bank_losses(base, bank):
    with torch.no_grad(), Forward(base, bank) as forward:
        return forward.token_losses(Batch.of(EXAMPLES))[0]


def some_ranks(base):
    """3 in most modules, 0, 5 and 2 in some."""
    return tuple({1: 0, 2: 5, 4: 2}.get(i, 3) for i in range(len(find_targets(base.model))))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("per_module", [False, True])
def test_peft_loads_an_export_and_gives_the_same_losses(kind, per_module, tmp_path):
    from peft import PeftModel

    base = tiny_base(kind)
    ranks = some_ranks(base) if per_module else None
    bank = moved(bank_of(base, AdapterSpec(5, 10, 1e-3), AdapterSpec(3, 16, 1e-3, ranks=ranks)))
    ours = bank_losses(base, bank)
    bare = torch.cat(plain_losses(base.model, EXAMPLES))
    for k in range(2):
        folder = export_adapter(bank, k, tmp_path / str(k), base_name="tiny", dropout=0.1)
        peft = PeftModel.from_pretrained(
            copy.deepcopy(base.model), folder, autocast_adapter_dtype=False
        ).eval()
        theirs = torch.cat(plain_losses(peft, EXAMPLES))
        torch.testing.assert_close(ours[k], theirs, rtol=0, atol=1e-10)
        assert (theirs - bare).abs().mean() > 1e-2, "the adapter must do something"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_dropout"], config["fan_in_fan_out"]) == (3, 0.1, kind == "gpt2")
    assert sorted(config["rank_pattern"].values()) == ([2, 5] if per_module else [])
    names = [t.name for t in find_targets(base.model)]
    suffixes = list(target_suffixes(find_targets(base.model)))
    assert config["target_modules"] == (names[:1] + names[2:] if per_module else suffixes)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_export_and_import_give_the_adapter_back(tmp_path):
    base = tiny_base()
    ranks = some_ranks(base)
    bank = moved(bank_of(base, AdapterSpec(3, 16, 1e-3, ranks=ranks)))
    export_adapter(bank, 0, tmp_path / "a", base_name="tiny")
    back = bank_of(base, AdapterSpec(3, 16, 1e-3, ranks=ranks), AdapterSpec(4, 4, 1e-3))
    neighbour = back.masters[1].clone()
    import_adapter(back, 0, tmp_path / "a")
    torch.testing.assert_close(back.masters[0], bank.masters[0], rtol=1e-14, atol=0)
    assert torch.equal(back.masters[1], neighbour)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 5, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"alpha_pattern": {r"model\.layers\.0\..*": 3, "q_proj": 50}, "use_rslora": True},
        {"alpha_pattern": {"layers.1": 3, "proj": 50}},  # matches no module's last parts: not used
    ],
)
@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning")
def test_a_bank_reads_what_peft_saved(options, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = tiny_base()
    targets = find_targets(base.model)
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=list(target_suffixes(targets)), task_type="CAUSAL_LM", **options
    )
    peft = get_peft_model(copy.deepcopy(base.model), config, autocast_adapter_dtype=False).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    theirs = torch.cat(plain_losses(peft, EXAMPLES))
    peft.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    ranks = tuple(saved[f"base_model.model.{t.name}.lora_A.weight"].shape[0] for t in targets)
    bank = bank_of(base, AdapterSpec(7, 7, 1e-3), AdapterSpec(4, 11, 1e-3, ranks=ranks))
    import_adapter(bank, 1, tmp_path / "theirs")
    torch.testing.assert_close(bank_losses(base, bank)[1], theirs, rtol=0, atol=1e-10)


@pytest.fixture
def saved(tmp_path):
    """A base, and the folder of a plain adapter of rank 4 on it."""
    base = tiny_base()
    bank = moved(bank_of(base, AdapterSpec(4, 8, 1e-3)))
    return base, export_adapter(bank, 0, tmp_path / "adapter", base_name="tiny")


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_pickled_weights_are_refused_unopened(saved):
    _, folder = saved
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeModelError, match="pickled weights"):
        read_adapter_config(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"use_dora": True}, "uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"layer_replication": [[0, 2]]}, "uses layer_replication"),
        ({"init_lora_weights": "pissa"}, "uses init_lora_weights=pissa"),
        ({"init_lora_weights": "olora"}, "uses init_lora_weights=olora"),
        ({"peft_type": "IA3"}, "is no LoRA adapter"),
    ],
)
def test_what_is_no_plain_lora_is_refused(saved, changes, problem):
    _, folder = saved
    edit(folder, **changes)
    with pytest.raises(ConfigurationError, match=problem):
        read_adapter_config(folder)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal"])
def test_starts_that_keep_the_base_are_read(saved, start):
    _, folder = saved
    edit(folder, init_lora_weights=start)
    assert read_adapter_config(folder)["r"] == 4


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_config_is_refused(saved, content):
    _, folder = saved
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(ConfigurationError):
        read_adapter_config(folder)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"holds no adapter_model\.safetensors"):
        read_adapter_config(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 200, -10])
def test_damaged_weights_are_refused(saved, keep):
    base, folder = saved
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigurationError, match="is damaged"):
        import_adapter(bank_of(base, AdapterSpec(4, 8, 1e-3)), 0, folder)


def test_other_ranks_are_refused(saved):
    base, folder = saved
    with pytest.raises(ConfigurationError, match=r"has rank 4 at .*q_proj, not 5"):
        import_adapter(bank_of(base, AdapterSpec(5, 8, 1e-3)), 0, folder)


def test_another_models_widths_are_refused(saved):
    _, folder = saved
    wider = tiny_base(hidden=64)
    with pytest.raises(ConfigurationError, match="other widths"):
        import_adapter(bank_of(wider, AdapterSpec(4, 8, 1e-3)), 0, folder)


def test_what_the_bank_does_not_adapt_is_refused(saved):
    base, folder = saved
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 32)
    save_file(tensors, path)
    with pytest.raises(ConfigurationError, match="lm_head"):
        import_adapter(bank_of(base, AdapterSpec(4, 8, 1e-3)), 0, folder)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    bank = bank_of(tiny_base(), AdapterSpec(4, 8, 1e-3))
    with pytest.raises(ResourceError, match="cannot be written"):
        export_adapter(bank, 0, tmp_path / "file" / "adapter", base_name="tiny")
