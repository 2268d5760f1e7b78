"""The command, run in this process or in one of its own, on a model and rows that take seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rightrank import cli
from small_run import save_model, save_rows, small_rows

QUICK = ("--ranks", "4,8", "--epochs", "1", "--batch-size", "8", "--budget", "2", "--device", "cpu")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one sentence, and proof that it is the only one and that there is no traceback."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("rightrank: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0].removeprefix("rightrank: ")


Run = Callable[..., Said]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil, beside where the command runs."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return save_rows(tmp_path / "rows.jsonl", small_rows())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command in this process, inside ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))

    def command(*arguments: object, name: str = "recommend") -> Said:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["rightrank", name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
            cli.main()
        said = capfd.readouterr()
        return Said(int(str(stop.value.code)), said.out, said.err)

    return command


def own_process(folder: Path, *arguments: object, code: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own; ``code`` is run before it.

    A shell starts what runs in its background deaf to Ctrl-C, and all that a test starts there would be too: hence the handler.
    """
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = ["-c", f"{hear}\n{code}\nfrom rightrank.cli import main\nmain()"]
    unset = ("TQDM_DISABLE", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "COLUMNS")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    return subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def finished(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=120)
    return Said(process.returncode, out, err)
