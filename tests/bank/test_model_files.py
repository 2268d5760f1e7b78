"""Folders and GGUF files of models that lead elsewhere, run code, or never end: refused before anything of them is loaded."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rightrank.bank.base_model import load_base, load_tokenizer
from rightrank.bank.model_files import check_gguf
from rightrank.bank.model_source import locate
from rightrank.errors import ModelError, UnsafeModelError
from small_run import save_model

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def index(folder: Path, *names: object) -> None:
    """As of a model in several files."""
    weights = {f"w{i}": name for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))


def outside(name: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        index(folder, "model.safetensors", name)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (beside, "holds an adapter beside the model, and would load another model for it"),
        (outside("../other/model.safetensors"), "does not list weights of its folder"),
        (outside("/etc/model.safetensors"), "does not list weights of its folder"),
        (outside("pytorch_model.bin"), "does not list weights of its folder"),
        (outside(None), "does not list weights of its folder"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[" * 5_000), "is no JSON"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "is no JSON object"),
        (lambda f: configure(f, transformers_weights="../x.safetensors"), "names no weights of its folder"),
        (lambda f: configure(f, transformers_weights="x.bin"), "names no weights of its folder"),
        (lambda f: configure(f, num_hidden_layers=10**9), "'num_hidden_layers' is beyond 2,000"),
        (lambda f: configure(f, text_config={"num_experts": 10**6}), "'num_experts' is beyond 2,000"),
        (lambda f: configure(f, num_hidden_layers=float("nan")), "'num_hidden_layers' is beyond 2,000"),
        (lambda f: os.mkfifo(f / "tokenizer.model"), "tokenizer.model is a pipe or a device"),
    ],
)
@pytest.mark.parametrize("load", [load_base, load_tokenizer])
def test_folders_that_are_refused(folder: Path, spoil: Callable[[Path], Any], words: str, load: Any) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=words):
        load(str(folder))


@pytest.mark.parametrize(
    "setting",
    [
        {"attn_implementation": "someone/kernels"},
        {"_attn_implementation": "someone/kernels"},
        {"attn_implementation": {"text_config": "someone/kernels"}},
        {"vision_config": {"experts_implementation": "someone/kernels"}},
    ],
)
def test_code_from_the_hub_runs_only_where_it_is_trusted(folder: Path, setting: dict[str, Any]) -> None:
    configure(folder, **setting)
    with pytest.raises(
        UnsafeModelError, match=r"run code from the hub \('someone/kernels'\).*--trust-remote-code"
    ):
        locate(str(folder))
    assert locate(str(folder), trust_remote_code=True).path == str(folder)


def test_a_model_that_needs_no_code_of_its_own_runs_none(folder: Path) -> None:
    """Many folders come with code that transformers has itself by now."""
    configure(folder, auto_map={"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Config"})
    (folder / "modeling.py").write_text(f"open({str(folder / 'it-ran')!r}, 'w')")
    assert type(load_base(str(folder), device="cpu").model).__module__.startswith("transformers.models.llama")
    assert not (folder / "it-ran").exists()


@pytest.mark.parametrize(
    "name",
    ["./x", "~/x", "~nobody-here/x", "/x/y", "x.safetensors", "x.bin", "a\0b", "x" * 3_000, "here/missing"],
)
def test_names_that_never_leave_the_machine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ModelError, match="There is no model at"):
        locate(name)
    assert locate("owner/name").path == "owner/name", "as a hub id may"


# --- GGUF -------------------------------------------------------------------------------------------------------------------------


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def gguf(*fields: bytes, tensors: bytes = b"", counts: tuple[int, int] | None = None) -> bytes:
    number = (1 if tensors else 0, len(fields)) if counts is None else counts
    return b"GGUF" + struct.pack("<IQQ", 3, *number) + b"".join(fields) + tensors + b"\0" * 64


NAME = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
LAYERS = text(b"llama.block_count") + struct.pack("<II", 4, 1)
TENSOR = text(b"w") + struct.pack("<IQQIQ", 2, 8, 8, 0, 0)
WORDS = text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b")
NESTED = text(b"n") + struct.pack("<II", 9, 9) + struct.pack("<QI", 1, 9) * 9 + struct.pack("<Q", 0)


GOOD = (NAME, LAYERS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + gguf(*GOOD, tensors=TENSOR)[4:],
        gguf(*GOOD, tensors=TENSOR, counts=(1, 2**40)),
        gguf(*GOOD, tensors=TENSOR, counts=(2**60, 2)),
        gguf(*GOOD, text(b"tokens") + struct.pack("<IIQ", 9, 4, 2**62), tensors=TENSOR),
        gguf(*GOOD, text(b"tokens") + struct.pack("<IIQ", 9, 8, 2**40), tensors=TENSOR),
        gguf(*GOOD, struct.pack("<Q", 2**63) + b"x", tensors=TENSOR),
        gguf(*GOOD, text(b"x") + struct.pack("<I", 99), tensors=TENSOR),
        gguf(*GOOD, NESTED, tensors=TENSOR),
        gguf(*GOOD, tensors=text(b"w") + struct.pack("<I", 2**32 - 1)),
        gguf(*GOOD, tensors=TENSOR)[:-80],
        gguf(NAME, text(b"llama.block_count") + struct.pack("<II", 4, 2), tensors=TENSOR),
        gguf(NAME, LAYERS, text(b"llama.expert_count") + struct.pack("<II", 4, 2_001), tensors=TENSOR),
        gguf(NAME, tensors=TENSOR),
        gguf(LAYERS, tensors=TENSOR),
        gguf(NAME, text(b"other.block_count") + struct.pack("<II", 4, 1), tensors=TENSOR),
    ],
)
def test_gguf_files_that_announce_more_than_they_hold(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    for load in (load_base, load_tokenizer):
        with pytest.raises(
            ModelError, match=r"cannot be loaded: it is no complete GGUF file\. Download it again"
        ):
            load(str(tmp_path / "m.gguf"))


def test_a_gguf_header_as_it_should_be(tmp_path: Path) -> None:
    scores = text(b"scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.0)
    (tmp_path / "m.gguf").write_bytes(gguf(NAME, WORDS, LAYERS, scores, tensors=TENSOR))
    check_gguf(tmp_path / "m.gguf", "m.gguf")
