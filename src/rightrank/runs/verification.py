"""What ``rightrank verify`` found, as data and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["identical", "same within rounding", "differs", "not comparable"]
NAMES = {
    "model": "the model's weights",
    "data": "the rows",
    "dtype": "the model's number format",
    "chat_template": "the use of the chat template",
    "plan": "the planned sizes",
}


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was when the run was measured."""

    what: str
    then: str
    now: str


@dataclass(frozen=True)
class Comparison:
    """A configuration's losses on held-out rows, again and as recorded."""

    verdict: Verdict = "not comparable"
    """``not comparable``: model, data or settings are others now, so that nothing was trained."""
    rows: int = 0
    rows_identical: int = 0
    largest_difference: float | None = None
    """Nats, over rows; None where nothing was trained, or where one of the two diverged."""
    mean_difference: float | None = None
    """Nats a token, again minus recorded."""
    percent_of_gain: float | None = None
    """The mean difference in percent of what this configuration gained over the base; None where it gained nothing."""


@dataclass(frozen=True)
class Verification:
    """What came of checking a run directory and training one of its configurations again."""

    directory: str
    rank: int
    alpha: float
    learning_rate: float
    seed: int
    examples: int
    """Training rows."""
    chosen: bool
    """Whether that is the answer's own choice."""
    comparison: Comparison
    seconds: float
    """Of training and judging it again; ``seconds_then``: of all that trained together then."""
    seconds_then: float
    differences: tuple[Difference, ...]
    """Of model, data, settings; and of device and versions, which may change last digits."""
    damaged: tuple[str, ...]
    """Files that are not what was written, and why."""

    @property
    def holds(self) -> bool:
        """Whether the run stands: every file as it was written, and the same losses again."""
        return self.comparison.verdict in ("identical", "same within rounding") and not self.damaged

    def __str__(self) -> str:
        return "\n".join([self._what_came_of_it(), *self._surroundings(), *self._files()])

    def _what_came_of_it(self) -> str:
        seen = self.comparison
        which = f"r={self.rank} alpha={self.alpha:g} lr {self.learning_rate:.3g} on {self.examples:,} rows"
        which += ", the answer's choice," if self.chosen else " (the choice itself was not trained)"
        if seen.verdict == "not comparable":
            return "Differs: this is not what was measured then, so nothing was trained again."
        if seen.verdict == "identical":
            return f"Identical: {which} gives, bit for bit, the recorded loss on all {seen.rows:,} held-out rows."
        if seen.largest_difference is None:
            return f"Differs: {which} diverged in one of the two runs and not in the other."
        lead = "Same within rounding" if seen.verdict == "same within rounding" else "Differs"
        share = (
            "" if seen.percent_of_gain is None else f", {abs(seen.percent_of_gain):.2g} % of what it gained"
        )
        return (
            f"{lead}: {which} gives a mean loss {abs(seen.mean_difference or 0.0):.2g} nats a token"
            f" {'higher' if (seen.mean_difference or 0.0) > 0 else 'lower'}{share};"
            f" {seen.rows_identical:,} of {seen.rows:,} held-out rows are the same bit for bit,"
            f" the furthest moved by {seen.largest_difference:.2g} nats."
        )

    def _surroundings(self) -> list[str]:
        if not self.differences:
            return ["Same model, data, settings, device and versions as then."]
        return [
            f"Another now: {NAMES.get(d.what, d.what)}, {d.then} then, {d.now} now." for d in self.differences
        ]

    def _files(self) -> list[str]:
        if not self.damaged:
            return ["Every file that was measured or answered is as it was written."]
        return [f"Damaged: {what}." for what in self.damaged]
