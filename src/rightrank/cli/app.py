"""The application: the options that commands share, and what every command does around its work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rightrank.errors import ResourceError

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which LoRA rank? Measured on your model and your data, at a price stated beforehand.",
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model folder, .gguf file or hub id.", show_default=False)
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="Rows: .jsonl, .json, .csv, .parquet, folder or hub id.", show_default=False
    ),
]
MaybeModel = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="Model folder, .gguf file or hub id.", show_default=False),
]
MaybeData = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Rows: .jsonl, .json, .csv, .parquet, folder or hub id.",
        show_default=False,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", metavar="MIN", help="Minutes it may take. Default: one of your runs, 60 at most."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="For results. Default: rightrank-runs/...")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its price; train nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Gpu = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", help="Card to estimate for: h100, l4, ... Default: the one here."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and libraries' warnings.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cuda, cuda:1, cpu. Default: all GPUs.")
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Same seed, same result. Default: 0.", show_default=False)
]

MaybeSeed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Same seed, same result. Default: 0.", show_default=False),
]

_shown = {"debug": False}
"""Whether tracebacks are wanted: ``main`` must know it after the command is gone."""


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from rightrank import __version__

        typer.echo(f"rightrank {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def deliver(answer: Recommendation, directory: Path, request: Any, *, as_json: bool) -> None:
    """Write what lies beside the answer, and print the answer, whatever could not be written."""
    from rightrank.outputs import write_outputs

    written = write_outputs(answer, directory, request)
    try:
        if as_json:
            typer.echo(answer.to_json())
        else:
            from rich.console import Console

            from rightrank.report.terminal import print_recommendation, say

            console = Console(highlight=False)
            print_recommendation(answer, console, written.paths)
            for note in written.notes:
                say(console, note)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ResourceError(
            f"The answer cannot be printed: {error.strerror}.",
            f"It is kept: `rightrank report {directory}` prints it.",
        ) from error
    if written.problem is not None:
        raise written.problem


def quiet_libraries() -> None:
    """Their progress bars would bury ours, and so would their advice, which ``--debug`` shows."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Read when the libraries are imported, which is after this.
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    if _shown["debug"]:
        return
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # advice on kernels, at its import
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "critical")


def set_debug(debug: bool) -> None:
    """Remember whether tracebacks are wanted. The first line of every command."""
    _shown["debug"] = debug


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return _shown["debug"]
