"""Options that more than one command takes: what will be trained, and where model and rows come from."""

from __future__ import annotations

from typing import Annotated

import typer

Epochs = Annotated[float | None, typer.Option(metavar="N", help="Epochs you will train. Default: 3.")]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", help="Rows a step, accumulation included. Default: 16.")
]
MaxLength = Annotated[int | None, typer.Option(metavar="N", help="Tokens a row at most. Default: 1024.")]
EvalData = Annotated[
    str | None, typer.Option(metavar="ROWS", help="Your held-out rows. Default: a fifth of DATA.")
]
LossOn = Annotated[str | None, typer.Option(metavar="WHAT", help="completion or all. Default: completion.")]
OverLong = Annotated[str | None, typer.Option(metavar="HOW", help="truncate or drop. Default: truncate.")]
NoChatTemplate = Annotated[bool, typer.Option("--no-chat-template", help="Leave string prompts as they are.")]
Revision = Annotated[str | None, typer.Option(metavar="REV", help="Of a hub model.")]
DataConfig = Annotated[str | None, typer.Option(metavar="NAME", help="Of a hub data set.")]
DataSplit = Annotated[str | None, typer.Option(metavar="NAME", help="Of a data set that has some.")]
DataRevision = Annotated[str | None, typer.Option(metavar="REV", help="Of a hub data set.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the model run code of its own.")
]
