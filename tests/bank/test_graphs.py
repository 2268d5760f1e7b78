"""Steps on tensors of fixed size against the steps anyone can read: the same losses, gradients and adapters, whatever the filling."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rightrank.bank import varlen
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.attention import UnsupportedAttentionError
from rightrank.bank.batch import Batch
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward, layers_of
from rightrank.bank.graphs import train_in_graphs
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.rows import Shape, StaticRow, shape_of
from rightrank.bank.static import StaticForward
from rightrank.bank.step import gradients, train, trained_tokens
from rightrank.bank.targets import find_targets
from rightrank.bank.update import FlatUpdate, working_copy
from rightrank.recipe import Recipe
from tiny import plain_logits, random_examples, tiny_base, tiny_model

if TYPE_CHECKING:
    from rightrank.bank.base_model import BaseModel

SPECS = (AdapterSpec(1, 2.0, 1e-3), AdapterSpec(4, 8.0, 1e-2), AdapterSpec(9, 9.0, 3e-3))
ROOM = 64
KINDS = ("llama", "qwen3", "mistral", "gpt2")


def bank_of(base: BaseModel, noise: float = 0.0) -> AdapterBank:
    bank = AdapterBank(find_targets(base.model), SPECS, device=base.device, dtype=base.dtype)
    draw = torch.Generator().manual_seed(3)
    for master in bank.masters:
        master.add_(noise * torch.randn(master.shape, generator=draw, dtype=master.dtype))
    bank.refresh()
    return bank


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [0, 192], ids=["snug", "roomy"])
@pytest.mark.parametrize("shared", [None, 0, 7])
def test_a_micro_step_has_the_loss_and_the_gradients_of_the_plain_one(
    kind: str, more: int, shared: int | None
) -> None:
    """``shared``: tokens that all begin with, computed once; None: nothing is ever shared."""
    base = tiny_base(kind)
    examples = random_examples(5, shared=shared or 0)
    plain, static = bank_of(base, 0.1), bank_of(base, 0.1)
    with Forward(base, plain) as forward:
        wanted_K = gradients(forward, examples, 10_000)
    snug = shape_of(examples, shared)
    shape = Shape(snug.tokens + more, snug.predicted + more, snug.spared + (more if snug.spared else 0))
    row = StaticRow.empty(shape, len(SPECS), 8, base.device, shares=shared is not None)
    before = random_examples(3, seed=9, shared=shared or 0)  # what was in it must not matter
    row.fill(before, len(SPECS), 1, shared=shared or 0)
    row.fill(examples, len(SPECS), sum(trained_tokens(e) for e in examples), shared=shared or 0)
    loss_K = torch.zeros(len(SPECS))
    with StaticForward(base, static, working_copy(static), longest=24) as forward:
        forward.micro_step(row, loss_K)
    assert torch.allclose(loss_K.double(), wanted_K, rtol=1e-6)
    for one, other in zip(static.gradients, plain.gradients, strict=True):
        assert torch.linalg.vector_norm(one - other) < 1e-6 * torch.linalg.vector_norm(other)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_the_same_gradients_and_keep_less(kind: str) -> None:
    base, examples = tiny_base(kind, layers=4), random_examples(5)
    row = StaticRow.empty(shape_of(examples), len(SPECS), 8, base.device)
    row.fill(examples, len(SPECS), 7)
    found = []
    for recomputed in (False, True):
        plain, static = bank_of(base, 0.1), bank_of(base, 0.1)
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with Forward(base, plain, recomputed=recomputed) as forward:
            gradients(forward, examples, 10_000)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                forward.hidden(Batch.of(examples))
        loss_K = torch.zeros(len(SPECS))
        with StaticForward(
            base, static, working_copy(static), longest=12, recomputed=recomputed
        ) as static_forward:
            static_forward.micro_step(row, loss_K)
        found.append((plain.flat_gradient, static.flat_gradient, loss_K, sum(kept.values())))
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        assert torch.equal(one, other)
    assert found[1][3] < 0.5 * found[0][3]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("shared", [0, 3, 5])
def test_a_whole_run_trains_the_same_adapters(kind: str, shared: int) -> None:
    base = tiny_base(kind)
    examples, recipe = random_examples(30, shared=shared), Recipe().given(epochs=2, batch_size=4)
    plain, static = bank_of(base), bank_of(base)
    looks: dict[str, list[tuple[int, list[float]]]] = {"plain": [], "static": []}
    with Forward(base, plain, shares=shared == 5) as forward:
        wanted = train(
            forward, plain, examples, recipe, seed=0, capacity=30 + 4 * shared, look_after=(5, 12),
            on_look=lambda done, loss_K: looks["plain"].append((done, loss_K.tolist())),
        )  # fmt: skip
    seen: list[tuple[int, int]] = []
    found = train_in_graphs(
        base,
        static,
        examples,
        recipe,
        seed=0,
        capacity=30 + 4 * shared,
        compiled=False,
        shares=shared > 0,
        on_step=lambda *done: seen.append(done),
        look_after=(5, 12),
        on_look=lambda done, loss_K: looks["static"].append((done, loss_K.tolist())),
    )
    assert (found.steps, found.tokens, found.diverged_K) == (wanted.steps, wanted.tokens, wanted.diverged_K)
    assert seen == [(step + 1, 16) for step in range(16)]
    assert found.train_loss_K == pytest.approx(wanted.train_loss_K, rel=1e-6)
    for (done, mine), (when, plain_loss) in zip(looks["static"], looks["plain"], strict=True):
        assert done == when
        assert mine == pytest.approx(plain_loss, rel=1e-6)
    for one, other in zip(static.masters, plain.masters, strict=True):
        assert torch.linalg.vector_norm(one - other) < 1e-5 * torch.linalg.vector_norm(other)


def test_updates_are_adamws_and_a_diverged_adapter_disturbs_no_neighbour() -> None:
    base = tiny_base("llama", dtype=torch.float32)
    recipe = Recipe().given(weight_decay=0.1)
    plain, flat = bank_of(base, 0.1), bank_of(base, 0.1)
    adamw, update = BankOptimizer(plain, recipe, 10), FlatUpdate(flat, recipe, 10)
    for step in range(5):
        draw = torch.Generator().manual_seed(step)
        for one, other in zip(plain.gradients, flat.gradients, strict=True):
            one.copy_(10.0 ** (step - 2) * torch.randn(one.shape, generator=draw))
            other.copy_(one)
        if step == 3:
            plain.gradients[1][0] = flat.gradients[1][0] = float("nan")
        adamw.step(torch.ones(3))
        update.loss_K.fill_(1.0)
        update.prepare()
        update.apply()
        assert not flat.flat_gradient.any()
        assert update.loss_K.tolist() == [0, 0, 0]
        for k, (one, other) in enumerate(zip(flat.masters, plain.masters, strict=True)):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7), (step, k)
    assert update.diverged() == adamw.diverged == [False, True, False]
    assert not flat.masters[1].any()
    assert torch.equal(update.working, flat.flat_master)


def test_an_infinite_loss_counts_as_diverged() -> None:
    base = tiny_base("llama", dtype=torch.float32)
    bank = bank_of(base)
    update = FlatUpdate(bank, Recipe(), 10)
    update.loss_K.copy_(torch.tensor([1.0, float("inf"), 1.0]))
    update.prepare()
    update.apply()
    assert update.diverged() == [False, True, False]


def test_the_model_comes_back_as_it_was() -> None:
    model = tiny_model("llama")
    base = tiny_base("llama")
    example = random_examples(1)[0]
    before = plain_logits(base.model, example)
    names = {name: sorted(vars(module)) for name, module in base.model.named_modules()}
    bank = bank_of(base, 0.1)
    with StaticForward(base, bank, working_copy(bank), longest=12):
        assert "forward" in vars(base.model.model.layers[0].mlp.up_proj)
    assert {name: sorted(vars(module)) for name, module in base.model.named_modules()} == names
    assert torch.equal(plain_logits(base.model, example), before)
    assert all(not module._forward_hooks for module in base.model.modules())
    assert type(model) is type(base.model)


def test_a_soft_cap_is_refused() -> None:
    base = tiny_base("gemma2")
    bank = bank_of(base)
    row = StaticRow.empty(Shape(ROOM, ROOM), len(SPECS), 8, base.device)
    row.fill(random_examples(2), len(SPECS), 5)
    with (
        StaticForward(base, bank, working_copy(bank), longest=12) as forward,
        pytest.raises(UnsupportedAttentionError, match="softcap"),
    ):
        forward.micro_step(row, torch.zeros(len(SPECS)))


OLD = """
import sys, types
sys.modules["torch.nn.attention.varlen"] = None if sys.argv[1] == "2.9" else types.ModuleType("varlen")
if sys.argv[1] == "2.10":
    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None): ...
    sys.modules["torch.nn.attention.varlen"].varlen_attn = varlen_attn
    import torch.nn.attention
    torch.nn.attention.varlen = sys.modules["torch.nn.attention.varlen"]
import torch
from rightrank.bank import varlen
from rightrank.executors import local
short = []
varlen.short_attention = lambda query, *rest: short.append(rest[4]) or (query, None)
query, key = torch.zeros(600, 4, 8), torch.zeros(600, 2, 8)
ends = torch.tensor([0, 600])
varlen._flash(query, key, key, ends, ends, 600, None, None)
print(short)
"""


@pytest.mark.parametrize("version", ["2.9", "2.10"])
def test_a_pytorch_without_attention_for_any_window_runs_long_rows_by_our_kernels(version: str) -> None:
    command = [sys.executable, "-c", OLD, version]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[600]\n"


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("mode", [0, 1])
def test_only_attentions_gradient_asks_for_one_order(
    monkeypatch: pytest.MonkeyPatch, window: int | None, mode: int
) -> None:
    heard = []

    def backward(_: torch.Tensor, *given: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        asked = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        heard.append((*asked, torch.utils.deterministic.fill_uninitialized_memory, given[10], options))
        return given[0], given[1], given[2]

    monkeypatch.setattr(varlen, "_flash_backward", backward)
    query, key = torch.zeros(6, 4, 8), torch.zeros(6, 2, 8)
    seen = varlen.EVERYTHING if window is None else window
    ends = torch.tensor([0, 6])
    given = (query, query, key, key, ends, ends, query, torch.zeros(4, 6), 6, 0.5, seen)
    torch.set_deterministic_debug_mode(mode)
    try:
        varlen.long_attention_backward._init_fn(*given)
        left = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_deterministic_debug_mode(0)
    sides = {"scale": 0.5, "window_size_left": -1 if window is None else 4, "window_size_right": 0}
    assert heard == [(True, False, False, window is None, sides)]
    assert left == (mode, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_rows_that_share_tokens_are_judged_as_rows_that_do_not(kind: str, recomputed: bool) -> None:
    base, bank = tiny_base(kind), bank_of(tiny_base(kind), 0.1)
    examples = random_examples(9, shared=7)
    with Forward(base, bank) as forward:
        wanted = evaluate(forward, examples, capacity=1000)
    layers = {"recomputed": recomputed, "shares": True}
    with StaticForward(base, bank, working_copy(bank), longest=24, **layers) as static:
        for capacity in (1000, 60, 1):
            found = evaluate(static, examples, capacity=capacity)
            assert abs(found.loss_KE - wanted.loss_KE).max() < 1e-5
            assert (found.right_KE == wanted.right_KE).all()


def test_judging_lets_go_of_every_layer_s_intermediate_results() -> None:
    base = tiny_base("llama")
    bank = bank_of(base, 0.1)
    entered: list[torch.Tensor] = []
    second = layers_of(base.model)[1]
    handle = second.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    examples = random_examples(3)
    row = StaticRow.empty(shape_of(examples), len(SPECS), 8, base.device)
    row.fill(examples, len(SPECS), 1)
    with StaticForward(base, bank, working_copy(bank), longest=12) as forward:
        forward.token_losses(Batch.of(examples, base.device))
        forward.micro_step(row, torch.zeros(len(SPECS)))
    handle.remove()
    *_, judged, trained_on = entered
    assert judged.grad_fn is None, "nothing behind it is held"
    assert trained_on.grad_fn is not None
