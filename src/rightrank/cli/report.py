"""``rightrank report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, Json, app, deliver, set_debug
from rightrank.errors import UserError


@app.command()
def report(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A run's directory, or its recommendation.json.", show_default=False
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print an answer again and write its report.html."""
    set_debug(debug)
    from rightrank.recommendation import Recommendation
    from rightrank.runs.durable import read_text

    path = directory / "recommendation.json" if directory.is_dir() else directory
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read.", "Name the directory of a finished run.") from error
    deliver(Recommendation.from_json(text), path.parent, None, as_json=as_json)
