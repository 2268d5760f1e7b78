"""What a trainer's config says its rows are, where it says so: a trainer believes it, rightrank looks at the rows.

The formats are named as ``data.formats`` names them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.recipe import RowFormat
from rightrank.trainers.llama_factory_data import known_data_sets

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIALOGUES = ("messages", "ShareGPT")
# Published: Axolotl's documentation of dataset formats (0.19). What is not here says nothing of columns, or names them itself.
_AXOLOTL = {"alpaca": ("Alpaca",), "chat_template": _DIALOGUES, "completion": ("text",)}
# Published: torchtune.datasets (0.6.1).
_TORCHTUNE = {
    "alpaca_dataset": ("Alpaca",),
    "alpaca_cleaned_dataset": ("Alpaca",),
    "chat_dataset": _DIALOGUES,
    "text_completion_dataset": ("text",),
    "instruct_dataset": ("input/output",),
}


def stated(trainer: str, values: Mapping[str, Any]) -> RowFormat | None:
    """What the config ``values`` of ``trainer`` says; None where it leaves the format open, or names the columns itself."""
    found = {"Axolotl": _axolotl, "torchtune": _torchtune, "LLaMA-Factory": _llama_factory}.get(trainer)
    return None if found is None else found(values)


def _axolotl(values: Mapping[str, Any]) -> RowFormat | None:
    rows = values.get("datasets")
    one = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    kind = one.get("type")
    if not isinstance(kind, str) or any(str(key).startswith("field") for key in one):
        return None
    formats = _AXOLOTL.get(kind.split(".")[0].split(":")[0])
    return None if formats is None else RowFormat(f"type: {kind}", formats)


def _torchtune(values: Mapping[str, Any]) -> RowFormat | None:
    rows = values.get("dataset")
    if not isinstance(rows, dict) or any(
        rows.get(key) for key in ("column_map", "column", "conversation_column")
    ):
        return None
    name = str(rows.get("_component_", "")).rsplit(".", 1)[-1]
    return RowFormat(name, _TORCHTUNE[name]) if name in _TORCHTUNE else None


def _llama_factory(values: Mapping[str, Any]) -> RowFormat | None:
    name = values.get("dataset")
    known = known_data_sets(Path(str(values.get("dataset_dir") or "data"))) or {}
    entry = known.get(name) if isinstance(name, str) else None
    if not isinstance(entry, dict) or entry.get("columns"):
        return None
    kind = str(entry.get("formatting", "alpaca"))
    formats = {"alpaca": ("Alpaca",), "sharegpt": _DIALOGUES}.get(kind)
    return None if formats is None else RowFormat(f"formatting: {kind}", formats)
