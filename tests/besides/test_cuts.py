"""Cuts of a run's adapter: what they lose is what the cut adapters compute, and nothing that goes wrong costs the answer."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rightrank
from rightrank import Recipe, Recommendation, preparing
from rightrank.bank.cut import Cut
from rightrank.bank.cut_evaluation import CutEvaluation
from rightrank.bank.evaluate import HeldOut
from rightrank.besides.cut_losses import OutOfTimeError, PairedLosses, Rivals, RunLosses
from rightrank.besides.cut_price import CutsPlan
from rightrank.besides.cuts import Cuts, CutSubject, measure_cuts
from rightrank.besides.results import CUT_FOLDER
from rightrank.outputs import write_outputs
from rightrank.preparing import prepare
from rightrank.probe.loss_table import LossTable, Pack
from rightrank.probe.run import Probe
from rightrank.probe.settings import configuration
from rightrank.request import Request
from rightrank.runs.directory import damaged_adapter
from rightrank.runs.removal import plan_removal
from rightrank.stats import cuts_of_runs
from rightrank.stats.decision import decide
from small_run import small_model, small_rows, word_tokenizer
from tiny import plain_losses

ROWS = small_rows(420)
TRAIN, HELD_OUT = ROWS[:320], ROWS[320:]
RECIPE = Recipe().given(epochs=3, batch_size=8)
PLAN = CutsPlan(cuts=2, rows=50, seconds=1.0)


def request(**options: Any) -> Request:
    return Request(
        small_model(), TRAIN, RECIPE, tokenizer=word_tokenizer(), eval_data=HELD_OUT, device="cpu", ranks=(2, 4, 8),
        budget_minutes=5, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Ranks 2, 4 and 8 trained on all the rows, their adapters on disk, and the decision; and what held all that."""
    place = tmp_path_factory.mktemp("cuts") / "run"
    prepared = prepare(request())
    data, executor = prepared.data, prepared.executor
    executor.judge_by(data.decide, data.score)
    table = LossTable(place, {})
    table.set_base(executor.evaluate_base())
    for number, rank in enumerate((2, 4, 8)):
        pack = Pack(number, data.train_rows, (configuration(rank, 3e-2, "rank"),), with_score=True)
        folder = place / "adapters" / f"{number:04d}"
        table.finish(pack, executor.train(pack, export_to=folder, on_step=lambda share: None))
    judges = [*data.decide, *data.score]
    evidence = table.evidence(
        tokens_E=np.array([e.trained_tokens for e in judges]),
        scores_E=np.arange(100) >= 50,
        frequency_loss_E=table.base.loss_KE[0],
        all_examples=data.train_rows,
        starved=False,
    )
    return prepared, decide(evidence), place


def subject(trained, place, **changes: Any) -> CutSubject:
    """A copy of the run at ``place``, in which rank 4 is what the answer recommends."""
    prepared, decision, run = trained
    if not place.exists():
        shutil.copytree(run, place)
    chosen = next(p.setting for p in decision.choices if p.setting.rank == 4 and p.kind == "tuned")
    wanted = CutSubject(
        prepared.model, LossTable(place, {}), replace(decision, choice=chosen), prepared.data.decide, prepared.data.score,
        (2, 4, 6, 8), prepared.data.train_rows, 0.0, math.inf, {"examples": prepared.data.train_rows},
    )  # fmt: skip
    return replace(wanted, **changes)


def block(found):
    assert found.cuts is not None, found.notes
    return found.cuts


def cut_by_hand(folder, rank):
    """The base with the adapter's update of every layer cut to ``rank`` by the SVD of the whole matrix."""
    model, config = small_model(), json.loads((folder / "adapter_config.json").read_text())
    scale, tensors = config["lora_alpha"] / config["r"], load_file(folder / "adapter_model.safetensors")
    named = dict(model.named_modules())
    for name in {key.split(".lora_")[0] for key in tensors}:
        a, b = (tensors[f"{name}.lora_{half}.weight"].double() for half in "AB")
        left, size, right = torch.linalg.svd(scale * b @ a, full_matrices=False)
        update = left[:, :rank] * size[:rank] @ right[:rank]
        named[name.removeprefix("base_model.model.")].weight.data += update.float()
    return model


