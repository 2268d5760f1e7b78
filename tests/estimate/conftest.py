"""The fixtures of ``cli/commands``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from commands import model, model_folder, rows, run

__all__ = ["model", "model_folder", "rows", "run"]
