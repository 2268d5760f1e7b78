"""``rightrank check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rightrank.arguments import command_again, measuring_instead
from rightrank.cli.app import Budget, Debug, Gpu, Json, Out, app, quiet_libraries, set_debug
from rightrank.errors import StoppedError


@app.command(short_help="Keep a config's settings, or change these lines?")
def check(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="YAML or JSON that names rank and learning rate: of TRL, Axolotl, Unsloth, LLaMA-Factory, MLX-LM, ms-swift"
            " or torchtune. No Python program.",
            show_default=False,
        ),
    ],
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure it instead of estimating; takes minutes.")
    ] = False,
    budget: Budget = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Instead of the config's.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="Instead of the config's.")
    ] = None,
    eval_data: Annotated[
        str | None,
        typer.Option(metavar="ROWS", help="Your held-out rows. Default: the config's, or a fifth."),
    ] = None,
    gpu: Gpu = None,
    out: Out = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Keep a config's rank, alpha and learning rate, or change these lines?"""
    set_debug(debug)
    quiet_libraries()
    from rich.console import Console

    from rightrank import progress
    from rightrank.estimates.checking import check as checked

    console = Console(stderr=True, highlight=False)
    try:
        if measure:
            with progress.shown(console) as advance:
                found = checked(
                    config,
                    model,
                    data,
                    measure=True,
                    eval_data=eval_data,
                    budget_minutes=budget,
                    out=out,
                    command=command_again(sys.argv[1:]),
                    on_text=lambda line: progress.say(console, line),
                    on_progress=advance,
                )
        else:
            found = checked(config, model, data, gpu=gpu, eval_data=eval_data)
    except KeyboardInterrupt as stop:
        problem = str(stop) or "Interrupted before anything was measured."
        raise StoppedError(problem, "") from stop
    if as_json:
        typer.echo(found.to_json())
        return
    from rightrank.estimates.shown import print_check

    print_check(found, Console(highlight=False), measuring_instead(sys.argv[1:]))
