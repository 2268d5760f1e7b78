"""A scheduler that wants its machine back, or a terminal that is closed: heard as Ctrl-C is, so that there is an answer."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

HEARD = ("SIGTERM", "SIGHUP")
"""What batch systems send before they kill (SLURM, Kubernetes), and what a lost connection sends. Windows has no SIGHUP."""


@contextmanager
def heard_as_ctrl_c() -> Iterator[None]:
    """Meanwhile these signals raise KeyboardInterrupt, where nobody else has use for them (nohup ignores SIGHUP, and so do we then)."""
    numbers = [getattr(signal, name) for name in HEARD if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # signals are the main thread's
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
