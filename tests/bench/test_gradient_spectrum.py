"""Directions of planted gradients, and a tiny model's gradient against one pass over all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bench.gradient_spectrum import ROWS, measure, spectrum, target_matrices
from transformers import LlamaConfig, LlamaForCausalLM

from bench import gradient_spectrum
from rightrank.data import TokenizedExample

BLOCKS, OUT, IN = 32, 48, 64


def blocks(rank: int, strength: float, seed: int = 0) -> torch.Tensor:
    """Summed gradients of blocks of ten tokens: ``rank`` directions of equal size in all, and noise of size 1 an entry in the sums."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(OUT, OUT, generator=generator)).Q[:, :rank]
    right = torch.linalg.qr(torch.randn(IN, IN, generator=generator)).Q[:, :rank]
    return strength * (left @ right.T) + torch.randn(BLOCKS, OUT, IN, generator=generator)


@pytest.mark.parametrize("rank", [1, 5])
def test_planted_directions_are_counted(rank: int) -> None:
    found = spectrum([blocks(rank, 20.0)], np.full(BLOCKS, 10), 256)
    assert found.beyond_edge == pytest.approx(rank, abs=1)
    assert found.beyond_noise == pytest.approx(rank, abs=1)
    assert found.replicated == pytest.approx(rank, abs=1)
    # Of the mean, the signal has 20² × rank and the noise OUT × IN / BLOCKS.
    assert found.signal_share == pytest.approx(400 * rank / (400 * rank + OUT * IN / BLOCKS), abs=0.08)


def test_noise_has_none() -> None:
    found = [spectrum([blocks(0, 0.0, seed)], np.full(BLOCKS, 10), 256) for seed in range(5)]
    assert np.mean([one.beyond_edge for one in found]) <= 1
    assert np.mean([one.replicated for one in found]) <= 1
    assert max(one.signal_share for one in found) < 0.2


def test_more_rows_show_more_directions() -> None:
    """Directions of falling size: the edge sinks with the number of rows, so their count grows. The published rule's flaw."""
    generator = torch.Generator().manual_seed(3)
    falling = torch.diag(3.0 / torch.arange(1, OUT + 1))
    signal = torch.cat([falling, torch.zeros(OUT, IN - OUT)], 1)
    every = signal + 0.2 * torch.randn(BLOCKS, OUT, IN, generator=generator)
    few = spectrum([every[:8]], np.full(8, 10), 64).beyond_edge
    assert few + 2 <= spectrum([every], np.full(BLOCKS, 10), 256).beyond_edge


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=1, **shape)).eval()


def test_base_loss_and_gradients_are_the_models_own(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    own = gradient_spectrum.spectrum
    monkeypatch.setattr(gradient_spectrum, "spectrum", lambda *given: seen.append(given) or own(*given))
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(ROWS):
        length = int(rng.integers(4, 9))
        trained = np.arange(length) >= 2
        rows.append(TokenizedExample(rng.integers(0, 50, length).astype(np.int32), trained, "key"))
    found = measure(tiny, rows)
    losses = []
    tiny.zero_grad()
    for row in rows:  # one by one, without filling
        ids = torch.from_numpy(row.token_ids_T.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(row.trained_T)[None], ids, -100)
        loss_T = torch.nn.functional.cross_entropy(
            tiny(input_ids=ids).logits[0, :-1], labels[0, 1:], reduction="none", ignore_index=-100
        )[1:]  # position 2 is the first trained; what predicts it is at 1
        losses.append(loss_T.detach().numpy())
        loss_T.sum().backward()
    every = np.concatenate(losses)
    assert found["base"]["nats_a_token"] == pytest.approx(every.mean(), rel=1e-4)
    assert found["base"]["spread_tokens"] == pytest.approx(every.std(), rel=1e-3)
    assert found["base"]["spread_examples"] == pytest.approx(np.std([x.mean() for x in losses]), rel=1e-3)
    assert [one["rows"] for one in found["spectra"]] == [ROWS // 4, ROWS // 2, ROWS]
    sums, tokens_B, _ = seen[-1]
    assert tokens_B.sum() == len(every)
    matrices = target_matrices(tiny)
    assert len(matrices) == len(sums) == 3 * 7
    for matrix, sum_BOI in zip(matrices, sums, strict=True):
        torch.testing.assert_close(sum_BOI.sum(0), matrix.grad, rtol=1e-3, atol=1e-4)
