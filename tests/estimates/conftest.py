"""The fixtures of ``cli/commands``; ``report/samples`` can be imported."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("cli", "report"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

from commands import model, model_folder, rows, run  # noqa: E402

__all__ = ["model", "model_folder", "rows", "run"]
