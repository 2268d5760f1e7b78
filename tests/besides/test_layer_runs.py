"""Which runs are trained to compare layers, on executors that draw losses instead of training."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rightrank.bank.targets import Target
from rightrank.besides.layer_price import LayersPlan
from rightrank.besides.layer_runs import LayerRuns, LayersSubject
from rightrank.besides.layers import measure_layers
from rightrank.probe.loss_table import Configuration, LossTable, Pack, PackResult
from rightrank.probe.plan import Job, Speed
from rightrank.recipe import Recipe, alpha_for

E, ROWS = 80, 400
TOKENS_E, SCORES_E = np.full(E, 10), np.arange(E) >= 40
JOB = Job(ROWS, Recipe(), 300, decide_pool=40, score_pool=40, held_out_tokens=20.0)
TARGETS = (Target("q", 64, 64, kind="attention"), Target("up", 64, 128, kind="mlp"))
WORSE = {"all": 0.0, "attention": 0.6, "mlp": 0.001}
"""Nats a row, of ten that are gained."""
BEST = {"all": 1e-3, "attention": 1e-2, "mlp": 1e-3}


def result(configurations, *, diverges_from=1.0):
    """A valley in the learning rate about each kind's best."""
    rows = []
    for c in configurations:
        away = math.log10(c.learning_rate / BEST[c.layers])
        noise_E = 0.01 * np.cos(np.arange(E) * (1 + len(c.layers)))
        rows.append(20.0 + WORSE[c.layers] + away**2 + noise_E)
        if c.learning_rate >= diverges_from:
            rows[-1] = np.full(E, np.inf)
    loss_KE = np.array(rows)
    return PackResult(loss_KE, np.zeros(loss_KE.shape, dtype=np.int64), (1.0,) * len(rows), 9, 99, 0.0)


class OneDevice:
    def __init__(self, together=3, diverges_from=1.0):
        self.together, self.diverges_from, self.trained = together, diverges_from, []

    def fit_together(self, configurations):
        return [
            list(configurations[i : i + self.together]) for i in range(0, len(configurations), self.together)
        ]

    def evaluate_base(self):
        return PackResult(np.full((1, E), 30.0), np.zeros((1, E), dtype=np.int64), (None,), 0, 0, 0.0)

    def train(self, pack, *, export_to, on_step):
        assert export_to is None and pack.with_score and pack.examples == ROWS
        on_step(1.0)
        self.trained.append(pack)
        return result(pack.configurations, diverges_from=self.diverges_from)


class SeveralDevices(OneDevice):
    def train_each(self, packs, on_done, on_tick):
        handed_out = list(packs)
        on_tick()
        for pack, export_to in reversed(handed_out):
            on_done(pack, self.train(pack, export_to=export_to, on_step=lambda share: None))


def subject_of(folder, executor, *, seconds=1e6, step=1e-6, alpha=None):
    settings = {"model": "m", "plan": {"decide": 40, "score": 40}}
    table = LossTable(folder, settings)
    alpha = alpha_for(8) if alpha is None else alpha
    if table.base is None:
        table.set_base(executor.evaluate_base())
        pack = Pack(0, ROWS, (Configuration(8, alpha, 1e-3), Configuration(8, alpha, 3e-3)), with_score=True)
        table.finish(pack, replace(result(pack.configurations), seconds=2 * 75 * step))
    choice = SimpleNamespace(rank=8, alpha=alpha, learning_rate=1e-3)
    decision = SimpleNamespace(status="SETTLED", margin=SimpleNamespace(percent=1.0), choice=choice)
    return LayersSubject(
        table, decision, executor, TARGETS, JOB, Speed(0.0, step, 0.0, 0.0, together=3), TOKENS_E, SCORES_E,
        deadline=time.monotonic() + seconds, budget_seconds=600.0,
    )  # fmt: skip


PLAN = LayersPlan(ROWS, 60.0, "said")


