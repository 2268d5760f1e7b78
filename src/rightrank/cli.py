"""The command line: parses, calls, prints. No logic."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rightrank.arguments import command_again, one_of, own_setting, rank_list
from rightrank.errors import ModelError, ResourceError, StoppedError, UserError

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
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and libraries' warnings.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cuda, cuda:1, cpu. Default: the first GPU.")
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Same seed, same result. Default: 0.", show_default=False)
]

_debug = False


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
    _set_debug(debug)
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
    _set_debug(debug)
    if not model.exists():
        raise ModelError(
            f"The demo model is not at {model}.", "`make demo` fetches it; or name it with --model."
        )
    from rightrank.recipe import Recipe

    rows = Path(__file__).parent / "demo" / "nl2bash.train.jsonl"
    options: dict[str, Any] = {
        "recipe": Recipe().given(epochs=1, batch_size=4),
        "budget_minutes": budget,
        "eval_data": str(rows.with_name("nl2bash.held_out.jsonl")),
        "out": out,
        "seed": seed,
    }
    _recommend(str(model), str(rows), options, dry_run=dry_run, as_json=as_json)


@app.command()
def report(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A run's directory, or its recommendation.json.", show_default=False
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print an answer again and write its report.html."""
    _set_debug(debug)
    from rightrank.recommendation import Recommendation

    path = directory / "recommendation.json" if directory.is_dir() else directory
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read.", "Name the directory of a finished run.") from error
    _deliver(Recommendation.from_json(text), path.parent, None, as_json=as_json)


def _recommend(model: str, data: str, options: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    from dataclasses import replace

    from rich.console import Console

    from rightrank import progress
    from rightrank.measuring import Request, measure, prepare

    _quiet_libraries()
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
    _deliver(answer, Path(answer.provenance.run_directory), request, as_json=as_json)


def _deliver(answer: Recommendation, directory: Path, request: Any, *, as_json: bool) -> None:
    """Write what lies beside the answer, and print the answer, whatever could not be written."""
    from rightrank.outputs import write_outputs

    written = write_outputs(answer, directory, request)
    try:
        if as_json:
            typer.echo(answer.to_json())
        else:
            from rich.console import Console

            from rightrank.report.terminal import print_recommendation

            print_recommendation(answer, Console(highlight=False), written.paths)
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


def _quiet_libraries() -> None:
    """Their progress bars would bury ours, and so would their advice, which ``--debug`` shows."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Read when the libraries are imported, which is after this.
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    if _debug:
        return
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "critical")


def _set_debug(debug: bool) -> None:
    global _debug  # noqa: PLW0603  (main() must know it after the command is gone)
    _debug = debug


def main() -> None:
    """Run the command line; one sentence and its mend for every error a person can cause."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not cost the answer
    sys.exit(_run())


def _run() -> int:
    """The exit code."""
    try:
        code = app(standalone_mode=False, prog_name="rightrank")
    except UserError as error:
        if _debug:
            raise
        _complain(f"{error.problem} {error.mend}")
        return error.exit_code
    except KeyboardInterrupt:
        return _stopped()
    except Exception as error:
        return _unexpected(error)
    if code == StoppedError.exit_code:  # typer makes this of Ctrl-C while a command still starts
        return _stopped()
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> int:
    said = getattr(error, "format_message", None)
    if said is not None:  # typer's own: an option that does not exist, a value that is none
        command = getattr(getattr(error, "ctx", None), "command_path", "rightrank")
        _complain(f"{str(said()).rstrip('.')}. See `{command} --help`.")
        return 2
    if type(error).__name__ == "Abort":
        return _stopped()
    if _debug:
        raise error
    _complain(
        f"This should not have happened ({type(error).__name__}). Run it with --debug and report what it prints."
    )
    return 1


def _stopped() -> int:
    _complain("Interrupted before anything was measured.")
    return StoppedError.exit_code


def _complain(text: str) -> None:
    printable = "".join(c if c.isprintable() else "?" for c in text.strip())
    try:
        sys.stderr.write(f"rightrank: {printable}\n")
        sys.stderr.flush()
    except OSError:
        pass


if __name__ == "__main__":
    main()
