"""What is written beside an answer: the rows as trainers take them, and the person's own config under a name that is free."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import sample
from rightrank.outputs import write_outputs
from rightrank.recommendation import Finished
from rightrank.request import Request
from rightrank.trainers.settings import places

if TYPE_CHECKING:
    from pathlib import Path

AXOLOTL = """\
base_model: base   # mine
datasets: [{path: rows.jsonl, type: alpaca}]
adapter: lora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
learning_rate: 2e-4
"""
ROWS: dict[str, Any] = {
    "Alpaca": {"instruction": "a", "input": "b", "output": "c"},
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]},
    "text": {"text": "a b c"},
}


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes a second to draw and has tests of its own."""
    monkeypatch.setattr("rightrank.report.page.write", lambda answer, folder, configs: folder / "report.html")


def written(folder: Path, request: Request, data_format: str = "Alpaca", template: str = "chat") -> Any:
    answer = sample()
    data = replace(answer.data, format=data_format, template=template)
    answer = replace(answer, data=data, recipe=replace(answer.recipe, origins={}))
    return write_outputs(answer, folder, request), places(answer, folder)


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("data_format", "template", "as_trl", "as_chat"),
    [
        ("Alpaca", "chat", {"prompt", "completion"}, {"messages"}),
        ("Alpaca", "none", {"prompt", "completion"}, None),
        ("messages", "chat", {"messages"}, None),
        ("text", "none", {"text"}, None),
    ],
)
def test_rows_lie_there_as_trainers_take_them(
    data_format: str, template: str, as_trl: set[str], as_chat: set[str] | None, tmp_path: Path
) -> None:
    rows = [ROWS[data_format]] * 3
    _, where = written(tmp_path, Request("m", rows), data_format, template)
    assert [set(row) for row in lines(where.trl_rows)] == [as_trl] * 3
    assert (where.chat_rows == where.trl_rows) is (as_chat is None)
    if as_chat is not None:
        (first, *_) = lines(where.chat_rows)
        assert set(first) == as_chat and [turn["role"] for turn in first["messages"]] == ["user", "assistant"]
        assert first["messages"] == [
            *lines(where.trl_rows)[0]["prompt"],
            *lines(where.trl_rows)[0]["completion"],
        ]
    elif (
        template == "none" and data_format == "Alpaca"
    ):  # a tokenizer without a template was measured with strings
        assert isinstance(lines(where.trl_rows)[0]["prompt"], str)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("mine.yml", "mine.yml"),
        ("axolotl.yml", "axolotl.yml"),
        ("trl_sft.yaml", "yours_trl_sft.yaml"),
        ("recommendation.json", "yours_recommendation.json"),
        ("report.html", "yours_report.html"),
    ],
)
def test_the_persons_config_takes_the_place_of_ours_and_of_nothing_else(
    name: str, becomes: str, tmp_path: Path
) -> None:
    own, run = tmp_path / "here" / name, tmp_path / "run"
    own.parent.mkdir()
    run.mkdir()
    own.write_text(AXOLOTL)
    found, _ = written(run, Request("m", [ROWS["Alpaca"]], config=own))
    path, _, changed = str(found.paths["Config"]).partition(" (")
    assert path == str(run / becomes) and changed.endswith("lines changed)")
    assert "base_model: base   # mine\n" in (run / becomes).read_text()
    assert "lora_r: 16\nlora_alpha: 32\n" in (run / becomes).read_text() and own.read_text() == AXOLOTL
    assert ("Axolotl" in found.paths) is (name != "axolotl.yml") and "TRL" in found.paths
    assert (run / "trl_sft.yaml").read_text().startswith("# For ")
    assert "lora_r 32 → 16" in found.notes[0]
    again, _ = written(run, Request("m", [ROWS["Alpaca"]], config=own))
    assert again.paths == found.paths


def test_a_config_that_is_gone_or_spoilt_costs_a_note(tmp_path: Path) -> None:
    found, _ = written(tmp_path, Request("m", [ROWS["Alpaca"]], config=tmp_path / "gone.yml"))
    assert found.problem is None and "Config" not in found.paths
    assert found.notes[0].startswith("Your config was not edited: The config ")


def test_a_finished_adapter_says_on_how_many_rows(tmp_path: Path) -> None:
    answer = replace(sample(), finished=Finished(str(tmp_path / "finished_adapter"), 3000, 4.0, 1.0))
    assert write_outputs(answer, tmp_path).paths["Finished adapter"] == (
        f"{tmp_path / 'finished_adapter'} (trained on all 3,000 rows)"
    )
