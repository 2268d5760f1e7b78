"""At load: the packed path where it computes the same as the untouched model, a slower one where not, the model put back."""

from __future__ import annotations

import pytest
import torch

from rightrank.bank import attention, verify
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.batch import Batch
from rightrank.bank.forward import Forward
from rightrank.bank.targets import find_targets
from rightrank.bank.verify import choose_path, sharing, worth_sharing
from rightrank.errors import ModelError
from rightrank.recipe import Recipe
from tiny import plain_losses, random_examples, tiny_base

EXAMPLES = random_examples(4, shortest=8, longest=14)


def bare_losses(base, *, packed):
    with torch.no_grad(), Forward(base, packed=packed) as forward:
        return forward.token_losses(Batch.of(EXAMPLES))[0][0]


def state_of(model):
    """Everything about a model that a visit could leave changed."""
    return {
        "attention": [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        "gradients": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: m.training for name, m in model.named_modules()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "own forward": [name for name, m in model.named_modules() if "forward" in m.__dict__],
    }


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "mistral"])
def test_packed_rows_where_they_equal_the_untouched_model(kind):
    base = tiny_base(kind)
    assert choose_path(base, EXAMPLES) == verify.Path(True, "packed rows")
    truth = torch.cat(plain_losses(base.model, EXAMPLES))
    torch.testing.assert_close(bare_losses(base, packed=True), truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(bare_losses(base, packed=False), truth, rtol=0, atol=1e-10)


def test_a_sliding_window_shorter_than_the_example_is_honoured():
    base = tiny_base("mistral")
    assert base.model.config.sliding_window < min(len(e.token_ids_T) for e in EXAMPLES)
    windowed = bare_losses(base, packed=True)
    truth = torch.cat(plain_losses(base.model, EXAMPLES))
    torch.testing.assert_close(windowed, truth, rtol=0, atol=1e-10)
    whole = tiny_base("mistral", sliding_window=None)
    assert (bare_losses(whole, packed=True) - windowed).abs().max() > 1e-2, "the window must matter here"


def test_a_window_is_honoured_on_long_rows_too(monkeypatch):
    base = tiny_base("mistral")
    monkeypatch.setattr(attention, "SHORT_ON_CPU", 0)  # PyTorch's fused attention, as on rows over 512 tokens
    truth = torch.cat(plain_losses(base.model, EXAMPLES))
    torch.testing.assert_close(bare_losses(base, packed=True), truth, rtol=0, atol=1e-10)


def test_attention_that_is_not_known_takes_the_padded_path_and_says_so(monkeypatch):
    base = tiny_base()
    own = attention.packed_attention
    monkeypatch.setattr(
        attention, "packed_attention", lambda *some, **rest: own(*some, position_bias=1.0, **rest)
    )
    path = choose_path(base, EXAMPLES)
    assert not path.packed
    assert path.words == "padded rows, slower (packed rows: position_bias)"


def test_the_final_soft_cap_is_kept():
    base = tiny_base("gemma2")
    base.model.config.final_logit_softcapping = 1.0
    losses = bare_losses(base, packed=False)
    truth = torch.cat(plain_losses(base.model, EXAMPLES))
    torch.testing.assert_close(losses, truth, rtol=0, atol=1e-10)
    base.model.config.final_logit_softcapping = None
    assert (bare_losses(base, packed=False) - losses).abs().max() > 0.1, "the cap must bite here"


@pytest.fixture
def broken_attention(monkeypatch):
    """Attention that looks at half of its values."""
    whole = attention._attend_plainly
    monkeypatch.setattr(attention, "_attend_plainly", lambda q, k, v, *rest: whole(q, k, v / 2, *rest))


@pytest.mark.usefixtures("broken_attention")
def test_a_wrong_packed_path_falls_back_to_padded_rows():
    path = choose_path(tiny_base(), EXAMPLES)
    assert not path.packed
    assert path.words.startswith(
        "padded rows, slower (packed rows differ from the untouched model by "
    ) and path.words.endswith("nats a token)")


@pytest.mark.usefixtures("broken_attention")
def test_both_paths_wrong_is_an_error(monkeypatch):
    hidden = Forward.hidden
    monkeypatch.setattr(Forward, "hidden", lambda self, batch: hidden(self, batch) * 1.1)
    with pytest.raises(ModelError, match=r"(?s)packed rows differ.*padded rows differ"):
        choose_path(tiny_base(), EXAMPLES)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_comes_back_as_it_was(kind, training):
    base = tiny_base(kind)
    model = base.model
    model.train(training)
    model.get_input_embeddings().weight.requires_grad_(False)
    next(model.base_model.children()).training = not training  # modes may differ within a model
    ids = Batch.of(EXAMPLES[:1]).token_ids_T[None]

    def outputs():
        torch.manual_seed(0)
        return model(input_ids=ids).logits

    state, before = state_of(model), outputs()
    choose_path(base, EXAMPLES)
    bank = AdapterBank(
        find_targets(model), [AdapterSpec(4, 8, 1e-3)], device=base.device, dtype=torch.float64
    )
    with Forward(base, bank, packed=kind != "gemma2") as forward:
        forward.token_losses(Batch.of(EXAMPLES))[0].sum().backward()
        assert state_of(model) != state
    assert state_of(model) == state
    assert torch.equal(outputs(), before)
    assert all(p.grad is None for p in model.parameters())


def test_a_failed_entry_leaves_the_model_as_it_was(monkeypatch):
    base = tiny_base()
    base.model.train()
    state = state_of(base.model)
    monkeypatch.setattr(type(base.model), "set_attn_implementation", lambda self, name: None)
    forward = Forward(base)
    with pytest.raises(attention.UnsupportedAttentionError, match="cannot be chosen") as caught:
        forward.__enter__()
    assert state_of(base.model) == state
    assert caught.tb, "the traceback is alive: nothing was put back by garbage collection alone"


def test_an_error_inside_leaves_the_model_as_it_was():
    base = tiny_base()
    base.model.train()
    state = state_of(base.model)
    with pytest.raises(KeyboardInterrupt), Forward(base):
        raise KeyboardInterrupt
    assert state_of(base.model) == state


def test_a_layer_that_sees_some_tokens_only_is_refused_beside_neighbours():
    """Routed experts: rows of several adapters could not be told apart."""
    base = tiny_base()
    mlp = base.model.model.layers[0].mlp
    whole = mlp.forward
    mlp.forward = lambda x: torch.cat([whole(x[:, :4]), x[:, 4:]], dim=1)
    specs = [AdapterSpec(2, 4, 1e-3)] * 2
    bank = AdapterBank(find_targets(base.model), specs, device=base.device, dtype=torch.float64)
    with pytest.raises(ModelError, match="routed layers"), Forward(base, bank) as forward:
        forward.token_losses(Batch.of(EXAMPLES))


PACKED = verify.Path(True, "packed rows")
ALIKE = random_examples(4, shortest=8, longest=14, shared=9)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "mistral", "gemma2"])
def test_losses_and_gradients_stay_where_examples_share_tokens(kind):
    """Mistral's window, of 6 tokens, is shorter than what is shared; Gemma 2 has a soft cap, and windows in half its layers."""
    base = tiny_base(kind)
    truth = torch.cat(plain_losses(base.model, ALIKE))
    specs, found = [AdapterSpec(4, 8, 1e-3), AdapterSpec(2, 4, 1e-3)], []
    for shares in (False, True):
        bank = AdapterBank(find_targets(base.model), specs, device=base.device, dtype=torch.float64)
        with Forward(base, bank, shares=shares) as forward:
            losses = forward.token_losses(Batch.of(ALIKE, shares=shares))[0]
            losses.sum().backward()
        torch.testing.assert_close(
            losses[0], truth, rtol=0, atol=1e-5
        )  # norms are float32's whatever the dtype
        found.append(bank.flat_gradient)
    assert torch.linalg.vector_norm(found[1] - found[0]) < 1e-5 * torch.linalg.vector_norm(found[0])
    assert sharing(base, PACKED, ALIKE).shares


def test_sharing_is_left_where_it_computes_something_else(monkeypatch):
    base = tiny_base()
    monkeypatch.setattr(verify, "TOLERANCE_NATS", {torch.float64: -1.0})
    assert sharing(base, PACKED, ALIKE) == PACKED
    monkeypatch.undo()
    assert sharing(base, verify.Path(False, "padded rows"), ALIKE) == verify.Path(False, "padded rows")
    assert sharing(base, PACKED, EXAMPLES) == PACKED, "they begin differently"


def test_sharing_is_worth_it_from_some_share_of_the_tokens_on():
    recipe = Recipe().given(batch_size=8)
    long = random_examples(16, shortest=190, longest=210, shared=6)
    assert worth_sharing(random_examples(16, shared=6), recipe)
    assert not worth_sharing(long, recipe), "3 of 100 tokens"
    assert not worth_sharing(random_examples(16), recipe)
    assert not worth_sharing(random_examples(16, shared=6), recipe.given(batch_size=1))
    assert not worth_sharing(random_examples(16, shared=6), recipe.given(dropout=0.1))
