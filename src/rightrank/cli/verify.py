"""``rightrank verify``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, Device, Json, app, quiet_libraries, set_debug
from rightrank.cli.options import TrustRemoteCode
from rightrank.errors import StoppedError


@app.command(short_help="Check a run's files; train one setting again.")
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's directory.", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Where the model is now, if it has moved.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="Where the rows are now, if they have moved.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option("--eval-data", metavar="ROWS", help="Where your held-out rows are now.")
    ] = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a run's files, and train one of its settings again: are the losses the same?"""
    set_debug(debug)
    quiet_libraries()
    from rich.console import Console

    from rightrank import progress
    from rightrank.runs.verifying import verify as verified

    console = Console(stderr=True, highlight=False)
    try:
        found = verified(
            directory,
            model=model,
            dataset=data,
            eval_data=eval_data,
            device=device,
            trust_remote_code=trust_remote_code,
            on_text=lambda line: progress.say(console, line),
        )
    except KeyboardInterrupt as stop:
        raise StoppedError("Interrupted; nothing was changed.", "") from stop
    if as_json:
        typer.echo(json.dumps({"holds": found.holds, **asdict(found)}, indent=1))
    else:
        for line in str(found).splitlines():
            progress.say(Console(highlight=False), line)
    sys.stdout.flush()
    if not found.holds:
        raise typer.Exit(1)
