"""``bench`` is no part of the package: its tests import it from the folder that holds it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
