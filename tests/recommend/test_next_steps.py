"""What would decide: nothing that cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from rightrank.answer import next_steps


def steps(score: int) -> list[str]:
    decision: Any = SimpleNamespace(status="UNDECIDED", deciding=None)
    plan: Any = SimpleNamespace(
        score=score, most=None, breadth="lean", all_rows_seconds=600.0, budget_seconds=240.0
    )
    evidence: Any = SimpleNamespace(examples_C=np.array([24]), all_examples=96)
    return [step.command for step in next_steps(decision, plan, evidence, "rightrank recommend M D")]


def test_where_too_few_rows_score_more_time_is_not_what_would_decide() -> None:
    assert steps(12) == ["rightrank recommend M D --eval-data MORE_ROWS --budget 10"]
    assert steps(30) == ["rightrank recommend M D --budget 10"]
