"""Reading through `datasets`, `pyarrow` and pandas; each is imported only when its kind of source comes."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rightrank.data.files import MOST_RATIO, UNPACKED_UNASKED
from rightrank.data.sampling import MIB
from rightrank.data.wording import cleaned, listed, quoted
from rightrank.errors import DataError, OutOfScopeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MEDIA = frozenset({"Image", "Audio", "Video", "Pdf"})
BATCH_ROWS = 1_000
MOST_ROWS_A_BYTE = 64
"""Rows that a byte of a Parquet file can hold at most: more are only there where all are alike. Assumed."""
MOST_SETTINGS_BYTES = MIB


def _needs(library: str, what: str) -> DataError:
    return DataError(f"{what} needs the library `{library}`.", "Run `pip install 'rightrank[data]'`.")


def read_parquet(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, a batch at a time. DataError where it is damaged or pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _needs("pyarrow", "A Parquet file") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _refuse_bomb(path, name, file.metadata)
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                batch.validate(full=True)
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        problem = f"{name} is no Parquet file that can be read."
        raise DataError(problem, "Download or save it again.") from error


def _refuse_bomb(path: Path, name: str, metadata: Any) -> None:
    """Raise DataError where the file says that it holds far more than its size allows."""
    size = path.stat().st_size
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if metadata.num_rows > MOST_ROWS_A_BYTE * size or unpacked > max(UNPACKED_UNASKED, MOST_RATIO * size):
        problem = f"{name} says that it holds {metadata.num_rows:,} rows of {unpacked:,} bytes, in a file of {size:,}."
        raise DataError(problem, "No text is that dense: save it again.")


def read_disk_folder(path: Path, split: str | None, prefer: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise _needs("datasets", "A folder saved by `datasets`") from error
    try:
        for file in _files_inside(path):
            _validate(file)
        loaded = datasets.load_from_disk(str(path))
        chosen = _one_split(loaded, split, prefer)
        yield from _dataset_rows(chosen)
    except DataError:
        raise
    except (
        Exception
    ) as error:  # whatever `datasets` and Arrow raise on a damaged folder, which they do not document
        problem = f"The folder {quoted(path.name)} cannot be loaded by `datasets`."
        raise DataError(problem, "Save it again with `save_to_disk`.") from error


def _validate(path: Path) -> None:
    """Raise ArrowInvalid for an Arrow file with offsets beyond its end: reading it would end the process (measured)."""
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as file:
        for batch in pyarrow.ipc.open_stream(file):
            batch.validate(full=True)


def _files_inside(folder: Path) -> list[Path]:
    """The Arrow files that a folder of `datasets` names. Raises DataError where one is outside it."""
    found = []
    splits = folder / "dataset_dict.json"
    names = _small_json(splits).get("splits", []) if splits.exists() else []
    folders = [folder / _inside(name, folder) for name in names] if isinstance(names, list) else []
    for one in [*folders, folder]:
        state = _small_json(one / "state.json") if (one / "state.json").exists() else {}
        for key in ("_data_files", "_indices_files"):
            files = state.get(key)
            for file in files if isinstance(files, list) else []:
                found.append(one / _inside(file.get("filename") if isinstance(file, dict) else None, folder))
    return found


def _inside(name: object, folder: Path) -> str:
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0"):
        problem = f"The folder {quoted(folder.name)} names a file outside itself ({quoted(name)})."
        raise DataError(problem, "Save it again with `save_to_disk`.")
    return name


def _small_json(path: Path) -> dict[str, Any]:
    """A file of settings. ValueError where it is none, or too large for one."""
    with path.open("rb") as file:
        content = file.read(MOST_SETTINGS_BYTES + 1)
    if len(content) > MOST_SETTINGS_BYTES:
        raise ValueError("too large")
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def read_hub(
    name: str, config: str | None, split: str | None, revision: str | None, prefer: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Rows of a hub data set. The only function of the package's data part that may use the network.

    Data sets that need code of their own are not loaded: ``trust_remote_code`` is never passed.
    """
    try:
        import datasets
    except ImportError as error:
        raise _needs("datasets", "A data set from the hub") from error
    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
        chosen = _one_split(loaded, split, prefer)
        yield from _dataset_rows(chosen)
    except DataError:
        raise
    except Exception as error:  # network, hub, script and split errors come in many classes
        problem = f"The data set {quoted(name)} cannot be loaded ({cleaned(str(error), 160)})."
        mend = "Check the name, the config, the split and the network, or give a local file."
        raise DataError(problem, mend) from error


def column_rows(
    source: object, split: str | None, prefer: tuple[str, ...]
) -> Iterable[Mapping[str, Any]] | None:
    """Rows of a loaded Dataset, DatasetDict or pandas DataFrame; None for anything else."""
    library = type(source).__module__.partition(".")[0]
    if library == "datasets":
        return _dataset_rows(_one_split(source, split, prefer))
    if library == "pandas" and hasattr(source, "to_dict"):
        return _frame_rows(source)
    return None


def _frame_rows(frame: Any) -> Iterator[dict[str, Any]]:
    columns = [str(column) for column in frame.columns]
    twin = next((column for i, column in enumerate(columns) if column in columns[:i]), None)
    if twin is not None:
        raise DataError(f"The DataFrame has two columns {quoted(twin)}.", "Rename or delete one of them.")
    for row in frame.itertuples(index=False, name=None):
        yield {c: _plain(v) for c, v in zip(columns, row, strict=True)}


def _plain(value: Any) -> Any:
    """A pandas cell as a Python value: a missing one as None, an array (a list from Parquet) as a list."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    missing = type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and math.isnan(value)
    )
    return None if missing else value


def _one_split(loaded: Any, split: str | None, prefer: tuple[str, ...]) -> Any:
    """``loaded`` itself, or the split of it that is asked for, preferred, or alone."""
    if not isinstance(loaded, dict):
        return loaded
    names = [str(name) for name in loaded]
    wanted = [split] if split is not None else [*prefer, *(names if len(names) == 1 else [])]
    for name in wanted:
        if name in loaded:
            return loaded[name]
    raise DataError(
        f"The data set has the splits {listed(names)}, none that was asked for.",
        "Name one with --data-split.",
    )


def _dataset_rows(dataset: Any) -> Iterator[Any]:
    """Rows of a ``datasets.Dataset`` as Python values, a batch at a time, whatever format it is set to."""
    features = getattr(dataset, "features", None) or {}
    media = [name for name, feature in features.items() if type(feature).__name__ in MEDIA]
    if media:
        problem = f"The columns {listed(media)} hold images, sound or video; rightrank measures text only."
        raise OutOfScopeError(problem, "Give a data set of text.")
    plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    if not hasattr(plain, "iter"):
        yield from plain
        return
    for batch in plain.iter(batch_size=BATCH_ROWS):
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(batch, cells, strict=True))
