"""``rightrank.recommend`` as Python calls it, and the command's promises about its files and its speed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import rightrank
from rightrank import Recipe, Recommendation, UserError
from small_run import save_model, save_rows, small_model, small_rows, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK: dict[str, Any] = {
    "recipe": Recipe().given(epochs=1, batch_size=8),
    "ranks": (4, 8),
    "budget_minutes": 5,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("api")
    save_model(place / "model")
    save_rows(place / "rows.jsonl")
    return place


@pytest.fixture(scope="module")
def by_path(folder: Path) -> Recommendation:
    return rightrank.recommend(str(folder / "model"), folder / "rows.jsonl", out=folder / "run", **QUICK)


def test_paths_in_a_recommendation_out(by_path: Recommendation, folder: Path) -> None:
    assert isinstance(by_path, Recommendation)
    assert by_path.choice.rank in (4, 8) and by_path.data.train == 80 and by_path.data.name == "rows.jsonl"
    assert by_path.model.name == str(folder / "model") and by_path.model.architecture == "LlamaForCausalLM"
    assert by_path.provenance.run_directory == str(folder / "run")
    assert Recommendation.from_json((folder / "run" / "recommendation.json").read_text()) == by_path


def test_to_peft_takes_the_choice(by_path: Recommendation) -> None:
    from peft import LoraConfig, get_peft_model

    config = by_path.to_peft()
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha) == (by_path.choice.rank, by_path.choice.alpha)
    adapted = get_peft_model(small_model(), config)
    ranks = {m.r["default"] for m in adapted.modules() if hasattr(m, "lora_A")}
    assert ranks == {by_path.choice.rank}


def test_save_and_notebook(by_path: Recommendation, tmp_path: Path) -> None:
    path = by_path.save(tmp_path / "elsewhere")
    assert Recommendation.from_json(path.read_text()) == by_path
    html = by_path._repr_html_()
    assert f"r={by_path.choice.rank}" in html and "<table" in html and "<script" not in html


def test_the_run_directory_is_private(by_path: Recommendation, folder: Path) -> None:
    for place in (folder / "run", folder / "run" / "packs"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, place


def state(model: Any) -> dict[str, Any]:
    return {
        "weights": {name: (p.clone(), p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "modules": [(name, type(m), m.training) for name, m in model.named_modules()],
        "forwards": [name for name, m in model.named_modules() if "forward" in m.__dict__],
        "hooks": [
            (name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for name, m in model.named_modules()
        ],
        "config": json.dumps(model.config.to_dict(), sort_keys=True, default=str),
        "attention": model.config._attn_implementation,
    }


@pytest.mark.parametrize("training", [True, False])
def test_a_loaded_model_comes_back_unmodified(training: bool, tmp_path: Path) -> None:
    model, tokenizer = small_model().train(training), word_tokenizer()
    next(model.parameters()).requires_grad_(False)
    ids = torch.arange(6, 18)[None]
    before, logits, template = state(model), model(input_ids=ids).logits, tokenizer.chat_template
    answer = rightrank.recommend(model, small_rows(), tokenizer=tokenizer, out=tmp_path / "run", **QUICK)
    assert answer.data.name == "rows in memory"
    after = state(model)
    for name, (weight, wanted, _) in before["weights"].items():
        assert torch.equal(weight, after["weights"][name][0]) and wanted == after["weights"][name][1], name
        assert after["weights"][name][2] is None
    assert {k: v for k, v in before.items() if k != "weights"} == {
        k: v for k, v in after.items() if k != "weights"
    }
    assert torch.equal(model(input_ids=ids).logits, logits)
    assert tokenizer.chat_template == template


def lasting(answer: Recommendation) -> dict[str, Any]:
    """All but times, memory and places."""
    plain = asdict(replace(answer, cost=replace(answer.cost, planned_minutes=0, took_minutes=0, peak_gib=0)))
    for key in ("created", "run_directory"):
        plain["provenance"].pop(key)
    for step in plain["to_decide"]:
        step.pop("minutes")
        step["command"] = step["command"].partition(" --budget")[0]
    for option in plain["options"]:
        option.pop("train_minutes")
    return plain


def test_rows_of_any_kind_and_equal_seeds_give_equal_answers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = small_rows()
    answers = [
        rightrank.recommend(small_model(), data, tokenizer=word_tokenizer(), out=tmp_path / f"{i}", **QUICK)
        for i, data in enumerate((rows, datasets.Dataset.from_list(rows)))
    ]
    assert lasting(answers[0]) == lasting(answers[1])
    other = rightrank.recommend(
        small_model(), rows, tokenizer=word_tokenizer(), out=tmp_path / "2", seed=1, **QUICK
    )
    assert lasting(other)["points"] != lasting(answers[0])["points"]


def stopper(after: int) -> Callable[[str, float, float], None]:
    """Ctrl-C at the ``after``-th word of progress; there is one for every step."""
    heard = iter(range(10_000))

    def advance(what: str, done: float, whole: float) -> None:
        if next(heard) == after:
            raise KeyboardInterrupt

    return advance


def test_ctrl_c_returns_what_is_known(tmp_path: Path) -> None:
    answer = rightrank.recommend(
        small_model(),
        small_rows(),
        tokenizer=word_tokenizer(),
        out=tmp_path / "run",
        on_progress=stopper(60),
        **QUICK,
    )
    assert answer.provenance.interrupted
    whole = rightrank.recommend(
        small_model(), small_rows(), tokenizer=word_tokenizer(), out=tmp_path / "run", resume=True, **QUICK
    )
    assert not whole.provenance.interrupted
    assert 0 < len(answer.points) < len(whole.points)
    first = whole.points[: len(answer.points)]
    assert [p.loss for p in answer.points] == [p.loss for p in first], "kept, not measured again"


@pytest.mark.parametrize("after", [0, 3])
def test_ctrl_c_before_the_first_comparison_is_ctrl_c(tmp_path: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        rightrank.recommend(
            small_model(),
            small_rows(),
            tokenizer=word_tokenizer(),
            out=tmp_path,
            on_progress=stopper(after),
            **QUICK,
        )


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (object(), {}, "A loaded model needs its tokenizer. Pass `tokenizer=`"),
        (object(), {"tokenizer": True}, "object is no model of transformers"),
        ("", {}, "No model is named"),
        (None, {"ranks": (0, 8)}, "0 is no rank"),
        (None, {"yours": (8, 16, float("inf"))}, "not above zero"),
        (None, {"max_rank": 0}, "The largest rank 0 is no rank"),
        (None, {"seed": 2**40}, "is no seed"),
        (None, {"resume": True}, "--resume needs"),
    ],
)
def test_one_sentence_for_what_is_wrong(
    model: Any, options: dict[str, Any], words: str, folder: Path
) -> None:
    given = str(folder / "model") if model is None else model
    if options.get("tokenizer") is True:
        options = {"tokenizer": word_tokenizer()}
    with pytest.raises(UserError) as caught:
        rightrank.recommend(given, small_rows(), **{**QUICK, **options})
    assert words in str(caught.value) and "Error" not in str(caught.value)


def test_a_model_that_carries_adapters_is_refused(by_path: Recommendation) -> None:
    from peft import get_peft_model

    adapted = get_peft_model(small_model(), by_path.to_peft())
    with pytest.raises(UserError, match="carries adapters already"):
        rightrank.recommend(adapted, small_rows(), tokenizer=word_tokenizer(), **QUICK)


def test_a_low_ceiling_still_gets_an_answer(tmp_path: Path) -> None:
    options = {**QUICK, "ranks": None, "max_rank": 2}
    answer = rightrank.recommend(
        small_model(), small_rows(), tokenizer=word_tokenizer(), out=tmp_path, **options
    )
    assert {point.rank for point in answer.points} == {1, 2}


# --- the command -------------------------------------------------------------------------------------------------------------------


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rightrank.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("arguments", [("--help",), ("recommend", "--help"), (), ("--version",)])
def test_help_is_quick_and_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from rightrank.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    took = []
    for _ in range(3):  # the best of three: other work on the machine is not ours
        started = time.monotonic()
        said = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        took.append(time.monotonic() - started)
    assert min(took) < 0.5
    imported = set(json.loads(said.stderr.replace("'", '"')))
    assert not imported & {"torch", "transformers", "numpy", "scipy", "jinja2", "datasets"}
    assert said.stdout.startswith("rightrank 0." if "--version" in arguments else "Usage: ")


def test_help_begins_with_what_is_used_most(tmp_path: Path) -> None:
    text = command("recommend", "--help", cwd=tmp_path).stdout
    options = [line.split()[0] for line in text.splitlines() if line.strip().startswith("--")]
    assert options[:4] == ["--budget", "--epochs", "--batch-size", "--max-length"]
    assert options.index("--out") < options.index("--schedule") < options.index("--trust-remote-code")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert not any(word in text for word in ("bank", "rung", "surface", "regret", "range>"))


def test_json_and_nothing_else_on_stdout(folder: Path, tmp_path: Path) -> None:
    options = (
        "--ranks",
        "4,8",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--budget",
        "2",
        "--device",
        "cpu",
        "--out",
        "run",
    )
    said = command("recommend", folder / "model", folder / "rows.jsonl", *options, "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    answer = Recommendation.from_json(said.stdout)
    assert answer.status and answer.provenance.command.startswith("rightrank recommend ")
    assert answer.provenance.command.endswith(shlex.join(options))
    assert all(
        "--out" not in step.command and step.command.count("--budget") == 1 for step in answer.to_decide
    )
    assert said.stderr.startswith("rows.jsonl: prompt/completion, 80 train / 20 held out.\n")
    assert "Loading weights" not in said.stderr and "%|" not in said.stderr and "\n\n" not in said.stderr
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {
        "report.html",
        "recommendation.json",
        "trl_sft.yaml",
        "peft_lora_config.json",
        "trl_rows",
    } <= files


def test_report_renders_again_from_the_json_alone(
    by_path: Recommendation, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "run" / "recommendation.json", tmp_path)
    code = (
        "import sys; from rightrank.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    )
    for source in (tmp_path, tmp_path / "recommendation.json"):
        said = subprocess.run(
            [sys.executable, "-c", code, "report", source], capture_output=True, text=True, check=True
        )
        assert f"r={by_path.choice.rank}" in said.stdout and said.stderr == ""
    assert {p.name for p in tmp_path.iterdir()} == {"recommendation.json", "report.html"}
    again = command("report", tmp_path, "--json", cwd=tmp_path)
    assert Recommendation.from_json(again.stdout) == by_path
    (tmp_path / "recommendation.json").write_text("{}")
    said = command("report", tmp_path, cwd=tmp_path)
    assert said.returncode == 2 and said.stdout == "" and said.stderr.startswith("rightrank: ")
