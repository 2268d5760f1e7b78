"""``rightrank runs``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, Json, app, set_debug


@app.command()
def runs(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of runs. Default: rightrank-runs.", show_default=False),
    ] = Path("rightrank-runs"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List your runs: model, data, answer and cost."""
    set_debug(debug)
    from rightrank.runs.history import list_runs, run_lines

    found = list_runs(directory)
    typer.echo(
        json.dumps([asdict(run) for run in found], indent=1) if as_json else "\n".join(run_lines(found))
    )
