"""Every export, read as if it were a person's own config, says what was recommended; and only its own trainer takes it for its own."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from report.samples import HOSTILE, STATUSES, hostile, sample
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from rightrank.trainers import yaml_file
from rightrank.trainers.settings import what_changes
from rightrank.trainers.step_counts import steps_of
from trainers.exports import edited, places, read

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation, Status

TRAINERS = ("llama_factory", "mlx_lm", "ms_swift", "torchtune")
# What a trainer cannot say, and what it says in steps.
NOT_SAID = {
    "llama_factory": {"over_long", "warmup_ratio"},
    "mlx_lm": {"over_long", "max_grad_norm", "warmup_ratio"},
    "ms_swift": set(),
    "torchtune": {"over_long", "warmup_ratio"},
}
RECIPES = st.builds(
    Recipe,
    epochs=st.sampled_from([1.0, 2.0, 5.0]),
    batch_size=st.sampled_from([1, 6, 7, 16, 64]),
    max_length=st.integers(16, 8192),
    over_long=st.sampled_from(["truncate", "drop"]),
    loss_on=st.sampled_from(["completion", "all"]),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    warmup_ratio=st.sampled_from([0.0, 0.03, 0.1]),
    weight_decay=st.sampled_from([0.0, 0.01, 0.1]),
    max_grad_norm=st.sampled_from([0.3, 1.0]),
    dropout=st.sampled_from([0.0, 0.05]),
    adam_betas=st.sampled_from([(0.9, 0.999), (0.85, 0.95)]),
    adam_epsilon=st.sampled_from([1e-8, 3e-7]),
)


def module(name: str) -> Any:
    return import_module(f"rightrank.trainers.{name}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose rows are as many as the answer says: MLX-LM's config tells epochs through them only."""
    folder: Path = tmp_path_factory.mktemp("run")
    (folder / "chat_rows").mkdir()
    rows = '{"messages": []}\n' * sample().data.rows
    (folder / "chat_rows" / "train.jsonl").write_text(rows, encoding="utf-8")
    return folder


def check(name: str, answer: Recommendation, run: Path) -> None:
    trainer = module(name)
    text = trainer.files(answer, places(answer.model.name, run))[trainer.FILE_NAME]
    config = read(trainer, text)
    choice = answer.choice
    assert config.yours == pytest.approx((choice.rank, choice.alpha, choice.learning_rate), rel=1e-12)
    assert set(config.target_modules or ()) == set(choice.target_modules)
    for field in fields(Recipe):
        if field.name not in {"origins", *NOT_SAID[name]}:
            assert getattr(config.recipe, field.name) == getattr(answer.recipe, field.name), field.name
    assert config.seed == answer.provenance.seed
    steps = steps_of(answer)
    measured = math.ceil(answer.recipe.warmup_ratio * steps)
    if name == "mlx_lm":
        assert math.ceil(config.recipe.warmup_ratio * steps) == measured
    elif name != "ms_swift":  # torchtune's passes may have a step less
        assert abs((config.warmup_steps or 0) - measured) <= (name == "torchtune")
    assert set(what_changes(config, answer)) <= NOT_SAID[name]
    again = edited(trainer, text, replace(answer, recipe=answer.recipe.given("config", **said(answer, name))))
    assert (again.changes, again.text) == ((), text)


def said(answer: Recommendation, name: str) -> dict[str, Any]:
    """A recipe that was read from this trainer's config has these from there."""
    found = {key: getattr(answer.recipe, key) for key in NOT_SAID[name]}
    return {**found, **({"over_long": "truncate"} if name != "ms_swift" else {}), **_unclipped(name)}


def _unclipped(name: str) -> dict[str, Any]:
    return {"max_grad_norm": 0.0} if name == "mlx_lm" else {}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("status", STATUSES)
def test_an_export_says_what_was_recommended(name: str, status: Status, run: Path) -> None:
    check(name, sample(status), run)


@pytest.mark.parametrize("name", TRAINERS)
@settings(max_examples=15, deadline=None)
@given(
    recipe=RECIPES,
    rank=st.sampled_from([1, 3, 8, 200]),
    rate=st.floats(1e-7, 1.0),
    seed=st.integers(0, 2**31),
)
def test_whatever_the_recipe(name: str, recipe: Recipe, rank: int, rate: float, seed: int, run: Path) -> None:
    answer = sample()
    choice = replace(answer.choice, rank=rank, alpha=17, learning_rate=rate, epochs=recipe.epochs)
    provenance = replace(answer.provenance, seed=seed)
    check(name, replace(answer, recipe=recipe, choice=choice, provenance=provenance), run)


@pytest.mark.parametrize("name", TRAINERS)
def test_only_its_own_trainer_takes_it(name: str) -> None:
    trainer = module(name)
    values = yaml.safe_load(trainer.files(sample(), places())[trainer.FILE_NAME])
    others = ("trl", "axolotl", *TRAINERS)
    assert [other for other in others if module(other).recognises(values)] == [name]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_name_with_odd_characters_stays_one_value_and_ends_no_comment(name: str, run: Path) -> None:
    odd = "meta-llama/Meta-Llama-3-8B '\"# : {x} [y] \t\u202e\n- z: ${oops}"
    answer = sample()
    answer = replace(
        answer, model=replace(answer.model, name="m/Llama-3-8B"), data=replace(answer.data, name=odd)
    )
    trainer = module(name)
    text = trainer.files(answer, places(odd, run))[trainer.FILE_NAME]
    values = yaml_file.parse(text, "mine.yaml").values
    assert "z" not in values
    model = values.get("model", values.get("model_name_or_path"))
    if name != "torchtune":  # which names a folder of ours until the model is fetched
        assert model == odd


@pytest.mark.parametrize("name", TRAINERS)
def test_hostile_names_make_no_keys(name: str) -> None:
    trainer = module(name)
    plain = set(yaml_file.parse(trainer.files(sample(), places())[trainer.FILE_NAME], "mine.yaml").values)
    try:
        text = trainer.files(hostile(), places(HOSTILE))[trainer.FILE_NAME]
    except ConfigurationError as error:
        assert "\x1b" not in error.problem
        assert "\n" not in error.problem
        return
    values = yaml_file.parse(text, "mine.yaml").values
    assert set(values) <= plain | {"template"}
    assert HOSTILE in (values.get("model"), values.get("model_name_or_path"))
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert all(line.isprintable() for line in comments)
