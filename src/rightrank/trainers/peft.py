"""The recommendation as PEFT takes it: the arguments of ``peft.LoraConfig``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation

FILE_NAME = "peft_lora_config.json"


def config_dict(recommendation: Recommendation) -> dict[str, Any]:
    """Arguments of ``peft.LoraConfig``, in JSON's types."""
    return recommendation.peft_arguments()


def text(recommendation: Recommendation) -> str:
    """The file's content: ``peft.LoraConfig(**json.loads(text))`` takes it as it is."""
    return json.dumps(config_dict(recommendation), indent=2) + "\n"


def snippet(recommendation: Recommendation) -> str:
    """Python that makes the same configuration; what LoraConfig does not hold stands in comments."""
    choice, recipe = recommendation.choice, recommendation.recipe
    arguments = "".join(f"    {name}={value!r},\n" for name, value in config_dict(recommendation).items())
    return (
        "from peft import LoraConfig\n\n"
        f"# For {wording.clean(recommendation.model.name)} on {wording.clean(recommendation.data.name)}.\n"
        "# The rank was measured together with this learning rate and these epochs; it is not meant for others:\n"
        f"# learning rate {choice.learning_rate!r}, {wording.epochs(choice.epochs)}, batch {recipe.batch_size}.\n"
        f"lora_config = LoraConfig(\n{arguments})\n"
    )


def write(recommendation: Recommendation, directory: str | Path) -> Path:
    """Write ``peft_lora_config.json`` into ``directory`` (made if need be) and return its path."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.write_text(text(recommendation), encoding="utf-8")
    return path
