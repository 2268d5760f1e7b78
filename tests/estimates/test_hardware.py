"""Time on a card that is only named, against what was measured."""

from __future__ import annotations

import pytest

from rightrank.errors import ConfigurationError
from rightrank.priors import hardware
from rightrank.priors.hardware import Work, gpu, probe_seconds, recognised, step_flops, step_seconds


def test_operations_of_a_step_by_hand() -> None:
    flops = step_flops(
        body_parameters=1000,
        head_parameters=200,
        adapter_parameters=50,
        layers=2,
        heads_width=8,
        tokens=10,
        row_tokens=5,
    )
    assert flops == (4 * 1200 + 6 * 50 + 6 * 2 * 8 * 5) * 10


def test_a_measured_small_model_lies_inside() -> None:
    """0.217 s a step of 16 rows of 64 tokens, 30 layers, on an H100; 0.227 s at 256 tokens."""
    for tokens, seconds in ((1024, 0.217), (4096, 0.227)):
        low, high = step_seconds(gpu("h100"), Work(4 * 134e6 * tokens, 30))
        assert low < seconds < high


def test_a_measured_large_shape_lies_inside() -> None:
    """15,400 tokens a second of one adapter at an 8B shape, rows of 512, on an H100."""
    low, high = step_seconds(gpu("h100"), Work(4 * 6.98e9 * 8192, 32))
    assert low < 8192 / 15_400
    assert high > 8192 / 15_400


def test_a_slower_card_takes_longer_where_arithmetic_is_the_price() -> None:
    work = Work(1e15, 32)
    low, high = (
        one / other
        for one, other in zip(step_seconds(gpu("l4"), work), step_seconds(gpu("h100"), work), strict=True)
    )
    assert low == pytest.approx(989 / 121)
    assert 4 < high < 989 / 121
    (floor, each), _ = probe_seconds(gpu("l4"), work)
    assert floor == probe_seconds(gpu("h100"), work)[0][0]  # launching kernels is the host's
    assert each == pytest.approx(low * probe_seconds(gpu("h100"), work)[0][1])


@pytest.mark.parametrize(
    ("said", "gib", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 79.6, "h100"),
        ("NVIDIA H100 PCIe", 79.6, "h100-pcie"),
        ("NVIDIA H200", 140, "h200"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100 80GB PCIe", 79.3, "a100-80"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx-4090"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA L4", 22.2, "l4"),
        ("NVIDIA RTX A6000", 47.5, "a6000"),
        ("Tesla T4", 14.6, "t4"),
    ],
)
def test_a_drivers_name_is_recognised(said: str, gib: float, name: str) -> None:
    found = recognised(said, gib)
    assert found is not None and found.name == name


def test_names_that_are_not_in_the_table() -> None:
    assert recognised("Some Other Card", 16) is None
    assert gpu("NVIDIA-H100").name == gpu("H100").name == "h100"
    with pytest.raises(ConfigurationError, match=r"'gtx-1080' is not in the table.*h100"):
        gpu("gtx-1080")


def test_every_card_says_where_its_rate_comes_from() -> None:
    for row in hardware.constants()["gpus"]:
        assert row["source"].startswith("NVIDIA") and row["tflops"] > 0 and row["gib"] > 0
