"""One process a run directory: who measures there holds its lock, which goes with the process, however it ends."""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from rightrank.errors import ConfigurationError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "lock"


@contextmanager
def locked(directory: Path, on_text: Callable[[str], None]) -> Iterator[None]:
    """Hold ``directory``, made if need be. Raises ConfigurationError where another process does, and says which.

    The system lets go of the lock when the process ends, killed or not: no lock is left behind. Where the file system has no locks,
    one sentence says so.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (directory / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"Nothing can be written to {directory}.", "Name another folder with --out."
        ) from error
    with file:
        try:
            _lock_patiently(file)
        except BlockingIOError as error:
            raise taken(directory, _holder(file)) from error
        except OSError:
            on_text(f"{directory} is on a file system without locks: start no second run in it.")
        _sign(file, f"process {os.getpid()} on {platform.node() or 'this machine'}")
        try:
            yield
        finally:
            _sign(file, "")


def in_use(directory: Path) -> str | None:
    """Who holds ``directory``, in words; None where no one does, or where that cannot be told."""
    try:
        with (directory / NAME).open("r+", encoding="utf-8") as file:
            try:
                _lock(file)
            except BlockingIOError:
                return _holder(file)
    except OSError:
        pass
    return None


def taken(directory: Path, holder: str) -> ConfigurationError:
    """The error to raise where another process holds ``directory``."""
    return ConfigurationError(
        f"{directory} is in use by {holder}.", "Wait until that run has ended, or name another --out."
    )


def _lock_patiently(file: IO[str]) -> None:
    """Another process that only asks ``in_use`` holds the lock for an instant: that is not held."""
    for _ in range(4):
        with suppress(BlockingIOError):
            return _lock(file)
        time.sleep(0.05)
    return _lock(file)


def _holder(file: IO[str]) -> str:
    with suppress(OSError, UnicodeDecodeError):
        file.seek(0)
        if words := file.read(200).strip():
            return words
    return "another process"


def _sign(file: IO[str], words: str) -> None:
    with suppress(OSError):  # who holds it is a courtesy; a full disk must not end the run here
        file.seek(0)
        file.truncate()
        file.write(words)
        file.flush()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        """Raises BlockingIOError where another process holds it. The locked byte is far behind the words, which others read."""
        file.seek(1 << 20)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        finally:
            file.seek(0)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        """Raises BlockingIOError where another process holds it, OSError where the file system has no locks."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
