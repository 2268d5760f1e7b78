"""``rightrank recommend`` and ``rightrank demo``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from rightrank.arguments import bits, command_again, one_of, own_setting, rank_list
from rightrank.cli.app import (
    Budget,
    Debug,
    Device,
    DryRun,
    Json,
    MaybeData,
    MaybeModel,
    MaybeSeed,
    Out,
    Resume,
    Seed,
    app,
    deliver,
    quiet_libraries,
    set_debug,
)
from rightrank.cli.options import (
    BatchSize,
    DataConfig,
    DataRevision,
    DataSplit,
    Epochs,
    EvalData,
    LossOn,
    MaxLength,
    NoChatTemplate,
    OverLong,
    Revision,
    TrustRemoteCode,
)
from rightrank.errors import ModelError, StoppedError


@app.command()
def recommend(
    model: MaybeModel = None,
    data: MaybeData = None,
    budget: Budget = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    max_length: MaxLength = None,
    yours: Annotated[
        str | None,
        typer.Option("--yours", metavar="R,ALPHA,LR", help="Also measure your own setting: 16,32,2e-4."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Your trainer's config, YAML or JSON: model, data, recipe come from it."
        ),
    ] = None,
    max_rank: Annotated[int | None, typer.Option(metavar="R", help="Largest rank you can serve.")] = None,
    eval_data: EvalData = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="Your own measure: CMD ADAPTER_DIR prints a number."),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="ROWS", help="Old skills: what does training take from them?")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also: do attention or MLP alone do as well as all layers?")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Then train the winner on all rows; keep the adapter.")
    ] = False,
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
    loss_on: LossOn = None,
    over_long: OverLong = None,
    no_chat_template: NoChatTemplate = False,
    ranks: Annotated[
        str | None, typer.Option(metavar="R,R,...", help="Ranks to try. Default: 4 to 128, then smaller.")
    ] = None,
    load_in_4bit: Annotated[
        bool, typer.Option("--load-in-4bit", help="The base in 4 bits (NF4), as QLoRA loads it.")
    ] = False,
    load_in_8bit: Annotated[
        bool, typer.Option("--load-in-8bit", help="The base in 8 bits, as LLM.int8 has it.")
    ] = False,
    report_to: Annotated[
        str | None, typer.Option(metavar="NAME", help="wandb, tensorboard, trackio, all. Default: none.")
    ] = None,
    device: Device = None,
    executor: Annotated[
        str | None, typer.Option(metavar="NAME", help="local or ray: a Ray cluster. Default: local.")
    ] = None,
    seed: MaybeSeed = None,
    revision: Revision = None,
    data_config: DataConfig = None,
    data_split: DataSplit = None,
    data_revision: DataRevision = None,
    trust_remote_code: TrustRemoteCode = False,
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
        "config": config,
        "finish": finish,
        "max_rank": max_rank,
        "ranks": rank_list(ranks),
        "quantization": bits(load_in_4bit, load_in_8bit),
        "eval_data": eval_data,
        "metric": metric,
        "keep": keep,
        "layers": layers,
        "report_to": report_to or (),
        "show_stderr": debug,
        "data_config": data_config,
        "data_split": data_split,
        "data_revision": data_revision,
        "revision": revision,
        "chat_template": False if no_chat_template else None,
        "trust_remote_code": trust_remote_code,
        "device": device,
        "executor": one_of("--executor", executor, ("local", "ray")),
        "out": out,
        "resume": resume,
        "seed": seed,
    }
    options = {name: value for name, value in options.items() if value is not None}
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


def _recommend(
    model: str | None, data: str | None, options: dict[str, Any], *, dry_run: bool, as_json: bool
) -> None:
    quiet_libraries()  # before anything imports them
    from dataclasses import replace

    from rich.console import Console

    from rightrank import progress
    from rightrank.from_config import request as make_request
    from rightrank.measuring import measure
    from rightrank.preparing import prepare
    from rightrank.stopping import heard_as_ctrl_c

    console = Console(stderr=True, highlight=False)
    request = make_request(
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
        # Some libraries print what they have to say, and stdout is for the answer alone.
        with heard_as_ctrl_c(), progress.shown(console) as advance, redirect_stdout(sys.stderr):
            answer = measure(prepare(replace(request, on_progress=advance)))
    except KeyboardInterrupt as stop:
        problem = str(stop) or "Interrupted before anything was measured."
        raise StoppedError(problem, "") from stop
    deliver(answer, Path(answer.provenance.run_directory), request, as_json=as_json)
