"""The script says what is recommended in keywords that Unsloth and TRL have; a config of its command line is read and edited."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from report.samples import HOSTILE, STATUSES, hostile, sample
from rightrank.errors import UserError
from rightrank.trainers import unsloth as ours
from rightrank.trainers.settings import Places
from rightrank.trainers.yaml_file import parse

if TYPE_CHECKING:
    from rightrank.recommendation import Status

PLACES = Places("base", Path("/runs/trl_rows"), Path("/runs/chat_rows"), Path("/runs/lora-adapter"))

# Parameters of FastLanguageModel.from_pretrained and .get_peft_model in unsloth 2026.10.9 that the script uses (unsloth/models/loader.py
# and llama.py). Unsloth itself is only imported where there is a GPU; where it is installed, its source is compared with these.
KNOWN = {
    "from_pretrained": {"model_name", "max_seq_length", "dtype", "load_in_4bit", "load_in_8bit"},
    "get_peft_model": {
        *("r", "target_modules", "lora_alpha", "lora_dropout", "bias", "use_gradient_checkpointing"),
        *("random_state", "use_rslora"),
    },
}

CONFIG = """\
model: unsloth/Qwen2.5-0.5B   # small

data:
  local_dataset: [rows.jsonl]
training:
  max_seq_length: 1024
  num_epochs: 2
  learning_rate: 2e-4    # default
  batch_size: 4
lora:
  lora_r: 64
  lora_alpha: 16
"""


def calls(script: str) -> dict[str, dict[str, Any]]:
    """Keyword arguments of every call in the script, by the function's name."""
    found: dict[str, dict[str, Any]] = {}
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found[name] = {
                keyword.arg or "": ast.unparse(keyword.value)
                if not isinstance(keyword.value, (ast.Constant, ast.List))
                else ast.literal_eval(keyword.value)
                for keyword in node.keywords
            }
    return found


@pytest.mark.parametrize("status", STATUSES)
def test_the_script_says_what_is_recommended(status: Status) -> None:
    answer = sample(status)
    said, choice, recipe = calls(ours.files(answer, PLACES)[ours.FILE_NAME]), answer.choice, answer.recipe
    lora, training, base = said["get_peft_model"], said["SFTConfig"], said["from_pretrained"]
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (
        choice.rank,
        choice.alpha,
        recipe.dropout,
    )
    assert lora["target_modules"] == list(choice.target_modules) and lora["use_rslora"] is False
    assert training["learning_rate"] == choice.learning_rate and training["num_train_epochs"] == choice.epochs
    batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    assert (batch, training["max_length"], training["packing"]) == (
        recipe.batch_size,
        recipe.max_length,
        False,
    )
    assert training["completion_only_loss"] is True and training["optim"] == "adamw_torch"
    assert (training["lr_scheduler_type"], training["warmup_steps"]) == ("linear", recipe.warmup_ratio)
    assert base == {
        "model_name": "base",
        "max_seq_length": recipe.max_length,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "dtype": "torch.bfloat16",
    }
    assert said["load_dataset"]["data_files"] == "/runs/trl_rows/train.jsonl"


def test_its_keywords_exist() -> None:
    said = calls(ours.files(sample(), PLACES)[ours.FILE_NAME])
    for function, known in KNOWN.items():
        assert set(said[function]) <= known
    trl = pytest.importorskip("trl")
    assert set(said["SFTConfig"]) <= set(inspect.signature(trl.SFTConfig).parameters)
    assert set(said["SFTTrainer"]) <= set(inspect.signature(trl.SFTTrainer).parameters)
    spec = importlib.util.find_spec("unsloth")
    if spec is None or spec.origin is None:
        return
    models = Path(spec.origin).parent / "models"
    for file, function in (("loader.py", "from_pretrained"), ("llama.py", "get_peft_model")):
        tree = ast.parse((models / file).read_text(encoding="utf-8"))
        found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
        assert any(KNOWN[function] <= {a.arg for a in n.args.args} for n in found), function


def test_hostile_names_run_nothing() -> None:
    where = Places(HOSTILE, Path("/r/t"), Path("/r/c"), Path("/r/" + HOSTILE.replace("/", "_")))
    said = calls(ours.files(hostile(), where)[ours.FILE_NAME])
    assert said["from_pretrained"]["model_name"] == HOSTILE
    plain = calls(ours.files(sample(), PLACES)[ours.FILE_NAME])
    assert set(said) == set(plain)


