"""Every kind of source, and every way in which one can fail."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from pathlib import Path  # noqa: TC003
from typing import Any

import pytest

from rightrank.data import read_rows
from rightrank.errors import DataError, MalformedRowError, OutOfScopeError

ROWS = [{"prompt": f"p{i}", "completion": f"c{i} é\u2028"} for i in range(3)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(["prompt,completion", *(f'{r["prompt"]},"{r["completion"]}"' for r in rows)]).encode()


WRITERS = {
    ".jsonl": jsonl(ROWS),
    ".json": json.dumps(ROWS).encode(),
    ".csv": csv_bytes(ROWS),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_text_files(tmp_path: Path, suffix: str, packed: bool) -> None:
    content = WRITERS[suffix]
    path = tmp_path / f"data{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = read_rows(path)
    assert list(rows.rows) == ROWS
    assert rows.lines == (1, 2, 3) and rows.name == path.name
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + content) if packed else b"\xef\xbb\xbf" + content)
    assert list(read_rows(str(path)).rows) == ROWS


def test_splits_are_asked_for_only_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl(ROWS))
    for source in (tmp_path / "data.jsonl", tmp_path, ROWS):
        with pytest.raises(DataError, match="has no splits, so none is called 'test'"):
            read_rows(source, split="test")


def test_json_variants(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    for content in (json.dumps({"data": ROWS}), json.dumps({"train": ROWS}, indent=1), jsonl(ROWS).decode()):
        path.write_text(content, encoding="utf-8")
        assert list(read_rows(path).rows) == ROWS


def test_csv_with_line_breaks_in_fields(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'prompt,completion\r\n"two\nlines",x\r\n"a ""b""",y\r\n')
    assert [row["prompt"] for row in read_rows(path).rows] == ["two\nlines", 'a "b"']


def test_parquet_and_saved_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(tmp_path / "data.parquet")
    assert list(read_rows(tmp_path / "data.parquet").rows) == ROWS
    data.save_to_disk(str(tmp_path / "saved"))
    assert list(read_rows(tmp_path / "saved").rows) == ROWS
    both = datasets.DatasetDict({"train": data, "test": data.select([2])})
    both.save_to_disk(str(tmp_path / "both"))
    assert list(read_rows(tmp_path / "both").rows) == ROWS
    assert list(read_rows(tmp_path / "both", split="test").rows) == ROWS[2:]
    assert list(read_rows(both, prefer=("validation", "test")).rows) == ROWS[2:]
    with pytest.raises(DataError, match=r"splits 'train', 'test', none that was asked for.*--data-split"):
        read_rows(tmp_path / "both", split="dev")
    (tmp_path / "saved" / "dataset_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded by `datasets`"):
        read_rows(tmp_path / "saved")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(DataError, match=r"bad\.parquet is no Parquet file"):
        read_rows(tmp_path / "bad.parquet")


def test_loaded_objects() -> None:
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    data = datasets.Dataset.from_list(ROWS)
    frame = pandas.DataFrame([*ROWS, {"prompt": "p", "completion": None}])
    assert list(read_rows(ROWS).rows) == ROWS
    assert list(read_rows(dict(row) for row in ROWS).rows) == ROWS
    assert list(read_rows(data).rows) == ROWS
    assert list(read_rows(data.with_format("numpy")).rows) == ROWS
    assert list(read_rows(frame).rows) == [*ROWS, {"prompt": "p", "completion": None}]
    messages = pandas.DataFrame({"messages": [[{"role": "user", "content": "x"}]], "n": [float("nan")]})
    assert list(read_rows(messages).rows) == [{"messages": [{"role": "user", "content": "x"}], "n": None}]


