"""LLaMA-Factory: ``llamafactory-cli train llama_factory.yaml`` (keys and defaults of 0.9.5, read in its source).

The scale is PEFT's, alpha / rank, and alpha is twice the rank where a config gives none.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.trainers import llama_factory_data
from rightrank.trainers.config import TrainerConfig
from rightrank.trainers.editing import edit_lines
from rightrank.trainers.keys import Keys
from rightrank.trainers.settings import header, settings
from rightrank.trainers.step_counts import warmup_steps_of
from rightrank.trainers.transformers_keys import (
    common_recipe,
    refuse_step_limit,
    training_lines,
    warmup_steps,
)
from rightrank.trainers.yaml_edit import block

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import EditedConfig, Quantization
    from rightrank.trainers.settings import Places, Settings
    from rightrank.trainers.yaml_edit import Place
    from rightrank.trainers.yaml_file import Document

LABEL = "LLaMA-Factory"
FILE_NAME = "llama_factory.yaml"

# What it trains with where a config says nothing.
_RANK, _LEARNING_RATE, _MICRO_BATCH, _SEED = 8, 5e-5, 8, 42


def files(recommendation: Recommendation, places: Places) -> dict[str, str]:
    """The config, and the ``dataset_info.json`` that says where the rows lie and what their columns are."""
    s = settings(recommendation)
    wanted = _lines(recommendation)
    masking = () if s.rows == "text" else ("loss_on",)
    groups: tuple[dict[str, Any], ...] = (
        {"model_name_or_path": places.model, **_quantization(s)},
        {
            "stage": "pt" if s.rows == "text" else "sft",
            "do_train": True,
            "finetuning_type": "lora",
            **_written(wanted, "rank", "alpha", "dropout", "target_modules"),
        },
        {
            "dataset": llama_factory_data.DATASET_NAME,
            "dataset_dir": str(places.chat_rows.parent),
            **({"template": "empty"} if s.rows == "strings" else {}),
            **_written(wanted, "max_length", *masking),
            "packing": False,
        },
        {
            **_written(wanted, "learning_rate", "schedule", "warmup_ratio", "epochs", "batch_size"),
            "optim": "adamw_torch",
            **_written(wanted, "weight_decay", "adam_betas", "adam_epsilon", "max_grad_norm"),
            **_precision(s),
            "seed": s.seed,
        },
        {"output_dir": str(places.adapter), "report_to": "none"},
    )
    command = f"llamafactory-cli train {shlex.quote(str(places.adapter.parent / FILE_NAME))}"
    text = header(recommendation, LABEL, _notes(s), command) + "".join(
        "\n" + block(group) for group in groups
    )
    return {FILE_NAME: text, llama_factory_data.FILE_NAME: llama_factory_data.written_info(s.rows, places)}


def _lines(recommendation: Recommendation) -> dict[str, dict[Place, Any]]:
    """The keys of each thing that can change. The warm-up is in steps: that key means the same in every version of transformers."""
    s = settings(recommendation)
    return {
        "rank": {"lora_rank": s.rank},
        "alpha": {"lora_alpha": s.alpha, "use_rslora": None},
        "dropout": {"lora_dropout": s.recipe.dropout},
        "target_modules": {"lora_target": ",".join(s.target_modules)},
        "max_length": {"cutoff_len": s.recipe.max_length},
        "loss_on": {"train_on_prompt": s.recipe.loss_on == "all"},
        **training_lines(s, {"warmup_steps": warmup_steps_of(recommendation), "warmup_ratio": None}),
    }


def _written(wanted: Mapping[str, Mapping[Place, Any]], *names: str) -> dict[str, Any]:
    """The lines of ``names`` but for those that would only be taken out."""
    return {str(key): value for name in names for key, value in wanted[name].items() if value is not None}


def _quantization(s: Settings) -> dict[str, Any]:
    if s.precision not in ("4-bit", "8-bit"):
        return {}
    return {"quantization_method": "bnb", "quantization_bit": int(s.precision[0])}


def _precision(s: Settings) -> dict[str, Any]:
    """The type of the frozen base; the adapters are in float32 in each case."""
    if s.precision == "float32":
        return {"bf16": False, "infer_dtype": "float32"}
    return {"fp16": True} if s.precision == "float16" else {"bf16": True}


_NO_END = (
    "LLaMA-Factory's template empty, which alone leaves prompts as they are, puts no end-of-text token behind a completion, so that the"
    " model does not learn to stop; the rows were measured with one. Append your tokenizer's to every completion, or use another trainer's"
    " config."
)


def caution(recommendation: Recommendation) -> str | None:
    """What must be done before the config trains what was measured; None: nothing."""
    return _NO_END if settings(recommendation).rows == "strings" else None


def _notes(s: Settings) -> tuple[str, ...]:
    notes = []
    if s.rows == "chat":
        notes.append(
            "LLaMA-Factory makes its template from the tokenizer's; if you serve with one of its own, add it (template: llama3)."
        )
    elif s.rows == "strings":
        notes.append(_NO_END)
    if s.recipe.over_long == "drop":
        notes.append(
            f"LLaMA-Factory truncates. Rows above {s.recipe.max_length} tokens were dropped here: drop them from the data first."
        )
    elif s.rows != "text":
        notes.append(
            "LLaMA-Factory shortens prompt and answer of rows that are too long; here their end was cut off."
        )
    return tuple(notes)


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether these keys are LLaMA-Factory's."""
    own = {"finetuning_type", "cutoff_len", "dataset_dir", "lora_target", "train_on_prompt"}
    return "model_name_or_path" in values and ("stage" in values or not own.isdisjoint(values))


