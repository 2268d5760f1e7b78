"""TRL's own parser reads the config, and every field is the recommendation's; and a config read and edited."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from report.samples import HOSTILE, MODULES, STATUSES, hostile, sample
from rightrank.errors import UserError
from rightrank.recipe import Recipe, Schedule, learning_rate_factor
from rightrank.trainers import trl as ours
from rightrank.trainers.settings import Places
from rightrank.trainers.yaml_file import parse as parse_yaml

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation, Status

pytest.importorskip("trl", minversion="1.10")
torch = pytest.importorskip("torch")


def places(name: str = "base", folder: str = "/runs/one") -> Places:
    return Places(name, Path(folder, "trl_rows"), Path(folder, "chat_rows"), Path(folder, "lora-adapter"))


def parse(answer: Recommendation, where: Places | None = None) -> tuple[Any, Any, Any]:
    """The file as ``trl sft --config`` reads it: script arguments, training arguments, model arguments."""
    from trl.scripts.sft import make_parser

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trl.yaml")
        text = ours.files(answer, where or places(answer.model.name))[ours.FILE_NAME]
        path.write_text(text, encoding="utf-8")
        script, training, model, _ = make_parser().parse_args_and_config(["--config", str(path)])
    return script, training, model


def notes(answer: Recommendation) -> list[str]:
    """The comments that the file begins with."""
    text = ours.files(answer, places())[ours.FILE_NAME]
    return [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]


def on_cpu(answer: Recommendation) -> Recommendation:
    """With a float32 base, since transformers refuses bfloat16 training where there is no device for it."""
    return replace(answer, model=replace(answer.model, dtype="float32"))


@pytest.mark.parametrize("status", STATUSES)
def test_trl_reads_every_field_as_recommended(status: Status) -> None:
    answer = on_cpu(sample(status))
    script, training, model = parse(answer)
    choice, recipe = answer.choice, answer.recipe
    assert (model.model_name_or_path, script.dataset_name) == (answer.model.name, "/runs/one/trl_rows")
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
        ("bfloat16", {"dtype": "bfloat16", "bf16": True}),
        ("float16", {"dtype": "float16", "bf16": False, "fp16": True}),
        ("float32", {"dtype": "float32", "bf16": False}),
        ("4-bit (nf4)", {"load_in_4bit": True, "dtype": "bfloat16", "bf16": True}),
        ("8-bit", {"load_in_8bit": True, "dtype": "bfloat16", "bf16": True}),
    ],
)
def test_the_base_is_held_as_it_was_probed(dtype: str, expected: dict[str, object]) -> None:
    answer = sample()
    said = ours.config(replace(answer, model=replace(answer.model, dtype=dtype)), places())
    about = {"dtype", "bf16", "fp16", "load_in_4bit", "load_in_8bit"}
    assert {key: value for key, value in said.items() if key in about} == expected


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
    "name",
    [
        "a b",
        'it\'s "quoted"',
        "$(touch x)`y`;&|",
        "-dash",
        "ü\n#x",
        "no",
        "1e3",
        "a: b",
        "k #c",
        "\udc80",
        HOSTILE,
    ],
)
def test_odd_names_arrive_as_they_are(name: str) -> None:
    answer = on_cpu(sample())
    folder = f"/{name}".replace("/", "_")
    script, _, model = parse(answer, places(name, f"/{folder}"))
    assert (model.model_name_or_path, script.dataset_name) == (name, f"/{folder}/trl_rows")


def test_hostile_names_write_nothing_but_comments_and_known_keys() -> None:
    text = ours.files(hostile(), places(HOSTILE))[ours.FILE_NAME]
    assert text.isascii() or all(line.startswith("#") for line in text.splitlines() if not line.isascii())
    assert set(yaml.safe_load(text)) == set(
        yaml.safe_load(ours.files(sample(), places())[ours.FILE_NAME])
    ) - {"load_in_4bit"}


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
    assert any("whole alphas" in note for note in notes(answer))


def test_what_trl_cannot_express_stands_in_comments() -> None:
    answer = sample()
    answer = replace(answer, recipe=replace(answer.recipe, over_long="drop"))
    assert any("drop them from the data first" in note for note in notes(answer))
    assert any("bfloat16" in note for note in notes(answer))
    assert not any("drop" in note or "bfloat16" in note for note in notes(on_cpu(sample())))


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
    assert any("GGUF" in note for note in notes(from_gguf))
    assert not any("GGUF" in note for note in notes(answer))


def test_a_run_on_a_cpu_is_told_how() -> None:
    answer = sample()
    assert not any("--use_cpu" in note for note in notes(answer))
    measured_on_cpu = replace(answer, cost=replace(answer.cost, device="CPU, 2 threads"))
    assert any("--use_cpu" in note for note in notes(measured_on_cpu))


CONFIG = """\
# From the cookbook
model_name_or_path: org/base   # keep
dataset_name: 'rows.jsonl'
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: all-linear
learning_rate: 2e-4   # "the default"

