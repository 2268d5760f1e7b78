"""``rightrank recommend`` and ``rightrank demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rightrank.arguments import command_again, one_of, own_setting, rank_list
from rightrank.cli.app import (
    Budget,
    Data,
    Debug,
    Device,
    DryRun,
    Json,
    Model,
    Out,
    Resume,
    Seed,
    app,
    deliver,
    quiet_libraries,
    set_debug,
)
from rightrank.errors import ModelError, StoppedError


@app.command()
def recommend(
    model: Model,
    data: Data,
    budget: Budget = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="N", help="Epochs you will train. Default: 3.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Rows a step, accumulation included. Default: 16.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens a row at most. Default: 1024.")
    ] = None,
    yours: Annotated[
        str | None,
        typer.Option("--yours", metavar="R,ALPHA,LR", help="Also measure your own setting: 16,32,2e-4."),
    ] = None,
    max_rank: Annotated[int | None, typer.Option(metavar="R", help="Largest rank you can serve.")] = None,
    eval_data: Annotated[
        str | None, typer.Option(metavar="ROWS", help="Your held-out rows. Default: a fifth of DATA.")
    ] = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    schedule: Annotated[
        str | None, typer.Option(metavar="NAME", help="linear, cosine or constant. Default: linear.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the steps. Default: 0.05.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(metavar="X", help="Default: 0.")] = None,
    dropout: Annotated[float | None, typer.Option(metavar="SHARE", help="LoRA dropout. Default: 0.")] = None,
    loss_on: Annotated[
        str | None, typer.Option(metavar="WHAT", help="completion or all. Default: completion.")
    ] = None,
    over_long: Annotated[
        str | None, typer.Option(metavar="HOW", help="truncate or drop. Default: truncate.")
    ] = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Leave string prompts as they are.")
    ] = False,
    ranks: Annotated[
        str | None, typer.Option(metavar="R,R,...", help="Ranks to try. Default: 4 to 128.")
    ] = None,
    device: Device = None,
    seed: Seed = 0,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Of a hub model.")] = None,
    data_config: Annotated[str | None, typer.Option(metavar="NAME", help="Of a hub data set.")] = None,
    data_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a data set that has some.")
    ] = None,
    data_revision: Annotated[str | None, typer.Option(metavar="REV", help="Of a hub data set.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model run code of its own.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure which rank, alpha and learning rate to use."""
    set_debug(debug)
    from rightrank.recipe import Recipe

    recipe = Recipe().given(
        epochs=epochs,
        batch_size=batch_size,
        max_length=max_length,
        schedule=one_of("--schedule", schedule, ("linear", "cosine", "constant")),
        warmup_ratio=warmup,
        weight_decay=weight_decay,
        dropout=dropout,
        loss_on=one_of("--loss-on", loss_on, ("completion", "all")),
        over_long=one_of("--over-long", over_long, ("truncate", "drop")),
    )
    options: dict[str, Any] = {
        "recipe": recipe,
        "budget_minutes": budget,
        "yours": own_setting(yours),
        "max_rank": max_rank,
        "ranks": rank_list(ranks),
        "eval_data": eval_data,
        "data_config": data_config,
        "data_split": data_split,
        "data_revision": data_revision,
        "revision": revision,
        "chat_template": not no_chat_template,
        "trust_remote_code": trust_remote_code,
        "device": device,
        "out": out,
        "resume": resume,
        "seed": seed,
    }
    _recommend(model, data, options, dry_run=dry_run, as_json=as_json)


@app.command()
def demo(
    model: Annotated[
        Path,
        typer.Option(
            "--model", metavar="FILE", help="The demo model; `make demo` fetches it.", show_default=False
        ),
    ] = Path(".cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf"),
    budget: Annotated[
        float,
        typer.Option(
            "--budget", metavar="MIN", help="Minutes it may take. Default: 4.5.", show_default=False
        ),
    ] = 4.5,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """The same for a small model on nl2bash: see it work."""
    set_debug(debug)
    if not model.exists():
        raise ModelError(
            f"The demo model is not at {model}.", "`make demo` fetches it; or name it with --model."
        )
    from rightrank.recipe import Recipe

    rows = Path(__file__).parents[1] / "demo" / "nl2bash.train.jsonl"
    options: dict[str, Any] = {
        "recipe": Recipe().given(epochs=1, batch_size=4),
        "budget_minutes": budget,
        "eval_data": str(rows.with_name("nl2bash.held_out.jsonl")),
        "out": out,
        "seed": seed,
    }
    _recommend(str(model), str(rows), options, dry_run=dry_run, as_json=as_json)


def _recommend(model: str, data: str, options: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    from dataclasses import replace

    from rich.console import Console

    from rightrank import progress
    from rightrank.measuring import Request, measure, prepare

    quiet_libraries()
    console = Console(stderr=True, highlight=False)
    request = Request(
        model,
        data,
        **options,
        command=command_again(sys.argv[1:]),
        on_text=lambda line: progress.say(console, line),
    )
    try:
        if dry_run:
            prepare(request)
            return
        with progress.shown(console) as advance:
            answer = measure(prepare(replace(request, on_progress=advance)))
    except KeyboardInterrupt as stop:
        problem = str(stop) or "Interrupted before anything was measured."
        raise StoppedError(problem, "") from stop
    deliver(answer, Path(answer.provenance.run_directory), request, as_json=as_json)
