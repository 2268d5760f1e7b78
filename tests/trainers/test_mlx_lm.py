"""MLX-LM itself reads the export, adapts the same layers at the same rank and scale, and trains as PyTorch with PEFT does."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import sample
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe, Schedule, learning_rate_factor
from rightrank.trainers import mlx_lm as ours
from rightrank.trainers.mlx_schedule import written_schedule
from rightrank.trainers.settings import settings
from trainers.exports import changed_lines, edited, exported, notes, places, read

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation

# As people have it: after the project's examples/lora_config.yaml.
CONFIG = """\
model: "meta-llama/Llama-3.2-1B"   # a path or a hub id
train: true
data: "{folder}"
optimizer: adamw
num_layers: 16
batch_size: 4
iters: 300
learning_rate: 1e-5
mask_prompt: true
max_seq_length: 2048
lora_parameters:
  # The layer keys to apply LoRA to.
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 8
  scale: 20.0
  dropout: 0.0
lr_schedule:
  name: cosine_decay
  warmup: 15
  arguments: [1e-5, 285]
"""


def test_the_scale_is_not_divided_by_the_rank() -> None:
    adapter = exported(ours, sample())["lora_parameters"]
    assert (adapter["rank"], adapter["scale"], adapter["dropout"]) == (16, 2.0, 0.0)
    answer = sample("CEILING")
    adapter = exported(ours, answer)["lora_parameters"]
    assert adapter["scale"] * 128 == answer.choice.alpha


def test_lengths_are_counted_in_batches_of_the_whole_recipe() -> None:
    values = exported(ours, sample())
    # 3,000 rows in batches of 16 are 188 steps a pass, 376 in all, 19 of them warm-up.
    assert (values["iters"], values["batch_size"], values["grad_accumulation_steps"]) == (376, 16, 1)
    assert values["lr_schedule"]["warmup"] == 19
    assert (values["num_layers"], values["mask_prompt"], values["max_seq_length"]) == (-1, True, 2048)
    assert values["optimizer_config"]["adamw"]["bias_correction"] is True


def test_what_it_does_otherwise_stands_on_top() -> None:
    answer = sample()
    assert "clips no gradients" in notes(ours, answer)
    assert "mlx_lm.convert" in notes(ours, answer)
    assert "the last answer only" not in notes(ours, answer)
    talk = replace(answer, data=replace(answer.data, format="messages"))
    assert "the last answer only" in notes(ours, talk)


def test_rows_without_a_template_and_unknown_layers_are_refused() -> None:
    answer = sample()
    with pytest.raises(ConfigurationError, match="chat template"):
        ours.files(replace(answer, data=replace(answer.data, template="none")), places())
    odd = replace(answer, choice=replace(answer.choice, target_modules=("q_proj", "wqkv")))
    with pytest.raises(ConfigurationError, match="wqkv"):
        ours.files(odd, places())
    text = exported(ours, replace(answer, data=replace(answer.data, format="text")))
    assert text["mask_prompt"] is False


def rows_in(folder: Path, count: int) -> str:
    (folder / "train.jsonl").write_text('{"messages": []}\n' * count, encoding="utf-8")
    return CONFIG.replace("{folder}", str(folder))


def test_a_config_is_read(tmp_path: Path) -> None:
    found = read(ours, rows_in(tmp_path, 400))
    assert (found.model, found.data) == ("meta-llama/Llama-3.2-1B", str(tmp_path / "train.jsonl"))
    assert found.yours == (8, 160.0, 1e-5)
    assert found.target_modules == ("q_proj", "v_proj")
    recipe = found.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.schedule, recipe.loss_on) == (
        3.0,
        4,
        "cosine",
        "completion",
    )
    assert math.ceil(recipe.warmup_ratio * 300) == 15
    assert (recipe.weight_decay, recipe.max_grad_norm) == (0.01, 0.0)
    assert found.unread == ()
    assert found.notes[0] == "num_layers 16: all layers are measured, not the last 16."
    assert "correction of the first steps" in found.notes[1]
    right = "optimizer_config:\n  adamw: {bias_correction: true, weight_decay: 0.0}\n"
    corrected = read(ours, rows_in(tmp_path, 400) + right)
    assert (len(corrected.notes), corrected.recipe.weight_decay) == (1, 0.0)


def test_the_defaults_are_its_own(tmp_path: Path) -> None:
    found = read(ours, "fine_tune_type: lora\n")
    assert found.yours == (8, 160.0, 1e-5)
    recipe = found.recipe
    assert (recipe.batch_size, recipe.max_length, recipe.loss_on, recipe.schedule) == (
        4,
        2048,
        "all",
        "constant",
    )
    assert set(recipe.assumed()) == {"epochs"}  # a thousand iterations of what?
    assert any("1,000 iterations" in note for note in found.notes)


def test_accumulation_counts_in_batch_and_steps(tmp_path: Path) -> None:
    text = rows_in(tmp_path, 400).split("lr_schedule")[0] + "grad_accumulation_steps: 4\n"
    recipe = read(ours, text).recipe
    assert (recipe.batch_size, recipe.epochs) == (16, 3.0)  # 75 steps of 16 rows; 25 are a pass


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train: true", "fine_tune_type: dora", "dora"),
        ("optimizer: adamw", "optimizer: muon", "muon"),
        ("cosine_decay", "exponential_decay", "exponential_decay"),
        ("train: true", "resume_adapter_file: a.safetensors", "rank is fixed"),
        ("arguments: [1e-5, 285]", "arguments: [a, 285]", "list of numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(ours, rows_in(tmp_path, 400).replace(old, new))


def test_weights_that_only_mlx_reads_are_asked_for(tmp_path: Path) -> None:
    text = rows_in(tmp_path, 400).replace("meta-llama/Llama-3.2-1B", "mlx-community/Llama-3.2-1B-4bit")
    found = read(ours, text)
    assert found.model is None
    assert any("made from" in note for note in found.notes)


def test_only_the_lines_that_matter_change(tmp_path: Path) -> None:
    text = rows_in(tmp_path, 400)
    config = read(ours, text)
    answer = sample()
    choice = replace(answer.choice, target_modules=("q_proj", "v_proj"), epochs=3.0)
    found = edited(ours, text, replace(answer, choice=choice, recipe=config.recipe))
    assert sorted(changed_lines(text, found.text)) == [
        "+ adamw:",
        "+ arguments: [0.0004, 285]",
        "+ betas: [0.9, 0.999]",
        "+ bias_correction: true",
        "+ eps: 1.0e-08",
        "+ learning_rate: 0.0004",
        "+ num_layers: -1",
        "+ optimizer_config:",
        "+ rank: 16",
        "+ scale: 2.0",
        "+ weight_decay: 0.01",
        "- arguments: [1e-5, 285]",
        "- learning_rate: 1e-5",
        "- num_layers: 16",
        "- rank: 8",
        "- scale: 20.0",
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.37])
@pytest.mark.parametrize("steps", [2, 50, 339])
def test_its_schedule_is_never_more_than_a_step_away(schedule: Schedule, ratio: float, steps: int) -> None:
    mx = pytest.importorskip("mlx.core")
    build_schedule = pytest.importorskip("mlx_lm.tuner.utils").build_schedule
    answer = sample()
    recipe = replace(answer.recipe, schedule=schedule, warmup_ratio=ratio)
    s = settings(replace(answer, recipe=recipe))
    found = written_schedule(s, steps)
    if found is None:
        assert (schedule, ratio) == ("constant", 0.0)
        return
    rates = build_schedule(found)
    measured = [s.learning_rate * learning_rate_factor(recipe, step, steps) for step in range(steps)]
    biggest = max(abs(a - b) for a, b in pairwise(measured))
    for step, expected in enumerate(measured):
        assert (
            abs(float(rates(mx.array(step))) - expected)
            <= biggest * (1 if ratio else 0) + 1e-6 * s.learning_rate
        )


def arguments(values: dict[str, Any]) -> SimpleNamespace:
    """The file's values over the defaults, as ``mlx_lm.lora`` merges them; every key is one that it knows."""
    lora = pytest.importorskip("mlx_lm.lora")
    assert set(values) <= set(lora.CONFIG_DEFAULTS)
    return SimpleNamespace(**{**lora.CONFIG_DEFAULTS, **values})