num_train_epochs: 2
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
max_length: 2048
warmup_steps: 0.1
report_to: none
"""


def read(text: str = CONFIG) -> Any:
    return ours.read(parse_yaml(text, "trl.yaml"), Path("trl.yaml"))


def test_a_config_is_read_as_trl_reads_it(tmp_path: Path) -> None:
    from trl.scripts.sft import make_parser

    found, path = read(), tmp_path / "trl.yaml"
    path.write_text(CONFIG)
    _, training, model, _ = make_parser().parse_args_and_config(["--config", str(path), "--bf16", "False"])
    assert found.yours == (model.lora_r, model.lora_alpha, training.learning_rate)
    r = found.recipe
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert (r.epochs, r.batch_size, r.max_length) == (training.num_train_epochs, batch, training.max_length)
    assert (r.schedule, r.weight_decay, r.max_grad_norm) == (
        "linear",
        training.weight_decay,
        training.max_grad_norm,
    )
    assert (r.adam_betas, r.adam_epsilon) == (
        (training.adam_beta1, training.adam_beta2),
        training.adam_epsilon,
    )
    assert (r.dropout, r.warmup_ratio) == (model.lora_dropout, 0.1)
    assert r.origins["epochs"] == "config" and r.origins["dropout"] == "trainer"
    assert (found.model, found.data, found.target_modules) == ("org/base", "rows.jsonl", None)
    assert found.unread == ("report_to",)


def test_defaults_are_those_of_trl(tmp_path: Path) -> None:
    from trl.scripts.sft import make_parser

    found = read("model_name_or_path: m\ndataset_name: d\nuse_peft: true\n")
    default = {action.dest: action.default for action in make_parser()._actions}
    assert found.yours == (default["lora_r"], default["lora_alpha"], default["learning_rate"])
    r = found.recipe
    assert (r.epochs, r.batch_size) == (default["num_train_epochs"], default["per_device_train_batch_size"])
    assert (r.max_length, r.dropout, r.warmup_ratio) == (
        default["max_length"],
        default["lora_dropout"],
        default["warmup_steps"],
    )
    assert (r.weight_decay, r.max_grad_norm) == (default["weight_decay"], default["max_grad_norm"])
    assert (
        r.adam_betas == (default["adam_beta1"], default["adam_beta2"])
        and r.adam_epsilon == default["adam_epsilon"]
    )
    assert (r.schedule, found.target_modules) == (default["lr_scheduler_type"], ())
    assert not found.string_template and found.message_loss_on == "all" and r.loss_on == "completion"


def test_only_the_lines_that_must_change_do(tmp_path: Path) -> None:
    answer = on_cpu(sample())
    found = read()
    answer = replace(
        answer, recipe=replace(found.recipe, epochs=2.0), choice=replace(answer.choice, epochs=2.0)
    )
    edited = ours.edit(parse_yaml(CONFIG, "trl.yaml"), found, answer)
    before, after = CONFIG.splitlines(), edited.text.splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        ("lora_r: 32", "lora_r: 16"),
        ("lora_alpha: 16", "lora_alpha: 32"),
        ('learning_rate: 2e-4   # "the default"', 'learning_rate: 0.0004   # "the default"'),
    ]
    assert [change[0] for change in edited.changes] == ["lora_r", "lora_alpha", "learning_rate"]
    assert read(edited.text).yours == (16, 32.0, 4e-4)


def test_every_part_of_a_recipe_is_written_where_it_differs() -> None:
    recipe = Recipe(
        epochs=1.5,
        batch_size=12,
        max_length=333,
        schedule="cosine",
        warmup_ratio=0.25,
        weight_decay=0.01,
        max_grad_norm=0.3,
        dropout=0.07,
        adam_betas=(0.85, 0.95),
        adam_epsilon=3e-7,
        loss_on="all",
    )
    answer = on_cpu(sample())
    answer = replace(answer, recipe=recipe, choice=replace(answer.choice, epochs=1.5))
    edited = ours.edit(parse_yaml(CONFIG, "trl.yaml"), read(), answer)
    again = read(edited.text)
    assert replace(again.recipe, origins={}) == recipe and edited.notes == ()
    assert again.yours == (answer.choice.rank, answer.choice.alpha, answer.choice.learning_rate)
    assert ours.edit(parse_yaml(edited.text, "trl.yaml"), again, answer).text == edited.text


def test_rslora_is_folded_and_taken_out() -> None:
    text = CONFIG + "use_rslora: true\n"
    found = read(text)
    assert found.yours == (32, 16 * 32**0.5, 2e-4)
    edited = ours.edit(parse_yaml(text, "trl.yaml"), found, on_cpu(sample()))
    assert "use_rslora" not in edited.text and ("use_rslora", "true", None) in edited.changes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("use_peft: false", "all weights"),
        ("use_dora: true", "DoRA"),
        ("max_steps: 100", "100 steps"),
        ("lr_scheduler_type: polynomial", "polynomial"),
        ("optim: adafactor", "adafactor"),
        ("learning_rate: fast", "not a number"),
        ("num_train_epochs: [1]", "not a number"),
        ("loss_type: dft", "dft"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(line: str, says: str) -> None:
    key = line.split(":", maxsplit=1)[0]
    text = "".join(old + "\n" for old in CONFIG.splitlines() if not old.startswith(key)) + line + "\n"
    with pytest.raises(UserError, match=says):
        read(text)
