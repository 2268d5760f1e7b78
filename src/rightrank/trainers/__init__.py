"""The recommendation as trainers take it, a module a trainer. ``write_configs`` writes them all, ``texts`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rightrank.trainers import peft, trl

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation

__all__ = ["texts", "write_configs"]


def write_configs(
    recommendation: Recommendation, directory: str | Path, data_path: str | Path
) -> dict[str, Path]:
    """Write every trainer's config into ``directory``; returns label -> path.

    ``data_path`` is the data set converted for TRL, see ``trainers.trl``.
    """
    return {
        "PEFT": peft.write(recommendation, directory),
        "TRL": trl.write(recommendation, directory, data_path),
    }


def texts(recommendation: Recommendation, data_path: str | Path) -> dict[str, str]:
    """Every trainer's config as text; returns label -> text."""
    return {
        "PEFT": peft.text(recommendation),
        "PEFT in Python": peft.snippet(recommendation),
        "TRL": trl.command(recommendation, data_path).text(),
    }