@pytest.mark.parametrize("rows", [50, 40])
def test_the_largest_rank_is_cut_to_those_up_to_the_choice_and_compared_with_it(trained, tmp_path, rows):
    one = subject(trained, tmp_path / "run")
    cuts = block(measure_cuts(replace(PLAN, rows=rows), one))
    assert (cuts.rank, cuts.chosen_rank, cuts.decide, cuts.score) == (8, 4, rows, rows)
    assert [cut.rank for cut in cuts.cuts] == [2, 4]
    losses, tokens_E = plain_nats(tmp_path / "run" / "adapters" / "0002" / "0", one.score[:rows])
    chosen_E, base_E = (
        one.table.results[1].loss_KE[0, 50 : 50 + rows],
        one.table.base.loss_KE[0, 50 : 50 + rows],
    )
    best_E = one.table.results[(2, 4, 8).index(one.decision.best.rank)].loss_KE[0, 50 : 50 + rows]
    gain = (base_E - best_E).sum() / tokens_E.sum()
    for cut in (cut for cut in cuts.cuts if cut.scored):
        mean = losses[cut.rank].sum() / tokens_E.sum()
        best, chosen = (x.sum() / tokens_E.sum() for x in (best_E, chosen_E))
        assert cut.gain_lost.value == pytest.approx(100 * (mean - best) / gain, abs=0.05)
        assert cut.against.value == pytest.approx(100 * (mean - chosen) / gain, abs=0.05)
        assert cut.loss == pytest.approx(one.decision.best_loss.value + mean - best, abs=1e-3)
    assert cuts.cuts[1].scored and "as trained" in cuts.sentence


def plain_nats(folder, examples):
    """Of each cut to rank 2 and 4, nats of each row, written out with the model alone; and the rows' trained tokens."""
    found = {}
    with torch.no_grad():
        for rank in (2, 4):
            nats = plain_losses(cut_by_hand(folder, rank), examples)
            found[rank] = np.array([one.sum().item() for one in nats])
    return found, np.array([example.trained_tokens for example in examples])


def better_than_chosen(monkeypatch):
    """As if the cut to rank 2 had won."""
    real = cuts_of_runs.compare_cuts

    def planted(rivals, *, margin_percent):
        return replace(real(rivals, margin_percent=margin_percent), better=2)

    monkeypatch.setattr(cuts_of_runs, "compare_cuts", planted)
    # Rank 2 is hopeless here, and would be left behind before it is scored.
    monkeypatch.setattr(
        "rightrank.cuts.race.losing", lambda evidence, alive_V, looks: np.zeros(len(alive_V), bool)
    )


def test_a_cut_that_is_better_is_kept_beside_the_adapter_as_peft_loads_it(trained, tmp_path, monkeypatch):
    better_than_chosen(monkeypatch)
    cuts, folder = (
        block(measure_cuts(PLAN, subject(trained, tmp_path / "run"))),
        tmp_path / "run" / CUT_FOLDER,
    )
    assert cuts.kept == 2 and cuts.sentence.endswith("and is kept as cut_adapter.")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    label = json.loads((folder / "rightrank.json").read_text())
    assert (label["rank"], label["cut_from"]["rank"], label["examples"]) == (2, 8, trained[0].data.train_rows)
    assert not (tmp_path / "run" / "cutting.part").exists()
    assert damaged_adapter(tmp_path / "run") == []
    (folder / "adapter_config.json").write_text("{}")
    assert damaged_adapter(tmp_path / "run") == ["cut_adapter/adapter_config.json"]


