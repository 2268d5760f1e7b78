"""Workers that may be lost: each question is answered all the same, by another worker or by a new one in the same place."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rightrank.errors import ModelError, ResourceError
from rightrank.executors.links import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rightrank.executors.links import Link, Transport
    from rightrank.executors.survey import BaseFacts

# What is lost this often, each time with its worker, is what ends them, and not chance. Assumed.
MOST_LOSSES = 3
SECONDS_BETWEEN_TICKS = 0.5


@dataclass
class Task:
    """A question that any worker can answer. ``what``: how people call it."""

    method: str
    arguments: tuple[Any, ...]
    what: str
    losses: int = 0


@dataclass
class _Place:
    """A worker, what it is doing, and what it has still to be told before it can do anything."""

    link: Link
    task: Task | None = None
    telling: deque[tuple[str, tuple[Any, ...]]] = field(default_factory=deque)

    @property
    def busy(self) -> bool:
        return self.task is not None or bool(self.telling)

    def ask(self) -> None:
        """Send what it is to be told next."""
        method, arguments = self.telling[0]
        self.link.send(method, *arguments)


class Crew:
    """Workers over one base, one in each place of ``transport``."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.notes: list[str] = []
        """Of workers that were lost, a sentence each."""
        self._told: list[tuple[str, tuple[Any, ...]]] = []
        self._places: list[_Place] = []
        self._finalize = weakref.finalize(self, _end, self._places, transport)
        with self._ended_on_failure():
            for name in transport.names:
                self._places.append(_Place(transport.start(name)))
            found: list[BaseFacts] = self._ask_all(
                [("open", (transport.order(p.link.name),)) for p in self._places]
            )
            self.facts = found[0]
            for facts in found:
                self._require_same(facts)

    def __len__(self) -> int:
        """Places that have a worker; all there were, once they are closed."""
        return len(self._places) or len(self.transport.names)

    def close(self) -> None:
        """End all workers. Whoever works with the crew again has new ones."""
        for place in self._places:
            place.link.close()
        self._places.clear()

    def tell(self, method: str, *arguments: Any, again: bool = True) -> list[Any]:
        """Ask all workers and wait for all. ``again``: new ones will be asked as well. One that is lost meanwhile is given up."""
        with self._ended_on_failure():
            self._hire()
            while any(place.telling for place in self._places):
                self._listen(deque(), lambda task, value: None)
            if again:
                self._told.append((method, arguments))
            return self._ask_all([(method, arguments)] * len(self._places))

    def work(
        self,
        tasks: Iterator[Task],
        on_done: Callable[[Task, Any], None],
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Have ``tasks`` done side by side, the next one taken from it when a worker is free. ``on_tick`` is called now and then.

        Raises what a worker raised, and ResourceError where one is lost ``MOST_LOSSES`` times or no worker is left.
        """
        lost: deque[Task] = deque()
        more = True
        with self._ended_on_failure():
            self._hire()
            while True:
                for place in [p for p in self._places if not p.busy]:
                    task = lost.popleft() if lost else next(tasks, None) if more else None
                    if task is None:
                        more = False
                        break
                    place.task = task
                    place.link.send(task.method, *task.arguments)
                if not more and not lost and not any(place.task for place in self._places):
                    return
                self._listen(lost, on_done)
                on_tick()

    def _hire(self) -> None:
        """New workers where all were ended."""
        if not self._places:
            self._places += [self._new_place(name) for name in self.transport.names]

    def _new_place(self, name: str) -> _Place:
        telling = deque([("open", (self.transport.order(name),)), *self._told])
        place = _Place(self.transport.start(name), None, telling)
        place.ask()
        return place

    def _ask_all(self, questions: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        values: dict[int, Any] = {}
        for place, question in zip(self._places, questions, strict=True):
            place.telling.append(question)
            place.ask()
        while any(place.telling for place in self._places):
            for place in self._answering():
                try:
                    values[id(place)] = place.link.take().unpacked()
                    place.telling.clear()
                except WorkerLostError as how:
                    self._replace(place, how)
        return [values[id(place)] for place in self._places]

    def _answering(self) -> list[_Place]:
        """Places whose workers have answered or are lost; none of them, where that takes too long."""
        busy = {id(place.link): place for place in self._places if place.busy}
        links = self.transport.wait([place.link for place in busy.values()], SECONDS_BETWEEN_TICKS)
        return [busy[id(link)] for link in links]

    def _listen(self, lost: deque[Task], on_done: Callable[[Task, Any], None]) -> None:
        """Take what has come; a worker that is gone is replaced, and what it was doing goes to ``lost``."""
        for place in self._answering():
            try:
                value = place.link.take().unpacked()
            except WorkerLostError as how:
                if place.task is not None:
                    lost.append(self._lost(place.task, place.link.name, how))
                self._replace(place, how)
                continue
            if place.telling:
                self._heard(place, value)
            elif place.task is not None:
                task, place.task = place.task, None
                on_done(task, value)

    def _lost(self, task: Task, name: str, how: WorkerLostError) -> Task:
        task.losses += 1
        if task.losses >= MOST_LOSSES:
            raise ResourceError(
                f"{task.losses} workers in turn ended while they were {task.what} (the last: {how}).",
                "Often a machine's memory ran out: use a smaller --max-length or --max-rank; what was measured is kept for --resume.",
            )
        self.notes.append(
            f"The worker on {name} was lost while it was {task.what} ({how}); that was done again."
        )
        return task

    def _replace(self, place: _Place, how: WorkerLostError) -> None:
        """A new worker instead of the one that is gone, told what the others know; a place that loses it meanwhile is given up."""
        name, gone_again = place.link.name, bool(place.telling)
        place.link.close()
        at = self._places.index(place)
        try:
            if gone_again:
                raise how
            self._places[at] = self._new_place(name)
        except WorkerLostError as why:
            del self._places[at]
            if not self._places:
                raise ResourceError(
                    f"No worker is left: the one on {name} could not go on ({why}).",
                    "Often too little memory ends them: use a quantised model or a smaller --max-length.",
                ) from why
            self.notes.append(f"{name} was given up: its worker could not go on ({why}).")

    def _heard(self, place: _Place, value: Any) -> None:
        """A new worker has answered; tell it what comes next."""
        method, _ = place.telling.popleft()
        if method == "open":
            self._require_same(value)
        if place.telling:
            place.ask()

    def _require_same(self, facts: BaseFacts) -> None:
        """All workers must hold the same model: on another machine a folder of that name may hold another."""
        if (facts.fingerprint, facts.dtype_name) != (self.facts.fingerprint, self.facts.dtype_name):
            raise ModelError(
                f"The workers do not all find the same model under the name {facts.name}.",
                "Put the same files on every machine, or name a hub id with --revision; use like devices.",
            )

    @contextmanager
    def _ended_on_failure(self) -> Iterator[None]:
        """Whatever goes wrong, Ctrl-C included, leaves no worker busy with something that no one waits for."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def _end(places: list[_Place], transport: Transport) -> None:
    for place in places:
        place.link.close()
    places.clear()
    transport.close()
