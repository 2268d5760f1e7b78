"""The command line: parses, calls, prints. No logic."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rightrank.errors import ResourceError, UserError

if TYPE_CHECKING:
    from rightrank.recommend import Request
    from rightrank.recommendation import Recommendation

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which LoRA rank? Measured on your model and your data, at a price stated beforehand.",
)

Model = Annotated[str, typer.Argument(help="Model folder, .gguf file or hub id.", show_default=False)]
Data = Annotated[
    str,
    typer.Argument(
        help="Your rows: .jsonl, .json, .csv, .parquet (.gz too), datasets folder, hub id.",
        show_default=False,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", min=0.0, help="Minutes it may take. Default: one run of your recipe, 60 at most."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Where results go. Default: rightrank-runs/<data>-<time>.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its price; train nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Device = Annotated[str | None, typer.Option("--device", help="cuda, cuda:1, cpu. Default: the first GPU.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result.")]

_debug = False


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from rightrank import __version__

        typer.echo(f"rightrank {__version__}")
        raise typer.Exit


@app.command()
def recommend(
    model: Model,
    data: Data,
    budget: Budget = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs you will train. Default: 3.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a step, accumulation included. Default: 16.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens a row. Default: 1024.")] = None,
    schedule: Annotated[str | None, typer.Option(help="linear, cosine or constant. Default: linear.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of steps. Default: 0.05.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Default: 0.")] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA dropout. Default: 0.")] = None,
    loss_on: Annotated[str | None, typer.Option(help="completion or all. Default: completion.")] = None,
    over_long: Annotated[str | None, typer.Option(help="truncate or drop. Default: truncate.")] = None,
    yours: Annotated[
        str | None,
        typer.Option("--yours", metavar="R,ALPHA,LR", help="Your own setting, measured too: 16,32,2e-4."),
    ] = None,
    max_rank: Annotated[int | None, typer.Option(min=1, help="Largest rank you can serve.")] = None,
    ranks: Annotated[
        str | None, typer.Option(metavar="R,R,…", help="Ranks to try. Default: 4 to 128.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Your own held-out rows. Default: a fifth of DATA.")
    ] = None,
    data_config: Annotated[str | None, typer.Option(help="Configuration of a hub data set.")] = None,
    data_split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    data_revision: Annotated[str | None, typer.Option(help="Revision of a hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Leave string prompts as they are.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model run code of its own.")
    ] = False,
    device: Device = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Measure which rank, learning rate and alpha suit MODEL and DATA."""
    _set_debug(debug)
    from rightrank.recipe import Recipe

    recipe = Recipe().given(
        epochs=epochs,
        batch_size=batch_size,
        max_length=max_length,
        schedule=_one_of("--schedule", schedule, ("linear", "cosine", "constant")),
        warmup_ratio=warmup,
        weight_decay=weight_decay,
        dropout=dropout,
        loss_on=_one_of("--loss-on", loss_on, ("completion", "all")),
        over_long=_one_of("--over-long", over_long, ("truncate", "drop")),
    )
    options: dict[str, Any] = {
        "recipe": recipe,
        "budget_minutes": budget,
        "yours": _own_setting(yours),
        "max_rank": max_rank,
        "ranks": _rank_list(ranks),
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
        "command": _command_again(),
    }
    _recommend(model, data, options, dry_run=dry_run, as_json=as_json)


