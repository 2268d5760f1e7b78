"""The recommendation as trainers take it, a module a trainer; and a trainer's own config, read and given the recommendation.

``write_configs`` writes a config for each trainer, ``read_config`` says what to measure for a config that a person has, ``edit_config``
gives it the answer.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError, UserError
from rightrank.trainers import yaml_file
from rightrank.trainers.keys import DID_YOU_MEAN
from rightrank.trainers.row_formats import stated
from rightrank.trainers.settings import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, TrainerConfig

__all__ = ["edit_config", "file_names", "read_config", "texts", "write_configs"]

# In the order in which they are shown. Those with a file format are asked in this order whether a config is theirs.
NAMES = ("peft", "trl", "axolotl", "unsloth", "llama_factory", "mlx_lm", "ms_swift", "torchtune")


def write_configs(
    recommendation: Recommendation, directory: str | Path, *, kept: str = ""
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Write every trainer's config into the run directory ``directory``. A file of the name ``kept`` that is there stays as it is.

    Returns label -> path, and a sentence for each trainer that cannot train what is recommended, or only once something is done first.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    refused: list[str] = []
    cautions: list[str] = []
    for trainer in _trainers():
        try:
            files = trainer.files(recommendation, places(recommendation, folder))
        except UserError as error:
            refused.append(f"No config for {trainer.LABEL}: {error.problem}")
            continue
        for name, text in files.items():
            if name == kept and (folder / name).is_file():
                continue
            # Paths that are no UTF-8 keep their bytes: Python holds them as surrogates.
            (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        paths[trainer.LABEL] = folder / trainer.FILE_NAME
        if hasattr(trainer, "caution") and (said := trainer.caution(recommendation)):
            cautions.append(f"{trainer.FILE_NAME}: {said}")
    return paths, (*cautions, *refused)


def texts(recommendation: Recommendation, directory: str | Path) -> dict[str, str]:
    """Every trainer's config as text; returns label -> text."""
    shown: dict[str, str] = {}
    for trainer in _trainers():
        try:
            shown[trainer.LABEL] = trainer.files(recommendation, places(recommendation, directory))[
                trainer.FILE_NAME
            ]
        except UserError:
            continue
        if hasattr(trainer, "snippet"):
            shown[f"{trainer.LABEL} in Python"] = trainer.snippet(recommendation)
    return shown


def file_names(recommendation: Recommendation | None, directory: str | Path) -> frozenset[str]:
    """Every name that ``write_configs`` gives a file in ``directory``; without an answer those of the configs alone."""
    names = {trainer.FILE_NAME for trainer in _trainers()}
    if recommendation is not None:
        for trainer in _trainers():
            with suppress(UserError):
                names |= set(trainer.files(recommendation, places(recommendation, directory)))
    return frozenset(names)


def read_config(path: str | Path) -> TrainerConfig:
    """What the config at ``path`` trains, whichever trainer it is for; its keys tell. Runs nothing.

    Raises ResourceError or ConfigurationError where it cannot be read, is no trainer's, or asks for what cannot be measured.
    """
    document = yaml_file.read(path)
    found: TrainerConfig = _owner(document.values, document.name).read(document, Path(path).expanduser())
    for words, value in zip(("rank", "alpha", "learning rate"), found.yours or (), strict=False):
        if value <= 0:
            raise ConfigurationError(
                f"{document.name}: the {words} is {value:g}, which is not above zero.", "Mend that line."
            )
    misspelt = tuple(
        f"Misspelt? {document.name} has {key}. As it stands it is not read, and the trainer's default counts."
        for key in found.unread
        if DID_YOU_MEAN in key
    )
    return replace(found, row_format=stated(found.trainer, document.values), notes=(*misspelt, *found.notes))


def edit_config(config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The file of ``config`` with the recommendation written into it. Reads it again; writes nothing.

    Raises ConfigurationError where a line cannot be changed, or the file is another one by now.
    """
    document = yaml_file.read(config.path)
    trainer = _owner(document.values, document.name)
    if config.trainer != trainer.LABEL:
        raise ConfigurationError(
            f"{document.name} is another config by now.", "Run `rightrank recommend` again."
        )
    edited: EditedConfig = trainer.edit(document, config, recommendation)
    return edited


def _trainers() -> list[Any]:
    return [import_module(f"rightrank.trainers.{name}") for name in NAMES]


def _owner(values: Mapping[str, Any], name: str) -> Any:
    readers = [trainer for trainer in _trainers() if hasattr(trainer, "recognises")]
    for trainer in readers:
        if trainer.recognises(values):
            return trainer
    known = ", ".join(trainer.LABEL for trainer in readers)
    raise ConfigurationError(
        f"{name} is the config of no trainer that is known here.", f"Known are those of {known}."
    )
