"""What can be seen to be wrong without a measurement; each sentence appears, and none without its cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rightrank.estimates.cautions import of_data, of_memory, of_modules, of_setting
from rightrank.estimates.estimation import DataProfile, ModelShape, SettingEstimate
from rightrank.recipe import Recipe

DATA = DataProfile(
    name="rows.jsonl",
    format="Alpaca",
    template="none",
    rows=1000,
    train=800,
    at_hand=800,
    held_out=200,
    score=100,
    held_out_from="split by prompt",
    trained_tokens=8000,
    distinct_tokens=500,
    total_tokens=40_000,
    median_length=50,
    length_95=80,
    longest=100,
    truncated=0,
    truncated_percent=0.0,
    dropped=0,
    duplicates=0,
    overlap=0,
)
MODEL = ModelShape(
    name="m",
    architecture="LlamaForCausalLM",
    parameters=10**8,
    layers=10,
    hidden=576,
    weights="bfloat16",
    weights_gib=0.2,
    target_modules=("q_proj",),
    not_adapted=(),
    parameters_per_rank=1000,
    widest_rank=576,
    narrowest=("k_proj", 192),
)
BEST = (3e-4, 5e-3)
FINE = (16, 32.0, 1e-3)


def test_nothing_wrong_nothing_said() -> None:
    assert of_data(DATA, Recipe(), 150) == []
    assert of_setting(FINE, MODEL, BEST) == []
    assert of_modules(None) == of_modules(("q_proj", "up_proj")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"truncated": 40, "truncated_percent": 4.0}, "40 rows (4 %) are cut at 1,024 tokens"),
        ({"dropped": 3}, "3 rows are left without a trained token"),
        ({"overlap": 7}, "7 training rows ask what a held-out row asks"),
        ({"duplicates": 1}, "1 row repeats another one"),
    ],
)
def test_the_data(change: dict[str, float], words: str) -> None:
    (said,) = of_data(replace(DATA, **change), Recipe(), 150)  # type: ignore[arg-type]
    assert said.startswith(words)


def test_a_few_rows_that_are_cut_are_no_news() -> None:
    assert of_data(replace(DATA, truncated=9, truncated_percent=0.9), Recipe(), 150) == []


def test_too_short_a_run() -> None:
    assert of_data(DATA, Recipe(), 35) == []
    (said,) = of_data(DATA, Recipe(), 34)
    assert "only 34 optimiser steps" in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ((32, 64.0, 1e-3), "vLLM serves ranks up to 16 unless it is started with --max-lora-rank 32"),
        ((33, 66.0, 1e-3), "--max-lora-rank 64"),
        ((16, 128.0, 1e-3), "rsLoRA"),
        ((16, 4.0, 1e-3), "multiplied by 0.25 only"),
        ((16, 32.0, 2e-5), "more than ten times below"),
        ((16, 32.0, 1e-1), "more than ten times above"),
    ],
)
def test_the_persons_own_setting(setting: tuple[int, float, float], words: str) -> None:
    (said,) = of_setting(setting, MODEL, BEST)
    assert words in said


def test_a_rank_beyond_a_modules_width() -> None:
    said = of_setting((256, 256.0, 1e-3), MODEL, BEST)
    assert any("Rank 256 is beyond the width of k_proj (192)" in sentence for sentence in said)


def test_a_large_scale_in_mlx_has_a_reason_of_its_own() -> None:
    (said,) = of_setting((8, 160.0, 1e-4), MODEL, BEST, "MLX-LM")
    assert "by 20" in said and "MLX's scale is not divided by the rank" in said


def test_attention_alone() -> None:
    (said,) = of_modules(("q_proj", "model.layers.0.self_attn.v_proj"))
    assert said.startswith("Only attention gets adapters")


def test_what_does_not_fit() -> None:
    def needs(rank: int, gib: float) -> SettingEstimate:
        return SettingEstimate(f"r={rank}", "rank", rank, 32, 1e-3, 1000, 1.0, 0.1, gib, None)

    three = [needs(8, 20), needs(64, 25), needs(128, 30)]
    assert of_memory(three, MODEL, "an L4", 40) == []
    assert of_memory(three, MODEL, "L4", 24)[0].startswith("From r=64 on a whole batch at once does not fit")
    assert of_memory(three, MODEL, "T4", 16)[0].startswith("A whole batch at once needs 20 GiB and T4 has 16")
    packed = replace(MODEL, weights="4-bit")
    assert "4-bit" in of_memory(three, MODEL, "T4", 16)[0]
    assert "4-bit" not in of_memory(three, packed, "T4", 16)[0]
