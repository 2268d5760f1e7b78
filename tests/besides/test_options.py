"""``--metric``, ``--keep``, ``--layers`` and ``--report-to`` as typed reach what measures."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from rightrank import cli, from_config  # noqa: F401  (imported whole before a part of it is replaced)
from rightrank.arguments import asked_anew
from rightrank.errors import UserError

if TYPE_CHECKING:
    from rightrank.request import Request


@pytest.mark.parametrize("dry_run", [True, False])
def test_options_reach_the_request_and_the_command_to_run_again(
    dry_run: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[Request] = []

    def prepare(request: Request) -> None:
        heard.append(request)
        raise UserError("Stop here.", "It is enough.")

    monkeypatch.setattr("rightrank.preparing.prepare", prepare)
    for name in (
        "TQDM_DISABLE",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
        "TRANSFORMERS_VERBOSITY",
    ):
        monkeypatch.setenv(name, "")
    typed = [
        "recommend",
        "m",
        "d.jsonl",
        "--metric",
        "python 'my eval.py' --n 5",
        "--keep",
        "old.jsonl",
        "--layers",
        "--report-to",
        "wandb",
        "--budget",
        "3",
        "--out=there",
    ]
    monkeypatch.setattr(sys, "argv", ["rightrank", *typed, *(["--dry-run"] if dry_run else [])])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "rightrank: Stop here. It is enough.\n"
    (request,) = heard
    assert (request.metric, request.keep, request.report_to) == (
        "python 'my eval.py' --n 5",
        "old.jsonl",
        "wandb",
    )
    assert request.layers is True
    assert request.show_stderr is False
    assert shlex.split(request.command) == ["rightrank", *typed]
    assert shlex.split(asked_anew(request.command)) == ["rightrank", *typed[:-3]]
