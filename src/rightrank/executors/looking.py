"""Looks at a run on its way, as they are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rightrank.probe.looks import Looks

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.evaluate import HeldOut


class Looking:
    """Judges the adapters whenever it is asked to, by calling ``judge``, and keeps what it saw."""

    def __init__(self, judge: Callable[[], HeldOut]) -> None:
        self._judge = judge
        self._seen: list[tuple[int, np.ndarray, np.ndarray]] = []

    def look(self, done: int, train_loss_K: Float[Tensor, " K"]) -> None:
        """After step ``done``; ``train_loss_K``: training nats a token since the look before."""
        held_out = self._judge()
        loss_KX = np.where(np.isfinite(held_out.loss_KE), held_out.loss_KE, np.inf)
        self._seen.append((done, loss_KX, train_loss_K.cpu().numpy()))

    def looks(self, steps_a_pass: int) -> Looks | None:
        """All of them; None where there was none."""
        if not self._seen:
            return None
        done, losses, training = zip(*self._seen, strict=True)
        epochs = tuple(step / steps_a_pass for step in done)
        return Looks(epochs, np.stack(losses, 1), np.stack(training, 1))
