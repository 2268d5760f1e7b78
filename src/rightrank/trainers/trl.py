"""The recommendation as a ``trl sft`` command (TRL >= 1.10 on transformers >= 5.17).

The data set that the command names is the one the caller converted, since TRL would not format every kind of row as the measurement
did. Its columns decide which masking flag TRL accepts:

- ``messages`` for data in the formats ``messages`` and ``ShareGPT``,
- ``text`` for plain text,
- ``prompt`` and ``completion`` for everything else.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.recipe import Schedule
    from rightrank.recommendation import Recommendation

FILE_NAME = "trl_sft.sh"

Columns = Literal["messages", "text", "prompt, completion"]

# TRL's "constant" knows no warm-up.
_SCHEDULERS: dict[Schedule, str] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
}

# Examples a device and micro-batch at most; assumed, small enough for most cards. The product with the accumulation steps is the
# recipe's batch either way, and the loss is normalised over that whole batch, so this changes speed and memory, not the result.
_MICRO_BATCH = 4


@dataclass(frozen=True)
class Command:
    """A command line: its arguments one by one, and what the trainer cannot express."""

    arguments: tuple[str, ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """The command as a shell script, an option a line, the notes as comments above it."""
        lines = [shlex.join(self.arguments[:2])]
        for argument in self.arguments[2:]:
            if argument.startswith("--"):
                lines.append(argument)
            else:
                lines[-1] += f" {shlex.quote(argument)}"
        notes = "".join(f"# {wording.clean(note)}\n" for note in self.notes)
        return f"#!/bin/sh\n{notes}{(' ' + chr(92) + chr(10) + '  ').join(lines)}\n"


def columns(recommendation: Recommendation) -> Columns:
    """Columns that the converted data set must have for this command."""
    kind = recommendation.data.format.lower()
    if kind in ("messages", "sharegpt"):
        return "messages"
    return "text" if kind == "text" else "prompt, completion"


def command(
    recommendation: Recommendation, data_path: str | Path, output_path: str | Path = "lora-adapter"
) -> Command:
    """The ``trl sft`` call that trains ``recommendation.choice`` with its recipe on the converted data at ``data_path``."""
    recipe, choice = recommendation.recipe, recommendation.choice
    alpha, learning_rate = _whole_alpha(recommendation)
    micro_batch = max(n for n in range(1, _MICRO_BATCH + 1) if recipe.batch_size % n == 0)
    arguments = [
        *("trl", "sft"),
        *("--model_name_or_path", _not_an_option(recommendation.model.name)),
        *("--dataset_name", _not_an_option(str(data_path))),
        *("--output_dir", _not_an_option(str(output_path))),
        *_precision(recommendation.model.dtype),
        *("--use_peft", "True", "--lora_r", str(choice.rank), "--lora_alpha", str(alpha)),
        *("--lora_dropout", repr(recipe.dropout), "--lora_target_modules", *_targets(choice.target_modules)),
        *("--learning_rate", repr(learning_rate), "--lr_scheduler_type", _SCHEDULERS[recipe.schedule]),
        *("--warmup_steps", repr(recipe.warmup_ratio)),  # below 1: a share of the steps
        *("--num_train_epochs", repr(choice.epochs)),
        *("--per_device_train_batch_size", str(micro_batch)),
        *("--gradient_accumulation_steps", str(recipe.batch_size // micro_batch)),
        *("--max_length", str(recipe.max_length), "--packing", "False"),
        *_masking(recommendation),
        *("--optim", "adamw_torch", "--weight_decay", repr(recipe.weight_decay)),
        *("--adam_beta1", repr(recipe.adam_betas[0]), "--adam_beta2", repr(recipe.adam_betas[1])),
        *("--adam_epsilon", repr(recipe.adam_epsilon), "--max_grad_norm", repr(recipe.max_grad_norm)),
        *("--seed", str(recommendation.provenance.seed)),
    ]
    return Command(tuple(arguments), _notes(recommendation))


def write(recommendation: Recommendation, directory: str | Path, data_path: str | Path) -> Path:
    """Write the command as ``trl_sft.sh`` into ``directory`` (made if need be) and return its path."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    # Paths that are no UTF-8 keep their bytes: Python holds them as surrogates.
    path.write_text(command(recommendation, data_path).text(), encoding="utf-8", errors="surrogateescape")
    return path


