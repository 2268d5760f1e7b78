"""Every fault, tried on a real run in a child of this process, then resumed and compared with an undisturbed one.

``python tests/faults/trials.py FOLDER KILLS PLACES`` prints one JSON object a trial. The suite runs it with small numbers,
``bench/faults.py`` with large ones.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import small_world  # noqa: E402
from disturb import BROKEN, FULL, Ended, Fault, ended, in_child, killed_after, result_of, some, start, unlike  # noqa: E402


@dataclass(frozen=True)
class Trial:
    """One disturbed run and what became of it."""

    fault: str
    at: str
    """Where it struck, in words."""
    code: int
    """Exit code of the disturbed run; minus the signal that killed it."""
    said: str
    kept: int
    """Whole measurements on disk after it."""
    lost: int
    """Of those, how many were not there any more, or not the same, at the end."""
    resumed_code: int
    resumed_said: str
    differs: list[str]
    """In what the resumed run did not end as the undisturbed one did, bit for bit."""

    @property
    def well(self) -> bool:
        """Whether nothing was lost, and the resumed run ended as if nothing had happened."""
        return self.lost == 0 and self.resumed_code == 0 and not self.differs


class Bench:
    """A model, rows and an undisturbed run of them in ``folder``; and runs to disturb."""

    def __init__(self, folder: Path) -> None:
        from small_run import save_model, save_rows

        self.folder, self.notes, self.count = folder, folder / "notes", 0
        save_model(folder / "model")
        save_rows(folder / "rows.jsonl")
        began = time.monotonic()
        first = in_child(self.work(folder / "whole"), self.notes)
        self.seconds = time.monotonic() - began
        assert first.code == 0, first.said
        self.whole = result_of(folder / "whole")
        counted = folder / "counted"
        self.operations = in_child(self.work(counted), self.notes, below=counted, fault=Fault()).operations
        assert not unlike(result_of(counted), self.whole), "two undisturbed runs differ"
        shutil.rmtree(counted)

    def work(self, out: Path, *, resume: bool = False) -> Callable[[], Any]:
        return partial(small_world.real_run, self.folder, out, resume=resume)

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"run{self.count}"

    def resumed(self, fault: str, at: str, out: Path, end: Ended) -> Trial:
        """Resume the disturbed run in ``out``, or begin anew where it left nothing there, and compare."""
        kept = whole_results(out)
        there = out.is_dir() and any(out.iterdir())
        again = in_child(self.work(out, resume=there), self.notes)
        differs = unlike(result_of(out), self.whole) if again.code == 0 else ["everything"]
        after = whole_results(out)
        lost = sum(after.get(name) != content for name, content in kept.items())
        trial = Trial(fault, at, end.code, end.said, len(kept), lost, again.code, again.said, differs)
        shutil.rmtree(out, ignore_errors=True)
        return trial


def measured(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "packs").glob("*.safetensors"))


def whole_results(out: Path) -> dict[str, bytes]:
    """The measurements on disk that are what was written, byte for byte."""
    files = {path.name: path.read_bytes() for path in (out / "packs").glob("*.safetensors")}
    return {name: raw for name, raw in files.items() if sha256(raw[32:]).digest() == raw[:32]}


def killed_in_time(bench: Bench, kills: int) -> Iterator[Trial]:
    """SIGKILL at random moments from the first file on disk to the answer."""
    rng = random.Random(0)
    whole = bench.seconds * 0.8  # from the first file on; what is left is loading
    for _ in range(kills):
        out, after = bench.new(), rng.uniform(0, whole)
        end = killed_after(bench.work(out), bench.notes, after, ready=(out / "run.json").exists)
        yield bench.resumed("SIGKILL at a random moment", f"{after:.2f} s after the first file", out, end)


def at_operation(bench: Bench, at: int, fault: str, **options: Any) -> Trial:
    """A kill or a failing disk at one file operation of the run directory."""
    out = bench.new()
    end = in_child(bench.work(out), bench.notes, below=out, fault=Fault(at, **options))
    return bench.resumed(fault, f"file operation {at + 1} of {bench.operations}", out, end)


def at_operations(bench: Bench, places: int, fault: str, **options: Any) -> Iterator[Trial]:
    """The same at the first, the last and some others."""
    for at in some(places, bench.operations, seed=len(fault)):
        yield at_operation(bench, at, fault, **options)


def signalled(bench: Bench, number: int) -> Trial:
    """Ctrl-C or SIGTERM once two runs are measured: it answers; then it is resumed."""
    out = bench.new()

    def work() -> None:
        from rightrank.executors.local import LocalExecutor
        from rightrank.stopping import heard_as_ctrl_c

        train = LocalExecutor.train
        LocalExecutor.train = lambda *a, **k: time.sleep(0.2) or train(*a, **k)  # type: ignore[method-assign]
        with heard_as_ctrl_c():
            answer = small_world.real_run(bench.folder, out)
        assert answer.provenance.interrupted and len(answer.points) > 1

    pid = start(work, bench.notes)
    while len(measured(out)) < 3:  # the untrained model is one
        time.sleep(0.01)
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    end = ended(bench.notes, status)
    return bench.resumed(signal.Signals(number).name, "after two measurements", out, end)


def damaged_files(bench: Bench, *, at_once: bool = False) -> Iterator[Trial]:
    """A byte of a finished run's file is another: found, measured again, everything else kept."""
    names = [
        "run.json",
        "packs/base.safetensors",
        "packs/0002.safetensors",
        "packs/0003.json",
        "recommendation.json",
    ]
    for some_names in [names] if at_once else [[name] for name in names]:
        out = Path(shutil.copytree(bench.folder / "whole", bench.new()))
        for name in some_names:
            content = bytearray((out / name).read_bytes())
            content[len(content) // 2] ^= 1
            (out / name).write_bytes(content)
        yield bench.resumed("a flipped bit", ", ".join(some_names), out, Ended(0, "", 0))
    if at_once:
        return
    out = Path(shutil.copytree(bench.folder / "whole", bench.new()))
    for path in (out / "packs").glob("000[1-3].safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    yield bench.resumed("half-written files", "three measurements", out, Ended(0, "", 0))


def clock_goes_back(bench: Bench) -> Trial:
    """The wall clock jumps back a day with every look at it."""
    out = bench.new()

    def work() -> None:
        real, looks = time.time, iter(range(10**9))
        time.time = lambda: real() - 86400.0 * next(looks)
        answer = small_world.real_run(bench.folder, out)
        assert 0 <= answer.cost.took_minutes < 10

    return bench.resumed("the clock goes back", "with every look at it", out, in_child(work, bench.notes))


def second_process(bench: Bench) -> Trial:
    """Another process on the same directory while the first is at work."""
    out = bench.new()
    pid = start(bench.work(out), bench.folder / "first")
    while not (out / "run.json").exists():
        time.sleep(0.01)
    end = in_child(bench.work(out, resume=True), bench.notes)
    _, status = os.waitpid(pid, 0)
    first = ended(bench.folder / "first", status)
    assert first.code == 0, first.said
    return bench.resumed("a second process", f"process {pid} at work", out, end)


def trials(folder: Path, kills: int, places: int) -> Iterator[Trial]:
    """All of them. ``kills``: at random moments; ``places``: file operations for each way to fail there."""
    bench = Bench(folder)
    yield from killed_in_time(bench, kills)
    yield from at_operations(bench, places, "SIGKILL at a file operation")
    yield from at_operations(bench, places, "a full disk", error=FULL, lasting=True)
    yield from at_operations(bench, places, "one failing write (EIO)", error=BROKEN)
    yield signalled(bench, signal.SIGINT)
    yield signalled(bench, signal.SIGTERM)
    yield from damaged_files(bench)
    yield clock_goes_back(bench)
    yield second_process(bench)


def few_trials(folder: Path) -> Iterator[Trial]:
    """One or two of each, in seconds: for the suite."""
    bench = Bench(folder)
    yield from killed_in_time(bench, 2)
    # A third of the way a stage is being written down, which must be whole or not begun; half-way it is being trained.
    yield at_operation(bench, round(0.3 * bench.operations), "SIGKILL at a file operation")
    middle = bench.operations // 2
    for fault, options in (
        ("SIGKILL at a file operation", {}),
        ("a full disk", {"error": FULL, "lasting": True}),
    ):
        yield at_operation(bench, middle, fault, **options)
    yield signalled(bench, signal.SIGTERM)
    yield from damaged_files(bench, at_once=True)
    yield clock_goes_back(bench)
    yield second_process(bench)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for trial in (
        few_trials(where) if len(sys.argv) == 2 else trials(where, int(sys.argv[2]), int(sys.argv[3]))
    ):
        print(json.dumps({**asdict(trial), "well": trial.well}), flush=True)
