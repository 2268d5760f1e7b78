"""The person's own measure: a command that is given an adapter's directory and prints one number on its last line; higher is better.

No shell reads the command, and the adapter's directory is its last argument. What it writes to stderr is shown where it is wanted and
kept nowhere. How its numbers are judged is pure.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from rightrank.besides.results import OwnMeasure, OwnValue, OwnVerdict
from rightrank.errors import ConfigurationError, UserError
from rightrank.recommendation_html import learning_rate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LONGEST_SECONDS = 3600.0
"""For one adapter, where no budget says less. Assumed."""
PATIENCE = 10.0
"""How many times the untrained adapter's time a trained one may take: a model that has learnt to ramble writes longer. Assumed."""
LEAST_SECONDS = 60.0
LAST_LINE_BYTES = 4096
LARGEST = 1e100
"""Its square is still a number."""
MARGIN = 0.01
"""Values closer than this share of what training gains by the same measure count as the same. Chosen: as for the loss."""
CONFIDENCE = 0.95


class MetricError(UserError):
    """The person's own command gave no number."""


@dataclass(frozen=True)
class Command:
    """A command that can be started."""

    text: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Command:
        """``text`` split into words as a POSIX shell splits them. Raises ConfigurationError where that gives nothing to start."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise ConfigurationError(
                f"--metric cannot be split into words: {str(error).lower()}.", "Close its quotation marks."
            ) from error
        if "\0" in text:
            raise ConfigurationError("--metric holds a zero byte, which no program takes.", "Take it out.")
        if not words:
            raise ConfigurationError(
                "--metric names no command.", 'Give one, such as --metric "python evaluate.py".'
            )
        if shutil.which(words[0]) is None:
            raise ConfigurationError(
                f"--metric starts {_shown(words[0])}, which is no program here.",
                "Give a path, or start a script by its interpreter: it runs without a shell.",
            )
        return cls(text, words)

    def measure(self, directory: Path, *, longest_seconds: float, show_stderr: bool = False) -> float:
        """The number that it prints for the adapter at ``directory``. Raises MetricError."""
        with tempfile.TemporaryFile() as out:
            code = self._run(directory, out, longest_seconds, show_stderr=show_stderr)
            if code != 0:
                how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
                raise self._failed(how)
            value = _last_number(out)
        if value is None:
            raise self._failed("printed no number on its last line")
        if not math.isfinite(value):
            raise self._failed(f"printed {value}, which is no finite number")
        if abs(value) > LARGEST:
            raise self._failed(f"printed {value:g}, which is too large to be compared")
        return value

    def _run(self, directory: Path, out: IO[bytes], longest_seconds: float, *, show_stderr: bool) -> int:
        try:
            process = subprocess.Popen(
                [*self.words, str(directory.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=None if show_stderr else subprocess.DEVNULL,
                start_new_session=True,  # so that whatever it starts in turn can be ended with it
            )
        except OSError as error:
            raise self._failed(f"cannot be started ({error.strerror})") from error
        try:
            return process.wait(longest_seconds)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise self._failed(f"took longer than {_duration(longest_seconds)}") from error
        except BaseException:
            _end(process)
            raise

    def _failed(self, how: str) -> MetricError:
        return MetricError(
            f"Your own measure {_shown(self.text)} {how}.",
            "CMD ADAPTER_DIR must print one number as its last line; --debug shows what it writes to stderr.",
        )


def patience(first_seconds: float) -> float:
    """Seconds that a trained adapter may take, after the untrained one took ``first_seconds``."""
    return min(LONGEST_SECONDS, max(LEAST_SECONDS, PATIENCE * first_seconds))


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.3g} s"


def _shown(word: str) -> str:
    from rightrank.data.wording import quoted

    return quoted(word)


def _last_number(out: IO[bytes]) -> float | None:
    """The number on the last line that is not empty; only the end of what was printed is ever read."""
    size = out.seek(0, os.SEEK_END)
    out.seek(max(0, size - LAST_LINE_BYTES))
    lines = out.read().decode("utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    try:
        return float(last) if "_" not in last else None
    except ValueError:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def judged(command: str, base: float, examples: int, values: Sequence[OwnValue]) -> OwnMeasure:
    """The measure with what it says of the choice.

    Another finalist *disagrees* where it beats the chosen one by more than 1 % of what training gains by this measure and by more than
    repeats can explain: Student's t with the standard deviation pooled over the seeds of every finalist, at 95 % for all rivals
    together (Bonferroni). Without a repeat of any finalist nothing can be certified, and it *may be chance*.
    """
    groups = _groups(values)
    chosen = next((g for g in groups if "chosen" in g.roles and g.numbers), None)
    verdict: OwnVerdict
    if chosen is None:
        verdict, sentence = "not measured", "Your own measure gave no number for the chosen setting."
        if not any("chosen" in g.roles for g in groups):
            sentence = "Your own measure was not run on the chosen setting: it was trained on fewer rows than the others."
        return OwnMeasure(command, base, examples, tuple(values), verdict, sentence)
    measured = [g for g in groups if g.numbers]
    best = max(measured, key=lambda g: g.mean)
    if best.mean <= base:
        verdict = "no gain"
        sentence = (
            f"By your own measure training does not help: {_number(base)} without it, {_number(best.mean)} at best"
            f" ({best.name}){_once(groups)}."
        )
    elif len(measured) == 1:
        verdict = "not measured"
        sentence = (
            f"Your own measure was run on one setting only: {_number(chosen.mean)} for {chosen.name}, the chosen one, "
            f"{_number(base)} without training."
        )
    elif best is chosen or best.mean - chosen.mean <= MARGIN * (best.mean - base):
        verdict = "agrees"
        sentence = f"Your own measure agrees: {_number(chosen.mean)} for the chosen setting, {_number(base)} without training."
    else:
        verdict, why = _certain(groups, best, chosen)
        word = "disagrees" if verdict == "disagrees" else "would choose otherwise"
        sentence = (
            f"Your own measure {word}: {_number(best.mean)} for {best.name}, {_number(chosen.mean)} for {chosen.name}, "
            f"which the loss chooses{why}."
        )
        if verdict == "agrees":
            sentence = (
                f"Your own measure does not contradict the choice: {_number(chosen.mean)} for {chosen.name}, "
                f"{_number(best.mean)} for {best.name}; repeats differ as much."
            )
    return OwnMeasure(command, base, examples, tuple(values), verdict, sentence)


@dataclass(frozen=True)
class _Group:
    """One setting and its repeats."""

    name: str
    roles: tuple[str, ...]
    numbers: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.numbers) / len(self.numbers)


def _groups(values: Sequence[OwnValue]) -> list[_Group]:
    found: dict[tuple[int, float, float], list[OwnValue]] = {}
    for value in values:
        found.setdefault((value.rank, value.alpha, value.learning_rate), []).append(value)
    return [
        _Group(
            f"r={rank} lr {learning_rate(rate)}",
            tuple(role for one in same for role in one.roles),
            tuple(one.value for one in same if one.value is not None),
        )
        for (rank, _, rate), same in found.items()
    ]


def _certain(groups: Sequence[_Group], best: _Group, chosen: _Group) -> tuple[OwnVerdict, str]:
    """Whether repeats explain the difference, and how that is said."""
    from scipy import stats

    measured = [g for g in groups if g.numbers]
    freedom = sum(len(g.numbers) - 1 for g in measured)
    if freedom < 1:
        return "may be chance", " (one number each: this may be chance)"
    square = sum(sum((x - g.mean) ** 2 for x in g.numbers) for g in measured) / freedom
    error = math.sqrt(square * (1 / len(best.numbers) + 1 / len(chosen.numbers)))
    rivals = max(1, len(measured) - 1)
    critical = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * rivals), freedom))
    if best.mean - chosen.mean > critical * error:
        return "disagrees", " (more than repeats differ)"
    return "agrees", ""


def _once(groups: Sequence[_Group]) -> str:
    return "" if any(len(g.numbers) > 1 for g in groups) else "; one number each, which may be chance"


def _number(value: float) -> str:
    return f"{value:.4g}"
