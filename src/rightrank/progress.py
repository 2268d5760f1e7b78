"""What a run says on stderr while it goes: a bar with the time left, or a line now and then where no one watches."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

SECONDS_BETWEEN_LINES = 60.0


def say(console: Console, line: str) -> None:
    """Print a line as it is: no markup, no wrapping, and nothing in it that a terminal would act upon."""
    from rightrank.recommendation_html import clean

    console.print(clean(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown(console: Console) -> Iterator[Callable[[str, float, float], None]]:
    """Yields what to call with (what is done, seconds done, seconds in all)."""
    if not console.is_terminal:
        yield _lines(console)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None, left="")

        def advance(what: str, done: float, whole: float) -> None:
            bar.update(task, description=what, completed=done, total=whole, left=time_left(done, whole))

        yield advance


def _lines(console: Console) -> Callable[[str, float, float], None]:
    last = time.monotonic()

    def advance(what: str, done: float, whole: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(console, f"{what}, {time_left(done, whole)}")

    return advance


def time_left(done: float, whole: float) -> str:
    """In words: ``about 3 min left``."""
    seconds = max(0.0, whole - done)
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
