"""The command line: parses, calls, prints. No logic. A module a command; they appear in ``--help`` as imported here."""

from __future__ import annotations

import sys
from os import devnull
from pathlib import Path

from rightrank.cli import recommend, estimate, check, cut, fleet, report, verify, runs, compare, forget  # noqa: F401  # isort: skip
from rightrank.cli.app import app, debugging
from rightrank.errors import StoppedError, UserError

__all__ = ["app", "main"]

for _command in app.registered_commands:
    # What is taken from a docstring is cut to the width of the window; what is given is wrapped.
    _command.short_help = _command.short_help or (_command.callback.__doc__ or "").strip().partition("\n")[0]


def main() -> None:
    """Run the command line; one sentence and its mend for every error a person can cause."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not cost the answer
    sys.exit(_run())


def _run() -> int:
    """The exit code."""
    try:
        code = app(standalone_mode=False, prog_name="rightrank")
    except UserError as error:
        if debugging():
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
        sentence = str(said())
        end = "" if sentence.endswith(("?", ".")) else "."
        _complain(f"{sentence}{end} See `{command} --help`.")
        return 2
    if type(error).__name__ == "Abort":
        return _stopped()
    if debugging():
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
