"""A whole run that is asked for more than the loss: its price, its numbers, and what it costs when something goes wrong."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import rightrank
from rightrank import Recipe, Recommendation, UserError
from rightrank.runs.durable import read_json, write_json
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

QUICK: dict[str, Any] = {
    "recipe": Recipe().given(epochs=1, batch_size=8),
    "ranks": (4, 8),
    "budget_minutes": 5,
    "device": "cpu",
}
# Sum of |B|, read with nothing but the standard library: zero for the untrained adapter. Notes every call.
SCRIPT = """
import json, struct, sys
folder = sys.argv[1]
raw = open(folder + "/adapter_model.safetensors", "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
total = 0.0
for name, one in json.loads(raw[8 : 8 + size]).items():
    if "lora_B" in name:
        start, end = one["data_offsets"]
        total += sum(abs(x) for x in struct.unpack("<%df" % ((end - start) // 4), raw[8 + size + start : 8 + size + end]))
open("calls.txt", "a").write(folder + "\\n")
print("done")
print(total)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("besides")
    save_model(place / "model")
    save_rows(place / "rows.jsonl")
    save_rows(place / "old.jsonl", small_rows(60, seed=7))
    (place / "measure.py").write_text(SCRIPT)
    return place


def command(folder: Path) -> str:
    return shlex.join([sys.executable, "-S", str(folder / "measure.py")])


def ask(folder: Path, out: str = "run", **options: Any) -> Recommendation:
    wanted = {"metric": command(folder), "keep": str(folder / "old.jsonl"), **options}
    return rightrank.recommend(
        str(folder / "model"), folder / "rows.jsonl", out=folder / out, **QUICK, **wanted
    )


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def answer(folder: Path, said: list[str]) -> Recommendation:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return ask(folder, on_text=said.append)


def size_of_b(directory: Path) -> float:
    from safetensors.numpy import load_file

    tensors = load_file(directory / "adapter_model.safetensors")
    return float(sum(np.abs(t).astype(float).sum() for name, t in tensors.items() if "lora_B" in name))


def test_the_own_measure_is_that_of_the_adapters_on_disk(answer: Recommendation, folder: Path) -> None:
    own = answer.own_measure
    assert own is not None and own.base == 0.0 and own.command == command(folder)
    finalists = [value for value in own.values if value.roles]
    assert finalists[0].roles[0] == "chosen" and len({value.rank for value in finalists}) == 2
    calls = (folder / "calls.txt").read_text().split()
    assert len(calls) == 1 + len(own.values), "once for the untrained model, once for each adapter"
    for value, call in zip(own.values, calls[1:], strict=True):
        directory = type(folder)(call)
        config = json.loads((directory / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (value.rank, value.alpha)
        assert value.value == pytest.approx(size_of_b(directory), rel=1e-5) and value.value > 0


def test_forgetting_is_measured_for_every_setting_of_the_table(answer: Recommendation, folder: Path) -> None:
    old = answer.forgetting
    assert old is not None and (old.name, old.rows, old.of_rows) == ("old.jsonl", 60, 60)
    shown = {(o.rank, o.alpha, o.learning_rate) for o in answer.options if o.loss.source == "measured"}
    assert {(f.rank, f.alpha, f.learning_rate) for f in old.settings} == shown
    for forgot in old.settings:
        assert forgot.change.low < forgot.change.value < forgot.change.high
        assert forgot.percent.value == pytest.approx(100 * forgot.change.value / old.base_loss)
    # The rows ask for the same skill as those trained on, so the setting that learns most has the least loss on them too.
    best = min(answer.options, key=lambda option: option.loss.value)
    least = min(old.settings, key=lambda forgot: forgot.change.value)
    assert least.change.value < -0.1 and abs(best.learning_rate / least.learning_rate - 1) < 10


def test_both_are_priced_beforehand_and_saved_without_a_row(
    answer: Recommendation, folder: Path, said: list[str]
) -> None:
    plan = next(i for i, line in enumerate(said) if line.startswith("Plan: "))
    assert any(line.startswith("Your own measure: 0 for the untrained model") for line in said[:plan])
    assert any(line.startswith("Old skills: old.jsonl, 60 of 60 rows") for line in said[:plan])
    text = (folder / "run" / "recommendation.json").read_text()
    assert Recommendation.from_json(text) == answer
    prompts = [row["prompt"] for row in small_rows(60, seed=7)]
    kept = (
        text
        + (folder / "run" / "old_skills.json").read_text()
        + (folder / "run" / "own_measure.json").read_text()
    )
    assert not any(prompt in kept for prompt in prompts)


def test_the_plan_pays_for_four_runs_of_the_command(folder: Path) -> None:
    from rightrank.preparing import prepare
    from rightrank.request import Request

    slow = shlex.join([sys.executable, "-S", "-c", "import time; time.sleep(0.3); print(1)"])
    prepared = prepare(Request(str(folder / "model"), folder / "rows.jsonl", metric=slow, **QUICK))
    assert prepared.asked.untrained == 1.0 and prepared.asked.command_seconds >= 0.3
    assert prepared.asked.reserve_seconds >= 1.2
    assert prepared.plan.planned_seconds >= prepared.asked.reserve_seconds


def test_a_resumed_run_takes_what_is_measured(
    answer: Recommendation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = (folder / "calls.txt").read_text().split()
    again = ask(folder, resume=True)
    after = (folder / "calls.txt").read_text().split()
    assert again.forgetting == answer.forgetting
    assert len(after) == len(before) + 1, "only the untrained model, to see that the command still works"
    assert again.own_measure is not None and again.own_measure.values == answer.own_measure.values  # type: ignore[union-attr]


@pytest.mark.parametrize("nonsense", ["x", {"loss": ["x"], "right": [1]}, 1e300, {"loss": [1.0], "right": 5}])
def test_kept_values_that_nothing_can_have_given_do_not_count(
    answer: Recommendation, folder: Path, monkeypatch: pytest.MonkeyPatch, nonsense: Any
) -> None:
    """Under checksums that are right."""
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "odd", ignore_errors=True)
    shutil.copytree(folder / "run", folder / "odd")
    for name in ("old_skills.json", "own_measure.json"):
        found = read_json(folder / "odd" / name)
        write_json(folder / "odd" / name, {**found, "values": dict.fromkeys(found["values"], nonsense)})
    again = ask(folder, "odd", resume=True)
    assert again.choice == answer.choice
    assert again.own_measure is None or {v.value for v in again.own_measure.values} <= {
        v.value
        for v in answer.own_measure.values  # type: ignore[union-attr]
    }


def test_answers_of_before_still_load(answer: Recommendation) -> None:
    plain = json.loads(replace(answer, own_measure=None, forgetting=None).to_json())
    for name in ("own_measure", "forgetting"):
        assert plain.pop(name) is None
    loaded = Recommendation.from_json(json.dumps(plain))
    assert loaded.own_measure is None and loaded.forgetting is None and loaded.choice == answer.choice


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": shlex.join([sys.executable, "-c", "raise SystemExit(4)"])}, "ended with exit code 4"),
        ({"metric": "no-such-program"}, "is no program here"),
        ({"keep": "no-such-file.jsonl"}, "no-such-file.jsonl"),
        ({"report_to": "weights"}, "is not known"),
    ],
)
def test_a_mistake_costs_no_measurement(options: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        ask(folder, "mistaken", **{"metric": None, "keep": None, **options})
    assert words in str(caught.value)
    assert not (folder / "mistaken").exists()


def test_a_command_that_fails_later_costs_its_number_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code = "import sys; print(1) if 'untrained' in sys.argv[1] else sys.exit(5)"
    answer = ask(folder, "later", metric=shlex.join([sys.executable, "-S", "-c", code]), keep=None)
    assert answer.own_measure is not None and answer.own_measure.verdict == "not measured"
    assert all(value.value is None for value in answer.own_measure.values)
    assert any("ended with exit code 5 (r=" in warning for warning in answer.warnings)
    assert answer.choice.rank in (4, 8)


def test_ctrl_c_while_the_old_skills_are_measured_answers_and_leaves_the_rest_to_resume(folder: Path) -> None:
    heard: list[str] = []

    def stop(what: str, done: float, whole: float) -> None:
        if what == "what the old skills lose":
            heard.append(what)
            if len(heard) == 3:  # the untrained model and one adapter are measured
                raise KeyboardInterrupt

    rows = small_rows(60, seed=7)
    stopped = ask(folder, "stopped", metric=None, keep=rows, on_progress=stop)
    assert not any(row["prompt"] in (folder / "stopped" / "run.json").read_text() for row in rows)
    assert stopped.provenance.interrupted and stopped.forgetting is not None
    assert len(stopped.forgetting.settings) == 1
    assert any(w.startswith("Interrupted: not every setting") for w in stopped.warnings)
    whole = ask(folder, "stopped", metric=None, keep=rows, resume=True)
    assert whole.forgetting is not None and len(whole.forgetting.settings) > 1
    assert stopped.forgetting.settings[0] in whole.forgetting.settings
