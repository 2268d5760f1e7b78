"""A recommendation written into a config file that exists: only the lines that must change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rightrank.trainers import yaml_file
from rightrank.trainers.config import EditedConfig
from rightrank.trainers.settings import what_changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import TrainerConfig
    from rightrank.trainers.yaml_file import Document


def edit_lines(
    document: Document,
    config: TrainerConfig,
    recommendation: Recommendation,
    lines: Mapping[str, Mapping[Any, Any]],
) -> EditedConfig:
    """``document`` with those of ``lines`` that ``what_changes`` names.

    ``lines``: for ``rank``, ``alpha``, ``learning_rate``, ``target_modules`` and each field of ``Recipe``, the places in the file and
    their values (None: the key goes). A field that must change and has no lines becomes a note: that trainer cannot express it.
    """
    wanted = what_changes(config, recommendation)
    changes = {place: value for name in wanted for place, value in lines.get(name, {}).items()}
    text, made = yaml_file.edited(document, changes)
    notes = tuple(
        f"{config.trainer} has no setting for {_WORDS.get(name, name.replace('_', ' '))}: measured was"
        f" {getattr(recommendation.recipe, name)}."
        for name in wanted
        if name not in lines
    )
    return EditedConfig(text, made, notes)


_WORDS = {
    "over_long": "rows that are too long",
    "loss_on": "which tokens are trained",
    "adam_betas": "Adam's betas",
    "max_grad_norm": "gradient clipping",
    "warmup_ratio": "the warm-up",
}
