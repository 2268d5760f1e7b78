"""Directories of runs to spoil: listed, compared, shown, served and deleted by the commands that people type; verified and resumed."""

from __future__ import annotations

import atexit
import io
import json
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mutate
from rightrank.errors import UserError
from targets import Target, resealed, verdict

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

KEPT = b"nobody may touch this"
OURS = [
    "lock", "report.html", "adapters", "adapters.old", "adapter.part", "finished_adapter", "own_measure.json", "old_skills.json",
    "trl_rows", "trl_rows/train.jsonl", "chat_rows", "packs/0000.json.part", "run.json.part", "packs/0099.json", "tensorboard",
    "peft_lora_config.json",
]  # fmt: skip
NAMES = [
    "{} copy{}",
    "{}{}.bak",
    "x{}{}",
    "{}x{}",
    "-{}{}",
    "99999999999999999999{}{}",
    "\u0663{}{}",
    "\x1b[31m{}{}",
]


@cache
def _place() -> Path:
    """Model and rows, which a run that is verified or resumed loads again."""
    from small_run import save_model, save_rows

    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    save_model(place / "model")
    save_rows(place / "rows.jsonl")
    return place


def _real_run(out: Path, *, resume: bool) -> Any:
    sys.path.append(str(Path(__file__).parents[1] / "faults"))
    import small_world

    return small_world.real_run(_place(), out, resume=resume)


@cache
def _run() -> dict[str, bytes]:
    """A finished run, and one of its plans without a result."""
    run = _place() / "run"
    _real_run(run, resume=False)
    files = {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    return {f"run/{name}": content for name, content in files.items()} | {"outside/kept": KEPT}


@dataclass(frozen=True)
class RunTarget(Target):
    """Damage that a checksum shows, damage that it does not, and things that lie there in place of files."""

    def spoil(self, folder: Path, rng: random.Random) -> None:
        for path, content in self.files().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        for _ in range(rng.choice([1, 1, 2])):
            place = folder / rng.choice([name for name in sorted(self.files()) if name.startswith("run/")])
            if rng.random() < 0.4:  # most of the others are results
                place = rng.choice(
                    [folder / "run" / "run.json", folder / "run" / "recommendation.json", place]
                )
            if place.is_symlink() or not place.is_file():
                continue
            if rng.random() < 0.75:
                place.write_bytes(_other_content(place.name, place.read_bytes(), rng))
            else:
                _put(folder / "run" / rng.choice(OURS) if rng.random() < 0.4 else place, rng)


def _other_content(name: str, content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.15:
        return mutate.damaged(content, rng)
    try:
        return resealed(content, rng) if name.endswith(".json") else resealed_result(content, rng)
    except (ValueError, KeyError):  # a trained adapter's weights, or what was spoilt before
        return mutate.damaged(content, rng)


def resealed_result(content: bytes, rng: random.Random) -> bytes:
    """The losses of a pack with other arrays or facts and a checksum that is right."""
    from safetensors.numpy import load, save

    body = content[32:]
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    arrays, facts = load(body), header["__metadata__"]["facts"].encode()
    if rng.random() < 0.6:
        facts = mutate.written(mutate.changed(json.loads(facts), rng, rng.choice([1, 1, 3])), rng)
    else:
        name = rng.choice(sorted(arrays))
        arrays[name] = _odd_array(arrays[name], rng)
    body = save(arrays, metadata={"facts": facts.decode("utf-8", errors="replace")})
    body = mutate.damaged(body, rng) if rng.random() < 0.1 else body
    return sha256(body).digest() + body


def _odd_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    number = rng.choice([0.0, -1.0, 1e308, -1e308, float("nan"), float("inf")])
    with np.errstate(all="ignore"):
        whole = [
            np.full(array.shape, number),
            array[:0],
            array[..., :1],
            np.concatenate([array, array]),
            array.ravel(),
            np.array(1.0),
        ]
        whole += [
            array.astype(np.float32),
            array.astype(bool),
            np.zeros((3, 0, 2)),
            array[None],
            array.astype(np.int8),
        ]
    return np.ascontiguousarray(rng.choice(whole))


def _put(place: Path, rng: random.Random) -> None:
    """Something else where a file of ours is, or would be written."""
    kind = rng.randrange(7)
    if kind == 0 and place.is_file():
        odd = rng.choice(NAMES).format(place.stem, place.suffix)
        place.with_name(odd).write_bytes(place.read_bytes())
        return
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    up = "../" * len(place.relative_to(place.parents[len(place.parts) - 2]).parts)
    if kind == 1:
        place.mkdir()
    elif kind == 2:
        os.mkfifo(place)
    elif kind in (3, 4):
        outside = next(parent for parent in place.parents if (parent / "outside").is_dir()) / "outside"
        place.symlink_to(rng.choice([outside, outside / "kept", outside / "new", place, up]))
    elif kind == 5:
        place.touch()


def command(*words: str) -> None:
    """A command as people type it. AssertionError where it prints what a terminal acts upon."""
    from rightrank.cli import app

    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        app(list(words), standalone_mode=False)
    odd = out.getvalue().replace("\n", "")
    assert odd.isprintable(), f"not to be shown: {odd!r}"


def _all_of(calls: list[Callable[[], Any]]) -> None:
    """Every one of them; then the first refusal, if any."""
    refusal: UserError | None = None
    for call in calls:

        def tried(call: Callable[[], Any] = call) -> None:
            nonlocal refusal
            try:
                call()
            except UserError as error:
                refusal = refusal or error
                raise

        verdict(tried)
    if refusal is not None:
        raise refusal


def _untouched(folder: Path) -> None:
    outside = {path.name: path.read_bytes() for path in (folder / "outside").iterdir()}
    assert outside == {"kept": KEPT}, f"written outside of the run: {sorted(outside)}"


def _every_fourth(run: Path) -> bool:
    report = run / "report.html"
    if report.is_symlink() or not report.is_file():
        return True
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    return int(sha256(b"".join(path.read_bytes() for path in files)).hexdigest(), 16) % 4 == 0


def _look(folder: Path) -> None:
    run, whole = folder / "run", str(_place() / "run")
    words = [
        ("runs", str(folder)),
        ("runs", str(run), "--json"),
        ("compare", str(run), whole),
        ("compare", whole, str(run)),
        ("fleet", str(run), whole),
        # Drawing takes longest, and the reader of answers tries it as well: every fourth time, or where its place is taken.
        *([("report", str(run))] if _every_fourth(run) else []),
        ("forget", str(run), "--yes"),
    ]
    try:
        _all_of([lambda one=one: command(*one) for one in words])
    finally:
        _untouched(folder)


def _go_on(folder: Path) -> None:
    from rightrank.runs.verifying import verify

    run = folder / "run"

    def verified() -> None:
        assert all(line.isprintable() for line in str(verify(run)).splitlines())

    try:
        _all_of([verified, lambda: _real_run(run, resume=True)])
    finally:
        _untouched(folder)


def run_targets() -> list[Target]:
    return [
        RunTarget("run directory", _run, _look),
        RunTarget("run directory, resumed", _run, _go_on),
    ]