def edit(document: Document, config: TrainerConfig, recommendation: Recommendation) -> EditedConfig:
    """The recommendation in a config that exists."""
    return edit_lines(document, config, recommendation, _lines(recommendation))


def read(document: Document, path: Path) -> TrainerConfig:
    """What ``llamafactory-cli train`` would train."""
    keys = Keys(document.values, document.name)
    _refuse(keys)
    data = llama_factory_data.named_data(keys)
    recipe = common_recipe(keys, batch=_MICRO_BATCH, epochs=3.0, max_length=("cutoff_len",), longest=2048)
    whole = keys.flag("train_on_prompt") or keys.text("stage") == "pt"
    recipe = recipe.given("trainer", over_long="truncate", loss_on="completion", dropout=0.0).given(
        "config", dropout=keys.number("lora_dropout"), loss_on="all" if whole else None
    )
    notes = [*data.notes]
    rank, alpha = keys.whole("lora_rank") or _RANK, keys.number("lora_alpha")
    alpha = 2.0 * rank if alpha is None else alpha
    if keys.flag("use_rslora"):
        alpha *= max(1, rank) ** 0.5
        notes.append(f"rsLoRA's scale was folded: alpha {alpha:.4g} divided by the rank is the same.")
    targets = keys.names("lora_target")
    seed = keys.whole("seed")
    notes += _measured_otherwise(keys)
    keys.raw("output_dir", "bf16", "fp16", "infer_dtype")
    return TrainerConfig(
        LABEL,
        path,
        model=keys.text("model_name_or_path"),
        revision=keys.text("model_revision"),
        data=data.path,
        data_config=data.subset,
        data_split=data.split,
        eval_data=data.held_out,
        recipe=recipe,
        yours=(rank, alpha, keys.number("learning_rate") or _LEARNING_RATE),
        string_template=keys.text("template") != "empty",
        warmup_steps=warmup_steps(keys),
        target_modules=None if targets in (None, ("all",)) else targets,
        quantization=_read_quantization(keys),
        seed=_SEED if seed is None else seed,
        unread=keys.unread(),
        notes=tuple(notes),
    )


def _refuse(keys: Keys) -> None:
    """Raise ConfigurationError for what cannot be measured."""
    stage, kind = keys.text("stage") or "sft", keys.text("finetuning_type") or "lora"
    if stage not in ("sft", "pt"):
        raise ConfigurationError(
            f"{keys.name}: the stage {cleaned(stage, 20)} is no supervised tuning.", "Set stage: sft."
        )
    if kind != "lora":
        raise ConfigurationError(
            f"{keys.name} trains with {cleaned(kind, 20)}, not with LoRA.", "Set finetuning_type: lora."
        )
    for name, words in (
        ("use_dora", "trains DoRA"),
        ("pissa_init", "starts from PiSSA"),
        ("loraplus_lr_ratio", "trains LoRA+"),
        ("additional_target", "trains whole modules beside LoRA"),
        ("adapter_name_or_path", "goes on with an adapter that exists"),
        ("use_llama_pro", "trains LLaMA Pro"),
        ("use_galore", "trains with GaLore"),
        ("use_badam", "trains with BAdam"),
        ("streaming", "streams its rows"),
    ):
        if keys.raw(name):
            raise ConfigurationError(
                f"{keys.name} {words}, which cannot be measured here.", f"Take out {name}."
            )
    refuse_step_limit(keys)
    keys.flag("do_train")


def _read_quantization(keys: Keys) -> Quantization | None:
    bits = keys.whole("quantization_bit")
    keys.raw("quantization_method", "quantization_type", "double_quantization")
    if bits not in (None, 4, 8):
        raise keys.wrong(("quantization_bit",), bits, "4 or 8")
    return None if bits is None else "4-bit" if bits == 4 else "8-bit"


def _measured_otherwise(keys: Keys) -> list[str]:
    """Sentences on keys that change what is trained, and that the measurement does without."""
    found = []
    for name, why in {
        "packing": "LLaMA-Factory would pack rows together; measured is without packing, one row an example.",
        "neat_packing": "LLaMA-Factory would pack rows together; measured is without packing, one row an example.",
        "mask_history": "LLaMA-Factory would train the last answer of a conversation only; measured are all answers.",
        "neftune_noise_alpha": "LLaMA-Factory would add noise to the embeddings; measured is without.",
        "max_samples": "LLaMA-Factory would take the first rows only; measured are all.",
        "default_system": "LLaMA-Factory would put a system prompt of its own before the rows; measured is without.",
        "pure_bf16": "LLaMA-Factory would keep the adapter in bfloat16; it is measured in float32.",
        "use_dft_loss": "LLaMA-Factory would weigh the tokens' losses; measured is without weights.",
    }.items():
        if keys.raw(name) and why not in found:
            found.append(why)
    template = keys.text("template")
    if template not in (None, "empty"):
        found.append(
            f"LLaMA-Factory would put the rows into its template {cleaned(template, 40)}; measured is the tokenizer's own."
        )
    return found