def test_one_that_computes_something_else_when_it_is_loaded_again_is_not_kept(trained, tmp_path, monkeypatch):
    better_than_chosen(monkeypatch)
    other = SimpleNamespace(holds=False)
    monkeypatch.setattr("rightrank.cuts.writing.served_as_measured", lambda *a, **k: other)
    found = measure_cuts(PLAN, subject(trained, tmp_path / "run"))
    assert block(found).kept is None and not (tmp_path / "run" / CUT_FOLDER).exists()
    assert "kept" not in block(found).sentence
    assert found.notes == (
        "The cut to rank 2 is not kept: loaded again, it does not give the measured losses.",
    )


def test_what_goes_wrong_is_a_note(trained, tmp_path, monkeypatch):
    late = measure_cuts(PLAN, subject(trained, tmp_path / "run", deadline=0.0))
    assert late.cuts is None
    assert late.notes == ("Time ran out before cuts of the trained adapters were measured.",)

    def broken(self, cuts, examples):
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(CutEvaluation, "cuts", broken)
    failed = measure_cuts(PLAN, subject(trained, tmp_path / "run"))
    assert (failed.cuts, failed.interrupted) == (None, False)
    assert failed.notes == ("Cuts of the trained adapters could not be measured (RuntimeError).",)


def test_ctrl_c_leaves_the_rest_to_resuming(trained, tmp_path, monkeypatch):
    calls, real = [], CutEvaluation.cuts

    def interrupted(self, cuts, examples):
        calls.append(len(examples))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, cuts, examples)

    monkeypatch.setattr(CutEvaluation, "cuts", interrupted)
    stopped = measure_cuts(PLAN, subject(trained, tmp_path / "run"))
    assert stopped.cuts is None and stopped.interrupted and "--resume does it" in stopped.notes[0]
    one = subject(trained, tmp_path / "run")
    resumed = measure_cuts(replace(PLAN, rows=20), one)  # as little as was foreseen the second time
    took = len(calls) - 3
    assert block(resumed) == block(measure_cuts(PLAN, subject(trained, tmp_path / "fresh")))
    assert len(calls) - 3 - took == took + 2, "two of them were measured before"
    calls.clear()
    shutil.rmtree(tmp_path / "run" / "adapters")
    assert measure_cuts(CutsPlan(), subject(trained, tmp_path / "run")) == Cuts(resumed.cuts)
    assert not calls, "its adapters are gone, and the answer is kept"


def test_where_nothing_can_be_compared_there_is_nothing(trained, tmp_path):
    one = subject(trained, tmp_path / "run")
    assert measure_cuts(CutsPlan(), one) == Cuts()
    assert measure_cuts(PLAN, replace(one, decision=replace(one.decision, margin=None))) == Cuts()
    untrained = replace(one.decision, choice=replace(one.decision.choice, learning_rate=1.0))
    (tmp_path / "run" / CUT_FOLDER).mkdir()
    assert measure_cuts(PLAN, replace(one, decision=untrained)) == Cuts()
    assert not (tmp_path / "run" / CUT_FOLDER).exists(), "of an earlier answer"
    assert measure_cuts(PLAN, replace(one, all_rows=1000)) == Cuts(), "not trained on all the rows"
    shutil.rmtree(tmp_path / "run" / "adapters")
    assert measure_cuts(PLAN, subject(trained, tmp_path / "run")) == Cuts()


