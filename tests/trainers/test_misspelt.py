"""No key that a trainer has is taken for a misspelling of another; what is misspelt is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from rightrank.errors import UserError
from rightrank.trainers import read_config

if TYPE_CHECKING:
    from pathlib import Path

TRL = "model_name_or_path: m\ndataset_name: d\nuse_peft: true\n"


def unread(folder: Path, text: str) -> tuple[str, ...]:
    """Of ``text`` as TRL's; nothing where a value is refused."""
    path = folder / "c.yaml"
    path.write_text(text)
    try:
        return read_config(path).unread
    except UserError:
        return ()


def test_every_key_of_trl_is_its_own(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    names = {f.name for one in (trl.SFTConfig, trl.ScriptArguments, trl.ModelConfig) for f in fields(one)}
    found = [key for name in sorted(names) for key in unread(tmp_path, f"{TRL}{name}: 1\n")]
    assert len(found) > 100
    assert [key for key in found if "did you mean" in key] == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lora_rank", "lora_r"),
        ("learning_rat", "learning_rate"),
        ("num_epochs", "num_train_epochs"),
        ("lora_droput", "lora_dropout"),
        ("max_len", "max_length"),
    ],
)
def test_what_is_misspelt(written: str, meant: str, tmp_path: Path) -> None:
    assert unread(tmp_path, f"{TRL}{written}: 1\n") == (f"{written} (did you mean {meant}?)",)
