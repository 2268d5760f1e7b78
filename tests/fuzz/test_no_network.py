"""Nothing leaves the machine unless a hub name is given, and not even then where the switches say offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path  # noqa: TC003

import pytest

from small_run import save_model, save_rows

# The commands of a JSON list, one after the other; the first look at the network ends the process.
GUARD = """
import json, os, sys
def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(2, f"NETWORK {event}".encode())
        os._exit(77)
sys.addaudithook(guard)
from rightrank.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["rightrank", *arguments]
    try:
        main()
    except SystemExit as stop:
        print("code", stop.code, flush=True)
"""
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def guarded(folder: Path, *commands: tuple[str, ...], **switches: str) -> subprocess.CompletedProcess[str]:
    """Commands of rightrank in one process, where the network is allowed unless a switch says otherwise."""
    environment = {k: v for k, v in os.environ.items() if k not in SWITCHES}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "cache"), **switches}
    start = [sys.executable, "-c", GUARD, json.dumps(commands)]
    return subprocess.run(start, cwd=folder, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("local")
    save_model(place / "model")
    save_rows(place / "rows.jsonl")
    return place


def test_local_runs_and_mistyped_paths_use_no_network(folder: Path) -> None:
    quick = (
        "--ranks",
        "4,8",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--budget",
        "1",
        "--device",
        "cpu",
        "--dry-run",
    )
    mistyped = [
        ("./modle", "rows.jsonl"),
        ("model/x", "rows.jsonl"),
        ("model", "row.jsonl"),
        ("model", "model/rows"),
        ("model", "rows"),
    ]
    done = guarded(
        folder, *(("recommend", *names) for names in mistyped), ("recommend", "model", "rows.jsonl", *quick)
    )
    assert done.stdout.split("\n")[:-1] == ["code 2"] * 5 + ["code 0"], done.stderr
    assert done.stderr.count("There is no") == 5 and "Plan: about" in done.stderr


def test_a_hub_name_is_looked_up(folder: Path) -> None:
    """Proof that the guard hears."""
    done = guarded(folder, ("recommend", "model", "nobody/nothing"))
    assert done.returncode == 77 and "NETWORK" in done.stderr


@pytest.mark.parametrize(
    ("model", "data", "switch", "words"),
    [
        ("nobody/nothing", "rows.jsonl", "TRANSFORMERS_OFFLINE", "cannot be had from the hub"),
        ("model", "nobody/nothing", "HF_HUB_OFFLINE", "The data set 'nobody/nothing' cannot be loaded"),
        ("model", "nobody/nothing", "HF_DATASETS_OFFLINE", "The data set 'nobody/nothing' cannot be loaded"),
    ],
)
def test_offline_switches_are_honoured(folder: Path, model: str, data: str, switch: str, words: str) -> None:
    done = guarded(folder, ("recommend", model, data), **{switch: "1"})
    assert done.stdout == "code 2\n" and words in done.stderr and "Traceback" not in done.stderr