def test_a_whole_run_says_it_beforehand_and_has_it_in_its_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "rightrank.probe.plan.EVALUATION_SHARE", 10.0
    )  # all held-out rows, however slow the machine
    real, begin, left, said = preparing.plan_cuts, Probe.__init__, [], []
    monkeypatch.setattr(preparing, "plan_cuts", lambda *a, **k: replace(real(*a, **k), seconds=60.0))

    def noted(self, *arguments, deadline, **options):
        left.append(deadline - time.monotonic())
        begin(self, *arguments, deadline=deadline, **options)

    monkeypatch.setattr(Probe, "__init__", noted)
    options = {
        "recipe": RECIPE,
        "eval_data": HELD_OUT,
        "device": "cpu",
        "ranks": (4, 8),
        "budget_minutes": 5,
    }
    answer = rightrank.recommend(
        small_model(), TRAIN, tokenizer=word_tokenizer(), out=tmp_path / "run", on_text=said.append, **options
    )
    (line,) = [line for line in said if line.startswith("Then the largest rank is cut to a smaller rank")]
    assert said.index(line) > next(i for i, one in enumerate(said) if one.startswith("Plan: "))
    assert left[0] < 240, "a minute of the five is kept for the cuts"
    assert 1 < answer.cost.planned_minutes <= 5
    cuts = answer.cuts
    assert cuts is not None, answer.warnings
    assert [cut.rank for cut in cuts.cuts] == [4] and cuts.rank == 8
    text = (tmp_path / "run" / "recommendation.json").read_text()
    assert Recommendation.from_json(text) == answer
    plain = json.loads(answer.to_json())
    del plain["cuts"]
    assert Recommendation.from_json(json.dumps(plain)) == replace(answer, cuts=None), "of before"
    assert plan_removal(tmp_path / "run").leaves == ()
    kept = replace(answer, cuts=replace(cuts, kept=4))
    (tmp_path / "run" / CUT_FOLDER).mkdir()
    written = write_outputs(kept, tmp_path / "run")
    assert str(written.paths["Cut adapter"]).endswith("cut_adapter (r=4, cut from r=8)")
    assert "Cut adapter" not in write_outputs(answer, tmp_path / "run").paths


class Shifted:
    """Evaluates cuts as rank + a tenth for another kernel; counts rows."""

    def __init__(self):
        self.rows = 0

    def bare(self, examples):
        raise AssertionError("the base is recorded")

    def cuts(self, cuts, examples):
        self.rows += len(cuts) * len(examples)
        loss_VE = np.array([[cut.rank + 0.1 + e.trained_tokens for e in examples] for cut in cuts])
        return HeldOut(loss_VE, np.ones(loss_VE.shape, dtype=int))


def paired(evaluation, earlier=None, **options):
    rows = [SimpleNamespace(trained_tokens=i, token_ids_T=range(10)) for i in range(6)]
    recorded = RunLosses(np.arange(6.0) + 8, np.zeros(6, dtype=int))
    rivals = Rivals(None, recorded, RunLosses(np.arange(6.0), np.full(6, 7)), np.zeros(6))  # type: ignore[arg-type]
    whole, trained = Cut((8,)), Cut((2,))
    kept: dict[str, Any] = {}
    wanted = {"seconds_per_token": 0.0, "deadline": np.inf, "one_by_one": True, **options}
    losses = PairedLosses(
        evaluation, rivals, recorded, rows, whole=whole, trained=trained, names={2: "r=2", 4: "r=4"},
        earlier=earlier or {}, on_measured=kept.update, **wanted,
    )  # fmt: skip
    return losses, rows, trained, kept


def test_what_two_ways_of_computing_differ_by_falls_out():
    evaluation = Shifted()
    losses, rows, trained, kept = paired(evaluation)
    found = losses.cuts([Cut((2,)), trained, Cut((4,))], rows[2:4])
    # The whole: 8 + i recorded, 8.1 + i by the cuts' own way; a cut of rank k has k + 0.1 + i there.
    assert found.loss_KE.tolist() == [pytest.approx([4.0, 5.0]), [2.0, 3.0], pytest.approx([6.0, 7.0])]
    assert found.right_KE.tolist() == [[1, 1], [7, 7], [1, 1]]
    assert evaluation.rows == 6
    assert losses.bare(rows[:1]).loss_KE.tolist() == [[8.0]]
    again, rows, trained, _ = paired(evaluation, earlier=json.loads(json.dumps(kept)))
    again.cuts([Cut((2,)), trained], rows[2:5])
    assert evaluation.rows == 6 + 6, "one row of the three is new, but rounds are measured whole"
    again.cuts([Cut((2,)), trained], rows[2:5])
    assert evaluation.rows == 12


def test_nothing_is_begun_that_would_end_too_late():
    evaluation = Shifted()
    losses, rows, _, _ = paired(evaluation, deadline=0.0)
    with pytest.raises(OutOfTimeError):
        losses.cuts([Cut((2,))], rows)
    assert evaluation.rows == 0
