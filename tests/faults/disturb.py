"""Runs in a child of this process, and faults in them: killed at a file operation or after some time, a disk that fails at one.

A child is forked, so that a hundred disturbed runs cost one import of torch.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OPERATIONS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


@dataclass(frozen=True)
class Fault:
    """What happens at the ``at``-th file operation below a folder (0-based); ``at`` -1: nothing, the operations are counted."""

    at: int = -1
    error: int | None = None
    """The system's error, such as ENOSPC; None: the process is killed."""
    lasting: bool = False
    """Whether every later operation fails too, as on a disk that stays full."""


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    """Exit code; minus the signal that killed it."""
    said: str
    operations: int

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def in_child(
    work: Callable[[], Any], notes: Path, *, below: Path | None = None, fault: Fault | None = None
) -> Ended:
    """Carry out ``work`` in a child. A UserError's sentence and exit code come back; any other exception is a failure (99)."""
    pid = start(work, notes, below=below, fault=fault)
    _, status = os.waitpid(pid, 0)
    return ended(notes, status)


def start(
    work: Callable[[], Any], notes: Path, *, below: Path | None = None, fault: Fault | None = None
) -> int:
    """Begin ``work`` in a child; its process id."""
    notes.mkdir(parents=True, exist_ok=True)
    for old in notes.iterdir():
        old.unlink()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        for stream in (1, 2):
            os.dup2(os.open(notes / f"stream{stream}", os.O_WRONLY | os.O_CREAT), stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if fault is not None and below is not None:
            _inject(below, fault, notes / "operations")
        code = _guarded(work, notes / "said")
    finally:
        os._exit(code)


def ended(notes: Path, status: int) -> Ended:
    """What a child whose wait status is ``status`` left behind."""
    said = (notes / "said").read_text() if (notes / "said").exists() else ""
    operations = (notes / "operations").stat().st_size if (notes / "operations").exists() else 0
    return Ended(os.waitstatus_to_exitcode(status), said, operations)


def _guarded(work: Callable[[], Any], said: Path) -> int:
    from rightrank.errors import UserError

    try:
        work()
    except UserError as error:
        said.write_text(str(error))
        return error.exit_code
    except KeyboardInterrupt as stop:
        said.write_text(f"interrupted: {stop}")
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        said.write_text(traceback.format_exc())
        return 99
    return 0


def _inject(below: Path, fault: Fault, counter: Path) -> None:
    """Let the fault happen: Python reports every file operation to its audit hooks before it is done."""
    folder = str(below.absolute())
    tally = os.open(counter, os.O_WRONLY | os.O_CREAT)
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITES:
                return
        elif event not in OPERATIONS:
            return
        if not str(arguments[0]).startswith(folder) and not str(Path.cwd() / str(arguments[0])).startswith(
            folder
        ):
            return
        os.write(tally, b".")
        now, seen = seen, seen + 1
        if now == fault.at or (fault.lasting and 0 <= fault.at <= now):
            if fault.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault.error, os.strerror(fault.error))

    sys.addaudithook(hook)


def killed_after(work: Callable[[], Any], notes: Path, seconds: float, *, ready: Callable[[], bool]) -> Ended:
    """Start ``work`` and kill it ``seconds`` after ``ready``, unless it has ended by then."""
    pid = start(work, notes)
    begun: float | None = None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return ended(notes, status)
        if begun is None and ready():
            begun = time.monotonic()
        if begun is not None and time.monotonic() - begun >= seconds:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return ended(notes, status)
        time.sleep(0.002)


def some(count: int, whole: int, seed: int = 0) -> list[int]:
    """``count`` places out of ``whole``, the first and the last among them."""
    middle = random.Random(seed).sample(range(1, whole - 1), min(count - 2, whole - 2))
    return sorted({0, whole - 1, *middle})


# What two undisturbed runs differ in as well: times, what follows from them, the memory of the process, and the directory's name.
TIMES = {
    "cost": ("planned_minutes", "took_minutes", "peak_gib"),
    "provenance": ("created", "run_directory"),
}


def result_of(directory: Path) -> dict[str, Any]:
    """Everything a run gave, without what two undisturbed runs differ in: the answer, the losses bit for bit, the adapter's bytes."""
    from rightrank.probe.loss_table import LossTable

    answer = json.loads((directory / "recommendation.json").read_text())
    for part, names in TIMES.items():
        for name in names:
            del answer[part][name]
    del answer["checksum"]
    for option in answer["options"]:
        option.pop("train_minutes", None)
    answer["to_decide"] = [step["why"] for step in answer["to_decide"]]
    table = LossTable.opened(directory)
    measured = {
        (pack.number, pack.examples, repr(pack.configurations)): _bits(result)
        for pack, result in zip(table.packs, table.results, strict=True)
    }
    adapter = directory / "adapter" / "adapter_model.safetensors"
    return {
        "answer": answer,
        "measured": measured,
        "base": None if table.base is None else _bits(table.base),
        "adapter": adapter.read_bytes() if adapter.exists() else None,
        "damaged": table.damaged,
    }


def unlike(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two results differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            where
            for key in {**one, **other}
            for where in unlike(one.get(key, "missing"), other.get(key, "missing"), f"{place}/{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            where
            for i, pair in enumerate(zip(one, other, strict=True))
            for where in unlike(*pair, f"{place}/{i}")
        ]
    return [] if one == other else [place]


def _bits(result: Any) -> tuple[Any, ...]:
    return (
        np.ascontiguousarray(result.loss_KE).tobytes(),
        result.right_KE.tobytes(),
        result.train_loss_K,
        result.steps,
        result.train_tokens,
    )


FULL, BROKEN, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS
