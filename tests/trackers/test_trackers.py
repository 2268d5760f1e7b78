"""What trackers are told, and what they are never told; what becomes of a run when one of them fails."""

from __future__ import annotations

import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rightrank
from report.samples import sample
from rightrank import Recipe
from rightrank.errors import ConfigurationError
from rightrank.probe.loss_table import Configuration, Pack, PackResult
from rightrank.trackers import Tracking, answer_values, chosen_trackers, last_name, run_facts, run_values
from small_run import save_model, save_rows, small_rows

TOKENS_E = np.array([2, 3, 5])
PACK = Pack(4, 60, (Configuration(8, 16.0, 1e-3), Configuration(16, 16.0, 1e-1, seed=2)), with_score=True)
RESULT = PackResult(
    np.array([[1.0, 2.0, 9.0], [math.inf, math.inf, math.inf]]),
    np.zeros((2, 3), int),
    (0.5, None),
    12,
    100,
    1.0,
)


class Fake:
    """Stands for the three packages, and hears what each is told."""

    def __init__(self, fails_at: str = "") -> None:
        self.heard: list[tuple[str, Any]] = []
        self.fails_at = fails_at

    def _hear(self, what: str, told: Any) -> None:
        self.heard.append((what, told))
        if what == self.fails_at:
            raise OSError("no network")

    def wandb(self) -> ModuleType:
        module = ModuleType("wandb")
        run = SimpleNamespace(
            log=lambda values, step: self._hear("log", (step, values)),
            summary=SimpleNamespace(update=lambda values: self._hear("summary", values)),
            finish=lambda: self._hear("finish", None),
        )

        def init(**options: Any) -> Any:
            self._hear("init", options)
            return run

        module.init, module.Settings = init, lambda **settings: settings  # type: ignore[attr-defined]
        return module

    def trackio(self) -> ModuleType:
        module = ModuleType("trackio")

        def init(**options: Any) -> None:
            print("* Trackio project initialized")
            self._hear("init", options)

        module.init = init  # type: ignore[attr-defined]
        module.log = lambda values, step=None: self._hear("log", (step, values))  # type: ignore[attr-defined]
        module.finish = lambda: self._hear("finish", None)  # type: ignore[attr-defined]
        return module

    def tensorboard(self) -> ModuleType:
        module = ModuleType("torch.utils.tensorboard")
        fake = self

        class SummaryWriter:
            def __init__(self, log_dir: str) -> None:
                fake._hear("init", {"log_dir": log_dir})

            def add_text(self, name: str, text: str) -> None:
                fake._hear(name, text)

            def add_scalar(self, name: str, value: float, step: int) -> None:
                fake._hear("log", (step, {name: value}))

            def flush(self) -> None: ...

            def close(self) -> None:
                fake._hear("finish", None)

        module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
        return module


def install(monkeypatch: pytest.MonkeyPatch, name: str, fails_at: str = "") -> Fake:
    fake = Fake(fails_at)
    module = getattr(fake, name)()
    for alias in {name, module.__name__}:
        module.__spec__ = ModuleSpec(alias, None)
        monkeypatch.setitem(sys.modules, alias, module)
    return fake


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((), ()),
        ("none", ()),
        ("wandb", ("wandb",)),
        (("trackio", "wandb", "wandb"), ("trackio", "wandb")),
        ("all", ("wandb", "trackio")),
        ("wandb, trackio", ("wandb", "trackio")),
    ],
)
def test_names_are_those_of_transformers(
    asked: Any, found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "wandb")
    install(monkeypatch, "trackio")
    monkeypatch.setattr(
        "rightrank.trackers.PACKAGES",
        {"wandb": "wandb", "tensorboard": "no_such_package", "trackio": "trackio"},
    )
    assert chosen_trackers(asked) == found


def test_unknown_and_missing_ones_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"'mlflow' is not known\. Use wandb, tensorboard, trackio"):
        chosen_trackers("mlflow")
    monkeypatch.setattr("rightrank.trackers.PACKAGES", {"wandb": "no_such_package"})
    with pytest.raises(
        ConfigurationError, match=r"wandb is not installed\. Run `pip install no_such_package`"
    ):
        chosen_trackers(("wandb",))


def test_a_run_in_numbers() -> None:
    values = run_values(PACK, RESULT, 0, TOKENS_E, decide=2)
    assert values == {
        "rank": 8.0, "alpha": 16.0, "learning_rate": 1e-3, "seed": 0.0, "rows": 60.0, "steps": 12.0, "diverged": 0.0,
        "eval_loss": 3.0 / 5.0, "train_loss": 0.5,
    }  # fmt: skip
    lost = run_values(PACK, RESULT, 1, TOKENS_E, decide=2)
    assert lost["diverged"] == 1.0 and "eval_loss" not in lost and "train_loss" not in lost


