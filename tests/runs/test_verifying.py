"""``rightrank verify``: the same losses again, and what is not as it was, by name."""

from __future__ import annotations

import json
import platform
import re
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rightrank import recommend
from rightrank.errors import ConfigurationError, UserError
from rightrank.probe.loss_table import LossTable
from rightrank.probe.pack import unpacked
from rightrank.recipe import Recipe
from rightrank.runs.verification import Comparison, Difference, Verification
from rightrank.runs.verifying import compare, verify
from small_run import save_model, save_rows, small_model, small_rows, word_tokenizer

OPTIONS = {"recipe": Recipe(epochs=1, batch_size=8), "ranks": (4, 8), "budget_minutes": 5.0, "device": "cpu"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    model, rows = save_model(folder / "model"), save_rows(folder / "rows.jsonl")
    recommend(str(model), str(rows), out=folder / "run", **OPTIONS)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil; model and rows are where they were."""
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


def test_the_same_again_bit_for_bit(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said: list[str] = []
    found = verify(run, on_text=said.append)
    assert found.comparison == Comparison("identical", 20, 20, 0.0, 0.0, 0.0)
    assert found.holds and found.chosen and not found.differences and not found.damaged
    answer = json.loads((run / "recommendation.json").read_text())
    choice = answer["choice"]
    assert (found.rank, found.alpha, found.learning_rate) == (
        choice["rank"],
        choice["alpha"],
        choice["learning_rate"],
    )
    assert str(found).startswith("Identical: ") and "all 20 held-out rows" in str(found)
    assert re.fullmatch(
        r"The files are read\. Loading model, .* as the run did: at most about \d+ s\.", said[0]
    )
    assert said[1:] == ["One of its runs is trained again, which took about 1 s then."]
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_every_file_says_of_what_on_what_and_with_what_it_came_about(run: Path) -> None:
    """Fingerprints, seed, device, versions: in the run's record, every result, the kept adapter and the answer."""
    answer = json.loads((run / "recommendation.json").read_text())
    model, rows = answer["model"]["fingerprint"], answer["data"]["fingerprint"]
    assert len(model) >= 16 and len(rows) == 16
    assert answer["provenance"]["seed"] == 0 and answer["cost"]["device"].startswith("CPU, ")
    versions = answer["provenance"]["versions"]
    for name in ("python", "rightrank", "torch", "transformers", "tokenizers", "numpy", "scipy"):
        assert versions[name] == (platform.python_version() if name == "python" else version(name))
    record, kept = (json.loads((run / n).read_text()) for n in ("run.json", "adapter/rightrank.json"))
    told = [(record, record["about"]), (kept, kept)]
    for path in sorted((run / "packs").glob("*.safetensors")):
        _, facts = unpacked(path.read_bytes())
        told.append((facts["run"], facts["about"]))
        assert path.stem == "base" or all(isinstance(c["seed"], int) for c in facts["pack"]["configurations"])
    assert len(told) > 4
    for settings, about in told:
        assert (settings["model"], settings["data"], settings["seed"]) == (model, rows, 0)
        assert (about["device"], about["versions"]) == (answer["cost"]["device"], versions)


def test_another_recorded_loss_is_found(run: Path) -> None:
    """What was recorded is changed as someone would who can also write a checksum."""
    chosen = verify(run)
    table = LossTable.opened(run)
    for pack, result in zip(list(table.packs), list(table.results), strict=True):
        loss_KE = result.loss_KE * 1.05
        table.finish(pack, replace(result, loss_KE=loss_KE))
    found = verify(run)
    assert found.rank == chosen.rank and found.comparison.verdict == "differs" and not found.holds
    assert str(found).startswith("Differs: ") and found.comparison.rows_identical == 0


def test_other_rows_and_other_weights_are_named_and_nothing_is_trained(
    finished: Path, run: Path, tmp_path: Path
) -> None:
    other_rows = save_rows(tmp_path / "other.jsonl", small_rows(seed=1))
    found = verify(run, dataset=str(other_rows))
    assert [d.what for d in found.differences] == ["data"] and found.comparison == Comparison()
    assert not found.holds and "Another now: the rows, " in str(found) and "nothing was trained" in str(found)
    model = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = verify(run, model=str(model))
    assert [d.what for d in found.differences] == ["model"] and not found.holds
    gone = tmp_path / "gone.jsonl"
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        verify(run, dataset=str(gone))


@pytest.mark.parametrize(
    "name",
    ["run.json", "recommendation.json", "packs/0001.safetensors", "packs/base.safetensors", "adapter/x"],
)
def test_a_damaged_file_is_named(run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "rightrank.runs.verifying._again", lambda *_: Comparison("identical", 20, 20, 0.0, 0.0, 0.0)
    )
    path = run / name if name != "adapter/x" else next((run / "adapter").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = verify(run)
    assert len(found.damaged) == 1 and path.name in found.damaged[0]
    assert not found.holds and f"Damaged: {found.damaged[0]}." in str(found)


def test_without_the_untrained_models_losses_these_are_measured_again(run: Path) -> None:
    (run / "packs" / "base.safetensors").write_bytes(b"x" * 100)
    found = verify(run)
    assert found.comparison.verdict == "identical" and not found.holds
    assert found.damaged == ("base.safetensors: the file is not what was written",)


def test_other_versions_and_devices_are_listed_and_are_no_failure(run: Path) -> None:
    table = LossTable.opened(run)
    origin = {**table.about, "device": "a card", "versions": {**table.about["versions"], "torch": "1.0"}}
    other = LossTable(run, table.settings, origin)
    for pack, result in zip(table.packs, table.results, strict=True):
        other.finish(pack, result)
    found = verify(run)
    assert [(d.what, d.then) for d in found.differences] == [("device", "a card"), ("torch", "1.0")]
    assert found.holds and "Another now: torch, 1.0 then, " in str(found)


def test_without_the_answers_choice_the_cheapest_is_trained(run: Path) -> None:
    (run / "recommendation.json").unlink()
    found = verify(run)
    table = LossTable.opened(run)
    assert not found.chosen and found.examples == min(pack.examples for pack in table.packs)
    assert found.comparison.verdict == "identical"
    assert found.damaged == ("recommendation.json: there is none; the run was not finished",)


def test_what_was_in_memory_is_given_again(tmp_path: Path) -> None:
    loaded = {"model": small_model(), "tokenizer": word_tokenizer(), "dataset": small_rows()}
    recommend(**loaded, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(ConfigurationError, match="had its model in memory") as caught:
        verify(tmp_path / "run")
    assert caught.value.mend == "Do it from Python and pass `model=`."
    assert "find" not in (tmp_path / "run" / "run.json").read_text(), "no row text"
    assert verify(tmp_path / "run", **loaded).holds


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no run"):
        verify(tmp_path)


TOKENS_E = np.array([2, 3, 5])
BASE_E = np.array([20.0, 30.0, 50.0])
THEN_E = np.array([10.0, 15.0, 25.0])


@pytest.mark.parametrize(
    ("now_E", "verdict", "percent"),
    [
        (THEN_E, "identical", 0.0),
        (THEN_E + np.array([0.1, -0.1, 0.0]), "same within rounding", 0.0),
        (THEN_E + np.array([0.2, 0.2, 0.0]), "same within rounding", 0.8),
        (THEN_E + np.array([0.3, 0.3, 0.0]), "differs", 1.2),
        (THEN_E + np.array([np.inf, 0, 0]), "differs", None),
        (np.array([np.nan, 15.0, 25.0]), "differs", None),
    ],
)
def test_how_far_is_too_far(now_E: np.ndarray, verdict: str, percent: float | None) -> None:
    """The base loses 100 nats on ten tokens and training half of them: five nats a token gained, of which 1 % may be rounding."""
    found = compare(THEN_E, now_E, BASE_E, TOKENS_E)
    assert found.verdict == verdict
    assert found.percent_of_gain == (None if percent is None else pytest.approx(percent, abs=1e-9))


def test_rows_that_were_not_judged_do_not_count() -> None:
    found = compare(np.array([10.0, np.nan]), np.array([10.0, np.nan]), BASE_E[:2], TOKENS_E[:2])
    assert (found.verdict, found.rows) == ("identical", 1)


def test_in_words() -> None:
    found = Verification(
        "run", 8, 27.0, 1e-3, 0, 200, True,
        Comparison("same within rounding", 64, 3, 0.0123, -1.2e-4, -0.031),
        1.0, 2.0, (Difference("device", "H100", "H200"),), (),
    )  # fmt: skip
    assert str(found).splitlines() == [
        "Same within rounding: r=8 alpha=27 lr 0.001 on 200 rows, the answer's choice, gives a mean loss 0.00012 nats a"
        " token lower, 0.031 % of what it gained; 3 of 64 held-out rows are the same bit for bit, the furthest moved by"
        " 0.012 nats.",
        "Another now: device, H100 then, H200 now.",
        "Every file that was measured or answered is as it was written.",
    ]
