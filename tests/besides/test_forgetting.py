"""What the old skills lose: closed forms, the losses against PEFT's, and which rows are measured."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.memory import measure_memory
from rightrank.bank.peft_format import export_adapter
from rightrank.bank.targets import find_targets
from rightrank.besides.forgetting import (
    OldLoss,
    OldSkills,
    measure_loss,
    read_old_skills,
    rows_to_measure,
    what_is_forgotten,
)
from rightrank.errors import DataError
from rightrank.recipe import Recipe
from rightrank.request import Request
from rightrank.runs.trained_adapters import TrainedAdapter
from small_run import small_rows, word_tokenizer
from tiny import plain_losses, random_examples, tiny_base

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = tuple(random_examples(6, seed=3))


def skills(examples=EXAMPLES):
    return OldSkills("old.jsonl", "messages", "abc", 40, examples, ())


def test_rows_are_what_a_tenth_of_the_budget_pays_for_between_thirty_and_five_hundred():
    # 100 s of a 1,000 s budget, 5 models at 0.1 s a row: 200 rows.
    assert rows_to_measure(10_000, 0.1, 5, 1000.0) == 200
    assert rows_to_measure(150, 0.1, 5, 1000.0) == 150
    assert rows_to_measure(10_000, 0.0001, 5, 1000.0) == 500
    assert rows_to_measure(10_000, 10.0, 5, 1000.0) == 30


def test_changes_are_paired_and_in_nats_a_token_and_percent():
    tokens_E = np.array([example.trained_tokens for example in EXAMPLES], float)
    before = OldLoss(2.0 * tokens_E, np.zeros(6, int))
    more = OldLoss(2.5 * tokens_E, tokens_E.astype(int))  # every token loses 0.5 nats: no scatter at all
    mixed_E = 2.0 * tokens_E + np.array([1, -1, 1, -1, 1, -1.0])
    found = what_is_forgotten(
        skills(), 6, 80, before, {(8, 16.0, 1e-3): more, (4, 16.0, 1e-3): OldLoss(mixed_E, np.zeros(6, int))}
    )
    assert (found.base_loss, found.rows, found.of_rows, found.examples) == (2.0, 6, 40, 80)
    four, eight = found.settings
    assert (four.rank, eight.rank) == (4, 8)
    assert eight.change.value == pytest.approx(0.5) and eight.percent.value == pytest.approx(25.0)
    assert eight.change.low == pytest.approx(0.5) == pytest.approx(eight.change.high)
    assert eight.tokens_right == 100.0 and found.base_tokens_right == 0.0
    # sum of differences 0; residuals ±1: standard error sqrt(6 · 6/5) / tokens, Student's t with 5 degrees of freedom 2.5706.
    half = 2.5706 * np.sqrt(6 * 6 / 5) / tokens_E.sum()
    assert four.change.value == pytest.approx(0.0, abs=1e-12)
    assert (four.change.low, four.change.high) == (
        pytest.approx(-half, rel=1e-4),
        pytest.approx(half, rel=1e-4),
    )


def test_only_the_rows_that_were_measured_count():
    tokens_E = np.array([example.trained_tokens for example in EXAMPLES], float)
    before, after = (OldLoss(k * tokens_E[:4], np.zeros(4, int)) for k in (1.0, 1.25))
    found = what_is_forgotten(skills(), 4, 80, before, {(8, 16.0, 1e-3): after})
    assert (found.base_loss, found.rows) == (1.0, 4)
    assert found.settings[0].change.value == pytest.approx(0.25)


def test_losses_are_those_of_the_untouched_model_and_of_peft(tmp_path: Path):
    import torch
    from peft import PeftModel

    base = tiny_base()
    targets = find_targets(base.model)
    bank = AdapterBank(targets, [AdapterSpec(3, 12.0, 1e-3)], device=base.device, dtype=base.dtype)
    torch.manual_seed(0)
    bank.masters[0].normal_(0, 0.2)
    folder = export_adapter(bank, 0, tmp_path / "0001" / "0", base_name="tiny")
    memory = measure_memory(base, targets, EXAMPLES[:3], packed=True)
    adapter = TrainedAdapter((3, 12.0, 1e-3), 0, 80, folder)
    assert adapter.exists and adapter.key == "0001/0"
    without = measure_loss(base, targets, memory, EXAMPLES, None, packed=True)
    with_it = measure_loss(base, targets, memory, EXAMPLES, adapter, packed=True)
    plain = [loss.sum().item() for loss in plain_losses(base.model, EXAMPLES)]
    peft = PeftModel.from_pretrained(copy.deepcopy(base.model), folder, autocast_adapter_dtype=False).eval()
    theirs = [loss.sum().item() for loss in plain_losses(peft, EXAMPLES)]
    assert without.loss_E == pytest.approx(plain, rel=1e-9)
    assert with_it.loss_E == pytest.approx(theirs, rel=1e-9)
    assert np.abs(np.array(plain) - theirs).min() > 1e-3, "the adapter does something"


def read(keep, trained=(), **options):
    return read_old_skills(Request("m", [], Recipe(), keep=keep, **options), word_tokenizer(), trained)


def test_rows_that_are_trained_on_are_left_out_and_the_order_is_drawn():
    rows = small_rows(60, seed=1)
    every = read(rows)
    trained = [
        example
        for example in every.examples
        if example.prompt_key in {e.prompt_key for e in every.examples[:10]}
    ]
    fewer = read(rows, trained)
    assert len(every.examples) == 60 and len(fewer.examples) == 50 and fewer.of_rows == 60
    assert not {e.prompt_key for e in fewer.examples} & {e.prompt_key for e in trained}
    assert fewer.notes == ("10 rows of --keep left out: the same prompts are trained on.",)
    keys = [e.prompt_key for e in every.examples]
    assert keys != [e.prompt_key for e in read(rows, seed=5).examples] and keys == [
        e.prompt_key for e in read(rows).examples
    ]


def test_too_few_rows_are_one_sentence():
    with pytest.raises(DataError, match=r"--keep has 12 rows that can be used; 30 are needed"):
        read(small_rows(12))
