"""The executor of several devices: hands packs to workers, side by side.

What trains together is decided and written down before it is handed out, so that where it was trained, and after how many losses,
changes no number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rightrank.errors import ModelError
from rightrank.executors.crew import Crew, Task
from rightrank.executors.grouping import groups, most_for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rightrank.bank.targets import Target
    from rightrank.data import TokenizedExample
    from rightrank.executors.links import Transport
    from rightrank.executors.survey import BaseFacts, Survey
    from rightrank.probe.loss_table import Configuration, Pack, PackResult
    from rightrank.probe.plan import Speed
    from rightrank.recipe import Recipe


class Fleet:
    """Workers of one base on several devices. ``facts`` and ``survey`` as of a single worker; an executor once surveyed."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.decide: Sequence[TokenizedExample] = ()
        self.score: Sequence[TokenizedExample] = ()
        self._longest = self._together = 1
        self._peak_gib = 0.0
        self._survey: Survey | None = None
        self._crew = Crew(transport)

    @property
    def notes(self) -> list[str]:
        """Of what went otherwise than planned, for the answer."""
        return self._crew.notes

    @property
    def facts(self) -> BaseFacts:
        """Of the base."""
        return self._crew.facts

    @property
    def executor(self) -> Fleet:
        """Itself."""
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """What gets adapters."""
        return self.facts.targets

    @property
    def device_words(self) -> str:
        """What trains, as people call it."""
        count = len(self._crew)
        return self.facts.device_words if count == 1 else f"{count} × {self.facts.device_words}"

    def close(self) -> None:
        """End all workers."""
        self._crew.close()

    def survey(
        self, train: Sequence[TokenizedExample], few: Sequence[TokenizedExample], recipe: Recipe, name: str
    ) -> Survey:
        """Check base and examples on every worker; from now on packs train. ``name``: the base's, in adapters."""
        self._longest = max(len(example.token_ids_T) for example in train)
        found: list[Survey] = self._crew.tell("survey", self.transport.share(train), few, recipe, name)
        if len({replace(survey.path, words="") for survey in found}) > 1:
            self.close()
            raise ModelError(
                "The model does not run the same way on all devices.",
                "Name one of them with --device, or use like ones.",
            )
        self._survey = found[0]
        return found[0]

    def judge_by(self, decide: Sequence[TokenizedExample], score: Sequence[TokenizedExample]) -> None:
        """Set the held-out examples."""
        self.decide, self.score = decide, score
        self._longest = max([self._longest, *(len(e.token_ids_T) for e in (*decide, *score))])
        self._crew.tell("judge_by", self.transport.share(decide), self.transport.share(score))

    def measure_speed(self, *, small: int, large: int) -> Speed:
        """As all workers measure it at the same time. The slowest counts, since what it trains is waited for."""
        speeds: list[Speed] = self._crew.tell("measure_speed", small, large, again=False)
        slowest = max(speeds, key=lambda speed: speed.floor_seconds + speed.step_seconds)
        self._together = min(speed.together for speed in speeds)
        return replace(slowest, together=self._together, devices=len(speeds))

    def available_bytes(self) -> float:
        """Memory that may be used now, on the device that has least."""
        found: list[tuple[float, float]] = self._crew.tell("memory", again=False)
        self._peak_gib = max([self._peak_gib, *(peak for _, peak in found)])
        return min(free for free, _ in found)

    def peak_gib(self) -> float:
        """Most memory held so far on any one device."""
        return self._peak_gib

    def fit_together(self, configurations: Sequence[Configuration]) -> list[list[Configuration]]:
        """Groups that fit into every device's memory, and as many of them as keep all devices busy."""
        assert self._survey is not None
        return groups(
            configurations,
            self.targets,
            self._survey.memory,
            available=self.available_bytes(),
            longest=self._longest + self._survey.looked_at(self._longest),
            most=most_for_each(len(configurations), len(self._crew), self._together),
        )

    def evaluate_base(self) -> PackResult:
        """The untrained model on every held-out example."""
        results: list[PackResult] = []
        task = Task("evaluate_base", (), "judging the untrained model")
        self._crew.work(iter([task]), lambda _, result: results.append(result))
        return results[0]

    def train(self, pack: Pack, *, export_to: Path | None, on_step: Callable[[float], None]) -> PackResult:
        """One pack, on one of the devices."""
        results: list[PackResult] = []
        self.train_each([(pack, export_to)], lambda _, result: results.append(result))
        on_step(1.0)
        return results[0]

    def train_each(
        self,
        packs: Iterable[tuple[Pack, Path | None]],
        on_done: Callable[[Pack, PackResult], None],
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Train packs side by side, each with where its adapters go. The next is asked for when a device is free.

        Raises what a worker raised, and ResourceError where workers are lost again and again.
        """

        def done(task: Task, value: tuple[PackResult, list[str], float]) -> None:
            result, notes, peak_gib = value
            self._peak_gib = max(self._peak_gib, peak_gib)
            self.notes.extend(note for note in notes if note not in self.notes)
            on_done(task.arguments[0], result)

        tasks = (
            Task("train", (pack, None if where is None else where.absolute()), f"training {_in_words(pack)}")
            for pack, where in packs
        )
        self._crew.work(tasks, done, on_tick)


def _in_words(pack: Pack) -> str:
    return f"r={', '.join(str(c.rank) for c in pack.configurations)} on {pack.examples:,} rows"
