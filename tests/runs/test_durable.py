"""Files that are there whole or not at all, and tell when they are not what was written."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.errors import ResourceError
from rightrank.runs import durable
from rightrank.runs.durable import (
    DamagedError,
    array_bytes,
    arrays_and_facts,
    read_json,
    write_json,
    write_whole,
)

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(content=st.dictionaries(st.text().filter(lambda key: key != durable.CHECKSUM), VALUES))
def test_what_is_sealed_is_unsealed_as_it_was(content: dict[str, object]) -> None:
    text = json.dumps(durable.sealed(content))
    assert durable.unsealed(json.loads(text)) == content


def test_every_other_character_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1.5, "name": "ä", "list": [1, None]})
    whole = path.read_bytes()
    noticed = 0
    for place, byte in enumerate(whole):
        path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
        try:
            assert read_json(path) == {"loss": 1.5, "name": "ä", "list": [1, None]}, (
                "only the layout may change"
            )
        except DamagedError:
            noticed += 1
    layout = sum(whole.count(space) for space in (b" ", b"\n"))
    assert noticed >= len(whole) - layout
    for half in range(len(whole)):
        path.write_bytes(whole[:half])
        with pytest.raises(DamagedError):
            read_json(path)


def test_a_file_and_its_folder_are_synchronised_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synchronised(descriptor: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synchronised)
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, to: seen.append("rename") or replace(self, to)
    )
    write_whole(tmp_path / "a", b"content")
    assert seen == ["file", "rename", "folder"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize(("error", "fails"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EINVAL, False)])
def test_a_folder_that_cannot_be_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, fails: bool
) -> None:
    """Some file systems cannot; one that is full or broken is another matter."""
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    if fails:
        with pytest.raises(ResourceError, match="cannot be written"):
            write_whole(tmp_path / "a", b"content")
    else:
        write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_what_was_there_stays_where_the_new_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        write_whole(tmp_path / "a", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_arrays_come_back_bit_for_bit_or_not_at_all() -> None:
    array = np.array([[np.nan, np.inf, -0.0, 1 / 3]])
    raw = array_bytes({"loss": array}, {"run": {"model": "m"}})
    arrays, facts = arrays_and_facts(raw)
    assert arrays["loss"].tobytes() == array.tobytes() and facts == {"run": {"model": "m"}}
    for place in range(0, len(raw), 3):
        with pytest.raises(DamagedError):
            arrays_and_facts(raw[:place] + bytes([raw[place] ^ 128]) + raw[place + 1 :])
        with pytest.raises(DamagedError):
            arrays_and_facts(raw[:place])
