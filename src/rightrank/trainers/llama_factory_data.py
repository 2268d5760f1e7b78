"""LLaMA-Factory's ``dataset_info.json``, by which its configs name data sets: one entry written, others looked up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.trainers.keys import Keys
    from rightrank.trainers.settings import Places, RowsKind

FILE_NAME = "dataset_info.json"
DATASET_NAME = "rightrank_rows"

_LARGEST_BYTES = 4 * 1024 * 1024
"""LLaMA-Factory's own has 25 kB. Assumed."""


@dataclass(frozen=True)
class DataSets:
    """What a config trains on and evaluates on, as far as can be told from the files around it."""

    path: str | None = None
    """File or hub id."""
    subset: str | None = None
    split: str | None = None
    held_out: str | None = None
    notes: tuple[str, ...] = ()


def written_info(rows: RowsKind, places: Places) -> str:
    """The file with the one entry for the rows that lie in ``places.chat_rows``, which is a folder beside it."""
    entry: dict[str, Any] = {"file_name": f"{places.chat_rows.name}/train.jsonl"}
    if rows == "text":
        entry["columns"] = {"prompt": "text"}
    elif rows == "strings":
        entry["columns"] = {"prompt": "prompt", "response": "completion"}
    else:
        tags = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")
        names = ("role", "content", "user", "assistant", "system")
        entry |= {
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": dict(zip(tags, names, strict=True)),
        }
    return json.dumps({DATASET_NAME: entry}, indent=2) + "\n"


def named_data(keys: Keys) -> DataSets:
    """Where the data lies that ``dataset`` names. Raises ConfigurationError for several data sets, and for preference pairs."""
    names, folder = keys.names("dataset") or (), keys.text("dataset_dir") or "data"
    held = keys.names("eval_dataset") or ()
    if not names:
        return DataSets()
    if len(names) > 1:
        raise ConfigurationError(
            f"{keys.name} mixes {len(names)} data sets; one can be measured at a time.",
            "Join them into one file, or name one of them.",
        )
    if folder == "ONLINE":
        return DataSets(names[0], held_out=held[0] if len(held) == 1 else None)
    known = known_data_sets(Path(folder))
    if known is None:
        return DataSets(
            notes=(
                f"{cleaned(folder)}/{FILE_NAME}, which says what {cleaned(names[0])} is, cannot be read from here:"
                " name the data set as well.",
            )
        )
    train = _entry(known, names[0], folder)
    if train is None:
        return DataSets(
            notes=(
                f"{FILE_NAME} tells no file and no hub id of {cleaned(names[0])}: name the data set as well.",
            )
        )
    other = _entry(known, held[0], folder) if len(held) == 1 else None
    return DataSets(*train, held_out=other[0] if other else None)


def known_data_sets(folder: Path) -> dict[str, Any] | None:
    """What ``dataset_info.json`` in ``folder`` says; None where there is none that can be read."""
    try:
        path = folder.expanduser() / FILE_NAME
        if not path.is_file():  # a pipe may never end
            return None
        with path.open("rb") as stream:
            known = json.loads(stream.read(_LARGEST_BYTES))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~somebody unknown, or nested too deep
        return None
    return known if isinstance(known, dict) else None


def _entry(known: Mapping[str, Any], name: str, folder: str) -> tuple[str, str | None, str | None] | None:
    """(path or hub id, its configuration, its split) of a data set."""
    entry = known.get(name)
    if not isinstance(entry, dict):
        return None
    if entry.get("ranking"):
        raise ConfigurationError(
            f"The data set {cleaned(name)} holds preference pairs.", "Name data for supervised tuning."
        )
    if isinstance(entry.get("hf_hub_url"), str):
        subset, split = entry.get("subset"), entry.get("split")
        return entry["hf_hub_url"], subset and str(subset), split and str(split)
    if isinstance(entry.get("file_name"), str):
        return str(Path(folder) / entry["file_name"]), None, None
    return None
