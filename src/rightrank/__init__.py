"""Which LoRA rank? Measured on your model and your data, at a price stated beforehand.

``rightrank.recommend(model, dataset)`` returns a ``Recommendation``. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rightrank.errors import UserError
from rightrank.recipe import Recipe

if TYPE_CHECKING:
    from rightrank.cuts.cutting import cut
    from rightrank.estimates.checking import check
    from rightrank.estimates.estimating import estimate
    from rightrank.from_config import recommend
    from rightrank.recommendation import Recommendation

__version__ = "0.1.0"
__all__ = ["Recipe", "Recommendation", "UserError", "check", "cut", "estimate", "recommend"]

_LAZY = {
    "recommend": "rightrank.from_config",
    "estimate": "rightrank.estimates.estimating",
    "check": "rightrank.estimates.checking",
    "cut": "rightrank.cuts.cutting",
    "Recommendation": "rightrank.recommendation",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rightrank' has no attribute {name!r}")
