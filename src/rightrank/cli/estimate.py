"""``rightrank estimate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rightrank.arguments import measuring_instead, one_of, own_setting, rank_list
from rightrank.cli.app import Debug, Gpu, Json, app, quiet_libraries, set_debug
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


@app.command(short_help="What is known in seconds, without measuring.")
def estimate(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model folder, .gguf file or hub id.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Rows: .jsonl, .json, .csv, .parquet, folder or hub id."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Your trainer's config names them.")
    ] = None,
    gpu: Gpu = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    max_length: MaxLength = None,
    yours: Annotated[
        str | None,
        typer.Option("--yours", metavar="R,ALPHA,LR", help="Also your own setting: 16,32,2e-4."),
    ] = None,
    eval_data: EvalData = None,
    loss_on: LossOn = None,
    over_long: OverLong = None,
    no_chat_template: NoChatTemplate = False,
    ranks: Annotated[
        str | None, typer.Option(metavar="R,R,...", help="Ranks to list. Default: 4 to 128.")
    ] = None,
    four_bit: Annotated[
        bool, typer.Option("--load-in-4bit", help="The base in 4 bits, as QLoRA loads it.")
    ] = False,
    revision: Revision = None,
    data_config: DataConfig = None,
    data_split: DataSplit = None,
    data_revision: DataRevision = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say in seconds what can be known before measuring; reads no weights.

    Also a guess of rank and learning rate from data sets recorded before, how far such guesses were off, and whether they beat r=32.
    """
    set_debug(debug)
    quiet_libraries()
    from rightrank.estimates.estimating import estimate as estimated
    from rightrank.recipe import Recipe

    recipe = Recipe().given(
        epochs=epochs,
        batch_size=batch_size,
        max_length=max_length,
        loss_on=one_of("--loss-on", loss_on, ("completion", "all")),
        over_long=one_of("--over-long", over_long, ("truncate", "drop")),
    )
    found = estimated(
        model,
        data,
        config=config,
        gpu=gpu,
        quantization="4-bit" if four_bit else None,
        recipe=recipe,
        yours=own_setting(yours),
        ranks=rank_list(ranks),
        eval_data=eval_data,
        data_config=data_config,
        data_split=data_split,
        data_revision=data_revision,
        revision=revision,
        chat_template=not no_chat_template,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        typer.echo(found.to_json())
        return
    from rich.console import Console

    from rightrank.estimates.shown import print_estimate

    print_estimate(found, Console(highlight=False), measuring_instead(sys.argv[1:]))
