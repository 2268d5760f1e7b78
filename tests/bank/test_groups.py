"""Layers that read one tensor: which they are, and that computing them together changes nothing but the number of products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rightrank.bank import groups
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.flat import ALIGNED, plan_flat
from rightrank.bank.groups import Group, groups_on, members_of, shared_inputs
from rightrank.bank.rows import StaticRow, shape_of
from rightrank.bank.static import StaticForward
from rightrank.bank.targets import Target
from rightrank.bank.update import working_copy
from tiny import random_examples, tiny_base

if TYPE_CHECKING:
    from collections.abc import Callable

I, T = 16, 6  # noqa: E741
WIDTHS = (24, 8, 10)
NAMES = ("one", "two", "three")
SPECS = (AdapterSpec(3, 2.0, 1e-3), AdapterSpec(2, 8.0, 1e-3, ranks=(4, 0, 2)))


class Layers(nn.Module):
    """Three layers, and embeddings: a decoder of ``steps``."""

    def __init__(self, steps: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(4, I)
        for name, width in zip(NAMES, WIDTHS, strict=True):
            self.add_module(name, nn.Linear(I, width, bias=name != "two", dtype=torch.float64))
        self.steps = steps

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> None:
        self.steps(self, self.embed(input_ids).double())


class Whole(nn.Module):
    """A model whose decoder is ``Layers``."""

    def __init__(self, steps: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.base_model = Layers(steps)

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.embed


def call(*names: str) -> Callable[[Any, torch.Tensor], Any]:
    return lambda layers, x: [getattr(layers, name)(x) for name in names]


def changed_in_place(layers: Any, x: torch.Tensor) -> None:
    layers.one(x)
    layers.two(x.mul_(2))


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (call("one", "two", "three"), [NAMES]),
        (call("two", "one"), [("two", "one")]),
        (call("one", "one", "two"), []),
        (lambda layers, x: [layers.one(x), layers.two(x + 0), layers.three(x)], []),
        (lambda layers, x: [layers.one(x), layers.two(x), layers.three(x + 0)], [("one", "two")]),
        (changed_in_place, []),
    ],
    ids=["all", "in the order of calls", "called twice", "another tensor", "two of three", "changed between"],
)
def test_layers_called_with_the_very_same_tensor_one_after_the_other_share_it(
    steps: Callable[[Any, torch.Tensor], Any], found: list[tuple[str, ...]]
) -> None:
    model = Whole(steps)
    assert list(shared_inputs(model, [f"base_model.{name}" for name in NAMES])) == [
        tuple(f"base_model.{name}" for name in run) for run in found
    ]
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("llama", {("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")}),
        ("gpt2", set()),
    ],
)
def test_who_shares_in_real_layers(kind: str, wanted: set[tuple[str, ...]]) -> None:
    shared = tiny_base(kind).shared_inputs
    assert {tuple(name.rsplit(".", 1)[-1] for name in names) for names in shared} == wanted
    assert len(shared) == 2 * len(wanted)  # two layers


def bank_of(targets: tuple[Target, ...], specs: tuple[AdapterSpec, ...] = SPECS) -> AdapterBank:
    bank = AdapterBank(targets, specs, device=torch.device("cpu"), dtype=torch.float64)
    draw = torch.Generator().manual_seed(1)
    bank.flat_master.copy_(torch.randn(bank.flat_master.shape, generator=draw, dtype=torch.float64))
    return bank


TARGETS = tuple(Target(name, I, width) for name, width in zip(NAMES, WIDTHS, strict=True))


def test_only_what_lies_together_and_has_adapters_is_grouped() -> None:
    bank = bank_of(TARGETS)
    assert members_of(bank, [("three", "one", "two")]) == [(0, 1, 2)]
    assert members_of(bank, [("one", "two")]) == [(0, 1), (2,)]
    assert members_of(bank, [("one", "three")]) == [(0,), (1,), (2,)]  # the second lies between
    assert members_of(bank, [("one", "elsewhere", "two")]) == [(0, 1), (2,)]
    without = bank_of(TARGETS, (AdapterSpec(1, 1.0, 0.0, ranks=(1, 0, 2)),))
    assert members_of(without, [NAMES]) == [(0, 2)]
    narrow = bank_of(tuple(Target(name, 12, width) for name, width in zip(NAMES, WIDTHS, strict=True)))
    narrow.plan = plan_flat(narrow.targets, SPECS, ALIGNED)  # with gaps, as on a GPU
    assert members_of(narrow, [NAMES]) == [(0,), (1,), (2,)]


def alone(bank: AdapterBank, layers: Any, numbers: torch.Tensor, name: str, x: torch.Tensor) -> torch.Tensor:
    """What a layer and its adapters compute, written out: x and result [K·T, ·]."""
    index, layer = NAMES.index(name), getattr(layers, name)
    rows = []
    for k, spec in enumerate(SPECS):
        (a, b), rank, part = bank.plan.places[index][k], spec.rank_of(index), x[k * T : (k + 1) * T]
        a_rI = numbers[a : a + rank * I].view(rank, I)
        b_rO = numbers[b : b + rank * WIDTHS[index]].view(rank, WIDTHS[index])
        rows.append(F.linear(part, layer.weight, layer.bias) + spec.scale_of(index) * (part @ a_rI.T) @ b_rO)
    return torch.cat(rows)


def in_turn(*calls: tuple[str, int]) -> Callable[..., torch.Tensor]:
    """Each call's layer on x, or on what is not x."""

    def run(layer: Callable[[str, torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        inputs = (x, x * 2)
        return torch.cat([layer(name, inputs[which]) for name, which in calls], 1)

    return run


def clamped(layer: Callable[[str, torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    first = layer("one", x).clamp_(-1, 1)
    return torch.cat([first, layer("two", x).mul_(2), layer("three", x)], 1)


@pytest.mark.parametrize("own", [True, False], ids=["plain", "somebody else's product"])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("run", "times"),
    [
        (in_turn(("one", 0), ("two", 0), ("three", 0)), 1),
        (in_turn(("three", 0), ("one", 0), ("two", 0)), 1),
        (in_turn(("one", 0), ("two", 1), ("three", 0)), 3),
        (in_turn(("one", 0), ("two", 1), ("three", 1), ("one", 1)), 2),
        (in_turn(("one", 0), ("one", 1), ("one", 1), ("three", 1)), 3),
        (in_turn(("two", 0)), 1),
        (clamped, 1),
    ],
    ids=["in order", "out of order", "another", "again", "twice", "one alone", "changed in place"],
)
def test_a_group_computes_what_its_layers_do_whatever_they_are_called_with(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., torch.Tensor], times: int, joined: bool, own: bool
) -> None:
    layers, bank = Layers(call()).requires_grad_(False), bank_of(TARGETS)
    if not own:
        monkeypatch.setattr(groups, "_are_plain", lambda layers: False)
    numbers = bank.flat_master.clone()
    group = Group([getattr(layers, name) for name in NAMES], (0, 1, 2), bank, numbers.clone(), joined=joined)
    computed: list[torch.Tensor] = []
    outputs = group.outputs
    monkeypatch.setattr(group, "outputs", lambda x: computed.append(x) or outputs(x))
    x = torch.randn(len(SPECS) * T, I, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with groups.ExitStack() as stack:
        group.attach(stack)
        found = run(lambda name, x: getattr(layers, name)(x), mine * 1)
    assert len(computed) == times
    numbers.requires_grad_()
    wanted = run(lambda name, x: alone(bank, layers, numbers, name, x), theirs * 1)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    dy = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found.backward(dy)
    wanted.backward(dy)
    assert mine.grad is not None
    assert theirs.grad is not None
    assert numbers.grad is not None
    assert torch.allclose(mine.grad, theirs.grad, rtol=1e-10, atol=1e-10)
    assert torch.allclose(bank.flat_gradient, numbers.grad, rtol=1e-10, atol=1e-10)
    assert not any("forward" in vars(layer) for layer in layers.modules())


def test_weights_are_copied_for_small_models_only_and_the_models_own_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, examples = tiny_base("llama"), random_examples(4)
    held = {name: parameter.data_ptr() for name, parameter in base.model.named_parameters()}
    row = StaticRow.empty(shape_of(examples), len(SPECS), 8, base.device)
    row.fill(examples, len(SPECS), 5)
    found = {}
    for share, matrices in ((0.01, 4 * 2), (0.0, 7 * 2)):
        monkeypatch.setattr(groups, "JOINED", share)
        bank = bank_of(base.targets, (AdapterSpec(3, 2.0, 1e-3), AdapterSpec(2, 8.0, 1e-3)))
        working = working_copy(bank)
        assert sum(len(group.weights) for group in groups_on(base, bank, working)) == matrices
        with StaticForward(base, bank, working, longest=12) as forward:
            forward.micro_step(row, torch.zeros(2))
            assert all(seat.x is None and seat.y is None for group in forward._groups for seat in group.seats)
        found[share] = bank.flat_gradient
    assert torch.allclose(found[0.01], found[0.0], rtol=1e-10)
    assert {name: parameter.data_ptr() for name, parameter in base.model.named_parameters()} == held
