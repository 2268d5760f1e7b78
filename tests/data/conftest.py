"""A tokenizer made on the spot, so that no test needs a network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>\n' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "Find all files below the current directory and count their lines.",
    "What is the capital of France? The capital of France is Paris.",
    "You are a helpful assistant who answers in one short sentence.",
    "find . -type f -name '*.txt' | xargs wc -l",
] * 20


@pytest.fixture(scope="session")
def bare_tokenizer() -> Any:
    """Byte-level BPE that puts a beginning-of-sequence token before plain text; no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(SENTENCES, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", bos_token="<s>", pad_token="<|end|>", unk_token=None
    )


@pytest.fixture(scope="session")
def with_template(bare_tokenizer: Any) -> Callable[[str], Any]:
    """Makes a copy of the tokenizer with a chat template."""

    def templated(template: str) -> Any:
        other = copy.deepcopy(bare_tokenizer)
        other.chat_template = template
        return other

    return templated


@pytest.fixture(scope="session")
def chat_tokenizer(with_template: Any) -> Any:
    """The same with a ChatML template without generation markers."""
    return with_template(CHATML)


@pytest.fixture(scope="session")
def marked_tokenizer(with_template: Any) -> Any:
    """The same with generation markers."""
    return with_template(MARKED_CHATML)
