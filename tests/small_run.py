"""A model, a tokenizer and rows so small that a whole recommendation takes seconds."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import torch

from tiny import tiny_model

if TYPE_CHECKING:
    from pathlib import Path

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ["find", "list", "count", "delete", "print", "rename", "copy", "sort", "merge", "archive"]


def word_tokenizer() -> Any:
    """One token a word, and one for all other words; ChatML."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|end|>", "<|unknown|>", "<|im_start|>", "<|im_end|>"]
    words = [*special, "user", "assistant", *WORDS, *map(str, range(10))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unknown|>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>", unk_token="<|unknown|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def small_model() -> Any:
    return tiny_model(hidden=16, layers=1, dtype=torch.float32)


def small_rows(count: int = 100, seed: int = 0) -> list[dict[str, str]]:
    """Prompts of five words, all different; the completion repeats the first two."""
    rng = random.Random(seed)
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        prompts[" ".join(rng.choices(WORDS, k=5))] = None
    return [{"prompt": p, "completion": " ".join([*p.split()[:2], "sort"])} for p in prompts]


def save_model(folder: Path) -> Path:
    """A folder as people have it: config.json, safetensors, tokenizer."""
    small_model().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def save_rows(path: Path, rows: list[Any] | None = None) -> Path:
    """JSON lines; strings among ``rows`` are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (rows or small_rows())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
