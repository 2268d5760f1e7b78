"""``rightrank forget``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, app, set_debug


@app.command()
def forget(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory of a run or a cut.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    debug: Debug = False,
) -> None:
    """Delete a run or a cut: its losses, adapters, rows and reports."""
    set_debug(debug)
    from rightrank.runs import removal

    planned = removal.plan_removal(run)
    if not yes:
        removal.require_someone_to_ask(sys.stdin)
        typer.echo("\n".join(removal.lines_before(planned)))
        if not typer.confirm("Delete it?"):
            typer.echo("Nothing was deleted.")
            raise typer.Exit(1)
    removal.remove(planned)
    typer.echo(removal.line_after(planned))