def test_images_are_refused_before_they_are_decoded() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"picture": [None], "text": ["x"]}, features=features)
    with pytest.raises(OutOfScopeError, match="'picture' hold images"):
        read_rows(data)


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b'{"a": 1}\n\n{"a": }\n', 3, "not valid JSON"),
        (b'\n\n{"a": 1}\n[1]', 4, "is a list, not a JSON object"),
        (b'{"a": 1}\nnull\n', 2, "is null"),
        (b'{"a":\r1}\n{"a": }', 2, "not valid JSON"),
        (b'{"a": "\xff"}', 1, r"not UTF-8 \(byte 8"),
        (b'{"a": 1}\r\n{"a": "\xe9"}\r\n', 2, "not UTF-8"),
        (b"[" * 100_000, 1, "cannot|can be read|not valid JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", 1, "too long a number"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, content: bytes, line: int, why: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(MalformedRowError, match=why) as caught:
        read_rows(path)
    assert caught.value.line == line and caught.value.source == "data.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("data.json", b'[{"a": 1},\n{"a": 2\n]', r"data\.json, line 3 is not valid JSON"),
        ("data.json", b'"text"', "holds a string"),
        ("data.json", b"[1]", "line 1 is no mapping"),
        ("data.json", b"[]", "holds no rows"),
        ("data.csv", b"a,b\n1,2\n1,2,3\n", "line 2 has more fields than the header"),
        ("data.csv", b"a,b\n1\n", "line 1 has fewer fields"),
        ("data.csv", b'a,b\n"x\n', "is no CSV"),
        ("data.csv", b"a,b\n", "holds no rows"),
        ("data.jsonl", b"", "is empty"),
        ("data.jsonl", b"\n \n", "is empty"),
        ("data.jsonl.gz", b"not gzip", "no complete gzip"),
        ("data.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:-9], "no complete gzip"),
        ("data.txt", b"x", "suffix"),
        ("data.parquet.gz", b"x", "suffix"),
        ("data", b"x", "suffix"),
        ("data.pkl", pickle.dumps([{"a": 1}]), "may run code"),
        ("data.pt", b"x", "may run code"),
        ("data.bin", b"x", "may run code"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=why):
        read_rows(path)


def test_missing_files_suggest_their_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(DataError, match=r"no file or folder.*In its folder there is 'train\.jsonl'"):
        read_rows(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="or a hub name as owner/name"):
        read_rows(tmp_path / "zzz.parquet")
    monkeypatch.chdir(tmp_path)
    for name in ("data/train.jsonl", "squad", "x" * 5_000, "a\0b", ""):
        with pytest.raises(DataError):
            read_rows(name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="no file or folder 'folder/data'"):
        read_rows("folder/data")


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="holds no data file"):
        read_rows(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    assert list(read_rows(tmp_path).rows) == ROWS
    (tmp_path / "b.csv").write_bytes(b"a\n")
    with pytest.raises(DataError, match=r"2 data files \('a\.jsonl', 'b\.csv'\)"):
        read_rows(tmp_path)


@pytest.mark.parametrize("source", [{"prompt": ["a"]}, 5, b"x", None, [1], [{"a": 1}, "x"], []])
def test_objects_that_are_no_rows(source: object) -> None:
    with pytest.raises(DataError):
        read_rows(source)


def test_hub_names_are_loaded_without_remote_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    calls: list[Any] = []

    def load(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read_rows("owner/name", config="main", revision="abc")
    assert list(rows.rows) == ROWS and rows.name == "owner/name"
    assert calls == [(("owner/name", "main"), {"split": None, "revision": "abc"})]

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no \x1b[31m<b>network</b>")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="'owner/name' cannot be loaded") as caught:
        read_rows("owner/name")
    assert not set("\x1b<>") & set(str(caught.value))


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.parquet").write_bytes(b"x")
    (tmp_path / "dataset_info.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "data.parquet", tmp_path, "owner/name"):
        with pytest.raises(DataError, match=r"pip install 'rightrank\[data\]'"):
            read_rows(source)


def test_nothing_heavy_is_imported() -> None:
    import subprocess

    code = (
        "import sys, rightrank.data;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
