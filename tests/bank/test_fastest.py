"""Which way a model is trained: the fastest that computes what the plain steps do, and why no faster one, in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rightrank.bank import fastest
from rightrank.bank.batch import shared_tokens
from rightrank.bank.fastest import fastest_judging, fastest_way
from rightrank.bank.graphs import CaptureError
from rightrank.bank.update import working_copy
from rightrank.bank.verify import Path
from rightrank.recipe import Recipe
from tiny import random_examples, tiny_base

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = Path(packed=True, words="packed rows")


def on_gpu(dtype: torch.dtype = torch.bfloat16) -> Any:
    """What is read of a base on a GPU."""
    return SimpleNamespace(
        device=torch.device("cuda"), dtype=dtype, dtype_name=str(dtype).removeprefix("torch.")
    )


def found_by(monkeypatch: pytest.MonkeyPatch, trying: Callable[[str], tuple[float, float]]) -> Path:
    monkeypatch.setattr(fastest, "fused_products_run_here", lambda device, dtype: True)
    monkeypatch.setattr(fastest, "_apart", lambda base, examples, way, longest, **_: trying(way))
    return fastest_way(on_gpu(), ROWS, [], Recipe(), 9)


@pytest.mark.parametrize("longest", [40, 400, 900])
def test_a_trial_shares_tokens_however_long_the_rows(longest: int) -> None:
    """A few short rows as they are; of long ones their beginnings and ends."""
    examples = random_examples(3, shortest=longest - 30, longest=longest, shared=60)
    trial = fastest._short_and_alike(examples)
    assert 2 <= len(trial) <= 3
    assert shared_tokens(trial) >= 50
    assert sum(len(e.token_ids_T) for e in trial) <= fastest.SHORT
    assert any(e.trained_T.any() for e in trial)


def test_a_cpu_has_one_way() -> None:
    assert fastest_way(tiny_base("llama"), ROWS, random_examples(2), Recipe(), 9) == ROWS


def test_the_fastest_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    path = found_by(monkeypatch, lambda way: (0.01, 0.05))
    assert path == Path(True, "packed rows, captured steps of compiled layers", "compiled")


def test_one_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def trying(way: str) -> tuple[float, float]:
        if way == "compiled":
            raise CaptureError("InductorError: no C compiler")
        return 0.01, 0.05

    path = found_by(monkeypatch, trying)
    assert path.way == "captured"
    assert path.words == (
        "packed rows, captured steps; captured steps of compiled layers failed: InductorError: no C compiler"
    )


@pytest.mark.parametrize("apart", [(0.5, 0.05), (0.01, 0.6), (float("nan"), 0.05)])
def test_one_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, apart: tuple[float, float]
) -> None:
    path = found_by(monkeypatch, lambda way: apart)
    assert path.way == "plain"
    assert "steps one by one, slower" in path.words
    assert "differ" in path.words


def test_too_little_memory_for_graphs_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def trying(way: str) -> tuple[float, float]:
        raise torch.cuda.OutOfMemoryError

    assert found_by(monkeypatch, trying).way == "plain"


@pytest.mark.parametrize(
    ("path", "recipe", "dtype", "reason"),
    [
        (Path(False, "padded rows"), Recipe(), torch.bfloat16, "rows are padded"),
        (ROWS, Recipe(dropout=0.1), torch.bfloat16, "LoRA dropout is drawn anew at every step"),
        (ROWS, Recipe(), torch.float16, "no kernels for float16 here"),
    ],
)
def test_what_rules_graphs_out_is_said(path: Path, recipe: Recipe, dtype: torch.dtype, reason: str) -> None:
    found = fastest_way(on_gpu(dtype), path, [], recipe, 9)
    assert (found.way, found.words) == ("plain", f"{path.words}, steps one by one ({reason})")


def judged_by(
    monkeypatch: pytest.MonkeyPatch,
    trying: Callable[[], float],
    path: Path = ROWS,
    dtype: Any = torch.bfloat16,
) -> Path:
    monkeypatch.setattr(fastest, "fused_products_run_here", lambda device, dtype: dtype != torch.float16)
    monkeypatch.setattr(fastest, "_judged_apart", lambda *_, **__: trying())
    return fastest_judging(on_gpu(dtype), path, [], 9)


def test_where_nothing_is_trained_nothing_is_captured_or_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "_apart", lambda *_, **__: pytest.fail("a backward pass was tried"))
    path = judged_by(monkeypatch, lambda: 0.01)
    assert path == Path(True, "packed rows, adapters side by side", "captured")
    assert fastest_judging(tiny_base("llama"), ROWS, random_examples(2), 9) == ROWS


def test_why_adapters_are_judged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> float:
        raise RuntimeError("no kernel\nand a page of text")

    def full() -> float:
        raise torch.cuda.OutOfMemoryError

    padded = Path(False, "padded rows")
    for found, why in [
        (judged_by(monkeypatch, lambda: 0.5), "side by side they differ: 0.5 nats"),
        (judged_by(monkeypatch, lambda: float("nan")), "side by side they differ: nan nats"),
        (judged_by(monkeypatch, failing), "RuntimeError: no kernel"),
        (judged_by(monkeypatch, full), "too little memory"),
        (judged_by(monkeypatch, failing, dtype=torch.float16), "no kernels for float16 here"),
        (judged_by(monkeypatch, failing, path=padded), "rows are padded"),
    ]:
        assert found.way == "plain"
        assert found.words.endswith(f", adapters one by one, slower ({why})")


@pytest.mark.parametrize("shared", [0, 6])
def test_judging_side_by_side_is_as_close_as_rounding(monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    base, rows = tiny_base("llama"), random_examples(5, shared=shared)
    assert fastest._judged_apart(base, rows, 24, shares=bool(shared)) < 1e-6
    monkeypatch.setattr(fastest, "working_copy", lambda bank: working_copy(bank).mul_(0.5))
    assert fastest._judged_apart(base, rows, 24, shares=bool(shared)) > 1e-3


def test_the_two_ways_are_as_close_as_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    loss, gradient = fastest._apart(base, random_examples(5), "captured", 9)
    assert loss < 1e-6
    assert gradient < 1e-5
    whole = fastest.GraphedSteps.micro_step

    def half(self: Any, micro: Any) -> None:
        whole(self, micro)
        self.bank.flat_gradient.mul_(0.5)

    monkeypatch.setattr(fastest.GraphedSteps, "micro_step", half)
    assert fastest._apart(base, random_examples(5), "captured", 9)[1] > fastest.APART
