"""PEFT takes the file as it is, and the three ways to the same LoraConfig agree."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import STATUSES, hostile, sample
from rightrank.errors import UserError
from rightrank.trainers import NAMES, edit_config, read_config, texts, write_configs
from rightrank.trainers import peft as ours

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Status

LoraConfig = pytest.importorskip("peft").LoraConfig


@pytest.mark.parametrize("status", STATUSES)
def test_peft_takes_the_file_and_holds_the_choice(status: Status, tmp_path: Path) -> None:
    answer = sample(status)
    paths, _ = write_configs(answer, tmp_path / "out")
    config = LoraConfig(**json.loads(paths["PEFT"].read_text(encoding="utf-8")))
    assert config.r == answer.choice.rank
    assert config.lora_alpha == answer.choice.alpha
    assert config.lora_dropout == answer.recipe.dropout
    assert config.target_modules == set(answer.choice.target_modules)
    assert (config.bias, config.task_type, config.use_rslora) == ("none", "CAUSAL_LM", False)


@pytest.mark.parametrize("alpha", [32, 22.5])
def test_to_peft_and_the_snippet_make_the_same_configuration(alpha: float) -> None:
    answer = sample()
    answer = replace(answer, choice=replace(answer.choice, alpha=alpha))
    names: dict[str, object] = {}
    exec(ours.snippet(answer), names)
    expected = LoraConfig(**ours.config_dict(answer)).to_dict()
    assert names["lora_config"].to_dict() == expected  # type: ignore[attr-defined]
    assert answer.to_peft().to_dict() == expected
    assert expected["lora_alpha"] == alpha


def test_a_single_target_module_stays_a_suffix() -> None:
    answer = sample()
    alone = replace(answer, choice=replace(answer.choice, target_modules=("c_attn",)))
    assert alone.to_peft().target_modules == {"c_attn"}


def test_a_hostile_name_ends_no_comment() -> None:
    names: dict[str, object] = {}
    exec(ours.snippet(hostile()), names)
    assert set(names) == {"__builtins__", "LoraConfig", "lora_config"}


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="pip install peft"):
        sample().to_peft()


def test_write_configs_and_texts_agree(tmp_path: Path) -> None:
    answer = sample()
    paths, refused = write_configs(answer, tmp_path)
    shown = texts(answer, tmp_path)
    assert paths["PEFT"].name == "peft_lora_config.json" and paths["Axolotl"].name == "axolotl.yml"
    assert set(paths) == set(shown) - {"PEFT in Python"} and {"PEFT", "TRL", "Axolotl", "Unsloth"} <= set(
        paths
    )
    assert len(paths) + len(refused) == len(NAMES)
    for label, path in paths.items():
        assert path.read_text(encoding="utf-8") == shown[label]


def saved(folder: Path, **options: Any) -> Path:
    """``adapter_config.json`` as PEFT itself writes it."""
    LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="org/base", **options).save_pretrained(folder)
    return folder / "adapter_config.json"


def test_an_adapters_config_is_read_and_edited(tmp_path: Path) -> None:
    path = saved(tmp_path, r=64, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    found, answer = read_config(path), sample()
    assert (found.trainer, found.model, found.data, found.yours) == ("PEFT", "org/base", None, None)
    assert found.target_modules == ("q_proj", "v_proj") and found.recipe.dropout == 0.1
    edited = edit_config(found, answer)
    before, after = json.loads(path.read_text()), json.loads(edited.text)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"r", "lora_alpha", "lora_dropout", "target_modules"} and before.keys() == after.keys()
    assert [key for key, _, _ in edited.changes] == ["r", "lora_alpha", "lora_dropout", "target_modules"]
    assert any("4e-4" in note for note in edited.notes)
    path.write_text(edited.text)
    again = LoraConfig.from_pretrained(tmp_path)
    assert (again.r, again.lora_alpha, set(again.target_modules)) == (
        16,
        32,
        set(answer.choice.target_modules),
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_more_than_plain_lora_is_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        read_config(saved(tmp_path, target_modules=["q_proj"], **options))
