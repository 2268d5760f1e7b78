"""Files that mean harm, or were saved by something odd: each limit with a file just within and one beyond."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path  # noqa: TC003

import pytest

from rightrank.data import files, read_rows
from rightrank.data.files import PIECE
from rightrank.data.json_items import JsonItems
from rightrank.errors import DataError, MalformedRowError

MIB = 2**20


def saved(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    return folder / name


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.json"])
def test_a_line_without_end_is_left_unread(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is, no more than the limit is read of it."""
    monkeypatch.setattr(files, "MOST_LINE_BYTES", MIB)
    path = saved(tmp_path, name, b'[{"a": "' + os.urandom(3 * MIB).hex().encode())
    with pytest.raises(
        MalformedRowError, match=r"line 1 is (longer than 1 MiB|not valid JSON .*more than 1 MiB)"
    ):
        read_rows(path)


def test_a_long_line_within_the_limit_is_read(tmp_path: Path) -> None:
    text = "word " * 2_000_000
    path = saved(tmp_path, "a.jsonl", json.dumps({"text": text}).encode())
    assert read_rows(path).rows[0]["text"] == text


def test_long_csv_fields_are_read(tmp_path: Path) -> None:
    """Python's own limit is 128 KiB."""
    path = saved(tmp_path, "a.csv", b"text,b\n" + b"x" * 200_000 + b",1\n")
    assert len(read_rows(path).rows[0]["text"]) == 200_000


@pytest.mark.parametrize("fill", [b"\n", b" ", b'{"a": 1}\n', b"\0"])
def test_gzip_bombs(tmp_path: Path, fill: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "a.jsonl.gz", fill * (3 * MIB // len(fill)))
    monkeypatch.setattr(files, "UNPACKED_UNASKED", MIB)
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read_rows(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_other_encodings_are_named(tmp_path: Path, name: str, encoding: str) -> None:
    path = saved(tmp_path, name, "\ufeff".encode(encoding)[:4] + '{"a": 1}'.encode(encoding))
    with pytest.raises(
        DataError, match=f"is {encoding.upper()[:6]} text.*UTF-8|not UTF-8|not valid JSON|is no CSV"
    ):
        read_rows(path)
    path = saved(tmp_path, name, '{"a": "é"}'.encode("latin-1"))
    with pytest.raises(MalformedRowError, match=r"line 1 is not UTF-8 \(byte 8 of the line\)"):
        read_rows(path)


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("pipe.jsonl", "zero.jsonl"):
        with pytest.raises(DataError, match="is a pipe or a device"):
            read_rows(tmp_path / name)


def test_of_a_key_that_occurs_twice_the_last_counts(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jsonl", b'{"a": 1, "a": 2}\n')
    assert read_rows(path).rows == ({"a": 2},)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", b"text,text\na,b\n")
    with pytest.raises(DataError, match=r"a\.csv has two columns 'text'\. Rename"):
        read_rows(path)


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_rows_that_are_nested_without_end(tmp_path: Path, name: str, depth: int) -> None:
    row = b'{"text": "a", "b": ' + b"[" * depth + b"]" * depth + b"}"
    path = saved(tmp_path, name, row if name == "a.jsonl" else b"[" + row + b"]")
    with pytest.raises(MalformedRowError, match=r"line 1 .*(too deep|more than 100 levels deep)"):
        read_rows(path)


def test_nesting_within_the_limit_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jsonl", b'{"text": "a", "b": ' + b"[" * 98 + b"]" * 98 + b"}")
    assert read_rows(path).rows[0]["text"] == "a"


@pytest.mark.parametrize("size", [1, 3, 7, 50, PIECE])
def test_json_lists_read_piece_by_piece_are_what_json_makes_of_them(size: int) -> None:
    value = [{"a": [1, {"b": "]}, {"}], "é": None}, {}, {"text": '\\" , ] é\n' * 9}] * 7
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False), " [ ]\n"):
        pieces = (text[i : i + size] for i in range(0, len(text), size))
        assert list(JsonItems(pieces, "a.json", 10_000)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('[{"a": 1},\n\n{"a" 2}]', 3, "Expecting ':' delimiter"),
        ('[{"a": 1}\n{"a": 2}]', 2, "Expecting ','"),
        ('[{"a": 1},\n]', 2, "Expecting value"),
        ('[{"a": 1}]\n\n[]', 3, "Extra data"),
        ('[{"a": 1},', 1, "Expecting value"),
        ("[", 1, "Expecting value"),
        ('[{"a": 1}, 5]', 2, "is no mapping from column to value (counted in rows)"),
    ],
)
@pytest.mark.parametrize("size", [1, 1_000])
def test_what_is_wrong_in_a_json_list_is_said_with_its_line(
    text: str, line: int, why: str, size: int
) -> None:
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    with pytest.raises(MalformedRowError, match=re.escape(why)) as caught:
        list(JsonItems(pieces, "a.json", 10_000))
    assert caught.value.line == line


def test_characters_that_two_pieces_share(tmp_path: Path) -> None:
    """A mebibyte ends within one of them, wherever the text starts."""
    row = {"text": "é€💩" * 200_000}
    for start in range(4):
        path = saved(
            tmp_path, "a.json", b" " * start + b"[" + json.dumps(row, ensure_ascii=False).encode() + b"]"
        )
        assert read_rows(path).rows == (row,)


def test_one_json_object_is_read_whole_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "a.json", json.dumps({"data": [{"text": "x" * 50}] * 40}, indent=1).encode())
    assert len(read_rows(path).rows) == 40
    monkeypatch.setattr(files, "MOST_OBJECT_BYTES", 1_000)
    with pytest.raises(
        DataError, match=r"is one JSON object of more than 0 MiB\. Save the rows as JSON lines"
    ):
        read_rows(path)


def test_a_parquet_file_that_says_too_much(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    same = pyarrow.table({"text": pyarrow.array(["a"]).take(pyarrow.array([0] * 3_000_000))})
    parquet.write_table(same, tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"a.parquet says that it holds 3,000,000 rows of .* No text is that dense"
    ):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["../../outside.arrow", "/etc/passwd", "..", "", 5])
def test_folders_of_datasets_that_name_files_outside(tmp_path: Path, name: object) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "a"}]).save_to_disk(str(tmp_path / "d"))
    (tmp_path / "outside.arrow").write_bytes(next((tmp_path / "d").glob("*.arrow")).read_bytes())
    state = json.loads((tmp_path / "d" / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="names a file outside itself"):
        read_rows(tmp_path / "d")
    both = tmp_path / "both"
    datasets.DatasetDict({"train": datasets.Dataset.from_list([{"text": "a"}])}).save_to_disk(str(both))
    (both / "dataset_dict.json").write_text(json.dumps({"splits": ["../d"]}))
    with pytest.raises(DataError, match="names a file outside itself"):
        read_rows(both)


@pytest.mark.parametrize("at", [1, 24])
def test_an_arrow_file_with_offsets_beyond_its_end(tmp_path: Path, at: int) -> None:
    """The library that reads it trusts them, and the process would end without a word. Offset ``at`` of 24 strings."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "word" * i} for i in range(24)]).save_to_disk(str(tmp_path / "d"))
    [path] = (tmp_path / "d").glob("*.arrow")
    content = bytearray(path.read_bytes())
    offsets = b"".join((4 * i * (i - 1) // 2).to_bytes(4, "little") for i in range(25))
    place = content.index(offsets) + 4 * at
    content[place : place + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be loaded by `datasets`"):
        read_rows(tmp_path / "d")
