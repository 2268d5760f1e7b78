"""Numbers that are none, before any training. What diverges in training is the executor's matter (tests/executors)."""

from __future__ import annotations

import pytest
import torch

from rightrank.bank.base_model import load_base
from rightrank.bank.verify import choose_path
from rightrank.errors import ModelError
from tiny import random_examples, tiny_model


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_model_whose_losses_are_none_is_not_blamed_on_its_architecture(number: float) -> None:
    model = tiny_model(dtype=torch.float32)
    model.lm_head.weight.data[5, 0] = number
    with pytest.raises(ModelError, match="gives no numbers") as caught:
        choose_path(load_base(model, tokenizer=object()), random_examples(3))
    assert "Its weights are damaged" in caught.value.mend
