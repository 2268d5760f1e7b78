"""What of a pack trains at once, and how it is halved where it does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rightrank.probe.loss_table import Configuration, Pack


@dataclass(frozen=True)
class Part:
    """Configurations of a pack that train at once: all of them, or, where these did not fit, fewer."""

    pack: Pack
    configurations: tuple[Configuration, ...]
    first: int
    """Place of the first of them in the pack."""
    export_to: Path | None
    on_step: Callable[[float], None]

    def halves(self) -> tuple[Part, Part]:
        """The same in two."""
        half = len(self.configurations) // 2
        return (
            replace(self, configurations=self.configurations[:half], on_step=lambda s: self.on_step(s / 2)),
            replace(
                self,
                configurations=self.configurations[half:],
                first=self.first + half,
                on_step=lambda s: self.on_step(0.5 + s / 2),
            ),
        )
