"""Reading through `datasets`, `pyarrow` and pandas; each is imported only when its kind of source comes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned, listed, quoted
from rightrank.errors import DataError, OutOfScopeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MEDIA = frozenset({"Image", "Audio", "Video", "Pdf"})


def _needs(library: str, what: str) -> DataError:
    return DataError(f"{what} needs the library `{library}`.", "Run `pip install 'rightrank[data]'`.")


def read_parquet(path: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a Parquet file. DataError where it is damaged or pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _needs("pyarrow", "A Parquet file") from error
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{name} is no Parquet file that can be read.", "Download or save it again."
        ) from error
    return rows


def read_disk_folder(path: Path, split: str | None, prefer: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise _needs("datasets", "A folder saved by `datasets`") from error
    try:
        loaded = datasets.load_from_disk(str(path))
    except (
        Exception
    ) as error:  # whatever `datasets` and Arrow raise on a damaged folder, which they do not document
        problem = f"The folder {quoted(path.name)} cannot be loaded by `datasets`."
        raise DataError(problem, "Save it again with `save_to_disk`.") from error
    return _dataset_rows(_one_split(loaded, split, prefer))


def read_hub(
    name: str, config: str | None, split: str | None, revision: str | None, prefer: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Rows of a hub data set. The only function of the package's data part that may use the network.

    Data sets that need code of their own are not loaded: ``trust_remote_code`` is never passed.
    """
    try:
        import datasets
    except ImportError as error:
        raise _needs("datasets", "A data set from the hub") from error
    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # network, hub, script and split errors come in many classes
        problem = f"The data set {quoted(name)} cannot be loaded ({cleaned(str(error), 200)})."
        mend = "Check the name, the config, the split and the network, or give a local file."
        raise DataError(problem, mend) from error
    return _dataset_rows(_one_split(loaded, split, prefer))


def column_rows(
    source: object, split: str | None, prefer: tuple[str, ...]
) -> Iterable[Mapping[str, Any]] | None:
    """Rows of a loaded Dataset, DatasetDict or pandas DataFrame; None for anything else."""
    library = type(source).__module__.partition(".")[0]
    if library == "datasets":
        return _dataset_rows(_one_split(source, split, prefer))
    if library == "pandas" and hasattr(source, "to_dict"):
        frame: Any = source
        columns = [str(column) for column in frame.columns]
        cells = zip(*(frame[column].tolist() for column in frame.columns), strict=True)
        return [{c: _plain(v) for c, v in zip(columns, row, strict=True)} for row in cells]
    return None


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


def _dataset_rows(dataset: Any) -> list[dict[str, Any]]:
    """Rows of a ``datasets.Dataset`` as Python values, whatever format it is set to."""
    features = getattr(dataset, "features", None) or {}
    media = [name for name, feature in features.items() if type(feature).__name__ in MEDIA]
    if media:
        problem = f"The columns {listed(media)} hold images, sound or video; rightrank measures text only."
        raise OutOfScopeError(problem, "Give a data set of text.")
    plain = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
    return [dict(row) for row in plain]
