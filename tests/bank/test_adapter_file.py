"""Adapters whose files say what no adapter can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.peft_format import export_adapter, import_adapter, read_adapter_config
from rightrank.bank.targets import find_targets
from rightrank.errors import ConfigurationError
from tiny import tiny_base

if TYPE_CHECKING:
    from pathlib import Path


def bank() -> AdapterBank:
    base = tiny_base(hidden=16, layers=1)
    return AdapterBank(
        find_targets(base.model), [AdapterSpec(4, 8, 1e-3)], device=base.device, dtype=base.dtype
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_adapter(bank(), 0, tmp_path / "a", base_name="tiny")


def say(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0), ("r", -4), ("r", 10**9), ("r", 4.5), ("r", True), ("r", "4"), ("r", None),
        ("lora_alpha", 0), ("lora_alpha", -1), ("lora_alpha", float("nan")), ("lora_alpha", 1e300), ("lora_alpha", "x"),
        ("rank_pattern", [1]), ("rank_pattern", {"q_proj": 0}), ("alpha_pattern", {"q_proj": "x"}),
        ("alpha_pattern", {"(": 8}), ("alpha_pattern", {"(a+)+": 8}), ("alpha_pattern", {".*.*.*": 8}), ("rank_pattern", {"x" * 400: 8}),
    ],
)  # fmt: skip
def test_numbers_that_are_none(folder: Path, key: str, value: Any) -> None:
    say(folder, **{key: value})
    with pytest.raises(ConfigurationError, match=f"says {key}.* Save the adapter again"):
        read_adapter_config(folder)


@pytest.mark.parametrize(
    "pattern",
    ["q_proj", r"model\.layers\.0\.self_attn\.q_proj", r".*\.q_proj", r"layers\.\d+\.self_attn\.(q|k)_proj"],
)
def test_patterns_that_peft_writes_are_read(folder: Path, pattern: str) -> None:
    say(folder, alpha_pattern={pattern: 16})
    into = bank()
    import_adapter(into, 0, folder)


def test_huge_and_deep_configs_are_refused(folder: Path) -> None:
    for content in ("[" * 100_000, '{"peft_type": "LORA", "x": "' + "x" * (17 * 2**20) + '"}'):
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(ConfigurationError, match=r"adapter_config\.json cannot be read"):
            read_adapter_config(folder)


def test_nothing_is_copied_of_an_adapter_that_does_not_fit(folder: Path) -> None:
    path, into = folder / "adapter_model.safetensors", bank()
    before = [module.master_a[0].clone() for module in into.modules]
    whole = load_file(path)
    last = max(name for name in whole if name.endswith("lora_B.weight"))
    spoilt: dict[str, dict[str, torch.Tensor]] = {
        "numbers that are infinite or none": {**whole, last: torch.full_like(whole[last], float("nan"))},
        "holds numbers that are": {**whole, last: whole[last].to(torch.int32)},
        "lacks half of": {name: tensor for name, tensor in whole.items() if name != last},
        "of other widths": {**whole, last: torch.zeros(3, 4)},
    }
    for words, tensors in spoilt.items():
        save_file({name: 2 * tensor for name, tensor in tensors.items()}, path)
        with pytest.raises(ConfigurationError, match=words):
            import_adapter(into, 0, folder)
    assert all(torch.equal(a, module.master_a[0]) for a, module in zip(before, into.modules, strict=True))
    save_file({name: 2 * tensor for name, tensor in whole.items()}, path)
    import_adapter(into, 0, folder)
    assert not any(torch.equal(a, module.master_a[0]) for a, module in zip(before, into.modules, strict=True))


def test_names_of_folders_are_shown_harmlessly(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_adapter_config(tmp_path / "\x1b[31m\n" / "a\0b")
    assert caught.value.problem.isprintable()
