"""What processes of this machine and workers of a Ray cluster have in common, for those who speak to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.executors.worker import Answer, Order


class WorkerLostError(Exception):
    """A worker has ended without an answer, or there is no room for a new one. The text says how."""


class Link(Protocol):
    """One worker: one question at a time."""

    name: str

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for something. Never raises for a worker that is gone."""

    def take(self) -> Answer:
        """The answer. Raises WorkerLostError."""

    def close(self) -> None:
        """End the worker, whatever it is doing."""


class Transport(Protocol):
    """How workers are started and waited for."""

    names: tuple[str, ...]
    """Where there is room for a worker: ``cuda:0``, ``GPU 3 of the cluster``."""

    def order(self, name: str) -> Order:
        """What the worker on ``name`` loads."""

    def start(self, name: str) -> Link:
        """A new worker on ``name``. Raises WorkerLostError where there is no room for one now."""

    def wait(self, links: Sequence[Any], seconds: float) -> list[Any]:
        """Those of ``links`` that have an answer or are lost, at the latest after ``seconds``."""

    def share(self, value: Any) -> Any:
        """``value`` in the form in which every worker is sent it."""

    def close(self) -> None:
        """Give back what all workers needed. They are closed already."""
