"""``--finish``: the winner on all the rows, and whatever prevents it costs the answer nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from report.samples import sample
from rightrank import finishing
from rightrank.errors import ResourceError
from rightrank.probe.pack import PackResult
from rightrank.probe.plan import Speed
from rightrank.recipe import Recipe
from rightrank.request import Request

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Status


class Trainer:
    """Stands in for an executor: notes what it is asked to train, and does what it is told."""

    def __init__(self, rows: Any, what: BaseException | float = 0.5, *, exports: bool = True) -> None:
        self.rows, self.what, self.exports = rows, what, exports
        self.asked: list[Any] = []

    def judge_by(self, decide: Any, score: Any) -> None:
        self.judges = (len(decide), len(score))

    def train(self, pack: Any, *, export_to: Path, on_step: Any) -> PackResult:
        self.asked.append(pack)
        on_step(0.5)
        if isinstance(self.what, BaseException):
            raise self.what
        if self.exports:
            (export_to / "0").mkdir(parents=True)
            (export_to / "0" / "adapter_model.safetensors").write_bytes(b"weights")
        loss = np.full((1, 8), self.what)
        return PackResult(loss, np.zeros((1, 8), int), (0.25,), 3, 100, 1.0)


def prepared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, held_out_from: str = "split by prompt", **how: Any
) -> tuple[Any, Trainer]:
    rows = SimpleNamespace(
        train=tuple(range(80)),
        decide=tuple(range(80, 90)),
        score=tuple(range(90, 100)),
        held_out_from=held_out_from,
        train_of_all=None,
        rows_fingerprint="r",
    )
    trainer = Trainer(rows, **how)

    def take(_: Any, all_rows: Any) -> Trainer:
        trainer.rows = all_rows
        return trainer

    monkeypatch.setattr(finishing, "_executor", take)
    job: Any = SimpleNamespace(recipe=Recipe(), parameters_per_rank=10)
    return SimpleNamespace(
        request=Request("m", "d"),
        directory=folder,
        data=rows,
        job=job,
        speed=Speed(0.0, 60.0, 0.0, 0.0, 1),
        executor=None,
    ), trainer


def finish(what: Any, status: Status = "SETTLED", **changes: Any) -> Any:
    answer = sample(status)
    return finishing.finish(what, replace(answer, **changes))


@pytest.mark.parametrize(("held_out_from", "rows"), [("split by prompt", 100), ("--eval-data", 80)])
def test_the_winner_is_trained_on_every_row_there_is(
    held_out_from: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, trainer = prepared(tmp_path, monkeypatch, held_out_from)
    answer = finish(what)
    (pack,) = trainer.asked
    (trained,) = pack.configurations
    choice = answer.choice
    assert (trained.rank, trained.alpha, trained.learning_rate) == (
        choice.rank,
        choice.alpha,
        choice.learning_rate,
    )
    assert trainer.rows == tuple(range(rows)) and pack.examples == rows
    assert (answer.finished.examples, answer.finished.train_loss) == (rows, 0.25)
    folder = tmp_path / "finished_adapter"
    assert answer.finished.directory == str(folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"
    label = json.loads((folder / "rightrank.json").read_text())
    assert (label["rank"], label["examples"], label["rows"]) == (choice.rank, rows, "r")
    assert not list(tmp_path.glob("*.part"))
    assert type(answer).from_json((tmp_path / "recommendation.json").read_text()) == answer


def test_what_is_finished_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what, trainer = prepared(tmp_path, monkeypatch)
    first = finish(what)
    assert finish(what).finished == first.finished and len(trainer.asked) == 1
    other = replace(first.choice, learning_rate=1e-3)
    assert finish(what, choice=other).finished is not None and len(trainer.asked) == 2
    label = json.loads((tmp_path / "finished_adapter" / "rightrank.json").read_text())
    assert label["learning_rate"] == 1e-3


def test_an_adapter_that_was_measured_on_all_rows_is_the_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, trainer = prepared(tmp_path, monkeypatch, "--eval-data")
    finish(what)
    (tmp_path / "finished_adapter").rename(tmp_path / "adapter")
    assert finish(what).finished.directory == str(tmp_path / "adapter") and len(trainer.asked) == 1


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"what": float("inf")}, "diverged"),
        ({"exports": False}, "disk space"),
        (
            {"what": ResourceError("Memory ran out.", "")},
            r"could not be trained on all rows \(Memory ran out\)",
        ),
        ({"what": OSError(28, "No space left")}, "No space left"),
        ({"what": KeyboardInterrupt()}, "--resume --finish"),
    ],
)
def test_what_goes_wrong_becomes_a_note(
    how: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, _ = prepared(tmp_path, monkeypatch, **how)
    answer = finish(what)
    assert answer.finished is None and not (tmp_path / "finished_adapter").exists()
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(answer.warnings[-1])
    assert answer.choice == sample().choice and not list(tmp_path.glob("*.part"))


def test_nothing_is_trained_where_training_does_not_help_or_an_answer_is_wanted_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, trainer = prepared(tmp_path, monkeypatch)
    assert "does not help" in finish(what, "NO_GAIN").warnings[-1]
    stopped = replace(sample().provenance, interrupted=True)
    assert "--resume --finish" in finish(what, provenance=stopped).warnings[-1]
    assert trainer.asked == []


def test_a_sample_of_a_larger_data_set_is_not_passed_off_as_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, trainer = prepared(tmp_path, monkeypatch)
    what.data.train_of_all = 5_000_000
    assert finish(what).warnings[-1] == finishing.TOO_MANY and trainer.asked == []
    assert finishing.price_line(what.data, what.job, what.speed, (4,)).startswith(finishing.TOO_MANY)


def test_the_price_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what, _ = prepared(tmp_path, monkeypatch)
    speed = Speed(0.0, 60.0, 6.0, 0.0, 1)  # a step: a minute, and a minute a rank
    line = finishing.price_line(what.data, what.job, speed, (4, 9, 19))
    steps = Recipe().steps(100)
    assert (
        line
        == (
            "Then the winner is trained on all 100 rows, the held-out ones too:"
            f" {5 * steps} min to {20 * steps / 60:.1f} h more, as its rank is."
        )
        or f"{5 * steps / 60:.1f} h to {20 * steps / 60:.1f} h" in line
    )
