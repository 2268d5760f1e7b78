"""What a scheduler or a lost terminal sends is heard as Ctrl-C, and only where nobody else has use for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from rightrank.stopping import heard_as_ctrl_c

# Signals reach the main thread alone, and a worker that runs tests may run them in another: each test has a process of its own.
HEARD = """
import os, signal
from rightrank.stopping import heard_as_ctrl_c
try:
    with heard_as_ctrl_c():
        os.kill(os.getpid(), {number})
        signal.sigtimedwait([], 1)  # the handler runs at the next line
except KeyboardInterrupt:
    assert signal.getsignal({number}) is signal.SIG_DFL
    print("heard")
"""
KEPT = """
import os, signal
from rightrank.stopping import heard_as_ctrl_c
heard = []
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
with heard_as_ctrl_c():
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.sigtimedwait([], 1)
print(*map(int, heard))
"""


def said(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"{done.returncode} {done.stderr}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_is_heard_as_ctrl_c_and_only_meanwhile(number: int) -> None:
    # Started by something that ignores a signal, a process ignores it too: set right first.
    reset = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n"
    assert said(reset + HEARD.format(number=int(number))) == "heard"


def test_who_ignores_it_or_has_a_handler_keeps_it() -> None:
    """nohup ignores SIGHUP; a notebook or a server may want SIGTERM itself."""
    assert said(KEPT) == str(int(signal.SIGTERM))


def test_in_another_thread_it_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with heard_as_ctrl_c():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
