"""TRL, started from what is exported or edited here, trains the adapter that the bank trains: in float64, to six digits.

Every step sees all rows, so that the two need not shuffle alike; both start from the bank's initial matrices.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from report.samples import sample
from rightrank import data as reading
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.step import train
from rightrank.recipe import Recipe
from rightrank.trainers import edit_config, read_config, write_configs
from small_run import small_model, small_rows, word_tokenizer
from tiny import plain_losses

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation

pytest.importorskip("trl", minversion="1.10")
pytest.importorskip("datasets")

RECIPE = Recipe(
    epochs=5.0,
    batch_size=12,
    max_length=32,
    schedule="cosine",
    warmup_ratio=0.3,
    weight_decay=0.05,
    adam_betas=(0.8, 0.99),
)
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# As a person might have it: another rank, scale and learning rate, rsLoRA, four lines of the recipe missing.
OWN = """\
model_name_or_path: base
dataset_name: rows   # mine
output_dir: out
dtype: float32
bf16: false
use_peft: true
lora_r: 2
lora_alpha: 4
use_rslora: true
lora_dropout: 0.0
lora_target_modules: [q_proj, v_proj]
learning_rate: 1e-4
num_train_epochs: 5
per_device_train_batch_size: 12
max_length: 32
report_to: none
"""


def recommended() -> Recommendation:
    answer = sample()
    return replace(
        answer,
        recipe=RECIPE,
        choice=replace(
            answer.choice, rank=3, alpha=21, learning_rate=2e-2, epochs=5.0, target_modules=MODULES
        ),
        model=replace(answer.model, name="base", dtype="float32", target_modules=MODULES),
        data=replace(answer.data, format="prompt/completion"),
    )


def parsed(path: Path) -> tuple[Any, Any]:
    """What ``trl sft`` makes of the file: its training arguments and its LoRA configuration."""
    from trl import get_peft_config
    from trl.scripts.sft import make_parser

    _, training, model, _ = make_parser().parse_args_and_config(["--config", str(path)])
    return training, get_peft_config(model)


def arguments(how: str, folder: Path) -> tuple[Any, Any]:
    answer = recommended()
    paths, _ = write_configs(answer, folder)
    if how == "TRL, a config edited":
        path = folder / "own.yaml"
        path.write_text(OWN)
        path.write_text(edit_config(read_config(path), answer).text)
        return parsed(path)
    training, lora = parsed(paths["TRL"])
    if how == "PEFT, the export":
        from peft import LoraConfig

        lora = LoraConfig(**json.loads(paths["PEFT"].read_text()))
    return training, lora


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["TRL, the export", "TRL, a config edited", "PEFT, the export"])
def test_the_trainer_trains_what_the_bank_trains(how: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTTrainer

    rows, tokenizer = small_rows(12), word_tokenizer()
    chats = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]
    examples = reading.tokenize(reading.understand(chats).conversations, tokenizer, RECIPE).examples
    choice = recommended().choice
    base = load_base(small_model().double(), tokenizer)
    spec = AdapterSpec(choice.rank, choice.alpha, choice.learning_rate)
    bank = AdapterBank(base.targets, [spec], device=base.device, dtype=base.dtype)
    start = {module.target.name: module.master_a[0].detach().clone() for module in bank.modules}
    with Forward(base, bank, packed=True) as forward:
        ours = train(forward, bank, examples, RECIPE, seed=0, capacity=4096)
        loss_E = evaluate(forward, examples, capacity=4096).loss_KE[0]

    training, lora = arguments(how, tmp_path)
    training.output_dir, training.report_to, training.save_strategy = str(tmp_path / "out"), [], "no"
    training.use_cpu, training.disable_tqdm, training.logging_steps = True, True, 1
    trainer = SFTTrainer(
        model=small_model().double(),
        args=training,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(chats),
        peft_config=lora,
    )
    theirs = {
        name.removeprefix("base_model.model."): module
        for name, module in trainer.model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert theirs.keys() == start.keys()
    for name, module in theirs.items():
        assert (module.r["default"], module.scaling["default"]) == (choice.rank, choice.alpha / choice.rank)
        module.lora_A["default"].weight.data.copy_(start[name])
    trainer.train()

    assert trainer.state.global_step == ours.steps == 5
    for module in bank.modules:
        trained = theirs[module.target.name]
        for weight, mine in (
            (trained.lora_A["default"].weight, module.master_a[0]),
            (trained.lora_B["default"].weight, module.master_b[0].t()),
        ):
            torch.testing.assert_close(weight.detach().double(), mine.detach().double(), rtol=0, atol=1e-6)
    with torch.no_grad():
        sums = torch.stack([losses.sum() for losses in plain_losses(trainer.model.eval(), list(examples))])
    assert sums.numpy() == pytest.approx(loss_E, rel=1e-6)
    assert loss_E.sum() < 0.9 * sum(
        float(losses.sum()) for losses in plain_losses(base.model, list(examples))
    )
