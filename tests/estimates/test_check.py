"""A trainer's config checked: from the records in seconds, and from a measurement."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import rightrank
from rightrank import from_config
from rightrank.errors import ConfigurationError
from rightrank.estimates.checking import from_measurement
from rightrank.priors import grids
from rightrank.recommendation import Figure, Option
from rightrank.trainers import read_config
from small_run import save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

    from commands import Run
    from rightrank.recommendation import Recommendation, Verdict

TEXT = """\
# my run
model_name_or_path: {model}
dataset_name: {rows}
use_peft: true
lora_r: 8        # rank
lora_alpha: 16
lora_target_modules: {modules}
learning_rate: {rate}
num_train_epochs: 2
per_device_train_batch_size: 4
"""


@pytest.fixture
def config(model: Path, rows: Path, tmp_path: Path) -> Path:
    (model / "model.safetensors").unlink()
    return written(tmp_path, model, rows)


def written(folder: Path, model: Path, rows: Path, rate: str = "2.0e-5", modules: str = "all-linear") -> Path:
    path = folder / "trl.yaml"
    path.write_text(TEXT.format(model=model, rows=rows, rate=rate, modules=modules), encoding="utf-8")
    return path


def test_a_rate_far_too_low_changes_that_line_and_no_other(config: Path) -> None:
    before = config.read_text(encoding="utf-8")
    found = rightrank.check(config, gpu="l4")
    assert found.verdict == "change these lines"
    assert found.trainer == "TRL"
    assert found.yours == (8, 16.0, 2e-5)
    assert "learning_rate" in [key for key, _, _ in found.changes]
    assert {key for key, _, _ in found.changes} <= {"lora_r", "lora_alpha", "learning_rate"}
    assert found.better is not None and found.better[2] > 2e-4
    assert found.source == "estimate, from 5 data sets on SmolLM2-135M-Instruct"
    assert any("ten times below" in caution for caution in found.cautions)
    assert config.read_text(encoding="utf-8") == before  # nothing is written


def test_attention_alone_is_noticed(model: Path, rows: Path, tmp_path: Path) -> None:
    path = written(tmp_path, model, rows, modules="[q_proj, v_proj]")
    found = rightrank.check(path, gpu="l4")
    assert any(caution.startswith("Only attention") for caution in found.cautions)
    assert not any("target_modules" in key for key, _, _ in found.changes)


def test_what_is_given_wins_over_the_config(config: Path, tmp_path: Path) -> None:
    other = save_rows(tmp_path / "other.jsonl", small_rows(60))
    found = rightrank.check(config, dataset=str(other), gpu="l4")
    assert found.estimate is not None and found.estimate.data.name == "other.jsonl"


def answered(verdict: Verdict, status: str = "SETTLED") -> tuple[Recommendation, Option]:
    from samples import sample

    answer = sample(status)  # type: ignore[arg-type]
    lost = Figure(3.1, "% of the gain", "measured", 2.1, 4.0)
    mine = Option("yours", "yours", 8, 16.0, 2e-5, verdict, lost, lost, None, None, lost, 1.0)
    options = (*(o for o in answer.options if o.kind != "yours"), mine)
    return replace(answer, options=options), mine


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("best", "keep it"),
        ("as good", "keep it"),
        ("worse", "change these lines"),
        ("cannot tell", "cannot tell yet"),
    ],
)
def test_a_measurement_answers_for_the_persons_own_setting(verdict: Any, said: str, config: Path) -> None:
    answer, _ = answered(verdict)
    found = from_measurement(read_config(config), answer)
    assert (found.verdict, found.source) == (said, "measured")
    assert found.cost is not None and (found.cost.mean, found.cost.low, found.cost.high) == (3.1, 2.1, 4.0)
    assert bool(found.changes) == (said != "keep it")
    if found.changes:
        changed = {key: after for key, _, after in found.changes}
        assert changed["lora_r"] == str(answer.choice.rank)


def test_no_gain_is_never_a_reason_to_keep(config: Path) -> None:
    answer, _ = answered("as good", "NO_GAIN")
    assert from_measurement(read_config(config), answer).verdict == "cannot tell yet"


def test_measuring_goes_the_way_of_recommend(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def recommend(model: Any, dataset: Any, **options: Any) -> Recommendation:
        asked.update(options)
        return answered("worse")[0]

    monkeypatch.setattr(from_config, "recommend", recommend)
    found = rightrank.check(config, measure=True, budget_minutes=2)
    assert asked == {"config": config, "budget_minutes": 2}
    assert found.verdict == "change these lines"
    assert json.loads(found.to_json())["recommendation"] == found.recommendation.provenance.run_directory  # type: ignore[union-attr]


def test_a_config_without_a_setting_has_nothing_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rightrank import trainers
    from rightrank.trainers.config import TrainerConfig

    path = tmp_path / "c.yaml"
    monkeypatch.setattr(trainers, "read_config", lambda _: TrainerConfig("Some", path, None, None))
    with pytest.raises(ConfigurationError, match=r"c.yaml does not name both a rank and a learning rate"):
        rightrank.check(path)


def test_the_command_prints_a_verdict_and_what_would_measure_it(
    model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "OUTSIDE", 1e9)
    config = written(tmp_path, model, save_rows(tmp_path / "many.jsonl", small_rows(400)))
    said = run(config, "--gpu", "l4", name="check")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "CHANGE THESE LINES"
    assert lines[1].startswith("An estimate, from 5 data sets")
    assert lines[-1].strip() == f"rightrank check {config} --measure"
    assert any(line.startswith("  learning_rate: 2.0e-5 -> ") or "learning_rate: 2" in line for line in lines)


def test_of_a_run_like_none_that_was_recorded_no_number_is_given(config: Path, run: Run) -> None:
    """40 steps of a model 16 wide, and 10 rows that score: neither an estimate, nor a measurement to go for."""
    config.write_text(config.read_text(encoding="utf-8").replace("2.0e-5", "1.0e-2"), encoding="utf-8")
    lines = run(config, "--gpu", "l4", name="check").out.splitlines()
    assert lines[:2] == ["CANNOT TELL WITHOUT MEASURING", "Nothing was measured."]
    text = " ".join(lines)
    assert "No estimate for r=8 alpha=16 lr 1e-2: your run has 40 steps; the recorded runs had 300 to" in text
    assert "%" not in text
    assert "--measure" not in text and "no measurement can end in an answer: 10 rows" in text
    assert str(rightrank.check(config, gpu="l4")) == "\n".join(lines)


def test_a_measured_cost_without_an_interval_has_no_ends(config: Path) -> None:
    answer, mine = answered("cannot tell")
    bare = replace(mine, gain_lost=replace(mine.gain_lost, low=None, high=None))  # type: ignore[type-var]
    options = tuple(bare if option is mine else option for option in answer.options)
    found = from_measurement(read_config(config), replace(answer, options=options))
    assert "it costs 3.1 % of the gain, measured on too few" in str(found)


def test_the_command_as_json_and_its_mistakes(config: Path, run: Run) -> None:
    found = json.loads(run(config, "--gpu", "l4", "--json", name="check").out)
    assert (found["kind"], found["verdict"]) == ("check", "change these lines")
    assert found["recommendation"] is None
    assert run("nothing.yaml", name="check").code in (2, 3)
    config.write_text("colour: blue\n", encoding="utf-8")
    assert "the config of no trainer" in run(config, name="check").complaint


def test_a_misspelt_rank_is_not_said_to_be_missing(config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    for misspelt in (text.replace("learning_rate", "learning_rat"), text.replace("lora_r:", "lora_rank:")):
        config.write_text(misspelt, encoding="utf-8")
        try:
            said = " ".join(rightrank.check(config, gpu="l4").notes)
        except ConfigurationError as error:
            said = error.problem
        assert "trl.yaml has " in said and "(did you mean l" in said
        assert "does not name" not in said


def test_a_setting_that_was_run_where_no_gain_is_certain_is_not_called_unknown(config: Path) -> None:
    answer, mine = answered("cannot tell")
    bare = replace(mine, gain_lost=None)
    options = tuple(bare if option is mine else option for option in answer.options)
    said = str(from_measurement(read_config(config), replace(answer, options=options)))
    assert "3.100 nats a token held out; no share of a gain, since no gain is certain." in said.replace(
        "\n", " "
    )
    assert "recorded runs" not in said and "the best guess so far" in said
