"""Every error a person can cause: one sentence that says what is wrong, and its mend.

The command line prints ``problem`` and ``mend`` and exits with ``exit_code``; a traceback appears with ``--debug`` only.
"""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Something the person can put right. ``problem`` is one sentence, ``mend`` says what to do about it."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem} {mend}")
        self.problem = problem
        self.mend = mend


class ModelError(UserError):
    """The model cannot be found, read or adapted."""


class UnsafeModelError(ModelError):
    """Loading the model would run code of its own: pickled weights, or remote code."""


class DataError(UserError):
    """The data set cannot be found, read or understood."""


class MalformedRowError(DataError):
    """One row of a file is not what its format promises; ``why`` goes on from its line: ``is not valid JSON``."""

    def __init__(self, source: str, line: int, why: str) -> None:
        super().__init__(f"{source}, line {line} {why}.", "Mend or delete that line, then run again.")
        self.source = source
        self.line = line


class OutOfScopeError(DataError):
    """Data for another kind of training: preference pairs, rewards, images, class labels, embeddings."""


class TooFewExamplesError(DataError):
    """Too few usable examples to train on some and hold out others."""


class ConfigurationError(UserError):
    """Settings that contradict each other or the model: a rank beyond every module's width, say."""


class ResourceError(UserError):
    """Out of memory or disk, or the run directory is not to be written to. What was measured is kept."""

    exit_code: ClassVar[int] = 3


class StoppedError(UserError):
    """Ctrl-C before there was anything to answer from, or while the answer was made."""

    exit_code: ClassVar[int] = 130


class BudgetError(UserError):
    """The time allowed does not pay for a single measurement; ``least_seconds`` would, where that is known."""

    exit_code: ClassVar[int] = 3

    def __init__(self, problem: str, mend: str, least_seconds: float | None = None) -> None:
        super().__init__(problem, mend)
        self.least_seconds = least_seconds
