"""``rightrank compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, Json, app, set_debug

OneRun = Annotated[Path, typer.Argument(metavar="A", help="A run's directory.", show_default=False)]
OtherRun = Annotated[Path, typer.Argument(metavar="B", help="Another's.", show_default=False)]


@app.command()
def compare(a: OneRun, b: OtherRun, as_json: Json = False, debug: Debug = False) -> None:
    """Say whether the answers of two runs to one question differ.

    Exit code 1 where they do, 2 where the runs answer different questions.
    """
    set_debug(debug)
    from rightrank.runs import comparison

    found = comparison.compare(comparison.read_side(a), comparison.read_side(b))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(comparison.comparison_lines(found)))
    raise typer.Exit(comparison.exit_code(found))
