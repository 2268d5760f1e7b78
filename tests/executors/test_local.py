"""Packs trained in this process: however they are grouped, the same numbers; what is kept, and what becomes of too little memory."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rightrank.bank import runs
from rightrank.bank.forward import layers_of
from rightrank.bank.graphs import CaptureError
from rightrank.bank.memory import measure_memory
from rightrank.bank.runs import PlainRun
from rightrank.bank.targets import find_targets
from rightrank.bank.verify import Path
from rightrank.errors import ResourceError
from rightrank.executors import local
from rightrank.executors.local import LocalExecutor
from rightrank.probe.loss_table import Configuration, Pack
from rightrank.recipe import Recipe
from tiny import plain_losses, random_examples, tiny_base

RECIPE = Recipe(epochs=2, batch_size=4, dropout=0.1)
TRAIN, DECIDE, SCORE = (random_examples(n, seed=n) for n in (18, 5, 3))
CONFIGURATIONS = tuple(
    Configuration(rank, 16.0, rate, seed=1) for rank, rate in ((2, 1e-2), (8, 3e-3), (5, 1e-3), (16, 3e-2))
)
PACK = Pack(0, 18, CONFIGURATIONS, with_score=True)
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory.")


def executor_of(*, dtype=torch.float64, recipe=RECIPE, train=TRAIN, packed=True, way="plain"):
    base = tiny_base(dtype=dtype)
    memory = measure_memory(base, find_targets(base.model), train[:3], packed=packed)
    executor = LocalExecutor(base, memory, train, recipe, Path(packed, "", way))
    executor.judge_by(DECIDE, SCORE)
    return executor


def train(executor, pack=PACK, export_to=None, on_step=lambda share: None):
    return executor.train(pack, export_to=export_to, on_step=on_step)


def test_packs_of_one_give_what_a_pack_of_four_gives():
    executor = executor_of()
    together = train(executor)
    alone = [train(executor, Pack(k, 18, (c,), with_score=True)) for k, c in enumerate(CONFIGURATIONS)]
    np.testing.assert_allclose(np.concatenate([r.loss_KE for r in alone]), together.loss_KE, rtol=1e-9)
    np.testing.assert_array_equal(np.concatenate([r.right_KE for r in alone]), together.right_KE)
    assert [r.train_loss_K[0] for r in alone] == pytest.approx(together.train_loss_K, rel=1e-9)
    steps = RECIPE.steps(18)
    assert (together.steps, together.train_tokens) == (steps, 2 * sum(len(e.token_ids_T) for e in TRAIN))
    apart = np.abs(together.loss_KE[:, None] - together.loss_KE[None]).sum(-1)
    assert (apart[~np.eye(4, dtype=bool)] > 1e-2).all(), "four different adapters"


def test_steps_that_could_be_captured_give_what_plain_ones_give(tmp_path):
    """On a CPU nothing is captured, but all else is as in graphs: rows, products, updates, looks and judgement."""
    recipe = Recipe(epochs=4, batch_size=4)
    plain, graphed = (executor_of(recipe=recipe, way=way) for way in ("plain", "captured"))
    wanted = train(plain, export_to=tmp_path / "plain")
    found = train(graphed, export_to=tmp_path / "graphed")
    np.testing.assert_allclose(found.loss_KE, wanted.loss_KE, rtol=1e-5)
    np.testing.assert_array_equal(found.right_KE, wanted.right_KE)
    assert found.train_loss_K == pytest.approx(wanted.train_loss_K, rel=1e-5)
    assert (found.steps, found.train_tokens) == (wanted.steps, wanted.train_tokens)
    assert found.looks.epochs_L == wanted.looks.epochs_L
    np.testing.assert_allclose(found.looks.loss_KLX, wanted.looks.loss_KLX, rtol=1e-5)
    for k in range(4):
        files = [
            load_file(tmp_path / name / str(k) / "adapter_model.safetensors") for name in ("plain", "graphed")
        ]
        for name, tensor in files[0].items():
            assert torch.linalg.vector_norm(tensor - files[1][name]) < 1e-4 * torch.linalg.vector_norm(tensor)
    speed = graphed.measure_speed(small=2, large=8)
    assert speed.step_seconds > 0
    assert (
        speed.trainer_step_seconds > 0 and plain.measure_speed(small=2, large=8).trainer_step_seconds is None
    )


def test_captured_steps_leave_room_for_looks(monkeypatch):
    plain, graphed = (executor_of(way=way) for way in ("plain", "captured"))
    assert len(layers_of(graphed.base.model)) == 2, "both at a time"
    a_token = graphed.memory.transient * graphed.memory.saved_bytes_per_token
    room = graphed.memory.logits_bytes + 1.5 * graphed._longest * a_token
    monkeypatch.setattr(local, "available_bytes", lambda device: room)
    assert plain._capacity(0, 1) > plain._longest
    assert graphed._capacity(0, 1) == graphed._longest, "its longest example, and no room for a look besides"
    small = [Configuration(1, 1.0, 1e-3)]
    with pytest.raises(ResourceError):
        graphed.fit_together(small)


def test_rows_are_judged_by_in_what_captured_steps_leave_free(monkeypatch):
    capacities = []
    judge = runs.GraphedRun.evaluate

    def evaluate(self, examples, capacity):
        capacities.append(capacity)
        return judge(self, examples, capacity)

    monkeypatch.setattr(runs.GraphedRun, "evaluate", evaluate)
    executor = executor_of(recipe=Recipe(epochs=4, batch_size=4), way="captured")
    a_token = executor.memory.transient * executor.memory.saved_bytes_per_token * len(CONFIGURATIONS)
    left = iter((50, 90, 70, 60, 55))
    monkeypatch.setattr(
        local, "unheld_bytes", lambda device: executor.memory.logits_bytes + (next(left) + 0.5) * a_token
    )
    train(executor)
    assert capacities == [48, 88, 64, 60, 52][: len(capacities)], "in steps"
    assert len(capacities) > 2, "looks and the end"


def test_steps_that_cannot_be_captured_run_one_by_one_and_it_is_said(monkeypatch):
    def failing(*_, **__):
        raise CaptureError("operation not permitted when stream is capturing")

    monkeypatch.setattr(runs, "train_in_graphs", failing)
    recipe = Recipe(epochs=1, batch_size=4)
    executor = executor_of(recipe=recipe, way="captured")
    found = train(executor)
    assert found.loss_KE.tobytes() == train(executor_of(recipe=recipe)).loss_KE.tobytes()
    assert executor.notes == [
        "Steps could not be captured and run one by one, several times slower: operation not permitted when stream is capturing"
    ]
    train(executor)
    assert len(executor.notes) == 1


def test_identical_seeds_give_identical_bits_and_others_do_not():
    first, second = train(executor_of()), train(executor_of())
    assert first.loss_KE.tobytes() == second.loss_KE.tobytes()
    assert first.train_loss_K == second.train_loss_K
    other = Pack(
        0, 18, tuple(Configuration(c.rank, c.alpha, c.learning_rate, 2) for c in CONFIGURATIONS), True
    )
    assert np.abs(train(executor_of(), other).loss_KE - first.loss_KE).min() > 0


def test_a_smaller_rung_is_the_first_examples():
    short = executor_of(train=TRAIN[:9])
    long = executor_of()
    pack = Pack(0, 9, CONFIGURATIONS[:1], with_score=False)
    assert train(short, pack).loss_KE.tobytes() == train(long, pack).loss_KE.tobytes()
    assert (train(long, PACK).loss_KE[0, :5] != train(long, pack).loss_KE[0, :5]).all()


def test_score_is_evaluated_only_where_asked():
    executor = executor_of()
    with_score = train(executor)
    without = train(executor, Pack(0, 18, CONFIGURATIONS, with_score=False))
    assert without.loss_KE.shape == without.right_KE.shape == (4, 8)
    np.testing.assert_allclose(without.loss_KE[:, :5], with_score.loss_KE[:, :5], rtol=1e-12)
    assert np.isnan(without.loss_KE[:, 5:]).all() and (without.right_KE[:, 5:] == -1).all()
    assert np.isfinite(with_score.loss_KE).all() and (with_score.right_KE >= 0).all()


def test_the_untrained_model_is_judged_by_everything():
    executor = executor_of()
    wanted = [loss.sum().item() for loss in plain_losses(executor.base.model, DECIDE + SCORE)]
    assert executor.evaluate_base().loss_KE[0] == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("steps", ["last", "early"])
def test_a_diverged_adapter_carries_infinite_losses_and_its_neighbour_none(steps):
    """Also where its last update was the one that did it, which no later step can tell."""
    one_step = Recipe(epochs=1, batch_size=18, schedule="constant", warmup_ratio=0)
    executor = executor_of(recipe=one_step if steps == "last" else RECIPE)
    wild = Configuration(4, 1e9, 1e300)
    calm = Configuration(4, 8, 1e-3)
    result = train(executor, Pack(0, 18, (wild, calm), with_score=False))
    assert np.isposinf(result.loss_KE[0, :5]).all() and np.isnan(result.loss_KE[0, 5:]).all()
    assert result.right_KE[0].tolist() == [0] * 5 + [-1] * 3
    assert np.isfinite(result.loss_KE[1, :5]).all()
    assert result.train_loss_K[1] is not None


def out_of_memory_above(monkeypatch, most, error=OUT_OF_MEMORY):
    """Training fails for banks of more than ``most`` adapters; the sizes that were tried."""
    whole, tried = runs.train, []

    def failing(forward, bank, *arguments, **options):
        tried.append(len(bank.specs))
        if len(bank.specs) > most:
            raise error
        return whole(forward, bank, *arguments, **options)

    monkeypatch.setattr(runs, "train", failing)
    return tried


def test_a_pack_that_does_not_fit_is_trained_in_halves(monkeypatch, tmp_path):
    executor = executor_of()
    whole = train(executor, export_to=tmp_path / "whole")
    tried = out_of_memory_above(monkeypatch, 1)
    shares: list[float] = []
    halves = train(executor, export_to=tmp_path / "halves", on_step=shares.append)
    assert tried == [4, 2, 1, 1, 2, 1, 1]
    np.testing.assert_allclose(halves.loss_KE, whole.loss_KE, rtol=1e-9)
    np.testing.assert_array_equal(halves.right_KE, whole.right_KE)
    assert halves.train_loss_K == pytest.approx(whole.train_loss_K, rel=1e-9)
    assert (halves.steps, halves.train_tokens) == (whole.steps, whole.train_tokens)
    assert executor.notes[0] == (
        "4 adapters did not fit into the GPU's memory together and were trained in halves."
    )
    assert shares == sorted(shares) and shares[-1] == 1.0
    for k in range(4):
        from safetensors.torch import load_file

        one, other = (
            load_file(tmp_path / where / str(k) / "adapter_model.safetensors")
            for where in ("whole", "halves")
        )
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    "error",
    [OUT_OF_MEMORY, MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)
def test_memory_that_not_even_one_adapter_fits_into(monkeypatch, error):
    executor = executor_of()
    out_of_memory_above(monkeypatch, 0, error)
    with pytest.raises(ResourceError, match="Memory ran out") as caught:
        train(executor)
    assert "--resume" in caught.value.mend
    assert not any(m._forward_hooks for m in executor.base.model.modules())


def test_other_errors_are_no_matter_of_memory(monkeypatch):
    executor = executor_of()
    out_of_memory_above(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(executor)


def test_adapters_are_exported_only_where_asked_and_peft_loads_them(tmp_path):
    from peft import PeftModel

    executor = executor_of()
    result = train(executor, export_to=tmp_path / "adapters" / "0000")
    train(executor)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapters"]
    assert sorted(p.name for p in (tmp_path / "adapters" / "0000").iterdir()) == ["0", "1", "2", "3"]
    for k in range(4):
        peft = PeftModel.from_pretrained(
            copy.deepcopy(executor.base.model),
            tmp_path / "adapters" / "0000" / str(k),
            autocast_adapter_dtype=False,
        ).eval()
        theirs = [loss.sum().item() for loss in plain_losses(peft, DECIDE + SCORE)]
        assert result.loss_KE[k] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("failure", ["little space", "cannot write"])
def test_a_full_disk_costs_the_adapters_not_the_measurement(tmp_path, monkeypatch, failure):
    executor = executor_of()
    wanted = train(executor)
    if failure == "little space":
        monkeypatch.setattr(local.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
        folder = tmp_path / "adapters" / "0000"
    else:
        (tmp_path / "adapters").write_text("a file in the way")
        folder = tmp_path / "adapters" / "0000"
    result = train(executor, export_to=folder)
    assert result.loss_KE.tobytes() == wanted.loss_KE.tobytes()
    assert executor.notes == ["The trained adapters were not kept: too little disk space."]
    assert not folder.exists()


def test_groups_keep_the_order_and_the_limit(monkeypatch):
    executor = executor_of()
    assert executor.fit_together(CONFIGURATIONS) == [[c] for c in CONFIGURATIONS]
    monkeypatch.setattr(local, "TOGETHER_ON_CPU", 3)
    assert executor.fit_together(CONFIGURATIONS) == [list(CONFIGURATIONS[:3]), [CONFIGURATIONS[3]]]
    monkeypatch.setattr(local, "available_bytes", lambda device: 0.0)
    with pytest.raises(ResourceError, match="One adapter of rank 2"):
        executor.fit_together(CONFIGURATIONS)


def test_speed_is_measured_and_changes_nothing(monkeypatch):
    executor = executor_of()
    before = {name: p.clone() for name, p in executor.base.model.named_parameters()}
    speed = executor.measure_speed(small=2, large=16)
    assert speed.together == 1 and speed.floor_seconds == 0.0
    assert speed.step_seconds > 0 and speed.evaluate_seconds_per_token > 0
    assert speed.step_seconds_per_parameter >= 0
    assert all(torch.equal(p, before[name]) for name, p in executor.base.model.named_parameters())
    monkeypatch.setattr(local, "TOGETHER_ON_CPU", 32)
    assert executor.measure_speed(small=2, large=16).together == 32


@pytest.mark.parametrize("way", ["plain", "captured"])
def test_what_a_trainer_takes_is_timed_without_what_only_we_share(monkeypatch, way):
    examples = random_examples(8, shared=20)
    executor = executor_of(recipe=RECIPE.given(dropout=0.0), train=examples, way=way)
    executor.path = replace(executor.path, shares=True)
    opened: list[Path] = []
    own = local.open_run
    monkeypatch.setattr(local, "open_run", lambda path, *a, **k: opened.append(path) or own(path, *a, **k))
    plain: list[PlainRun] = []

    class Noted(PlainRun):
        def __enter__(self):
            plain.append(self)
            return super().__enter__()

        def evaluate(self, *_):
            raise AssertionError("nothing is judged")

    monkeypatch.setattr(local, "PlainRun", Noted)
    speed = executor.measure_speed(small=2, large=2)
    assert speed.trainer_step_seconds is not None and speed.trainer_step_seconds > 0
    assert [run._forward.shares for run in plain] == [False]
    assert opened and all(path.shares for path in opened)


def test_speed_is_measured_with_no_more_adapters_than_fit(monkeypatch):
    executor = executor_of()
    monkeypatch.setattr(local, "TOGETHER_ON_CPU", 32)
    one = executor.memory.adapter_bytes(2 * sum(t.width_in + t.width_out for t in executor.targets))
    row = 1.25 * executor.memory.saved_bytes_per_token * executor._longest
    room = executor.memory.logits_bytes + 3.5 * (one + row)
    monkeypatch.setattr(local, "available_bytes", lambda device: room)
    sizes: list[int] = []
    bank = runs.AdapterBank
    monkeypatch.setattr(
        runs,
        "AdapterBank",
        lambda targets, specs, **o: sizes.append(len(specs)) or bank(targets, specs, **o),
    )
    assert executor.measure_speed(small=2, large=2).together == 3
    assert max(sizes) == 3


def test_padded_rows_give_the_same():
    packed, padded = train(executor_of()), train(executor_of(packed=False))
    np.testing.assert_allclose(padded.loss_KE, packed.loss_KE, rtol=1e-9)


def test_looking_at_a_run_changes_nothing_about_it():
    executor = executor_of()
    seen = train(executor)
    unseen = train(executor, Pack(0, 18, CONFIGURATIONS, with_score=False))
    assert seen.looks is not None
    assert seen.looks.epochs_L == (1.0,)
    assert unseen.looks is None
    assert seen.loss_KE[:, :5].tobytes() == unseen.loss_KE[:, :5].tobytes()
    assert seen.train_loss_K == unseen.train_loss_K


def test_a_look_sees_what_a_run_of_that_length_reaches_where_the_learning_rate_does_not_fall():
    long = Recipe(epochs=2, batch_size=4, schedule="constant", warmup_ratio=0.0)
    short = Recipe(epochs=1, batch_size=4, schedule="constant", warmup_ratio=0.0)
    looked = train(executor_of(recipe=long)).looks
    reached = train(executor_of(recipe=short))
    np.testing.assert_allclose(looked.loss_KLX[:, 0], reached.loss_KE[:, :5], rtol=1e-12)
    assert (looked.train_loss_KL[:, 0] > 0).all()


def test_halves_are_looked_at_as_the_whole(monkeypatch):
    whole = train(executor_of()).looks
    once = local.LocalExecutor._train_once

    def too_much(self, part):
        if len(part.configurations) > 1:
            raise OUT_OF_MEMORY
        return once(self, part)

    monkeypatch.setattr(local.LocalExecutor, "_train_once", too_much)
    parts = train(executor_of()).looks
    np.testing.assert_allclose(parts.loss_KLX, whole.loss_KLX, rtol=1e-9)
    np.testing.assert_allclose(parts.train_loss_KL, whole.train_loss_KL, rtol=1e-9)


def test_a_little_more_or_less_memory_splits_batches_no_other_way():
    assert [local.in_steps(n) for n in (-3, 0, 1, 7, 15, 16, 17, 4095, 4096, 4607, 4608)] == [
        *(-3, 0, 1, 7, 15, 16, 16, 3840, 4096, 4096, 4608)
    ]
    assert all(7 / 8 * n < local.in_steps(n) <= n for n in range(1, 5000))
