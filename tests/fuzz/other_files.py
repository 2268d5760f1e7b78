"""Files of a cut, rows to hold out and of old skills, and what a person's own measure prints, to spoil."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mutate
from targets import Target, resealed, shown_as_it_is, spoiled

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

OUTPUTS = [
    b"0.5\n", b"1e308\n", b"-1e308", b"5e-324\n", b"inf\n", b"nan\n", b"1e999\n", b"1_000\n", b"0.5\r\n", b"\xff0.5\n", b"0x10\n", b"",
    b"\n\n", b"x" * 100_000, b"0.5 " * 5_000, b"9" * 5_000, b"\xd9\xa1\xd9\xa2\n", b"0.5\x00\n", b"\x1b[31m0.5\n", b"accuracy: 0.5\n",
]  # fmt: skip
COMMANDS = [
    "cat", "cat '", "", " ", "\x00", "./none", "/etc/passwd", "cat \x1b[31m", "nosuchprogram --x", "x" * 5_000, "cat -- nothing",
    "false", "~/x",
]  # fmt: skip


class ResealedTarget(Target):
    """JSON with a checksum, which whoever changes it can mend."""

    def spoil(self, folder: Path, rng: random.Random) -> None:
        for name, content in self.files().items():
            (folder / name).write_bytes(
                resealed(content, rng) if rng.random() < 0.8 else spoiled(name, content, rng)
            )


@cache
def _cut() -> dict[str, bytes]:
    sys.path.append(str(Path(__file__).parents[1] / "cuts"))
    from rightrank.runs.durable import sealed
    from samples_of_cuts import a_cut

    return {"cut.json": json.dumps(sealed(json.loads(a_cut().to_json()))).encode()}


def _read_cut(folder: Path) -> None:
    """Plan a fleet with it, as ``rightrank fleet`` does, and show it in every way."""
    from rich.console import Console

    from rightrank.cuts.result import CutResult
    from rightrank.fleet import fleet_lines, plan_fleet, read_tenant
    from rightrank.report.cut import print_cut, write_page

    found = plan_fleet([read_tenant(folder), read_tenant(folder / "cut.json")])
    shown_as_it_is(fleet_lines(found))
    result = CutResult.from_json((folder / "cut.json").read_text(encoding="utf-8"))
    out = io.StringIO()
    print_cut(result, Console(file=out, width=100), write_page(result, folder))
    assert out.getvalue().replace("\n", "").isprintable()
    result.to_json()


@cache
def _tokenizer() -> Any:
    from small_run import word_tokenizer

    return word_tokenizer()


@cache
def _held_out() -> dict[str, bytes]:
    from small_run import small_rows

    return {"rows.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in small_rows(80))}


def _read_held_out(folder: Path) -> None:
    from rightrank.data.held_out import prepare_held_out
    from rightrank.recipe import Recipe

    shown_as_it_is(prepare_held_out(str(folder / "rows.jsonl"), _tokenizer(), Recipe()).notes)


def _read_old_skills(folder: Path) -> None:
    from rightrank.besides.forgetting import read_old_skills
    from rightrank.request import Request

    request = Request("model", "rows.jsonl", keep=str(folder / "rows.jsonl"))
    shown_as_it_is(read_old_skills(request, _tokenizer(), ()).notes)


@dataclass(frozen=True)
class MetricTarget(Target):
    """``out``: what the command prints; ``command``: how it is written."""

    def spoil(self, folder: Path, rng: random.Random) -> None:
        out = rng.choice(OUTPUTS)
        if rng.random() < 0.5:
            out = mutate.damaged(out, rng, rng.choice([1, 2]))
        command = "sh -c 'cat \"$0/out\"'"
        if rng.random() < 0.3:
            odd = rng.choice(COMMANDS)
            command = (
                odd if rng.random() < 0.7 else mutate.damaged(odd.encode(), rng).decode(errors="replace")
            )
        (folder / "out").write_bytes(out)
        (folder / "command").write_text(command, encoding="utf-8", newline="")


def _measure(folder: Path) -> None:
    """Run it, and judge a few finalists by its number."""
    from rightrank.besides.own_metric import Command, judged
    from rightrank.besides.results import OwnValue

    command = Command.of((folder / "command").read_bytes().decode())
    found = command.measure(folder, longest_seconds=5.0)
    values = [
        OwnValue(r, 16.0, 1e-3, seed, ("chosen",) if r == 8 else ("best",), found)
        for r in (8, 16)
        for seed in (0, 1)
    ]
    values += [replace(values[-1], value=-found), replace(values[0], value=0.0)]
    own = judged(command.text, -found / 2, 100, values)
    shown_as_it_is([own.sentence])
    json.dumps(own.base, allow_nan=False)


def other_targets() -> list[Target]:
    held: Callable[[], dict[str, bytes]] = _held_out
    return [
        ResealedTarget("cut.json", _cut, _read_cut),
        Target("held-out rows", held, _read_held_out),
        Target("rows of old skills", held, _read_old_skills),
        MetricTarget(
            "--metric output", lambda: {"out": b"0.5\n", "command": b"sh -c 'cat \"$0/out\"'"}, _measure
        ),
    ]
