"""A tiny world whose right answer is known: a random base, a teacher that is the base plus an update of known rank, and what it writes."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from rightrank.bank.targets import find_targets
from tiny import VOCABULARY, tiny_model

SPECIAL = ["<pad>", "<s>", "</s>"]
WORDS = SPECIAL + [f"t{i}" for i in range(3, VOCABULARY)]


def word_tokenizer() -> Any:
    """One token a word, words parted by spaces."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def base(hidden: int = 32) -> Any:
    return tiny_model("llama", dtype=torch.float32, layers=1, hidden=hidden)


@torch.no_grad()
def teacher(rank: int, strength: float, seed: int = 1, hidden: int = 32) -> Any:
    """The base plus, in every linear layer, an update of ``rank`` equal singular values of size ``strength``."""
    model = base(hidden)
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_modules())
    for target in find_targets(model):
        left, _ = torch.linalg.qr(torch.randn(target.width_out, rank, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(target.width_in, rank, generator=generator))
        named[target.name].weight.add_(strength * left @ right.T)
    return model


@torch.no_grad()
def written_by(
    model: Any, count: int, *, seed: int, prompt: int = 4, completion: int = 16
) -> list[dict[str, str]]:
    """Random prompts and what ``model`` writes after them, sampled at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (count, prompt), generator=generator)
    for _ in range(completion):
        probabilities = model(input_ids=ids).logits[:, -1].float().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    return [as_row(row, prompt) for row in ids.tolist()]


def random_rows(count: int, *, seed: int, prompt: int = 4, completion: int = 16) -> list[dict[str, str]]:
    """Rows in which nothing can be learned but how often words occur."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (count, prompt + completion), generator=generator)
    return [as_row(row, prompt) for row in ids.tolist()]


def as_row(ids: list[int], prompt: int) -> dict[str, str]:
    text = [WORDS[i] for i in ids]
    return {"prompt": " ".join(text[:prompt]) + " ", "completion": " ".join(text[prompt:])}
