"""PEFT takes the file as it is, and the three ways to the same LoraConfig agree."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from report.samples import STATUSES, hostile, sample
from rightrank.errors import UserError
from rightrank.trainers import peft as ours
from rightrank.trainers import texts, write_configs

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Status

LoraConfig = pytest.importorskip("peft").LoraConfig


@pytest.mark.parametrize("status", STATUSES)
def test_peft_takes_the_file_and_holds_the_choice(status: Status, tmp_path: Path) -> None:
    answer = sample(status)
    path = ours.write(answer, tmp_path / "out")
    config = LoraConfig(**json.loads(path.read_text(encoding="utf-8")))
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
    paths = write_configs(answer, tmp_path, tmp_path / "data")
    shown = texts(answer, tmp_path / "data")
    assert {label: path.name for label, path in paths.items()} == {
        "PEFT": "peft_lora_config.json",
        "TRL": "trl_sft.sh",
    }
    for label, path in paths.items():
        assert path.read_text(encoding="utf-8") == shown[label]
