"""Everything of ours that reads what others wrote: valid files to spoil, and the call that must take whatever becomes of them."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mutate
from rightrank.errors import UserError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

MOST_CHARACTERS = 400
ROWS: dict[str, list[dict[str, Any]]] = {
    "prompt": [{"prompt": f"question {i} é", "completion": f"answer {i}"} for i in range(24)],
    "alpaca": [{"instruction": f"do {i}", "input": "x" * (i % 3), "output": "yes"} for i in range(24)],
    "messages": [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": f"say {i}"}]},
                {"role": "assistant", "content": "said", "reasoning_content": "hm"},
            ]
        }
        for i in range(24)
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"hi {i}"}, {"from": "gpt", "value": "ho"}], "id": i}
        for i in range(24)
    ],
    "text": [{"text": f"line {i}", "label": None} for i in range(24)],
}


@dataclass(frozen=True)
class Target:
    """``files``: what is valid, by path; ``use`` is called with the folder that holds them once one was spoiled."""

    name: str
    files: Callable[[], dict[str, bytes]]
    use: Callable[[Path], Any]
    spoilt: tuple[str, ...] = ()
    """Names of the files to spoil; none: any."""

    def spoil(self, folder: Path, rng: random.Random) -> None:
        files = dict(self.files())
        name = rng.choice([one for one in sorted(files) if not self.spoilt or one in self.spoilt])
        files[name] = spoiled(name, files[name], rng)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


def spoiled(name: str, content: bytes, rng: random.Random) -> bytes:
    """A file made invalid, or valid and odd: by its structure where it has one, by its bytes, or both."""
    times = rng.choice([1, 1, 2, 4])
    if name.endswith(".gz"):
        inside = spoiled(name[:-3], gzip.decompress(content), rng)
        whole = mutate.packed(inside, rng)
        return mutate.damaged(whole, rng) if rng.random() < 0.3 else whole
    if rng.random() < 0.6:
        if name.endswith(".jsonl"):
            return _spoiled_lines(content, rng, times)
        if name.endswith(".json"):
            return mutate.written(mutate.changed(json.loads(content), rng, times), rng)
        if name.endswith(".safetensors"):
            return _spoiled_header(content, rng, times)
    return mutate.damaged(content, rng, times)


def _spoiled_lines(content: bytes, rng: random.Random, times: int) -> bytes:
    lines = content.splitlines()
    for _ in range(times):
        at = rng.randrange(len(lines))
        value = (
            mutate.changed(json.loads(lines[at].decode(errors="replace")), rng)
            if rng.random() < 0.9
            else None
        )
        lines[at] = json.dumps(value, ensure_ascii=True).encode()
    return b"\n".join(lines)


def _spoiled_header(content: bytes, rng: random.Random, times: int) -> bytes:
    """A safetensors file whose header says something else."""
    length = int.from_bytes(content[:8], "little")
    header = mutate.written(mutate.changed(json.loads(content[8 : 8 + length]), rng, times), rng)
    claimed = len(header) if rng.random() < 0.8 else rng.choice([0, 2**63, 2**40, len(header) + 1])
    return claimed.to_bytes(8, "little") + header + content[8 + length :]


def resealed(content: bytes, rng: random.Random) -> bytes:
    """JSON of ours with values changed and a checksum that is right: anybody can write one."""
    from rightrank.runs.durable import CHECKSUM, sealed

    plain = {key: value for key, value in json.loads(content).items() if key != CHECKSUM}
    value = mutate.changed(plain, rng, rng.choice([1, 1, 2, 4]))
    try:
        return mutate.written(sealed(value), rng) if isinstance(value, dict) else mutate.written(value, rng)
    except (ValueError, RecursionError):  # nothing that JSON holds
        return mutate.written(value, rng)


def verdict(call: Callable[[], Any]) -> str:
    """``valid`` or ``refused``; AssertionError where a refusal is none that a person can read. All else is raised."""
    try:
        call()
    except UserError as error:
        for text in (error.problem, error.mend):
            assert text and text[-1] in ".)", f"no sentence: {text!r}"
            assert text.isprintable() and len(text) <= MOST_CHARACTERS, f"not to be shown: {text!r}"
        return "refused"
    return "valid"


def shown_as_it_is(lines: Iterable[str]) -> None:
    """AssertionError where a line that a command prints holds what a terminal acts upon."""
    from rich.console import Console

    from rightrank.progress import say

    for line in lines:
        out = io.StringIO()
        say(Console(file=out, width=100), line)
        assert out.getvalue().removesuffix("\n").isprintable(), f"not to be shown: {out.getvalue()!r}"


# --- rows -------------------------------------------------------------------------------------------------------------------------


def _text_rows(suffix: str, kind: str) -> Callable[[], dict[str, bytes]]:
    @cache
    def files() -> dict[str, bytes]:
        rows = ROWS[kind]
        plain = suffix.removesuffix(".gz")
        if plain == ".jsonl":
            content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        elif plain == ".json":
            content = json.dumps(rows if kind != "alpaca" else {"data": rows}, indent=1).encode()
        else:
            cells = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
            content = "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in cells).encode()
        return {f"rows{suffix}": gzip.compress(content) if suffix.endswith(".gz") else content}

    return files


@cache
def _parquet() -> dict[str, bytes]:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS["sharegpt"]), buffer)
    return {"rows.parquet": buffer.getvalue()}


@cache
def _datasets_folder() -> dict[str, bytes]:
    import tempfile

    import datasets

    with tempfile.TemporaryDirectory() as folder:
        data = datasets.Dataset.from_list(ROWS["prompt"])
        datasets.DatasetDict({"train": data, "test": data}).save_to_disk(folder)
        return _content(Path(folder))


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _understand(name: str) -> Callable[[Path], Any]:
    def use(folder: Path) -> Any:
        from rightrank.data import understand
        from rightrank.data.prepare import fingerprint

        parsed = understand(folder / name if name else folder)
        return fingerprint([parsed.conversations])

    return use


# --- models and adapters ----------------------------------------------------------------------------------------------------------


@cache
def _model_folder() -> dict[str, bytes]:
    import tempfile

    from small_run import save_model

    with tempfile.TemporaryDirectory() as folder:
        return _content(save_model(Path(folder)))


def _load_model(folder: Path) -> Any:
    """Load it, and put rows through its tokenizer and chat template."""
    from rightrank.bank.base_model import load_base
    from rightrank.data import prepare
    from rightrank.recipe import Recipe

    base = load_base(str(folder), device="cpu")
    return prepare(ROWS["prompt"], base.tokenizer, Recipe())


@cache
def _gguf() -> dict[str, bytes]:
    """A whole model of one layer with its tokenizer, as llama.cpp's converter writes them."""
    import tempfile

    import gguf
    import numpy as np

    width, words = 16, [*"abcdefghijklmnopqrstuvwxyz", "<s>", "</s>", "ab", "cd"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(64)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(32)
        writer.add_head_count(2)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(width // 2)
        writer.add_vocab_size(len(words))
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(words)
        writer.add_token_types([1] * len(words))
        writer.add_token_merges(["a b", "c d"])
        writer.add_bos_token_id(26)
        writer.add_eos_token_id(27)
        shapes = {"token_embd": (len(words), width), "output_norm": (width,), "output": (len(words), width)}
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.0.{name}"] = (width, width)
        shapes |= {f"blk.0.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.0.ffn_{name}": (32, width) for name in ("gate", "up")} | {
            "blk.0.ffn_down": (width, 32)
        }
        for name, shape in shapes.items():
            writer.add_tensor(f"{name}.weight", np.full(shape, 0.1, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {"model.gguf": path.read_bytes()}


def _load_gguf(folder: Path) -> Any:
    from rightrank.bank.base_model import load_base

    return load_base(str(folder / "model.gguf"), device="cpu")


@cache
def _bank() -> Any:
    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.targets import find_targets
    from tiny import tiny_base

    base = tiny_base(hidden=16, layers=1)
    return AdapterBank(
        find_targets(base.model), [AdapterSpec(4, 8, 1e-3)], device=base.device, dtype=base.dtype
    )


@cache
def _adapter() -> dict[str, bytes]:
    import tempfile

    from rightrank.bank.peft_format import export_adapter

    with tempfile.TemporaryDirectory() as folder:
        return _content(export_adapter(_bank(), 0, folder, base_name="tiny"))


def _import_adapter(folder: Path) -> None:
    from rightrank.bank.peft_format import import_adapter

    import_adapter(_bank(), 0, folder)


# --- answers --------------------------------------------------------------------------------------------------------------------


@cache
def _answer() -> dict[str, bytes]:
    from report.samples import sample

    return {"recommendation.json": sample("UNDECIDED").to_json().encode()}


def _read_answer(folder: Path) -> Any:
    """Read it, and show it in every way."""
    from rich.console import Console

    from rightrank.recommendation import Recommendation
    from rightrank.report import page
    from rightrank.report.terminal import print_recommendation

    text = (folder / "recommendation.json").read_bytes().decode("utf-8", errors="replace")
    answer = Recommendation.from_json(text)
    print_recommendation(answer, Console(file=io.StringIO(), width=100), {})
    answer.to_json()
    answer._repr_html_()
    page.write(answer, folder)
    return answer


def targets() -> list[Target]:
    """All of them, the quick ones first."""
    rows = [
        Target(f"{kind} rows{suffix}", _text_rows(suffix, kind), _understand(f"rows{suffix}"))
        for kind, suffix in (
            ("prompt", ".jsonl"),
            ("messages", ".jsonl"),
            ("sharegpt", ".json"),
            ("alpaca", ".json"),
            ("text", ".jsonl.gz"),
            ("prompt", ".csv"),
            ("text", ".csv.gz"),
            ("messages", ".json.gz"),
        )
    ]
    from configs import config_targets
    from other_files import other_targets
    from run_directories import run_targets

    weights = tuple(_model_folder())
    return [
        *rows,
        Target("rows.parquet", _parquet, _understand("rows.parquet")),
        Target("datasets folder", _datasets_folder, _understand("")),
        Target("adapter folder", _adapter, _import_adapter),
        Target("saved answer", _answer, _read_answer),
        *config_targets(),
        *other_targets(),
        *run_targets(),
        Target("GGUF file", _gguf, _load_gguf),
        Target("model folder", _model_folder, _load_model, weights),
    ]