def test_the_answer_in_numbers_names_no_data() -> None:
    values = answer_values(sample("SETTLED"))
    assert (values["status"], values["choice/rank"], values["gain_lost/r=4"]) == ("SETTLED", 16, 2.4)
    assert values["choice/worst_case_gain_lost"] == 0.7
    assert "medqa" not in json.dumps(values) and "rightrank" not in json.dumps(values)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/home/me/secret/model-7b", "model-7b"),
        ("models/", "models"),
        ("../runs/x/model.gguf", "model.gguf"),
        ("C:\\me\\model", "model"),
        ("meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B"),
        ("tests/besides", "besides"),
        ("", "model"),
    ],
)
def test_a_model_goes_by_its_last_name_and_a_hub_id_whole(
    name: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert last_name(name) == shown


FACTS = run_facts("/home/me/model", "LlamaForCausalLM", 4400, 80, "5ca5f0fc", Recipe())


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_each_hears_the_facts_every_run_and_the_answer(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("WANDB_PROJECT", "TRACKIO_PROJECT", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(variable, raising=False)
    fake = install(monkeypatch, name)
    said: list[str] = []
    with Tracking((name,), tmp_path, FACTS, step=7, on_text=said.append) as tracking:
        tracking.hear(PACK, RESULT, TOKENS_E, 2)
        tracking.answer = sample("FLAT")
    told = json.dumps(fake.heard, default=str)
    logged = [values for what, values in fake.heard if what == "log"]
    assert {step for step, _ in logged if step is not None} >= {7, 8}
    losses = [v for _, values in logged for key, v in values.items() if key.endswith("eval_loss")]
    assert losses == [0.6], "the diverged run has none"
    assert "5ca5f0fc" in told and "/home/me" not in told and '"rank"' in told.replace("run/", "")
    assert "FLAT" in told and fake.heard[-1][0] == "finish"
    assert said == [] and capsys.readouterr().out == "", "nothing goes where the answer goes"


def test_wandb_is_kept_from_recording_the_machine_and_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = install(monkeypatch, "wandb")
    with Tracking(("wandb",), tmp_path, FACTS, step=0, on_text=print):
        pass
    settings = fake.heard[0][1]["settings"]
    assert settings["console"] == "off" and settings["x_disable_meta"] and settings["disable_git"]
    assert settings["save_code"] is False and settings["host"] == "-"


def test_a_space_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = install(monkeypatch, "trackio")
    with Tracking(("trackio",), tmp_path, FACTS, step=0, on_text=print):
        pass
    assert fake.heard[0][1]["private"] is True


@pytest.mark.parametrize("fails_at", ["init", "log", "summary"])
def test_one_that_fails_is_left_out_and_the_other_goes_on(
    fails_at: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken, whole = install(monkeypatch, "wandb", fails_at), install(monkeypatch, "trackio")
    said: list[str] = []
    with Tracking(("wandb", "trackio"), tmp_path, FACTS, step=0, on_text=said.append) as tracking:
        tracking.hear(PACK, RESULT, TOKENS_E, 2)
        tracking.hear(PACK, RESULT, TOKENS_E, 2)
        tracking.answer = sample("FLAT")
    assert said == ["wandb failed and is left out (OSError); nothing measured is lost."]
    assert sum(what == fails_at for what, _ in broken.heard) == 1, "it is not tried again"
    assert sum(what == "log" for what, _ in whole.heard) == 5


def test_a_whole_run_tells_no_row_no_path_and_not_the_name_of_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = install(monkeypatch, "wandb")
    model = save_model(tmp_path / "secretfolder" / "mymodel")
    rows = save_rows(tmp_path / "patients.jsonl", small_rows())
    answer = rightrank.recommend(
        str(model), rows, out=tmp_path / "run", recipe=Recipe().given(epochs=1, batch_size=8), ranks=(4, 8), budget_minutes=5,
        device="cpu", report_to="wandb",
    )  # fmt: skip
    told = json.dumps(
        [(what, values) for what, values in fake.heard if what != "init"] + [fake.heard[0][1]["config"]]
    )
    assert sum(what == "log" for what, _ in fake.heard) == len(answer.points)
    assert "mymodel" in told and answer.data.fingerprint in told
    assert not any(
        word in told for word in ("patients", "secretfolder", str(tmp_path), "find", "<|im_start|>")
    )
    summary = next(values for what, values in fake.heard if what == "summary")
    assert summary["choice/rank"] == answer.choice.rank and summary["status"] == answer.status