@pytest.mark.parametrize("executor", [OneDevice(), OneDevice(1), SeveralDevices(), SeveralDevices(32)])
def test_each_kind_gets_the_same_rates_and_more_where_its_best_lies_at_the_end(tmp_path, executor):
    found = measure_layers(PLAN, subject_of(tmp_path, executor), interrupted=False)
    assert found.compared is not None and found.notes == ()
    attention, mlp = found.compared.alone
    assert found.compared.learning_rates == mlp.learning_rates == (3e-4, 1e-3, 3e-3)
    assert attention.learning_rates == (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    assert (attention.learning_rate, attention.at_the_end) == (1e-2, False)
    assert (attention.rank, attention.alpha) == (20, alpha_for(20)), (
        "320 numbers a rank, 128 of them attention's"
    )
    assert (mlp.rank, mlp.alpha) == (13, alpha_for(13))
    assert attention.gain_lost.value == pytest.approx(6.0, abs=0.3) and attention.verdict == "worse"
    assert mlp.gain_lost.value == pytest.approx(0.0, abs=0.3) and mlp.verdict == "as good"
    trained = [c for pack in executor.trained for c in pack.configurations]
    assert len(trained) == len(set(trained)) == 3 + 5 + 1, "two of all layers were there"
    numbers = [pack.number for pack in executor.trained]
    assert len(numbers) == len(set(numbers))

    again = measure_layers(PLAN, subject_of(tmp_path, executor), interrupted=False)
    assert again.compared == found.compared and len(executor.trained) == len(numbers)


def test_what_diverged_is_no_best_and_ends_the_search_there(tmp_path):
    found = measure_layers(PLAN, subject_of(tmp_path, OneDevice(diverges_from=5e-3)), interrupted=False)
    attention = found.compared.alone[0]
    assert attention.learning_rate == 3e-3 and attention.learning_rates[-1] == 1e-2
    assert not attention.at_the_end


def test_an_alpha_of_the_person_s_own_is_kept_in_proportion(tmp_path):
    runs = LayerRuns(PLAN, subject_of(tmp_path, OneDevice(), alpha=16.0))
    assert runs.configuration("all", 1e-3).alpha == 16.0
    assert runs.configuration("attention", 1e-3).alpha == pytest.approx(
        16 * alpha_for(20) / alpha_for(8), abs=1e-3
    )


def test_time_that_runs_out_leaves_what_there_is(tmp_path):
    """A run takes 75 steps of 0.1 s: two seconds are too few for one, and 20 enough for two."""
    none = measure_layers(
        PLAN, subject_of(tmp_path / "a", OneDevice(1), seconds=2, step=0.1), interrupted=False
    )
    assert none.compared is None and "--resume --budget 1" in none.notes[0]
    executor = OneDevice()
    some = measure_layers(PLAN, subject_of(tmp_path / "b", executor, seconds=20, step=0.1), interrupted=False)
    assert [len(pack.configurations) for pack in executor.trained] == [2]
    assert [one.learning_rates for one in some.compared.alone] == [(1e-3,), (1e-3,)]
    assert "Time ran out" in some.notes[0] and all(one.at_the_end for one in some.compared.alone)


@pytest.mark.parametrize(
    ("status", "margin"), [("NO_GAIN", SimpleNamespace(percent=1.0)), ("UNDECIDED", None)]
)
def test_nothing_is_compared_where_no_gain_is_sure(tmp_path, status, margin):
    executor = OneDevice()
    subject = subject_of(tmp_path, executor)
    subject.decision.status, subject.decision.margin = status, margin
    assert "not sure that training gains" in measure_layers(PLAN, subject, interrupted=False).notes[0]
    assert not executor.trained and not (tmp_path / "layers").exists()
    assert measure_layers(LayersPlan(), subject, interrupted=False).notes == (), "nobody asked"


def test_a_kind_too_narrow_for_its_rank_is_left_out_with_a_note(tmp_path):
    narrow = (Target("q", 4, 64, kind="attention"), Target("up", 64, 128, kind="mlp"))
    subject = subject_of(tmp_path, OneDevice())
    object.__setattr__(subject, "targets", narrow)
    found = measure_layers(PLAN, subject, interrupted=False)
    assert [one.layers for one in found.compared.alone] == ["mlp"]
    assert "its widest layer takes 4" in found.notes[0]
