"""What a run directory says of its run: enough to do it again, and no row text."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rightrank.errors import ConfigurationError
from rightrank.probe.plan import Plan
from rightrank.recipe import Recipe
from rightrank.request import Request
from rightrank.runs.recorded import OF_THE_MOMENT, about, differing, mixed_origins, request_of, told

PLAN = Plan(10, 40, (4, 8), (8,), "plain", False, 5, 6, 100.0, 50.0, 30.0, 70.0)
BASE: Any = SimpleNamespace(device_words="CPU, 1 thread")


def table_of(request: Request, **more: Any) -> Any:
    kept = json.loads(json.dumps(about(request, BASE, "packed rows", PLAN)))
    recipe = {f.name: getattr(request.recipe, f.name) for f in fields(Recipe) if f.name != "origins"}
    return SimpleNamespace(
        about=kept, settings={"recipe": json.loads(json.dumps(recipe))}, directory=Path("run"), **more
    )


def test_a_request_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    request = Request(
        "org/model",
        "rows.jsonl",
        recipe=Recipe(epochs=2.0, adam_betas=(0.8, 0.9)),
        ranks=(4, 8),
        yours=(16, 32.0, 2e-4),
        revision="main",
        chat_template=False,
        seed=7,
        budget_minutes=3.0,
        resume=True,
        out="there",
    )
    table = table_of(request)
    monkeypatch.chdir("/")
    again = request_of(table)
    for field in fields(Request):
        if field.name not in (*OF_THE_MOMENT, "dataset"):
            assert getattr(again, field.name) == getattr(request, field.name), field.name
    assert again.dataset == str(tmp_path / "rows.jsonl"), "found from elsewhere too"
    assert again.recipe == request.recipe
    assert (again.budget_minutes, again.resume, again.out) == (None, False, None)
    assert request_of(table, dataset="elsewhere.jsonl", device="cpu").dataset == "elsewhere.jsonl"


def test_who_gave_the_recipe_comes_back_too() -> None:
    table = table_of(Request("m", "d", recipe=Recipe().given(epochs=2.0).given("config", max_length=64)))
    assert request_of(table).recipe.origins == {"epochs": "given", "max_length": "config"}
    table.about["origins"] = {"epochs": "given", "\x1b[31m": "given"}
    assert request_of(table).recipe.origins == {"epochs": "given"}
    table.about["origins"] = {"epochs": "someone"}
    with pytest.raises(ConfigurationError, match="not what was written"):
        request_of(table)


def test_what_was_in_memory_is_not_kept() -> None:
    secret = [{"prompt": "secret", "completion": "secret"}]
    table = table_of(Request(object(), secret, tokenizer=object(), eval_data=secret))
    assert "secret" not in json.dumps(table.about)
    assert table.about["request"]["dataset"] == {"in memory": "list"}
    with pytest.raises(ConfigurationError, match=r"had its model in memory \(object\)"):
        request_of(table)
    with pytest.raises(ConfigurationError, match=r"had its eval_data in memory \(list\)"):
        request_of(table, model="m", dataset="d", tokenizer=object())


def test_a_run_of_an_older_version_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="made by an older version"):
        request_of(SimpleNamespace(about={}, directory=Path("run")))  # type: ignore[arg-type]


ONE = {"device": "CPU, 1 thread", "versions": {"torch": "2", "python": "3.11"}}


def test_parts_that_were_measured_elsewhere_are_named() -> None:
    other = {"device": "CPU, 2 threads", "versions": {"torch": "3", "python": "3.12", "peft": "1"}}
    assert differing(ONE, ONE) == {}
    assert list(differing(ONE, other)) == ["device", "peft", "torch"]
    assert differing(ONE, other)["peft"] == (None, "1")
    assert mixed_origins(SimpleNamespace(origins=[ONE, {}, ONE])) == []  # type: ignore[arg-type]
    assert mixed_origins(SimpleNamespace(origins=[])) == []  # type: ignore[arg-type]
    assert mixed_origins(SimpleNamespace(origins=[ONE, other, ONE])) == [  # type: ignore[arg-type]
        "Parts of this run were measured with another device, peft and torch: figures may differ in their last digits."
    ]


def test_parts_that_ran_another_way_are_named() -> None:
    plain = {**ONE, "path": "packed rows, steps one by one (0.13 nats apart)"}
    alike = {**ONE, "path": "packed rows, steps one by one (0.14 nats apart)"}
    shared = {**ONE, "path": "packed rows, what all prompts begin with once"}
    assert differing(plain, alike) == {} and differing(plain, ONE) == {}, "an older one does not say"
    assert list(differing(plain, shared)) == ["way to run steps"]
    assert mixed_origins(SimpleNamespace(origins=[plain, shared])) == [  # type: ignore[arg-type]
        "Parts of this run were measured with another way to run steps: figures may differ in their last digits."
    ]


def test_what_a_person_hears() -> None:
    table: Any = SimpleNamespace(
        damaged=["0001.safetensors: it is"], mended=["Mended."], directory=Path("run")
    )
    assert told(table) == [
        "Mended.",
        "A damaged file was left out and is measured again: 0001.safetensors: it is",
        "Everything measured is kept in run as it comes.",
    ]
