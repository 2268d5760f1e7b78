"""What the tests of several trainers share: places, a config as its trainer's YAML reader sees it, and what an edit changed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rightrank.trainers import yaml_file
from rightrank.trainers.settings import Places

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, TrainerConfig

RUN = Path("/runs/one")


def places(model: str = "meta-llama/Meta-Llama-3-8B", folder: Path = RUN) -> Places:
    return Places(model, folder / "trl_rows", folder / "chat_rows", folder / "lora-adapter")


def exported(trainer: Any, answer: Recommendation, where: Places | None = None) -> dict[str, Any]:
    """The export's main file, read by a plain YAML reader."""
    text = trainer.files(answer, where or places(answer.model.name))[trainer.FILE_NAME]
    values = yaml.safe_load(text)
    assert isinstance(values, dict)
    return values


def notes(trainer: Any, answer: Recommendation) -> str:
    """The comments that the export begins with."""
    text = trainer.files(answer, places(answer.model.name))[trainer.FILE_NAME]
    return "\n".join(line for line in text.splitlines() if line.startswith("#"))


def read(trainer: Any, text: str) -> TrainerConfig:
    config = trainer.read(yaml_file.parse(text, "mine.yaml"), Path("mine.yaml"))
    assert config.trainer == trainer.LABEL
    return config  # type: ignore[no-any-return]


def edited(trainer: Any, text: str, answer: Recommendation) -> EditedConfig:
    document = yaml_file.parse(text, "mine.yaml")
    return trainer.edit(document, trainer.read(document, Path("mine.yaml")), answer)  # type: ignore[no-any-return]


def changed_lines(before: str, after: str) -> list[str]:
    """``- old`` and ``+ new`` lines, without their indentation."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [f"{line[0]} {line[2:].strip()}" for line in lines if line[0] in "+-"]
