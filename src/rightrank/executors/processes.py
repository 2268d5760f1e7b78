"""Workers as processes of this machine, one a device, spoken to through pipes.

Each is a fresh interpreter that imports this package alone: a process made by ``multiprocessing`` would run the person's own script
again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.executors.links import WorkerLostError
from rightrank.executors.worker import Answer, Order, Worker, answer

if TYPE_CHECKING:
    from collections.abc import Sequence

START = "import sys; from rightrank.executors.processes import serve; serve(int(sys.argv[1]))"


class ProcessLink:
    """The parent's end: starts a worker's process and speaks to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connection, theirs = Pipe()
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(f"-W{option}" for option in sys.warnoptions),
                "-c",
                START,
                str(theirs.fileno()),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for something; ``take`` has the answer."""
        try:
            self.connection.send((method, arguments))
        except OSError:
            return  # the process has ended, which ``take`` tells

    def take(self) -> Answer:
        """The answer. Raises WorkerLostError where the process has ended."""
        try:
            received: Answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError(self._how_it_ended()) from error
        return received

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        if code >= 0:
            return f"exit code {code}"
        return f"ended by {signal.Signals(-code).name}"

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Processes:
    """A worker for each of ``devices``, all loading what ``order`` says. Several on the CPU are told apart by a number."""

    def __init__(self, order: Order, devices: Sequence[str]) -> None:
        self._order = order
        self._devices = {
            f"{device} ({number})" if devices.count(device) > 1 else device: device
            for number, device in enumerate(devices, start=1)
        }
        self.names = tuple(self._devices)

    def order(self, name: str) -> Order:
        """What the worker on ``name`` loads."""
        return replace(self._order, device=self._devices[name])

    def start(self, name: str) -> ProcessLink:
        """A new worker on ``name``."""
        return ProcessLink(name)

    def wait(self, links: Sequence[ProcessLink], seconds: float) -> list[ProcessLink]:
        """Those of ``links`` that have answered or ended, at the latest after ``seconds``."""
        ready = wait([link.connection for link in links], seconds)
        return [link for link in links if link.connection in ready]

    def share(self, value: Any) -> Any:
        """``value`` as it is sent to every worker."""
        return value

    def close(self) -> None:
        """Nothing was shared."""


def serve(descriptor: int) -> None:
    """A worker's whole life: answer until the parent is gone. Ctrl-C and the like are the parent's to hear, and to answer from."""
    for heard_by_all in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(heard_by_all, signal.SIG_IGN)
    connection = Connection(descriptor)
    worker = Worker()

    def go_on(_: float) -> None:
        if connection.poll():  # nothing is sent to a busy worker: the parent has ended
            os._exit(1)

    while True:
        try:
            method, arguments = connection.recv()
            if method == "train":
                arguments = (*arguments, go_on)
            connection.send(answer(worker, method, arguments))
        except (EOFError, OSError):
            return
