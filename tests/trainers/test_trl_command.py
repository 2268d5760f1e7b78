"""TRL's own parser reads the emitted command, and every field is the recommendation's."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import HOSTILE, MODULES, STATUSES, hostile, sample
from rightrank.recipe import Recipe, Schedule, learning_rate_factor
from rightrank.trainers import trl as ours

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation, Status

pytest.importorskip("trl", minversion="1.10")
torch = pytest.importorskip("torch")


def shell_words(script: str) -> list[str]:
    """Arguments that a shell hands to ``trl`` when it runs the script."""
    trl = "trl() { printf '%s\\0' \"$@\"; }\n"
    done = subprocess.run(["/bin/sh", "-c", trl + script], env={"PATH": ""}, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


def parse(answer: Recommendation, data_path: str = "out/data") -> tuple[Any, Any, Any]:
    """The command as TRL reads it: script arguments, training arguments, model arguments."""
    from trl.scripts.sft import make_parser

    words = shell_words(ours.command(answer, data_path).text())
    assert words[0] == "sft"
    script, training, model, _ = make_parser().parse_args_and_config(words[1:])
    return script, training, model


def on_cpu(answer: Recommendation) -> Recommendation:
    """With a float32 base, since transformers refuses bfloat16 training where there is no device for it."""
    return replace(answer, model=replace(answer.model, dtype="float32"))


@pytest.mark.parametrize("status", STATUSES)
def test_trl_reads_every_field_as_recommended(status: Status) -> None:
    answer = on_cpu(sample(status))
    script, training, model = parse(answer)
    choice, recipe = answer.choice, answer.recipe
    assert (model.model_name_or_path, script.dataset_name) == (answer.model.name, "out/data")
    assert (model.use_peft, model.lora_r, model.lora_alpha) == (True, choice.rank, choice.alpha)
    assert model.lora_dropout == recipe.dropout
    assert model.lora_target_modules == list(choice.target_modules)
    assert not model.use_rslora
    assert training.learning_rate == choice.learning_rate
    assert training.lr_scheduler_type == recipe.schedule
    assert training.warmup_steps == recipe.warmup_ratio
    assert training.num_train_epochs == choice.epochs
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == recipe.batch_size
    assert (training.max_length, training.packing) == (recipe.max_length, False)
    assert (training.completion_only_loss, training.assistant_only_loss) == (True, False)
    assert training.weight_decay == recipe.weight_decay
    assert (training.adam_beta1, training.adam_beta2) == recipe.adam_betas
    assert training.adam_epsilon == recipe.adam_epsilon
    assert training.max_grad_norm == recipe.max_grad_norm
    assert training.seed == answer.provenance.seed
    assert training.optim == "adamw_torch"
    assert (model.dtype, training.bf16, training.fp16) == ("float32", False, False)


def test_a_recipe_without_a_default_arrives_too() -> None:
    recipe = Recipe(
        epochs=1.5,
        batch_size=7,
        max_length=333,
        schedule="cosine",
        warmup_ratio=0.123,
        weight_decay=0.01,
        max_grad_norm=0.3,
        dropout=0.07,
        adam_betas=(0.85, 0.95),
        adam_epsilon=3e-7,
    )
    answer = on_cpu(sample())
    choice = replace(answer.choice, epochs=1.5, learning_rate=4.2424242e-4)
    answer = replace(answer, recipe=recipe, choice=choice, provenance=replace(answer.provenance, seed=17))
    _, training, model = parse(answer)
    assert training.learning_rate == 4.2424242e-4
    assert (training.num_train_epochs, training.max_length, training.seed) == (1.5, 333, 17)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 7
    assert (training.weight_decay, training.max_grad_norm, training.adam_epsilon) == (0.01, 0.3, 3e-7)
    assert (training.adam_beta1, training.adam_beta2, training.warmup_steps) == (0.85, 0.95, 0.123)
    assert model.lora_dropout == 0.07


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.37])
@pytest.mark.parametrize("steps", [1, 50, 339])
def test_the_schedule_is_the_one_that_was_measured(schedule: Schedule, ratio: float, steps: int) -> None:
    from transformers.optimization import get_scheduler

    answer = on_cpu(sample())
    recipe = replace(answer.recipe, schedule=schedule, warmup_ratio=ratio)
    _, training, _ = parse(replace(answer, recipe=recipe))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=training.learning_rate)
    warmup = training.get_warmup_steps(steps)
    scheduler = get_scheduler(
        training.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=steps
    )
    for step in range(steps):
        expected = answer.choice.learning_rate * learning_rate_factor(recipe, step, steps)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12, abs=1e-18)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bfloat16", {"--dtype": "bfloat16", "--bf16": "True"}),
        ("float16", {"--dtype": "float16", "--bf16": "False", "--fp16": "True"}),
        ("float32", {"--dtype": "float32", "--bf16": "False"}),
        ("4-bit (nf4)", {"--load_in_4bit": "True", "--dtype": "bfloat16", "--bf16": "True"}),
        ("8-bit", {"--load_in_8bit": "True", "--dtype": "bfloat16", "--bf16": "True"}),
    ],
)
def test_the_base_is_held_as_it_was_probed(dtype: str, expected: dict[str, str]) -> None:
    answer = sample()
    words = ours.command(replace(answer, model=replace(answer.model, dtype=dtype)), "data").arguments
    flags = {"--dtype", "--bf16", "--fp16", "--load_in_4bit", "--load_in_8bit"}
    assert {word: words[i + 1] for i, word in enumerate(words) if word in flags} == expected


@pytest.mark.parametrize(
    ("data_format", "loss_on", "columns", "completion_only", "assistant_only"),
    [
        ("Alpaca", "completion", "prompt, completion", True, False),
        ("prompt/completion", "all", "prompt, completion", False, False),
        ("messages", "completion", "messages", False, True),
        ("ShareGPT", "completion", "messages", False, True),
        ("messages", "all", "messages", False, False),
        ("text", "all", "text", False, False),
        ("text", "completion", "text", False, False),
    ],
)
def test_the_masking_is_the_one_that_trl_accepts_for_the_columns(
    data_format: str, loss_on: str, columns: str, completion_only: bool, assistant_only: bool
) -> None:
    answer = on_cpu(sample())
    recipe = replace(answer.recipe, loss_on=loss_on)  # type: ignore[arg-type]
    answer = replace(answer, recipe=recipe, data=replace(answer.data, format=data_format))
    assert ours.columns(answer) == columns
    _, training, _ = parse(answer)
    assert (training.completion_only_loss, training.assistant_only_loss) == (completion_only, assistant_only)


@pytest.mark.parametrize(
    "name", ["a b", 'it\'s "quoted"', "$(touch x)`y`;&|", "-dash", "--dataset_name", "ü\n#x", HOSTILE]
)
def test_odd_names_stay_one_argument(name: str) -> None:
    answer = on_cpu(sample())
    answer = replace(answer, model=replace(answer.model, name=name))
    script, _, model = parse(answer, data_path=name)
    expected = f"./{name}" if name.startswith("-") else name
    assert (model.model_name_or_path, script.dataset_name) == (expected, expected)


def test_a_shell_agrees_and_runs_nothing_else(tmp_path: Path) -> None:
    answer = hostile()
    path = ours.write(answer, tmp_path / "out", HOSTILE)
    script = path.read_bytes().decode()
    assert tuple(shell_words(script)) == ours.command(answer, HOSTILE).arguments[1:]


def test_a_single_target_module_is_matched_as_peft_matches_a_suffix() -> None:
    from peft.tuners.tuners_utils import check_target_module_exists
    from trl import get_peft_config

    answer = on_cpu(sample())
    answer = replace(answer, choice=replace(answer.choice, target_modules=("c_attn",)))
    config = get_peft_config(parse(answer)[2])
    for name in (
        "transformer.h.0.attn.c_attn",
        "c_attn",
        "transformer.h.0.attn.xc_attn",
        "c_attn.lora",
        "h.c_proj",
    ):
        assert bool(check_target_module_exists(config, name)) == bool(
            check_target_module_exists(answer.to_peft(), name)
        )


def test_trl_makes_the_lora_config_that_peft_gets() -> None:
    from trl import get_peft_config

    answer = on_cpu(sample())
    assert get_peft_config(parse(answer)[2]).to_dict() == answer.to_peft().to_dict()


def test_a_fractional_alpha_becomes_a_pair_with_the_same_product() -> None:
    answer = on_cpu(sample())
    answer = replace(answer, choice=replace(answer.choice, alpha=22.6))
    _, training, model = parse(answer)
    assert model.lora_alpha == 23
    assert training.learning_rate * 23 == pytest.approx(answer.choice.learning_rate * 22.6, rel=1e-12)
    assert any("whole alphas" in note for note in ours.command(answer, "data").notes)


def test_what_trl_cannot_express_stands_in_the_notes_and_in_comments() -> None:
    answer = sample()
    answer = replace(answer, recipe=replace(answer.recipe, over_long="drop"))
    command = ours.command(answer, "data")
    assert any("drop them from the data first" in note for note in command.notes)
    assert any("bfloat16" in note for note in command.notes)
    comments = [line for line in command.text().splitlines() if line.startswith("# ")]
    assert comments == [f"# {note}" for note in command.notes]
    plain = ours.command(on_cpu(sample()), "data").notes
    assert not any("drop" in note or "bfloat16" in note for note in plain)


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    answer = on_cpu(sample())
    _, training, _ = parse(answer)
    batches = -(-2700 // training.per_device_train_batch_size)
    updates = -(-batches // training.gradient_accumulation_steps)
    assert answer.recipe.steps(2700) == updates * training.num_train_epochs
    assert set(MODULES) == set(answer.choice.target_modules)


def test_a_gguf_base_is_named_as_what_trl_cannot_read() -> None:
    answer = sample("SETTLED")
    from_gguf = replace(answer, model=replace(answer.model, name="m.gguf"))
    assert any("GGUF" in note for note in ours.command(from_gguf, "rows").notes)
    assert not any("GGUF" in note for note in ours.command(answer, "rows").notes)
