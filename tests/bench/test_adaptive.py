"""AdaLoRA and EVA beside recorded surfaces: each method trains for real, and is compared on the same rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench.adaptive import METHODS, RATES, One, judged, lines, run_one, trained
from bench.design import SETS, DataSet
from bench.invented import invented
from bench.tables import save

from bench import adaptive
from rightrank.bank.base_model import load_base
from rightrank.data import prepare
from rightrank.recipe import Recipe
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("peft")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_is_written_down(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(adaptive, "RANK", 4)
    monkeypatch.setitem(SETS, "small", DataSet("small", "rows.jsonl", None, 200))
    base = load_base(save_model(tmp_path / "model"))
    save_rows(tmp_path / "rows.jsonl", small_rows(340))
    one = One("small", method, 1e-2)
    run_one(one, str(tmp_path / "model"), tmp_path, tmp_path, 3.0, None, 96)
    found = json.loads((tmp_path / one.file).read_text())
    data = prepare(str(tmp_path / "rows.jsonl"), base.tokenizer, Recipe(), seed=0)
    untouched = judged(base.model, [*data.decide, *data.score][: len(found["loss"])], base.device)
    assert sum(found["loss"]) < 0.97 * sum(untouched), "18 steps"


def test_plain_lora_is_the_bank_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The control of the loop: it ends near where a bank of one adapter does."""
    from rightrank.bank.adapters import AdapterSpec
    from rightrank.bank.runs import PlainRun
    from rightrank.recipe import alpha_for

    monkeypatch.setattr(adaptive, "RANK", 4)
    base = load_base(save_model(tmp_path / "model"))
    save_rows(tmp_path / "rows.jsonl", small_rows(120))
    recipe = Recipe().given(epochs=2.0, batch_size=8)
    data = prepare(str(tmp_path / "rows.jsonl"), base.tokenizer, recipe, seed=0)
    held_out = [*data.decide, *data.score]
    with PlainRun(base, [AdapterSpec(4, alpha_for(4), 1e-2)], packed=False, dropout=0.0) as run:
        run.train(data.train, recipe, seed=0, capacity=4096)
        bank = run.evaluate(held_out, 4096).loss_KE[0]
    one = One("small", "lora", 1e-2)
    loop = np.array(judged(trained(base, one, data.train, recipe, tmp_path), held_out, base.device))
    untouched = np.array(judged(load_base(tmp_path / "model").model, held_out, base.device))
    assert loop.sum() < 0.9 * untouched.sum()
    assert loop.sum() == pytest.approx(bank.sum(), rel=0.1), "another start of A, and bfloat16"


def test_the_deciding_rows_choose_the_rate_and_the_others_judge(tmp_path: Path) -> None:
    surface = invented(scored=200)
    save(surface, tmp_path / "nl2bash-3.npz")
    whole = np.flatnonzero(
        (surface.examples_C == surface.whole) & (surface.rank_C == 32) & (surface.seed_C == 0)
    )
    for rate, c in zip(RATES, whole, strict=False):
        worse = surface.loss_CE[c] * (1.0 if rate == RATES[1] else 1.5)
        (tmp_path / One("nl2bash", "eva", rate).file).write_text(json.dumps({"loss": worse.tolist()}))
    (line,) = lines(tmp_path, folder=tmp_path)
    assert line.startswith("nl2bash      eva      at 0.001: loses")