def _not_an_option(name: str) -> str:
    """A local path that begins with a dash, written so that argparse takes it for a value."""
    return f"./{name}" if name.startswith("-") else name


def _whole_alpha(recommendation: Recommendation) -> tuple[int, float]:
    """Alpha as the whole number that TRL takes, and the learning rate that keeps their product, hence the first steps, the same."""
    choice = recommendation.choice
    alpha = max(1, round(choice.alpha))
    return (
        alpha,
        choice.learning_rate if alpha == choice.alpha else choice.learning_rate * choice.alpha / alpha,
    )


def _targets(names: tuple[str, ...]) -> tuple[str, ...]:
    """Target modules. TRL unpacks a list of one, and PEFT reads a lone string as a regular expression for the whole module name."""
    return (rf"(.*\.)?{re.escape(names[0])}",) if len(names) == 1 else names


def _precision(dtype: str) -> tuple[str, ...]:
    """The base as it was probed; 4- and 8-bit bases compute in bfloat16. TRL's own default is a float32 base."""
    kind = dtype.lower().removeprefix("torch.")
    if kind.startswith("4-bit"):
        return ("--load_in_4bit", "True", "--dtype", "bfloat16", "--bf16", "True")
    if kind.startswith("8-bit"):
        return ("--load_in_8bit", "True", "--dtype", "bfloat16", "--bf16", "True")
    if kind.startswith("float16"):
        return ("--dtype", "float16", "--bf16", "False", "--fp16", "True")
    if kind.startswith("float32"):
        return ("--dtype", "float32", "--bf16", "False")
    return ("--dtype", "bfloat16", "--bf16", "True")


def _masking(recommendation: Recommendation) -> tuple[str, ...]:
    """Which tokens the loss is taken on, by the flag that TRL accepts for the columns."""
    completion = recommendation.recipe.loss_on == "completion"
    kind = columns(recommendation)
    if kind == "messages":
        return ("--completion_only_loss", "False", "--assistant_only_loss", str(completion))
    return ("--completion_only_loss", str(completion and kind != "text"), "--assistant_only_loss", "False")


def _notes(recommendation: Recommendation) -> tuple[str, ...]:
    recipe, choice, model = recommendation.recipe, recommendation.choice, recommendation.model
    notes = [
        f"For {model.name} on {recommendation.data.name}, converted to the columns {columns(recommendation)}.",
        f"On several devices divide --gradient_accumulation_steps by their number: the batch is {recipe.batch_size} in all.",
    ]
    if model.name.endswith(".gguf"):
        notes.append("TRL reads no GGUF file: put the name of the model that it was made from in its place.")
    if recipe.over_long == "drop":
        notes.append(
            f"TRL truncates. Rows above {recipe.max_length} tokens were dropped here: drop them from the data first."
        )
    if choice.alpha != round(choice.alpha):
        notes.append(
            f"TRL takes whole alphas only. Alpha {wording.short(choice.alpha)} at learning rate "
            f"{wording.learning_rate(choice.learning_rate, 3)} became the pair below, whose first steps are of the same size."
        )
    if model.dtype.lower().startswith(("4-bit", "8-bit")):
        notes.append("TRL keeps adapters of a quantized base in bfloat16; they were measured in float32.")
    if columns(recommendation) == "messages" and recipe.loss_on == "completion":
        notes.append(
            "--assistant_only_loss needs a chat template that marks the assistant's turns; TRL knows the common ones."
        )
    return tuple(notes)
