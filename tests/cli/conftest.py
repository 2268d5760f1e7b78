"""The fixtures of ``commands``."""

from __future__ import annotations

from commands import model, model_folder, rows, run

__all__ = ["model", "model_folder", "rows", "run"]
