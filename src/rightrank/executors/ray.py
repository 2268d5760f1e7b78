"""Workers of a Ray cluster: one a GPU, or one a machine where no machine has a GPU.

Ray sends home how it is used and opens a dashboard unless told otherwise; it is told otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from rightrank.errors import ConfigurationError, ResourceError
from rightrank.executors.links import WorkerLostError
from rightrank.executors.worker import Answer, Order, Worker, answer

if TYPE_CHECKING:
    from collections.abc import Sequence

# The resources of a worker that has ended are free again a moment later. Assumed.
SECONDS_FOR_ROOM = 15.0
SECONDS_TO_KNOCK = 10.0


class RemoteWorker:
    """What runs at the other end, as a Ray actor."""

    def __init__(self) -> None:
        self.worker = Worker()

    def ask(self, version: str, method: str, *arguments: Any) -> Answer:
        """Answer one question of a driver of the same version."""
        if version != (own := version_of("rightrank")):
            problem = f"A machine of the cluster has rightrank {own}, and this one has {version}."
            return Answer(
                user_error=(ConfigurationError, problem, "Install the same version on every machine.")
            )
        if method == "train":
            arguments = (*arguments, lambda share: None)
        return answer(self.worker, method, arguments)


class RayLink:
    """The driver's end of one actor."""

    def __init__(self, ray: Any, name: str, actor: Any) -> None:
        self.ray, self.name, self.actor = ray, name, actor
        self.reply: Any = None

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for something; ``take`` has the answer."""
        self.reply = self.actor.ask.remote(version_of("rightrank"), method, *arguments)

    def take(self) -> Answer:
        """The answer. Raises WorkerLostError where the actor or its machine is gone."""
        try:
            received: Answer = self.ray.get(self.reply)
        except self.ray.exceptions.RayError as error:
            raise WorkerLostError("it ended unexpectedly") from error
        return received

    def close(self) -> None:
        """End the actor, whatever it is doing."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            self.ray.kill(self.actor)


class RayCluster:
    """The cluster that this machine belongs to, or, where there is none, this machine as one of its own.

    ``workers`` and ``cpus`` set how many workers there are and how many cores each takes, in place of one a GPU or one a machine.
    """

    def __init__(self, order: Order, *, workers: int | None = None, cpus: int | None = None) -> None:
        self.ray = _import_ray()
        self._started = not self.ray.is_initialized()
        if self._started:
            _connect(self.ray)
        gpus = int(self.ray.available_resources().get("GPU", 0))
        if gpus and cpus is None:
            self._takes: dict[str, float] = {"num_gpus": 1, "num_cpus": 1}
            count, kind = workers or gpus, "GPU"
        else:
            if self.ray.cluster_resources().get("GPU", 0) and cpus is None:
                raise ResourceError(
                    "All GPUs of the Ray cluster are in use.", "Wait until one is free, or run without Ray."
                )
            machines = [n["Resources"].get("CPU", 1) for n in self.ray.nodes() if n["Alive"]]
            self._takes = {"num_cpus": cpus or int(min(machines))}
            count, kind = workers or len(machines), "machine"
        threads = None if "num_gpus" in self._takes else int(self._takes["num_cpus"])
        self._order = Order(order.source, order.loading, None if threads is None else "cpu", threads)
        self.names = tuple(f"{kind} {number} of the cluster" for number in range(1, count + 1))
        self._actor = self.ray.remote(RemoteWorker).options(
            max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **self._takes
        )

    def order(self, name: str) -> Order:
        """What each worker loads: the same, on the device that Ray shows it."""
        return self._order

    def start(self, name: str) -> RayLink:
        """A new worker. Raises WorkerLostError where the cluster has no room for it."""
        wanted = {"CPU": self._takes["num_cpus"], "GPU": self._takes.get("num_gpus", 0)}
        end = time.monotonic() + SECONDS_FOR_ROOM
        while any(self.ray.available_resources().get(kind, 0) < count for kind, count in wanted.items()):
            if time.monotonic() > end:
                raise WorkerLostError("the cluster has no room for a new worker")
            time.sleep(0.2)
        return RayLink(self.ray, name, self._actor.remote())

    def wait(self, links: Sequence[RayLink], seconds: float) -> list[RayLink]:
        """Those of ``links`` that have an answer or are lost, at the latest after ``seconds``."""
        if not links:
            return []
        ready, _ = self.ray.wait([link.reply for link in links], num_returns=len(links), timeout=0)
        if not ready:
            ready, _ = self.ray.wait([link.reply for link in links], num_returns=1, timeout=seconds)
        return [link for link in links if link.reply in ready]

    def share(self, value: Any) -> Any:
        """``value`` in Ray's store, sent to each machine once."""
        return self.ray.put(value)

    def close(self) -> None:
        """Leave the cluster, where it was joined for this."""
        if self._started:
            self.ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # a worker without a GPU sees what its machine shows
    import ray
    import ray.exceptions

    return ray


def _connect(ray: Any) -> None:
    """Join the cluster of RAY_ADDRESS or of this machine; start one of this machine alone where there is none."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _knock(os.environ.get("RAY_ADDRESS", ""))
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"The Ray cluster cannot be joined ({_first_line(error)}).",
            "See `ray status` on its head, or set RAY_ADDRESS to it.",
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where no one listens at ``address``: Ray itself tries for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=SECONDS_TO_KNOCK):
            pass


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
