"""Two processes on one run directory: the second is told who holds it, and a lock goes with its process, killed or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rightrank.errors import ConfigurationError, ResourceError
from rightrank.runs import lock as run_lock
from rightrank.runs.directory import choose_directory, held
from rightrank.runs.lock import in_use, locked

if TYPE_CHECKING:
    from pathlib import Path

HOLD = (
    "import sys, time; from pathlib import Path; from rightrank.runs.lock import locked\n"
    "with locked(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(60)"
)


def holder_of(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, directory], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_which_holds_it(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    process = holder_of(directory)
    try:
        for attempt in (
            lambda: choose_directory(directory, "d", resume=True),
            lambda: held(directory, named=True, resume=True, on_text=print).__enter__(),
        ):
            with pytest.raises(
                ConfigurationError, match=f"run is in use by process {process.pid} on "
            ) as caught:
                attempt()
            assert "Wait until that run has ended" in caught.value.mend
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert (directory / "lock").read_text(), "it had no time to take its name off"
    assert in_use(directory) is None
    with locked(directory, pytest.fail):
        assert str(os.getpid()) in (directory / "lock").read_text()
    assert (directory / "lock").read_text() == "" and in_use(directory) is None


def test_two_runs_of_the_same_second_go_to_two_directories(tmp_path: Path) -> None:
    def hold():
        return held(tmp_path / "rows-1", named=False, resume=False, on_text=pytest.fail)

    with hold() as first, hold() as second, hold() as third:
        assert [p.name for p in (first, second, third)] == ["rows-1", "rows-1-2", "rows-1-3"]
        assert all(in_use(p) for p in (first, second, third))


def test_a_run_begun_meanwhile_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="holds a run already"):
        held(tmp_path, named=True, resume=False, on_text=pytest.fail).__enter__()
    with held(tmp_path, named=True, resume=True, on_text=pytest.fail) as directory:
        assert directory == tmp_path


def test_where_there_are_no_locks_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock, "_lock", none)
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert in_use(tmp_path) is None
    assert said == [f"{tmp_path} is on a file system without locks: start no second run in it."]


def test_a_look_at_the_lock_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``in_use`` holds it for an instant; who comes in that instant tries again."""
    real, busy = run_lock._lock, iter([True, True, False])

    def taken_twice(file: object) -> None:
        if next(busy):
            raise BlockingIOError
        real(file)  # type: ignore[arg-type]

    monkeypatch.setattr(run_lock, "_lock", taken_twice)
    with locked(tmp_path, pytest.fail):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="Nothing can be written"):
        locked(tmp_path / "file" / "run", pytest.fail).__enter__()