def tiny_answer(folder: Path, **recipe: Any) -> Recommendation:
    """For the tiny model saved in ``folder``."""
    answer = sample()
    answer = replace(answer, model=replace(answer.model, name=str(folder / "base"), dtype="float32"))
    return replace(
        answer,
        recipe=replace(answer.recipe, **recipe),
        choice=replace(answer.choice, rank=4, alpha=6, learning_rate=1e-2, epochs=recipe.get("epochs", 2.0)),
    )


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2"])
def test_the_same_layers_get_the_same_rank_and_scale(kind: str, tmp_path: Path) -> None:
    utils, load = pytest.importorskip("mlx_lm.tuner.utils"), pytest.importorskip("mlx_lm.utils").load_model
    import torch

    from rightrank.bank.targets import find_targets, target_suffixes
    from tiny import tiny_model

    model = tiny_model(kind, dtype=torch.float32)
    model.config.n_ctx = 256  # which MLX-LM wants of GPT-2, as its first configs had it
    model.save_pretrained(tmp_path / "base")
    targets = find_targets(model)
    answer = tiny_answer(tmp_path)
    answer = replace(answer, choice=replace(answer.choice, target_modules=target_suffixes(targets)))
    values = exported(ours, answer, places(answer.model.name, tmp_path))
    made, _ = load(tmp_path / "base", strict=False)
    utils.linear_to_lora_layers(made, values["num_layers"], values["lora_parameters"])
    layers = {name: m for name, m in made.named_modules() if type(m).__name__ == "LoRALinear"}

    def plain(name: str) -> str:
        return name.removeprefix("model.").removeprefix("transformer.")

    assert {plain(name) for name in layers} == {plain(target.name) for target in targets}
    assert {(m.lora_a.shape[1], m.scale) for m in layers.values()} == {(4, 1.5)}


