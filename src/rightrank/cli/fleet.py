"""``rightrank fleet``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, Json, app, set_debug


@app.command(short_help="The smallest rank that serves many adapters.")
def fleet(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Directories of runs or cuts, one a tenant.", show_default=False
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The smallest rank that serves many adapters at once, and what each loses under less."""
    set_debug(debug)
    from rightrank.fleet import fleet_lines, plan_fleet, read_tenant

    found = plan_fleet([read_tenant(path) for path in runs])
    typer.echo(
        json.dumps(asdict(found), indent=1, ensure_ascii=False) if as_json else "\n".join(fleet_lines(found))
    )
