"""A GGUF's header is read once and means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rightrank.bank.gguf_header import header_read_once

if TYPE_CHECKING:
    from pathlib import Path

gguf = pytest.importorskip("gguf")


def written(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "wörd", ""])
    writer.add_tensor("token_embd.weight", np.arange(8, dtype=np.float32).reshape(2, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(path: Path) -> Any:
    reader = gguf.GGUFReader(path)
    fields = {name: [bytes(part) for part in field.parts] for name, field in reader.fields.items()}
    return fields, [(t.name, t.data.tolist()) for t in reader.tensors]


def test_the_fast_reader_reads_the_same(tmp_path: Path) -> None:
    path, plain = written(tmp_path / "m.gguf"), gguf.GGUFReader
    before = contents(path)
    with header_read_once():
        assert gguf.GGUFReader is not plain
        assert contents(path) == before
    assert gguf.GGUFReader is plain


def test_each_file_is_parsed_once_and_weights_always(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_gguf_pytorch_utils as theirs

    calls: list[Any] = []

    def load(path: str, return_tensors: bool = False) -> dict[str, Any]:
        calls.append((path, return_tensors))
        return {"config": {"layers": 3}}

    monkeypatch.setattr(theirs, "load_gguf_checkpoint", load)
    with header_read_once():
        first = theirs.load_gguf_checkpoint("a", return_tensors=False)
        first["config"].clear()  # what one caller does to it is not seen by the next
        assert theirs.load_gguf_checkpoint("a") == {"config": {"layers": 3}}
        theirs.load_gguf_checkpoint("b")
        theirs.load_gguf_checkpoint("a", return_tensors=True)
    assert calls == [("a", False), ("b", False), ("a", True)]
    assert theirs.load_gguf_checkpoint is load


def test_a_library_whose_names_are_others_reads_as_it_always_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(gguf, "GGUFReader")
    with header_read_once():
        assert not hasattr(gguf, "GGUFReader")
