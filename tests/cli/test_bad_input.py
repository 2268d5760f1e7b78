"""Whatever a person gets wrong: one sentence that says what and its mend, nothing on stdout, no traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from commands import QUICK, Run, finished, own_process
from small_run import save_rows, small_model, small_rows, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORBIDDEN = ("bank", "pack ", "rung", "surface", "regret")


def refused(run: Run, *arguments: object, code: int = 2) -> str:
    said = run(*arguments)
    assert said.code == code, said.err
    assert said.out == ""
    sentence = said.complaint
    assert sentence.count(". ") >= 1 and sentence.endswith("."), "what is wrong, then its mend"
    assert not any(word in sentence for word in FORBIDDEN)
    return sentence


# --- the model ---------------------------------------------------------------------------------------------------------------------


def spoil_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(small_model().state_dict(), folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    spoil_config(
        folder,
        model_type="strange",
        auto_map={"AutoConfig": "strange.C", "AutoModelForCausalLM": "strange.M"},
    )
    (folder / "strange.py").write_text("open('it-ran', 'w')")


def unknown_architecture(folder: Path) -> None:
    spoil_config(folder, model_type="strange", architectures=["StrangeForCausalLM"])


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def damaged(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut_in_half(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def two_gguf(folder: Path) -> None:
    without("config.json", "model.safetensors")(folder)
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(b"GGUF")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickled, "model holds pickled weights, which can run code when loaded. Convert"),
        (
            remote_code,
            "wants to run code of its own. If you trust its author, run again with --trust-remote-code",
        ),
        (unknown_architecture, "no causal language model that this transformers knows"),
        (adapter, "model is an adapter, not a base model. Name the base model"),
        (without("config.json"), "model holds no config.json. Name a folder with config.json"),
        (without("model.safetensors"), "model holds no weights"),
        (
            damaged("model.safetensors", b"\x10\0\0\0\0\0\0\0garbage"),
            "The weights of model are damaged. Download",
        ),
        (cut_in_half, "The weights of model are damaged. Download"),
        (without("tokenizer.json", "tokenizer_config.json"), "model holds no tokenizer. Copy tokenizer.json"),
        (damaged("tokenizer.json", b"{"), "model cannot be loaded (JSONDecodeError"),
        (damaged("config.json", b"{"), "model cannot be loaded"),
        (lambda f: spoil_config(f, hidden_size=32), "The weights of model do not fit its config.json"),
        (
            lambda f: spoil_config(f, model_type="bert", architectures=["BertModel"]),
            "model lacks weights of BertLMHeadModel",
        ),
        (two_gguf, "model holds 2 GGUF models. Name the .gguf file"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:30],
)
def test_models_that_cannot_be_used(
    run: Run, model: Path, rows: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(model)
    assert words in refused(run, "model", rows)
    assert not (tmp_path / "it-ran").exists() and not (model / "it-ran").exists()
    assert not (tmp_path / "rightrank-runs").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./missing", "There is no model at ./missing. Name"),
        ("mode.gguf", "There is no model at mode.gguf. In its folder there is 'model.gguf'"),
        ("nobody/nothing", "nobody/nothing is no folder here and cannot be had from the hub. Check the name"),
        ("model.gguf", "model.gguf cannot be loaded: it is no complete GGUF file. Download it again"),
        ("model.pt", "model.pt holds pickled weights"),
        ("rows.jsonl", "rows.jsonl is a file, not a model"),
        ("", "No model is named"),
        ("x" * 3000, "There is no model at xxx"),
        ("./\x1b[31m[bold]", "There is no model at ./?[31m[bold]. Name"),
    ],
)
def test_names_that_are_no_model(run: Run, rows: Path, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\1" * 100)
    torch.save({}, tmp_path / "model.pt")
    assert words in refused(run, name, rows)


def test_model_and_data_in_the_wrong_order(run: Run, model: Path, rows: Path) -> None:
    assert "model is a model, not a data set. Name the model first" in refused(run, rows, model)


def test_a_model_that_reads_ahead(run: Run, model: Path, rows: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    (model / "model.safetensors").unlink()
    encoder = BertLMHeadModel(BertConfig(vocab_size=64, **shape))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 1.0)
    encoder.save_pretrained(model)
    assert "reads ahead" in refused(run, model, rows)


def test_a_tokenizer_of_another_model(run: Run, model: Path, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"extra{i}" for i in range(100)])
    tokenizer.save_pretrained(model)
    rows = [{**row, "completion": f"{row['completion']} extra90"} for row in small_rows()]
    sentence = refused(run, model, save_rows(tmp_path / "extra.jsonl", rows))
    assert "do not belong together: token 116 is none of its 64. Use" in sentence


def test_rows_longer_than_the_model_reads(run: Run, model: Path, tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"{row['prompt']} {'sort ' * 300}"} for row in small_rows()]
    sentence = refused(run, model, save_rows(tmp_path / "long.jsonl", rows))
    assert "reads 256. Use --max-length 256." in sentence


# --- the data ----------------------------------------------------------------------------------------------------------------------

GOOD = small_rows(400)
ODD = "\x1b[31m<script>[bold]"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([*GOOD[:311], '{"prompt": "a", ', *GOOD[312:]], "rows.jsonl, line 312 is not valid JSON"),
        ([*GOOD[:311], "[1]", *GOOD[312:]], "rows.jsonl, line 312 is a list, not a JSON object"),
        (
            [*GOOD[:7], {"prompt": "a", "completion": " "}],
            "line 8 has an empty completion. Mend or delete that line",
        ),
        (
            [{"question": "a", "reply": "b"}] * 30,
            "The columns 'question', 'reply' are no format that is understood",
        ),
        (GOOD[:1], "There is 1 usable example; at least 20 are needed. Give more"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 30, "preference pairs"),
        ([{"image": "x.png", "text": "b"}] * 30, "images, sound or video"),
        ([{"text": "a", "label": 1}] * 30, "class labels"),
        ([{ODD: "a", "reply": ODD}] * 30, "The columns '?[31m?script?[bold]', 'reply' are no format"),
        ([""], "rows.jsonl is empty. Give"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_data_that_cannot_be_used(
    run: Run, model: Path, tmp_path: Path, lines: list[Any], words: str
) -> None:
    sentence = refused(run, model, save_rows(tmp_path / "rows.jsonl", lines))
    assert words in sentence
    assert "\x1b" not in sentence and "<script>" not in sentence


def test_missing_data_is_named_with_what_is_there(run: Run, model: Path, rows: Path) -> None:
    assert "There is no file or folder 'row.jsonl'. In its folder there is 'rows.jsonl'." in refused(
        run, model, "row.jsonl"
    )


def test_every_row_too_long(run: Run, model: Path, rows: Path) -> None:
    sentence = refused(run, model, rows, "--over-long", "drop", "--max-length", "4")
    assert "Every row is longer than max_length (4)" in sentence and "--max-length 16" in sentence


# --- the settings ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--ranks", "8,4096"),
            "Rank 4096 is beyond the width of every module of this model (16). Give ranks from 1 to 16",
        ),
        (("--ranks", "8,x"), "--ranks '8,x' is no list of ranks. Give whole numbers"),
        (("--ranks", "0,8"), "0 is no rank. Give"),
        (("--ranks", "8", "--max-rank", "4"), "Every rank to try is above --max-rank 4. Raise"),
        (("--ranks", "8,16,8"), "The ranks to try name 8 more than once. Name each once"),
        (("--max-rank", "0"), "The largest rank 0 is no rank. Give"),
        (("--yours", "nonsense"), "--yours 'nonsense' is no setting. Give rank, alpha and learning rate"),
        (
            ("--yours", "8,16,nan"),
            "learning rate nan, has a number that is not above zero. Mend it in --yours",
        ),
        (("--yours", "512,16,1e-4"), "Rank 512 is beyond the width"),
        (("--budget", "0"), "A budget of 0 minutes is no time. Give"),
        (("--budget", "nan"), "A budget of nan minutes is no time. Give"),
        (("--budget", "soon"), "'--budget'"),
        (("--epochs", "-1"), "epochs is -1.0. Give"),
        (("--epochs", "inf"), "epochs never end. Give"),
        (("--weight-decay", "nan"), "weight decay of nan is none. Give"),
        (("--batch-size", "0"), "batch_size is 0. Give"),
        (("--warmup", "2"), "warmup_ratio is 2.0. Give"),
        (("--schedule", "square"), "--schedule 'square' is not known. Use linear, cosine or constant"),
        (("--seed", "-1"), "The seed -1 is no seed. Give"),
        (("--rank", "8"), "No such option: --rank"),
        (("--no\x1b[31m",), "No such option: --no"),
        (("--data-split", "train"), "has no splits, so none is called 'train'. Leave out --data-split"),
        (("--resume",), "--resume needs the run to go on with. Name its directory with --out"),
        (("--resume", "--out", "none"), "none holds no run to go on with. Leave --resume out to begin one"),
    ],
)
def test_settings_that_make_no_sense(
    run: Run, model: Path, rows: Path, options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    assert words in refused(run, model, rows, *options)
    assert not (tmp_path / "rightrank-runs").exists()


@pytest.mark.parametrize(
    ("options", "lines", "words"),
    [
        (("--ranks", "8,4096"), small_rows(), "Rank 4096 is beyond the width"),
        (("--yours", "512,16,1e-4"), small_rows(), "Rank 512 is beyond the width"),
        ((), small_rows(1), "There is 1 usable example"),
        ((), [*small_rows(), "{"], "line 101 is not valid JSON"),
        (("--eval-data", "few.jsonl"), small_rows(), "There are 3 usable examples in the held-out data"),
        (
            (),
            [{**row, "prompt": f"{row['prompt']} {'sort ' * 300}"} for row in small_rows()],
            "reads 256. Use --max-length 256.",
        ),
    ],
)
def test_what_can_be_refused_is_before_weights_are_read(
    run: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    lines: list[Any],
    words: str,
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("rightrank.executors.choose.open_workers", loaded)
    save_rows(tmp_path / "few.jsonl", small_rows(3, seed=1))
    assert words in refused(run, model, save_rows(tmp_path / "rows.jsonl", lines), *options)


def test_a_hub_that_cannot_be_reached_is_asked_twice(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unreachable(url: str, **_: Any) -> None:
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("rightrank.bank.hub.AGAIN_AFTER_SECONDS", 0.0)
    assert "nomodel is no folder here and cannot be had from the hub. Check" in refused(run, "nomodel", rows)
    assert len(asked) == 2 and asked[0].endswith("/nomodel/resolve/main/config.json")


def test_a_largest_rank_wider_than_the_model_is_said(run: Run, model: Path, rows: Path) -> None:
    said = run(model, rows, *QUICK, "--max-rank", "100000", "--dry-run")
    assert said.code == 0
    note = "--max-rank 100,000 is wider than every module of this model: 16 is the largest rank that one can have."
    assert said.err.count(note) == 1 and said.err.index(note) < said.err.index("Loading model")


def test_a_dry_run_says_what_takes_time(run: Run, model: Path, rows: Path) -> None:
    lines = [line.partition(" ")[0] for line in run(model, rows, *QUICK, "--dry-run").err.splitlines()]
    said = [word for word in lines if word in ("Loading", "model:", "Timing", "Plan:")]
    assert said[0] == "Loading" and said[-3:] == ["model:", "Timing", "Plan:"]


@pytest.mark.parametrize(
    ("device", "words"), [("meta", "'meta' cannot be used"), ("gpu", "'gpu' cannot be used")]
)
def test_devices_that_are_none(run: Run, model: Path, rows: Path, device: str, words: str) -> None:
    assert words in refused(run, model, rows, "--device", device, code=3)


def test_a_directory_that_cannot_be_written_to(run: Run, model: Path, rows: Path) -> None:
    odd = "taken\x1b[31m"
    (rows.parent / odd).write_text("a file")
    for out in (odd, f"{odd}/inside"):
        said = run(model, rows, "--out", out)
        shown = out.replace("\x1b", "?")
        assert said.code == 3 and said.out == ""
        assert f"Nothing can be written to {shown}. Name another folder with --out." in said.complaint
        assert len(said.err.splitlines()) == 1, "before anything is read or loaded"


# --- the real command, as a stranger runs it ---------------------------------------------------------------------------------------


def test_the_main_kinds_in_processes_of_their_own(model: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt"\n')
    pickled(tmp_path / "model")
    every = [
        own_process(tmp_path, "recommend", model, "missing.jsonl"),
        own_process(tmp_path, "recommend", "nobody/nothing", rows),
        own_process(tmp_path, "recommend", model, rows),
        own_process(tmp_path, "recommend", model, "bad.jsonl"),
        own_process(tmp_path, "recommend", model, rows, "--nonsense"),
        own_process(tmp_path, "recommend"),
        own_process(tmp_path, "report", "nowhere"),
    ]
    words = [
        "no file or folder",
        "cannot be had from the hub",
        "pickled",
        "line 2",
        "No such option",
        "No model to measure on.",
        "nowhere cannot be read",
    ]
    for process, expected in zip(every, words, strict=True):
        said = finished(process)
        assert said.code == 2 and said.out == "" and expected in said.complaint.replace("MODEL", "model")
        assert len(said.err.splitlines()) == 1


def test_debug_shows_the_traceback(model: Path, tmp_path: Path) -> None:
    said = finished(own_process(tmp_path, "recommend", model, "missing.jsonl", "--debug"))
    assert said.code == 1 and said.out == ""
    assert "Traceback" in said.err and "DataError: There is no file or folder 'missing.jsonl'" in said.err


def test_what_should_not_happen_says_so(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise AssertionError("\x1b[31msecret row text")

    monkeypatch.setattr("rightrank.bank.base_model.find_targets", broken)
    said = run(model, rows, *QUICK)
    assert said.code == 1 and said.out == ""
    assert said.complaint.startswith("This should not have happened (AssertionError). Run it with --debug")
    assert "secret" not in said.err


def test_a_dry_run_prints_its_plan_and_writes_nothing(
    run: Run, model: Path, rows: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    said = run(model, rows, *QUICK, "--dry-run", "--out", "run")
    assert said.code == 0 and said.out == "" and "Plan: about" in said.err
    assert set(tmp_path.iterdir()) == before


def test_small_data_needs_no_budget(run: Run, model: Path, rows: Path) -> None:
    """Where one run takes a second, no one is asked to allow more."""
    said = run(model, rows, "--ranks", "4,8", "--batch-size", "8", "--epochs", "1", "--dry-run")
    assert said.code == 0, said.err