def read(text: str = CONFIG) -> Any:
    return ours.read(parse(text, "u.yml"), Path("u.yml"))


def schema(text: str) -> Any:
    """The config as Unsloth's own schema holds it; skipped where it is not installed."""
    spec = importlib.util.find_spec("unsloth_cli")
    if spec is None or spec.origin is None:
        pytest.skip("needs unsloth (pip install --no-deps unsloth)")
    at = importlib.util.spec_from_file_location(
        "unsloth_cli_config", Path(spec.origin).with_name("config.py")
    )
    assert at is not None and at.loader is not None
    module = importlib.util.module_from_spec(at)
    at.loader.exec_module(module)
    return module.Config.model_validate(yaml.safe_load(text))


def test_a_config_is_read() -> None:
    found = read()
    assert (found.model, found.data, found.yours) == ("unsloth/Qwen2.5-0.5B", "rows.jsonl", (64, 16.0, 2e-4))
    r = found.recipe
    assert (r.epochs, r.batch_size, r.max_length, r.loss_on) == (2.0, 16, 1024, "all")
    assert (found.warmup_steps, found.quantization, r.origins["weight_decay"]) == (5, "4-bit", "trainer")


def test_defaults_are_those_of_the_schema() -> None:
    held, found = schema("model: m\ndata: {}\nlora: {}\n"), read("model: m\ndata: {}\nlora: {}\n")
    t, lora = held.training, held.lora
    assert found.yours == (lora.lora_r, lora.lora_alpha, t.learning_rate)
    assert (found.recipe.epochs, found.recipe.batch_size) == (
        t.num_epochs,
        t.batch_size * t.gradient_accumulation_steps,
    )
    assert (found.recipe.max_length, found.recipe.weight_decay) == (t.max_seq_length, t.weight_decay)
    assert (found.warmup_steps, found.recipe.loss_on == "completion") == (
        t.warmup_steps,
        t.train_on_completions,
    )
    assert (found.quantization == "4-bit", ",".join(found.target_modules)) == (
        t.load_in_4bit,
        lora.target_modules,
    )


def test_only_the_lines_that_must_change_do() -> None:
    found, answer = read(), sample()
    answer = replace(answer, recipe=found.recipe, choice=replace(answer.choice, epochs=2.0))
    edited = ours.edit(parse(CONFIG, "u.yml"), found, answer)
    changed = [(a, b) for a, b in zip(CONFIG.splitlines(), edited.text.splitlines(), strict=True) if a != b]
    assert changed == [
        ("  learning_rate: 2e-4    # default", "  learning_rate: 0.0004    # default"),
        ("  lora_r: 64", "  lora_r: 16"),
        ("  lora_alpha: 16", "  lora_alpha: 32"),
    ]
    assert read(edited.text).yours == (16, 32.0, 4e-4)


def test_what_its_file_has_no_place_for_is_listed() -> None:
    found, answer = read(), sample()
    recipe = replace(
        found.recipe, schedule="cosine", max_grad_norm=0.5, epochs=1.5, loss_on="completion", origins={}
    )
    edited = ours.edit(
        parse(CONFIG, "u.yml"),
        found,
        replace(answer, recipe=recipe, choice=replace(answer.choice, epochs=1.5)),
    )
    assert len(edited.notes) == 3 and all("Unsloth has no setting for" in note for note in edited.notes)
    assert read(edited.text).recipe.loss_on == "completion"


def test_the_schema_takes_what_was_edited() -> None:
    answer = sample()
    held = schema(ours.edit(parse(CONFIG, "u.yml"), read(), answer).text)
    assert (held.lora.lora_r, held.lora.lora_alpha) == (16, 32)
    assert held.training.learning_rate == 4e-4 and held.training.train_on_completions
    assert held.training.batch_size * held.training.gradient_accumulation_steps == answer.recipe.batch_size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CONFIG + "  use_dora: true\n", "DoRA"),
        (CONFIG.replace("num_epochs: 2", "max_steps: 30"), "30 steps"),
        (CONFIG.replace("num_epochs: 2", "training_type: full"), "all weights"),
        (CONFIG.replace("[rows.jsonl]", "[a.jsonl, b.jsonl]"), "2 data files"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(text)
