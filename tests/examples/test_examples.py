"""Every example, run as it stands but for a model, a length of training and ranks that take seconds."""

from __future__ import annotations

import json
import os
import runpy
import stat
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rightrank
from rightrank import Recipe, Recommendation, cli
from rightrank.besides import own_metric
from small_run import save_model

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ("--ranks", "2,4", "--device", "cpu", "--epochs", "1", "--batch-size", "16")
RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["ARGUMENTS"], "a") as out:
    out.write(json.dumps(sys.argv[1:]) + chr(10))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("examples") / "model")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """What a shell script hands to ``rightrank``, a list of arguments a call; nothing of it is run yet."""
    recorder = tmp_path / "bin" / "rightrank"
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    monkeypatch.chdir(tmp_path)

    def script(path: Path, *arguments: object) -> list[list[str]]:
        heard = tmp_path / "arguments"
        environment = {
            **os.environ,
            "PATH": f"{recorder.parent}{os.pathsep}{os.environ['PATH']}",
            "ARGUMENTS": str(heard),
        }
        subprocess.run(["sh", str(path), *map(str, arguments)], check=True, env=environment, timeout=60)
        return [json.loads(line) for line in heard.read_text().splitlines()]

    return script


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["rightrank", *arguments])
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        cli.main()
    assert stop.value.code == 0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """``rightrank.recommend`` for one epoch and small ranks, whatever it is asked for."""
    whole = rightrank.recommend

    def recommend(*arguments: Any, recipe: Recipe, **options: Any) -> Recommendation:
        quick = recipe.given(epochs=1, batch_size=16)
        return whole(*arguments, recipe=quick, **{**options, "ranks": (2, 4), "device": "cpu"})

    monkeypatch.setattr(rightrank, "recommend", recommend)


def answered(directory: Path) -> Recommendation:
    (path,) = directory.glob("rightrank-runs/*/recommendation.json")
    return Recommendation.from_json(path.read_text(encoding="utf-8"))


def test_coding(
    started: Callable[..., list[list[str]]], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric is called in this process; that commands are started is tested in ``tests/besides``."""
    (arguments,) = started(EXAMPLES / "coding" / "run.sh", model, *QUICK)
    assert arguments[arguments.index("--epochs") + 1] == "2"
    metric = runpy.run_path(str(EXAMPLES / "coding" / "parses.py"))
    asked = []

    def measure(command: own_metric.Command, directory: Path, **_: Any) -> float:
        assert command.words[0] == "python" and Path(command.words[1]) == EXAMPLES / "coding" / "parses.py"
        assert (directory / "adapter_config.json").exists()
        asked.append(directory)
        return float(metric["main"](str(directory), prompts=2, longest=4))

    monkeypatch.setattr(own_metric.Command, "measure", measure)
    monkeypatch.setattr(own_metric.shutil, "which", lambda name: name)
    run(arguments, monkeypatch)
    answer = answered(tmp_path)
    assert (answer.data.train, answer.data.decide + answer.data.score) == (80, 20)
    assert answer.own_measure is not None and len(asked) == len(set(asked)) >= 2
    assert [metric["is_python"](text) for text in ("x = 1", "def f(:", "", "Sure! Here is")] == [
        True,
        False,
        False,
        False,
    ]


def test_medical(
    started: Callable[..., list[list[str]]],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    check, recommend = started(EXAMPLES / "medical" / "run.sh", model, *QUICK)
    run(check, monkeypatch)
    assert "r=16" in capfd.readouterr().out
    run(recommend, monkeypatch)
    answer = answered(tmp_path)
    assert answer.recipe_from == "axolotl.yml (Axolotl)" and answer.recipe.schedule == "cosine"
    assert answer.forgetting is not None and "yours" in {option.kind for option in answer.options}
    (edited,) = tmp_path.glob("rightrank-runs/*/axolotl.yml")
    before, after = (EXAMPLES / "medical" / "axolotl.yml").read_text().splitlines(), edited.read_text()
    assert f"lora_r: {answer.choice.rank}\n" in after and "num_epochs: 1" in after
    assert before[0] == after.splitlines()[0]


def test_medical_names_the_model_of_its_config(started: Callable[..., list[list[str]]]) -> None:
    check, recommend = started(EXAMPLES / "medical" / "run.sh")
    config = str(EXAMPLES / "medical" / "axolotl.yml")
    assert check == ["check", config] and recommend[:3] == ["recommend", "--config", config]


def test_legal(
    model: Path,
    short: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = runpy.run_path(str(EXAMPLES / "legal" / "legal.py"))["main"](str(model), "2", "4")
    said = capsys.readouterr().out
    assert answer == answered(tmp_path) and answer.status in said and "exactly right" in said
    assert f"r={answer.choice.rank}, alpha {answer.choice.alpha:g}" in said
    assert answer.to_peft().r == answer.choice.rank


def test_notebook(
    model: Path,
    short: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its cells in order, as plain Python; it is kept without outputs."""
    book = json.loads((EXAMPLES / "rightrank.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL", str(model))
    monkeypatch.setenv("DATA", str(EXAMPLES / "coding" / "rows.jsonl"))
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    answer = names["answer"]
    assert answer == answered(tmp_path) and names["config"].r == answer.choice.rank
    said = capsys.readouterr().out
    assert "GiB to train" in said and answer.status in said and "gain lost" in said


@pytest.mark.parametrize("rows", sorted(EXAMPLES.glob("*/*.jsonl")), ids=lambda path: path.parent.name)
def test_rows_are_few_distinct_and_named_with_their_licence(rows: Path) -> None:
    lines = rows.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) and rows.stat().st_size < 40_000
    names = EXAMPLES / "README.md", EXAMPLES.parent / "NOTICE"
    for text in names:
        assert f"{rows.parent.name}/" in text.read_text(encoding="utf-8")
