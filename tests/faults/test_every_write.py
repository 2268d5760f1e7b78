"""A probe killed, or without disk, at any of its file operations: what was measured is kept, and resuming ends the same.

It trains nothing, so that a run takes a fraction of a second; it runs in a child, so that it can be killed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from disturb import BROKEN, FULL, Fault, in_child
from rightrank.probe.loss_table import LossTable
from small_world import SETTINGS, probe

if TYPE_CHECKING:
    from pathlib import Path

Whole = tuple[dict[str, object], int]
"""What an undisturbed run measures, and how many file operations it takes: folders, then opening and renaming each file."""


def outcome_of(directory: Path) -> dict[str, object]:
    table = LossTable(directory, SETTINGS)
    assert table.damaged == []
    packs = zip(table.packs, table.results, strict=True)
    return {repr(pack): (result.loss_KE.tobytes(), result.right_KE.tobytes()) for pack, result in packs}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    end = in_child(partial(probe, folder / "run"), folder / "notes", below=folder / "run", fault=Fault())
    assert end.code == 0 and end.operations > 30, end.said
    return outcome_of(folder / "run"), end.operations


def place(share: float, operations: int) -> int:
    return round(share * (operations - 1))


@pytest.mark.parametrize("share", [0, 0.07, 0.1, 0.5, 0.77, 1])
def test_killed_at_a_file_operation(tmp_path: Path, whole: Whole, share: float) -> None:
    run, fault = tmp_path / "run", Fault(place(share, whole[1]))
    assert in_child(partial(probe, run), tmp_path / "notes", below=run, fault=fault).killed
    kept = {path: path.read_bytes() for path in run.glob("packs/*.safetensors")}
    probe(run)
    assert outcome_of(run) == whole[0]
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert not list(run.rglob("*.part"))


@pytest.mark.parametrize(("error", "lasting"), [(FULL, True), (BROKEN, False)])
@pytest.mark.parametrize("share", [0, 0.15, 0.4, 1])
def test_a_file_operation_that_fails(
    tmp_path: Path, whole: Whole, share: float, error: int, lasting: bool
) -> None:
    run, fault = tmp_path / "run", Fault(place(share, whole[1]), error, lasting)
    end = in_child(partial(probe, run), tmp_path / "notes", below=run, fault=fault)
    assert end.code == 3, end.said
    assert "Free some space and run the same command with --resume" in end.said or share == 0
    kept = {path: path.read_bytes() for path in run.glob("packs/*.safetensors")}
    assert len(kept) > 1 or share < 0.4
    probe(run)
    assert outcome_of(run) == whole[0]
    assert all(path.read_bytes() == content for path, content in kept.items())
