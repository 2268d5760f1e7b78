"""A whole run that is asked which layers to adapt: its runs, its words, and what it costs when something goes wrong."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import rightrank
from rightrank import Recipe, Recommendation
from rightrank.besides.layer_runs import LayerRuns
from rightrank.executors.local import LocalExecutor
from rightrank.probe.loss_table import LossTable
from rightrank.runs.removal import plan_removal
from rightrank.runs.verifying import verify
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

QUICK: dict[str, Any] = {
    "recipe": Recipe().given(epochs=2, batch_size=8),
    "ranks": (2, 4),
    "budget_minutes": 5,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("layers")
    save_model(place / "model")
    save_rows(place / "rows.jsonl", small_rows(600))
    return place


def ask(folder: Path, out: str = "run", **options: Any) -> Recommendation:
    wanted = {"layers": True, **QUICK, **options}
    return rightrank.recommend(str(folder / "model"), folder / "rows.jsonl", out=folder / out, **wanted)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def answer(folder: Path, said: list[str]) -> Recommendation:
    return ask(folder, on_text=said.append)


def test_both_kinds_are_compared_at_the_answer_s_size(answer: Recommendation, folder: Path) -> None:
    found = answer.layers
    assert found is not None and (found.rank, found.alpha) == (answer.choice.rank, answer.choice.alpha)
    assert [one.layers for one in found.alone] == ["attention", "mlp"]
    assert set(found.alone[0].modules) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert set(found.alone[1].modules) == {"gate_proj", "up_proj", "down_proj"}
    for one in found.alone:
        assert one.parameters == pytest.approx(found.parameters, rel=0.15), "ranks are whole numbers"
        assert answer.choice.learning_rate in one.learning_rates and len(one.learning_rates) >= 3
        assert one.learning_rate in one.learning_rates
        assert one.gain_lost.low < one.gain_lost.value < one.gain_lost.high
        assert one.loss < answer.base_loss.value
        above = 100 * (one.loss - found.loss) / (answer.base_loss.value - found.loss)
        assert one.gain_lost.value == pytest.approx(above, abs=3), "the base's loss is that of other rows"
    assert found.examples == found.of_examples == answer.data.train
    assert found.sentence.startswith("At the same size attention alone loses ")
    table = LossTable.opened(folder / "run" / "layers")
    assert {c.layers for c in table.configurations()} >= {"attention", "mlp"}


def test_the_answer_rests_on_all_layers_alone(answer: Recommendation, folder: Path) -> None:
    table = LossTable.opened(folder / "run")
    assert {c.layers for c in table.configurations()} == {"all"}
    assert len(answer.points) == len(table.configurations())
    assert set(answer.choice.target_modules) == set(answer.model.target_modules)
    again = {c for c in LossTable.opened(folder / "run/layers").configurations() if c.layers == "all"}
    assert not again & set(table.configurations(answer.data.train)), "what is known is not trained again"


def test_it_is_priced_beforehand_counted_and_saved(
    answer: Recommendation, folder: Path, said: list[str]
) -> None:
    line = next(line for line in said if line.startswith("Then attention alone and the MLP alone"))
    assert said.index(line) < said.index(next(s for s in said if s.startswith("Everything measured")))
    assert Recommendation.from_json((folder / "run" / "recommendation.json").read_text()) == answer
    raw = json.loads(answer.to_json())
    del raw["layers"]
    assert Recommendation.from_json(json.dumps(raw)).layers is None, "answers of before still load"
    assert "layers" in plan_removal(folder / "run").removes


def test_a_resumed_run_takes_what_is_measured(
    answer: Recommendation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*what: Any, **more: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(LayerRuns, "_carry_out", lambda self, packs: [train() for _ in packs])
    assert ask(folder, resume=True).layers == answer.layers


def copied(folder: Path, name: str) -> Path:
    """The run as it was before layers were compared."""
    shutil.copytree(folder / "run", folder / name)
    shutil.rmtree(folder / name / "layers")
    return folder / name


def test_who_does_not_ask_gets_none(answer: Recommendation, folder: Path) -> None:
    plain = ask(folder, copied(folder, "plain").name, resume=True, layers=False)
    assert plain.layers is None and not (folder / "plain" / "layers").exists()
    assert not any("--layers" in warning for warning in plain.warnings)
    assert (plain.choice, plain.points) == (answer.choice, answer.points)


def test_ctrl_c_answers_and_leaves_the_rest_to_resume(answer: Recommendation, folder: Path) -> None:
    copied(folder, "stopped")

    def stop(what: str, done: float, whole: float) -> None:
        if what.startswith("attention, MLP") and LossTable.opened(folder / "stopped/layers").packs:
            raise KeyboardInterrupt

    stopped = ask(folder, "stopped", resume=True, on_progress=stop)
    assert stopped.provenance.interrupted and stopped.choice == answer.choice
    assert any("while --layers was measured; --resume" in warning for warning in stopped.warnings)
    whole = ask(folder, "stopped", resume=True)
    assert whole.layers == answer.layers, "as if nothing had been"


def test_no_time_left_costs_the_comparison_alone(
    answer: Recommendation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LayerRuns, "_left", lambda self: -1.0)
    late = ask(folder, copied(folder, "late").name, resume=True)
    assert late.layers is None and late.choice == answer.choice
    note = next(warning for warning in late.warnings if "--layers" in warning)
    assert "Time ran out" in note and int(note.split("--budget ")[1].split()[0]) > 5


def test_what_fails_there_costs_the_comparison_alone(
    answer: Recommendation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = LocalExecutor.train

    def train(self: LocalExecutor, pack: Any, **more: Any) -> Any:
        if any(c.layers == "mlp" for c in pack.configurations):
            raise RuntimeError("the device is gone")
        return kept(self, pack, **more)

    monkeypatch.setattr(LocalExecutor, "train", train)
    broken = ask(folder, copied(folder, "broken").name, resume=True)
    assert any("was not measured to its end (RuntimeError)" in warning for warning in broken.warnings)
    assert broken.layers is not None and [one.layers for one in broken.layers.alone] == ["attention"]
    (copied(folder, "file") / "layers").write_text("in the way")
    in_the_way = ask(folder, "file", resume=True)
    assert any("Nothing can be written" in warning for warning in in_the_way.warnings)
    assert in_the_way.choice == answer.choice


def test_damaged_runs_are_named_and_trained_again(answer: Recommendation, folder: Path) -> None:
    shutil.copytree(folder / "run", folder / "damaged")
    pack = max((folder / "damaged/layers/packs").glob("*.safetensors"))
    pack.write_bytes(pack.read_bytes()[:-1])
    found = verify(folder / "damaged")
    assert any(name.startswith(f"layers/{pack.name}") for name in found.damaged)
    assert ask(folder, "damaged", resume=True).layers == answer.layers


def test_where_nothing_is_gained_nothing_is_compared(folder: Path) -> None:
    save_rows(folder / "few.jsonl", small_rows(100))
    options = {**QUICK, "recipe": Recipe().given(epochs=1, batch_size=8)}
    few = rightrank.recommend(
        str(folder / "model"), folder / "few.jsonl", out=folder / "few", layers=True, **options
    )
    assert few.layers is None and sum("--layers" in warning for warning in few.warnings) == 1


def test_named_modules_are_compared_among_themselves(folder: Path) -> None:
    recipe = Recipe().given(epochs=4, batch_size=8)
    some = ask(folder, "some", target_modules=("q_proj", "v_proj", "up_proj", "down_proj"), recipe=recipe)
    found = some.layers
    assert found is not None and [one.modules for one in found.alone] == [
        ("q_proj", "v_proj"),
        ("up_proj", "down_proj"),
    ]
    assert "all the layers that you name" in found.sentence or found.alone[0].verdict != "worse"
    recipe = Recipe().given(epochs=1, batch_size=8)
    one = ask(folder, "one", target_modules=("q_proj", "v_proj"), recipe=recipe)
    assert one.layers is None and one.choice.rank in (2, 4)
    assert sum("that your config names belongs to the MLP" in warning for warning in one.warnings) == 1