def test_it_trains_as_pytorch_with_peft_does(tmp_path: Path) -> None:
    """Every step on all rows, from the same start: after eight steps the adapters are the same."""
    lora, mx = pytest.importorskip("mlx_lm.lora"), pytest.importorskip("mlx.core")
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from small_run import save_model, small_rows, word_tokenizer

    save_model(tmp_path / "base")
    messages = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        for row in small_rows(12)
    ]
    (tmp_path / "chat_rows").mkdir()
    lines = "".join(json.dumps({"messages": one}) + "\n" for one in messages)
    (tmp_path / "chat_rows" / "train.jsonl").write_text(lines, encoding="utf-8")
    tokenizer = word_tokenizer()
    ids_NT = torch.tensor([tokenizer.apply_chat_template(one, return_dict=False) for one in messages])
    prompt = len(
        tokenizer.apply_chat_template(messages[0][:1], add_generation_prompt=True, return_dict=False)
    )
    # Rows exactly as long as the maximum: MLX-LM has no room for the padding token that it would train on.
    recipe = {"epochs": 8.0, "batch_size": 12, "max_length": ids_NT.shape[1], "schedule": "constant"}
    answer = tiny_answer(tmp_path, **recipe, warmup_ratio=0.0, weight_decay=0.1, max_grad_norm=0.0)
    answer = replace(answer, data=replace(answer.data, rows=12))

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = get_peft_model(base, answer.to_peft())
    adapted = {
        re.sub(r"^base_model\.model\.|lora_(?=[AB])|\.default\.weight", "", name).lower(): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }  # model.layers.0.self_attn.q_proj.a and so on
    start = {re.sub(r"([ab])$", r"lora_\1", name): p.detach().T.tolist() for name, p in adapted.items()}
    mx.save_safetensors(str(tmp_path / "start.safetensors"), {k: mx.array(v) for k, v in start.items()})
    values = exported(ours, answer, places(answer.model.name, tmp_path))
    args = arguments({**values, "resume_adapter_file": str(tmp_path / "start.safetensors")})
    mx.disable_compile()  # which builds C++ for a minute here
    try:
        lora.run(args)
    finally:
        mx.enable_compile()

    choice = answer.choice
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=choice.learning_rate, weight_decay=0.1
    )
    labels_NT = ids_NT.masked_fill(torch.arange(ids_NT.shape[1]) < prompt, -100)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids_NT, labels=labels_NT).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05
    trained = mx.load(str(tmp_path / "lora-adapter" / "adapters.safetensors"))
    assert len(trained) == len(adapted) == 2 * 7
    for name, parameter in adapted.items():
        theirs = torch.tensor(trained[re.sub(r"([ab])$", r"lora_\1", name)].tolist()).T
        assert torch.allclose(theirs, parameter.detach(), atol=2e-4), name
        assert (theirs - torch.tensor(start[re.sub(r"([ab])$", r"lora_\1", name)]).T).abs().max() > 0.01, name


def test_every_recipe_arrives(tmp_path: Path) -> None:
    recipe = Recipe(
        epochs=1.5, batch_size=7, adam_betas=(0.85, 0.95), adam_epsilon=3e-7, weight_decay=0.02, dropout=0.1
    )
    answer = sample()
    answer = replace(answer, recipe=recipe, choice=replace(answer.choice, epochs=1.5))
    args = arguments(exported(ours, answer))
    optimizers = pytest.importorskip("mlx.optimizers")
    made = optimizers.AdamW(learning_rate=args.learning_rate, **args.optimizer_config[args.optimizer])
    assert (made.betas, made.eps, made.weight_decay) == ([0.85, 0.95], 3e-7, 0.02)
    assert made.bias_correction
    assert (args.batch_size, args.iters) == (7, math.ceil(1.5 * math.ceil(3000 / 7)))
    assert args.lora_parameters["dropout"] == 0.1
