"""Whose config it is, is told by its keys; and what it says ends in one request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from report.samples import sample
from rightrank.errors import UserError
from rightrank.from_config import lines, request, request_options
from rightrank.recipe import Recipe
from rightrank.trainers import edit_config, read_config, write_configs
from rightrank.trainers.row_formats import stated

if TYPE_CHECKING:
    from pathlib import Path

AXOLOTL = """\
base_model: base
datasets: [{path: rows.jsonl, type: chat_template, split: train, revision: abc}]
test_datasets: [{path: held.jsonl}]
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
learning_rate: 2e-4
num_epochs: 4
warmup_steps: 10
seed: 7
wandb_project: mine
"""
UNSLOTH = "model: base\ndata: {local_dataset: [rows.jsonl]}\nlora: {lora_r: 8}\n"
TRL = "model_name_or_path: base\ndataset_name: org/rows\nuse_peft: true\nassistant_only_loss: true\n"
PEFT = '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "base"}'


@pytest.mark.parametrize(
    ("text", "trainer"), [(AXOLOTL, "Axolotl"), (UNSLOTH, "Unsloth"), (TRL, "TRL"), (PEFT, "PEFT")]
)
def test_the_keys_tell_the_trainer(text: str, trainer: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    assert read_config(path).trainer == trainer


def test_what_is_no_trainers_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text("services: {web: {image: nginx}}\n")
    with pytest.raises(UserError, match=r"c\.yml is the config of no trainer that is known.*Axolotl"):
        read_config(path)


def test_every_export_in_yaml_is_read_back_as_what_was_recommended(tmp_path: Path) -> None:
    answer = sample()
    paths, _ = write_configs(answer, tmp_path)
    for label in ("TRL", "Axolotl"):
        found = read_config(paths[label])
        assert found.trainer == label
        assert found.yours == (answer.choice.rank, answer.choice.alpha, answer.choice.learning_rate)
        assert {k: v for k, v in vars(found.recipe).items() if k != "origins"} == {
            k: v for k, v in vars(answer.recipe).items() if k != "origins"
        }
        assert edit_config(found, answer).changes == ()


def test_a_config_that_became_another_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text(TRL)
    found = read_config(path)
    path.write_text(UNSLOTH)
    with pytest.raises(UserError, match="another config by now"):
        edit_config(found, sample())


def asked(tmp_path: Path, text: str = AXOLOTL, **given: Any) -> Any:
    path = tmp_path / "c.yml"
    path.write_text(text)
    return request(config=path, **given)


def test_model_data_and_recipe_come_from_the_config(tmp_path: Path) -> None:
    found = asked(tmp_path)
    assert (found.model, found.dataset, found.eval_data) == ("base", "rows.jsonl", "held.jsonl")
    assert (found.data_split, found.data_revision, found.seed, found.warmup_steps) == (None, "abc", 7, 10)
    assert found.quantization == "4-bit"
    assert (found.yours, found.target_modules) == ((32, 16.0, 2e-4), ("q_proj", "v_proj"))
    assert (found.recipe.epochs, found.recipe.origins["epochs"]) == (4.0, "config")
    assert found.recipe.origins["max_grad_norm"] == "trainer" and found.config == tmp_path / "c.yml"


def test_what_is_said_beside_it_wins(tmp_path: Path) -> None:
    recipe = Recipe().given(epochs=1.0, warmup_ratio=0.2)
    found = asked(tmp_path, model="other", dataset="mine.jsonl", recipe=recipe, yours=(4, 4.0, 1e-3), seed=0)
    assert (found.model, found.dataset, found.yours, found.seed) == ("other", "mine.jsonl", (4, 4.0, 1e-3), 0)
    assert (found.recipe.epochs, found.recipe.origins["epochs"]) == (1.0, "given")
    assert (found.recipe.warmup_ratio, found.warmup_steps) == (0.2, None)
    assert found.recipe.batch_size == 1 and found.recipe.origins["batch_size"] == "trainer"
    assert (found.eval_data, found.data_split, found.data_revision) == (None, None, None)


def test_paths_beside_the_config_are_found(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert asked(tmp_path).dataset == str(tmp_path / "rows.jsonl")
    assert asked(tmp_path).model == "base"


def test_one_name_alone_is_that_of_the_rows_where_the_config_has_the_model(tmp_path: Path) -> None:
    found = asked(tmp_path, PEFT, model="rows.jsonl")
    assert (found.model, found.dataset) == ("base", "rows.jsonl")
    assert asked(tmp_path, model="other").model == "other"


def test_where_no_rows_are_named_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No rows to measure on\. c\.yml names none"):
        asked(tmp_path, PEFT)
    with pytest.raises(UserError, match=r"No model to measure on\. Name MODEL"):
        request(dataset="rows.jsonl")


def test_it_says_what_was_read_and_what_was_not(tmp_path: Path) -> None:
    heard: list[str] = []
    asked(tmp_path, on_text=heard.append)
    assert heard[0] == (
        "c.yml is a config of Axolotl: model base, rows rows.jsonl, recipe; your own setting r=32 alpha=16 lr 0.0002 is measured too."
    )
    assert heard[1] == "Keys not read: wandb_project."
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8}))
    assert "no rank or learning rate of your own" in lines(read_config(path))[0]
    assert "--yours" in lines(read_config(path))[-2]


def test_layers_that_a_config_leaves_open_are_all_measured(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text(TRL)
    config = read_config(path)
    assert config.target_modules == () and "target_modules" not in request_options(config, {})
    changed = [key for key, _, _ in edit_config(config, sample()).changes]
    assert "lora_target_modules" in changed


def test_a_misspelt_key_is_said_first_and_stays_with_the_answer(tmp_path: Path) -> None:
    heard: list[str] = []
    found = asked(tmp_path, AXOLOTL.replace("num_epochs", "num_epoch"), on_text=heard.append)
    loud = (
        "Misspelt? c.yml has num_epoch (did you mean num_epochs?). As it stands it is not read, and the trainer's default"
        " counts."
    )
    assert heard[0] == loud and heard.count(loud) == 1
    assert heard[2] == "Keys not read: wandb_project."
    assert loud in found.notes
    assert found.recipe.epochs == 1.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "learning_rate: -2e-4",
            "c.yml: the learning rate is -0.0002, which is not above zero. Mend that line.",
        ),
        ("lora_alpha: -16", "c.yml: the alpha is -16, which is not above zero"),
        ("lora_r: 0", "c.yml: the rank is 0, which is not above zero"),
    ],
)
def test_a_number_that_is_not_above_zero_is_answered_in_the_configs_words(
    line: str, said: str, tmp_path: Path
) -> None:
    key = line.partition(":")[0]
    text = "".join(f"{line}\n" if one.startswith(key) else f"{one}\n" for one in AXOLOTL.splitlines())
    with pytest.raises(UserError) as raised:
        asked(tmp_path, text)
    assert f"{raised.value.problem} {raised.value.mend}".startswith(said)


@pytest.mark.parametrize(
    ("text", "words", "formats"),
    [
        (AXOLOTL.replace("chat_template", "alpaca"), "type: alpaca", ("Alpaca",)),
        (AXOLOTL, "type: chat_template", ("messages", "ShareGPT")),
    ],
)
def test_what_a_config_says_its_rows_are(
    text: str, words: str, formats: tuple[str, ...], tmp_path: Path
) -> None:
    stated = asked(tmp_path, text).row_format
    assert stated is not None and (stated.words, stated.formats) == (words, formats)
    assert asked(tmp_path, text.replace(", split: train", ", field_messages: x")).row_format is None
    assert asked(tmp_path, TRL).row_format is None


def test_torchtunes_and_llama_factorys_words_for_rows(tmp_path: Path) -> None:
    chat = {"_component_": "torchtune.datasets.chat_dataset", "source": "json"}
    found = stated("torchtune", {"dataset": chat})
    assert found is not None and found.formats == ("messages", "ShareGPT")
    assert stated("torchtune", {"dataset": {**chat, "conversation_column": "turns"}}) is None
    info = {"mine": {"file_name": "m.json"}, "own": {"file_name": "m.json", "columns": {"prompt": "q"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    alpaca = stated("LLaMA-Factory", {"dataset": "mine", "dataset_dir": str(tmp_path)})
    assert alpaca is not None and alpaca.words == "formatting: alpaca"
    assert stated("LLaMA-Factory", {"dataset": "own", "dataset_dir": str(tmp_path)}) is None
