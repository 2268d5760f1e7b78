"""What the maximum length does to the rows: measuring says it as estimating does, at once and in the answer's notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rightrank import Recipe
from rightrank.estimates.estimating import estimate_request
from rightrank.preparing import prepare
from rightrank.request import Request
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("length", [13, 1024])
def test_rows_that_are_cut_are_warned_of_in_both(length: int, tmp_path: Path) -> None:
    model, rows = save_model(tmp_path / "model"), save_rows(tmp_path / "rows.jsonl", small_rows(120))
    recipe = Recipe().given(epochs=1, batch_size=2, max_length=length)
    options: dict[str, Any] = {"recipe": recipe, "device": "cpu", "budget_minutes": 5, "ranks": (4, 8)}
    request = Request(str(model), str(rows), **options)
    wanted = [line for line in estimate_request(request).cautions if f"cut at {length:,} tokens" in line]
    assert bool(wanted) == (length == 13)
    lines: list[str] = []
    prepared = prepare(Request(str(model), str(rows), on_text=lines.append, **options))
    assert [line for line in prepared.request.notes if f"cut at {length:,} tokens" in line] == wanted
    assert set(wanted) <= set(lines)