@app.command()
def demo(
    model: Annotated[Path, typer.Option("--model", help="The demo model; `make demo` fetches it.")] = Path(
        ".cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
    budget: Budget = 4.0,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Recommend a rank for SmolLM2-135M on 288 rows of nl2bash (English to shell commands)."""
    _set_debug(debug)
    from rightrank.recipe import Recipe

    rows = Path(__file__).parent / "demo" / "nl2bash.train.jsonl"
    held_out = rows.with_name("nl2bash.held_out.jsonl")
    recipe = Recipe().given(epochs=1, batch_size=4)
    options: dict[str, Any] = {
        "recipe": recipe,
        "budget_minutes": budget,
        "eval_data": str(held_out),
        "out": out,
        "seed": seed,
        "command": "rightrank demo",
    }
    _recommend(str(model), str(rows), options, dry_run=dry_run, as_json=as_json)


@app.command()
def report(
    directory: Annotated[
        Path, typer.Argument(help="A run directory, or its recommendation.json.", show_default=False)
    ],
    debug: Debug = False,
) -> None:
    """Print an answer again and write its report.html, from the JSON alone."""
    _set_debug(debug)
    from rightrank.recommendation import Recommendation

    path = directory / "recommendation.json" if directory.is_dir() else directory
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read.", "Name the directory of a finished run.") from error
    answer = Recommendation.from_json(text)
    _show(answer, _write_outputs(answer, path.parent, None), as_json=False)


def _recommend(model: str, data: str, options: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    from rich.console import Console

    from rightrank.recommend import Request, measure, prepare

    _quiet_libraries()
    quiet = Console(stderr=True, highlight=False)
    request = Request(model, data, **options, on_text=lambda line: quiet.print(line, markup=False))
    if dry_run:
        prepare(request)
        return
    with _progress(quiet) as advance:
        answer = measure(prepare(_hearing(request, advance)))
    _show(answer, _write_outputs(answer, Path(answer.provenance.run_directory), request), as_json=as_json)


def _hearing(request: Request, advance: Any) -> Request:
    from dataclasses import replace

    return replace(request, on_progress=advance)


def _progress(console: Any) -> Any:
    """A bar on stderr with the time left; yields what to call with (what, seconds done, seconds in all)."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    @contextmanager
    def shown() -> Any:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("preparing", total=None, left="")

            def advance(what: str, done: float, whole: float) -> None:
                minutes = max(0.0, whole - done) / 60
                bar.update(
                    task, description=what, completed=done, total=whole, left=f"about {minutes:.1f} min left"
                )

            yield advance

    return shown()


def _write_outputs(answer: Recommendation, directory: Path, request: Request | None) -> dict[str, Path]:
    """Report and configs beside the JSON; with the request at hand also the rows as TRL reads them."""
    from rightrank.report import page
    from rightrank.trainers import texts, write_configs

    try:
        rows = directory / "trl_rows"
        if request is not None:
            _write_rows(request, rows)
        configs = write_configs(answer, directory, rows) if rows.is_dir() or request is not None else {}
        written = page.write(answer, directory, configs=texts(answer, rows))
    except OSError as error:
        raise ResourceError(
            f"The report cannot be written to {directory}: {error.strerror}.",
            "Free some space, then `rightrank report` it.",
        ) from error
    paths = {"Report": written, "Answer": directory / "recommendation.json", **configs}
    if (directory / "adapter").is_dir():
        paths["Trained adapter"] = directory / "adapter"
    return paths


def _write_rows(request: Request, folder: Path) -> None:
    """TRL puts no chat template around string prompts: the rows as messages, so that it trains on what was measured."""
    from rightrank.data import conversational_rows

    rows = conversational_rows(
        request.dataset,
        config=request.data_config,
        split=request.data_split,
        revision=request.data_revision,
        chat_template=request.chat_template,
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")


def _show(answer: Recommendation, paths: dict[str, Path], *, as_json: bool) -> None:
    if as_json:
        typer.echo(answer.to_json())
        return
    from rich.console import Console

    from rightrank.report.terminal import print_recommendation

    print_recommendation(answer, Console(highlight=False), paths)


def _own_setting(text: str | None) -> tuple[int, float, float] | None:
    if text is None:
        return None
    try:
        rank, alpha, rate = text.split(",")
        setting = int(rank), float(alpha), float(rate)
    except ValueError as error:
        raise UserError(
            f"--yours {text!r} is no setting.", "Give rank, alpha and learning rate: --yours 16,32,2e-4."
        ) from error
    if min(setting) <= 0:
        raise UserError(
            f"--yours {text!r} has a number that is not above zero.",
            "Give rank, alpha and learning rate: 16,32,2e-4.",
        )
    return setting


def _rank_list(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise UserError(
            f"--ranks {text!r} is no list of ranks.", "Give whole numbers: --ranks 8,16,32."
        ) from error


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise UserError(
            f"{option} {value!r} is not known.", f"Use {', '.join(allowed[:-1])} or {allowed[-1]}."
        )
    return value


def _command_again() -> str:
    """This command without what "to decide" will set anew."""
    words, skip = ["rightrank"], False
    for word in sys.argv[1:]:
        if skip:
            skip = False
        elif word in ("--budget", "--out"):
            skip = True
        elif not word.startswith(("--budget=", "--out=")) and word not in (
            "--resume",
            "--json",
            "--dry-run",
            "--debug",
        ):
            words.append(word)
    return shlex.join(words)


def _quiet_libraries() -> None:
    """Their progress bars and advice would bury ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if _debug:
        return
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _set_debug(debug: bool) -> None:
    global _debug  # noqa: PLW0603  (main() must know it after the command is gone)
    _debug = debug


def main() -> None:
    """Run the command line; one sentence and its mend for every error a person can cause."""
    try:
        app()
    except UserError as error:
        if _debug:
            raise
        _complain(f"{error.problem} {error.mend}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("Interrupted before anything was measured.")
        sys.exit(130)
    except Exception as error:
        if _debug:
            raise
        _complain(
            f"This should not have happened ({type(error).__name__}). Run it with --debug and report what it prints."
        )
        sys.exit(1)


def _complain(text: str) -> None:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    sys.stderr.write(f"rightrank: {printable}\n")


if __name__ == "__main__":
    main()
