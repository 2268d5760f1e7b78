"""``rightrank cut``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rightrank.cli.app import Debug, Json, Out, Seed, app, quiet_libraries, set_debug
from rightrank.errors import StoppedError


@app.command(short_help="Choose the rank after training: cut an adapter.")
def cut(
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", help="Folder of a LoRA adapter that PEFT saved.", show_default=False
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Rows that the adapter was NOT trained on, as for recommend.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Its base. Default: as the adapter says.")
    ] = None,
    uniform: Annotated[
        bool,
        typer.Option("--uniform", help="One rank and scale for all layers, as vLLM and llama.cpp want it."),
    ] = False,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Each layer its own rank: a little better at the same size.")
    ] = False,
    max_length: Annotated[
        int | None, typer.Option("--max-length", metavar="N", help="Tokens a row. Default: 1024.")
    ] = None,
    loss_on: Annotated[
        str | None, typer.Option("--loss-on", metavar="WHAT", help="completion (default) or all.")
    ] = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Leave string prompts as they are.")
    ] = False,
    load_in_4bit: Annotated[
        bool, typer.Option("--load-in-4bit", help="The base in 4 bits (NF4), as QLoRA loads it.")
    ] = False,
    load_in_8bit: Annotated[
        bool, typer.Option("--load-in-8bit", help="The base in 8 bits, as LLM.int8 has it.")
    ] = False,
    out: Out = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cuda, cuda:1, cpu. Default: a GPU.")
    ] = None,
    seed: Seed = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model run code of its own.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose the rank after training: cut an adapter to the smallest rank that loses nothing."""
    set_debug(debug)
    quiet_libraries()
    from rich.console import Console

    from rightrank import progress
    from rightrank.arguments import bits, one_of
    from rightrank.cuts.cutting import cut as cut_adapter
    from rightrank.recipe import Recipe
    from rightrank.report.cut import print_cut, write_page

    console = Console(stderr=True, highlight=False)
    chosen_loss = one_of("--loss-on", loss_on, ("completion", "all"))
    try:
        result = cut_adapter(
            adapter,
            data,
            model,
            out=out,
            uniform=uniform,
            by_layer=by_layer,
            recipe=Recipe().given(max_length=max_length, loss_on=chosen_loss),
            chat_template=not no_chat_template,
            device=device,
            quantization=bits(load_in_4bit, load_in_8bit),
            trust_remote_code=trust_remote_code,
            seed=seed,
            on_text=lambda line: progress.say(console, line),
        )
    except KeyboardInterrupt as stop:
        raise StoppedError("Interrupted before there was an answer.", "") from stop
    page = write_page(result, Path(result.directory))
    if as_json:
        typer.echo(result.to_json())
    else:
        print_cut(result, Console(highlight=False), page)
    sys.stdout.flush()
