"""A data set too large to hold, from the file to the answer: priced for all rows, measured on a sample, and never called otherwise."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from rightrank import Recipe
from rightrank.data import sampling
from rightrank.measuring import measure
from rightrank.outputs import write_outputs
from rightrank.preparing import Prepared, prepare
from rightrank.report.terminal import print_recommendation
from rightrank.request import Request
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation

ROWS, HELD, STEPS = 2_000, 100, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sampled")
    save_model(place / "model")
    save_rows(place / "rows.jsonl", small_rows(ROWS))
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[Prepared, Recommendation, list[str]]:
    """2,000 rows of which 100 can be held."""
    lines: list[str] = []
    steps = iter(range(STEPS))

    def on_progress(*_: object) -> None:
        """Ctrl-C after a few runs: they are enough for an answer."""
        if next(steps, None) is None:
            raise KeyboardInterrupt

    options: dict[str, Any] = {
        "recipe": Recipe().given(epochs=1, batch_size=8),
        "ranks": (4,),
        "budget_minutes": 5,
        "device": "cpu",
    }
    request = Request(
        str(folder / "model"),
        str(folder / "rows.jsonl"),
        out=folder / "run",
        on_text=lines.append,
        on_progress=on_progress,
        **options,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "MOST_ROWS", HELD)
        prepared = prepare(request)
        answer = measure(prepared)
        write_outputs(answer, folder / "run", request)
    return prepared, answer, lines


def test_it_is_priced_for_all_rows_and_measured_on_the_sample(
    run: tuple[Prepared, Recommendation, list[str]],
) -> None:
    prepared, answer, _ = run
    assert prepared.data.rows == ROWS
    assert (
        prepared.job.examples
        == prepared.data.train_rows
        == answer.data.train
        == 1_900 + len(prepared.data.train)
    )
    assert prepared.job.most == len(prepared.data.train) == 80
    assert max(point.examples for point in answer.points) <= 80
    assert answer.data.total_tokens == pytest.approx(
        1_980 * sum(len(e.token_ids_T) for e in prepared.data.train) / 80, abs=1
    )


def test_nothing_on_all_rows_is_called_measured(
    run: tuple[Prepared, Recommendation, list[str]], folder: Path
) -> None:
    _, answer, lines = run
    tuned = [option for option in answer.options if option.kind == "tuned"]
    assert tuned and all(option.loss.source == "extrapolated" for option in tuned)
    assert not (folder / "run" / "adapter").exists(), "an adapter of a sample is not the winner"
    sample = "rows.jsonl has 2,000 rows; 100 of them, drawn at random, stand for all."
    assert sample in answer.warnings
    assert any("1,980 train (80 of them drawn at random) / 20 held out" in line for line in lines)
    assert not any("all your rows" in step.why for step in answer.to_decide)
    out = io.StringIO()
    print_recommendation(answer, Console(file=out, width=100), {})
    assert "of 1,980" in out.getvalue() or "1,980 extrapolated" in out.getvalue()
    assert "on all 1,980" not in out.getvalue()


def test_trainers_get_all_of_it(run: tuple[Prepared, Recommendation, list[str]], folder: Path) -> None:
    assert run[1].data.rows == ROWS
    written = (folder / "run" / "trl_rows" / "train.jsonl").read_text().splitlines()
    assert len(written) == ROWS and json.loads(written[-1])["completion"]
