"""The models that torchtune 0.6 can train with LoRA, and what its configs call them.

torchtune builds each model from a function of its own and cannot load others. Parameters were counted on those functions, the numbers of
weight files are those of torchtune's own recipes (Llama 3 8B: of its repository on the hub). Phi-3 and Phi-4 are left out: torchtune
splits the fused layers that were measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from rightrank.recommendation import ModelFacts


@dataclass(frozen=True)
class Family:
    """What models of one kind share."""

    tokenizer: str
    """Function that makes the tokenizer, below ``torchtune.models``."""
    tokenizer_files: tuple[tuple[str, str], ...]
    """Its arguments, and the files in the model's folder that they name."""
    model_type: str
    """How the checkpointer translates the weights' names."""
    template: bool
    """Whether the tokenizer writes a chat format."""


@dataclass(frozen=True)
class Builder:
    """One model."""

    name: str
    """Pattern of the model's name, in small letters."""
    parameters: int
    function: str
    """Function that makes the model with LoRA, below ``torchtune.models``."""
    weight_files: int

    @property
    def family(self) -> Family:
        """Tokenizer and translation of the weights."""
        return _FAMILIES[self.function.split(".", maxsplit=1)[0]]


_LLAMA3 = (("path", "original/tokenizer.model"),)
_QWEN = (("path", "vocab.json"), ("merges_file", "merges.txt"))
_ONE_FILE = (("path", "tokenizer.model"),)
_FAMILIES = {
    "llama2": Family("llama2.llama2_tokenizer", _ONE_FILE, "LLAMA2", template=True),
    "code_llama2": Family("llama2.llama2_tokenizer", _ONE_FILE, "LLAMA2", template=True),
    "llama3": Family("llama3.llama3_tokenizer", _LLAMA3, "LLAMA3", template=True),
    "llama3_1": Family("llama3.llama3_tokenizer", _LLAMA3, "LLAMA3", template=True),
    "llama3_2": Family("llama3.llama3_tokenizer", _LLAMA3, "LLAMA3_2", template=True),
    "llama3_3": Family("llama3.llama3_tokenizer", _LLAMA3, "LLAMA3", template=True),
    "mistral": Family("mistral.mistral_tokenizer", _ONE_FILE, "MISTRAL", template=True),
    "gemma": Family("gemma.gemma_tokenizer", _ONE_FILE, "GEMMA", template=False),
    "gemma2": Family("gemma.gemma_tokenizer", _ONE_FILE, "GEMMA2", template=False),
    "qwen2": Family("qwen2.qwen2_tokenizer", _QWEN, "QWEN2", template=True),
    "qwen2_5": Family("qwen2_5.qwen2_5_tokenizer", _QWEN, "QWEN2", template=True),
}

BUILDERS = (
    Builder(r"llama-2-7b", 6_738_415_616, "llama2.lora_llama2_7b", 2),
    Builder(r"llama-2-13b", 13_015_864_320, "llama2.lora_llama2_13b", 3),
    Builder(r"llama-2-70b", 68_976_648_192, "llama2.lora_llama2_70b", 15),
    Builder(r"codellama-7b", 6_738_546_688, "code_llama2.lora_code_llama2_7b", 3),
    Builder(r"llama-3-8b", 8_030_261_248, "llama3.lora_llama3_8b", 4),
    Builder(r"llama-3-70b", 70_553_706_496, "llama3.lora_llama3_70b", 30),
    Builder(r"llama-3\.1-8b", 8_030_261_248, "llama3_1.lora_llama3_1_8b", 4),
    Builder(r"llama-3\.1-70b", 70_553_706_496, "llama3_1.lora_llama3_1_70b", 30),
    Builder(r"llama-3\.2-1b", 1_235_814_400, "llama3_2.lora_llama3_2_1b", 1),
    Builder(r"llama-3\.2-3b", 3_212_749_824, "llama3_2.lora_llama3_2_3b", 2),
    Builder(r"llama-3\.3-70b", 70_553_706_496, "llama3_3.lora_llama3_3_70b", 30),
    Builder(r"mistral-7b", 7_241_732_096, "mistral.lora_mistral_7b", 2),
    Builder(r"gemma-2b", 2_506_172_416, "gemma.lora_gemma_2b", 2),
    Builder(r"gemma-7b", 8_537_680_896, "gemma.lora_gemma_7b", 4),
    Builder(r"gemma-2-2b", 2_614_341_888, "gemma2.lora_gemma2_2b", 3),
    Builder(r"gemma-2-9b", 9_241_705_984, "gemma2.lora_gemma2_9b", 8),
    Builder(r"gemma-2-27b", 27_227_128_320, "gemma2.lora_gemma2_27b", 24),
    Builder(r"qwen2-0\.5b", 494_032_768, "qwen2.lora_qwen2_0_5b", 1),
    Builder(r"qwen2-1\.5b", 1_543_714_304, "qwen2.lora_qwen2_1_5b", 1),
    Builder(r"qwen2-7b", 7_615_616_512, "qwen2.lora_qwen2_7b", 4),
    Builder(r"qwen2\.5-0\.5b", 494_032_768, "qwen2_5.lora_qwen2_5_0_5b", 1),
    Builder(r"qwen2\.5-1\.5b-instruct", 1_543_714_304, "qwen2_5.lora_qwen2_5_1_5b_instruct", 1),
    Builder(r"qwen2\.5-1\.5b", 1_543_714_304, "qwen2_5.lora_qwen2_5_1_5b_base", 1),
    Builder(r"qwen2\.5-3b", 3_085_938_688, "qwen2_5.lora_qwen2_5_3b", 2),
    Builder(r"qwen2\.5-7b-instruct", 7_615_616_512, "qwen2_5.lora_qwen2_5_7b_instruct", 4),
    Builder(r"qwen2\.5-7b", 7_615_616_512, "qwen2_5.lora_qwen2_5_7b_base", 4),
    Builder(r"qwen2\.5-14b-instruct", 14_770_033_664, "qwen2_5.lora_qwen2_5_14b_instruct", 8),
    Builder(r"qwen2\.5-32b-instruct", 32_763_876_352, "qwen2_5.lora_qwen2_5_32b_instruct", 17),
    Builder(r"qwen2\.5-72b-instruct", 72_706_203_648, "qwen2_5.lora_qwen2_5_72b_instruct", 37),
)


def builder_for(model: ModelFacts) -> Builder:
    """The function that makes ``model``: its name must say so, and the number of parameters must be the same.

    Raises ConfigurationError where torchtune has none.
    """
    name = Path(model.name).name.lower()
    for one in BUILDERS:
        if re.search(rf"(?<![a-z0-9.]){one.name}(?![0-9])", name) and one.parameters == model.parameters:
            return one
    raise ConfigurationError(
        f"torchtune has no builder for {cleaned(Path(model.name).name)} with {model.parameters:,} parameters.",
        "Train with one of the other configs.",
    )


def weight_files(folder: Path, builder: Builder) -> list[str] | dict[str, Any]:
    """The weight files in ``folder`` as torchtune is told of them; those on the hub where the folder is not there yet."""
    there = sorted(file.name for file in folder.glob("*.safetensors")) if folder.is_dir() else []
    if there and len(there) <= 8:
        return there
    count = len(there) or builder.weight_files
    if count == 1:
        return ["model.safetensors"]
    return {"filename_format": "model-{}-of-{}.safetensors", "max_filename": f"{count:05d}"}
