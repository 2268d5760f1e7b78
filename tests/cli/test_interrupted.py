"""Ctrl-C, a full disk, too little memory, a closed pipe: nothing that was measured is lost."""

from __future__ import annotations

import errno
import json
import os
import pty
import shlex
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import SafetensorError

from commands import QUICK, Run, finished, own_process
from rightrank.executors.local import LocalExecutor
from rightrank.probe.plan import Speed
from small_run import save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path

SLOWER = (  # a run long enough to be stopped in its middle
    "import time; from rightrank.executors.local import LocalExecutor as L; train = L.train\n"
    "def slow(*a, **k):\n time.sleep(0.3); return train(*a, **k)\n"
    "L.train = slow"
)


def packs(directory: Path) -> list[Path]:
    return sorted((directory / "packs").glob("[0-9]*.safetensors"))


def wait_for(process: subprocess.Popen[str], condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_in_the_middle_answers_from_what_is_measured(model: Path, rows: Path, tmp_path: Path) -> None:
    process = own_process(tmp_path, "recommend", model, rows, *QUICK, "--out", "run", code=SLOWER)
    wait_for(process, lambda: len(packs(tmp_path / "run")) >= 2)
    process.send_signal(signal.SIGINT)
    said = finished(process)
    assert said.code == 0, said.err
    assert "Traceback" not in said.err and "rightrank: " not in said.err
    assert said.out.startswith("UNDECIDED") and "Interrupted: answered from what was measured" in said.out
    answer = json.loads((tmp_path / "run" / "recommendation.json").read_text())
    assert answer["provenance"]["interrupted"] and 2 <= len(answer["points"]) < 20
    assert "%|" not in said.err and "Loading weights" not in said.err  # no library's progress bar


def test_a_scheduler_that_wants_its_machine_back_gets_an_answer(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = LocalExecutor.train, iter(range(100))

    def stopped(self: LocalExecutor, pack: Any, **options: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(self, pack, **options)

    monkeypatch.setattr(LocalExecutor, "train", stopped)
    said = run(model, rows, *QUICK, "--out", "run", "--json")
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert answer["provenance"]["interrupted"] and len(answer["points"]) == 2


def test_ctrl_c_before_anything_is_measured(model: Path, rows: Path, tmp_path: Path) -> None:
    waiting = "from rightrank.executors.local import LocalExecutor as L; import time\nL.evaluate_base = lambda self: time.sleep(60)"
    process = own_process(tmp_path, "recommend", model, rows, *QUICK, "--out", "run", code=waiting)
    wait_for(process, (tmp_path / "run" / "run.json").exists)
    process.send_signal(signal.SIGINT)
    said = finished(process)
    assert said.code == 130 and said.out == ""
    assert said.complaint == "Interrupted before anything was measured."


@pytest.mark.parametrize("when", ["import", "command"])
def test_ctrl_c_while_it_starts(run: Run, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "rightrank.cli.recommend.set_debug"
        if when == "import"
        else "rightrank.cli.recommend.quiet_libraries",
        stop,
    )
    said = run("a", "b")
    assert (
        said.code == 130 and said.out == "" and said.complaint == "Interrupted before anything was measured."
    )


def test_ctrl_c_while_answering_says_where_it_is_kept(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rightrank.measuring.make_recommendation", stop)
        said = run(model, rows, *QUICK, "--out", "run")
    assert said.code == 130 and said.out == ""
    assert said.complaint.endswith("Run the same command with --resume --out run.")
    assert run(model, rows, *QUICK, "--out", "run", "--resume").code == 0


def full_disk_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"left": count}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        calls["left"] -= not stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if calls["left"] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_keeps_what_was_measured_and_resume_finishes(
    run: Run, model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        full_disk_after(9, patched)  # run.json, the base, then two for every pack
        said = run(model, rows, *QUICK, "--out", "run")
    assert said.code == 3 and said.out == ""
    assert "No space left on device. Free some space and run the same command with --resume" in said.complaint
    kept = {path: path.read_bytes() for path in packs(tmp_path / "run")}
    assert len(kept) == 3 and not list((tmp_path / "run" / "packs").glob("*.part"))

    trained: list[Any] = []
    train = LocalExecutor.train
    monkeypatch.setattr(
        LocalExecutor, "train", lambda self, pack, **k: trained.append(pack.number) or train(self, pack, **k)
    )
    said = run(model, rows, *QUICK, "--out", "run", "--resume", "--json")
    assert said.code == 0, said.err
    assert trained[0] == 3 and not {0, 1, 2} & set(trained), "what was measured is not measured again"
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(json.loads(said.out)["points"]) == 3 + len(trained)


def test_a_disk_that_takes_no_large_file(model: Path, rows: Path, tmp_path: Path) -> None:
    """A real refusal by the system, also of the adapters, which are written by other code."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"
    said = finished(own_process(tmp_path, "recommend", model, rows, *QUICK, code=limit))
    assert said.code == 3 and said.out == ""
    assert "cannot be written" in said.complaint and "--resume" in said.complaint
    (directory,) = (tmp_path / "rightrank-runs").iterdir()
    assert f"--out rightrank-runs/{directory.name}" in said.complaint
    assert packs(directory)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left (os error 28)"),
    ],
)
def test_an_adapter_that_finds_no_space(
    run: Run, model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(LocalExecutor, "_export", full)
    said = run(model, rows, *QUICK)
    assert said.code == 3 and said.out == ""
    assert (
        "cannot be written: " in said.complaint
        and "Free some space and run the same command" in said.complaint
    )
    (directory,) = (tmp_path / "rightrank-runs").iterdir()
    assert said.complaint.endswith(f"(--out rightrank-runs/{directory.name}).") and packs(directory)


def test_an_answer_whose_report_cannot_be_written_is_shown(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rightrank.report.page.write", full)
    said = run(model, rows, *QUICK, "--out", "run")
    assert said.code == 3 and said.out.startswith(("UNDECIDED", "FLAT", "SETTLED"))
    assert said.complaint == (
        "The report cannot be written to run: No space left on device. Free some space, then run `rightrank report run`."
    )


def test_data_that_is_gone_by_the_end_does_not_cost_the_answer(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalExecutor.evaluate_base
    monkeypatch.setattr(LocalExecutor, "evaluate_base", lambda self: rows.unlink() or real(self))
    said = run(model, rows, *QUICK, "--out", "run", "--json")
    assert said.code == 2 and json.loads(said.out)["status"]
    assert said.complaint.startswith("The trainers' configs were not written: There is no file or folder")


def test_no_memory_while_training(
    run: Run, model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = LocalExecutor._train, iter(range(100))

    def hungry(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
            torch.empty(1 << 50)  # what torch itself says then
        return train(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(LocalExecutor, "_train", hungry)
        said = run(model, rows, *QUICK, "--out", "run")
    assert said.code == 3 and said.out == "" and said.complaint.startswith("Memory ran out.")
    assert "kept" in said.complaint and len(packs(tmp_path / "run")) == 2
    assert run(model, rows, *QUICK, "--out", "run", "--resume").code == 0


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
@pytest.mark.parametrize(
    "where", ["rightrank.data.prepare", "transformers.AutoModelForCausalLM.from_pretrained"]
)
def test_no_memory_before_training(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def hungry(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(where, hungry)
    said = run(model, rows, *QUICK)
    assert said.code == 3 and said.out == ""
    assert "memory" in said.complaint.lower() and "--resume" not in said.complaint


def test_an_existing_run_is_not_overwritten(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    assert run(model, rows, *QUICK, "--out", "run").code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    said = run(model, rows, *QUICK, "--out", "run")
    assert said.code == 2 and said.out == "" and "run holds a run already. Add --resume" in said.complaint
    save_rows(tmp_path / "rows.jsonl", small_rows(90))
    data = "its data are not the same"
    for changed, words in {
        ("--seed", "1"): f"run holds another run: {data}; seed 0 there, 1 here.",
        ("--epochs", "2"): f"run holds another run: {data}; epochs 1 there, 2 here.",
        ("--ranks", "2,4"): f"run holds another run: {data}; ranks 4, 8 there, 2, 4 here.",
    }.items():
        said = run(model, rows, *QUICK, "--out", "run", "--resume", *changed)
        assert said.code == 2 and said.out == "" and words in said.complaint
        assert "Loading" not in said.err, "said before the model is loaded"
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_run_is_gone_on_with_by_its_own_record(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    first = run(model, rows, *QUICK, "--out", "run", "--yours", "2,4,1e-3", "--json")
    assert first.code == 0, first.err
    said = run("--out", "run", "--resume", "--finish", "--json")
    assert said.code == 0, said.err
    assert said.err.startswith(f"Going on with run: {model} on {rows}, as it was begun.\n")
    then, now = json.loads(first.out), json.loads(said.out)
    assert now["finished"]["examples"] == 100 and now["choice"] == then["choice"]
    assert now["recipe"] == then["recipe"] and now["recipe"]["origins"]["epochs"] == "given"
    words = shlex.split(now["provenance"]["command"])
    assert words[:4] == ["rightrank", "recommend", str(model), str(rows)] and "--finish" in words
    assert {" ".join(words[i : i + 2]) for i in range(4, len(words))} >= {
        "--ranks 4,8", "--yours 2,4,0.001", "--epochs 1", "--batch-size 8", "--device cpu",
    }  # fmt: skip
    for changed in (("--seed", "1"), (model, "--epochs", "2")):
        other = run(*changed, "--out", "run", "--resume")
        assert other.code == 2 and "run holds another run: " in other.complaint


def test_another_speed_does_not_keep_a_run_from_being_resumed(
    run: Run, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Speeds are measured anew; what was planned from them the first time holds."""
    fast = Speed(
        0.0, step_seconds=1e-3, step_seconds_per_parameter=0.0, evaluate_seconds_per_token=1e-6, together=1
    )
    monkeypatch.setattr(LocalExecutor, "measure_speed", lambda *arguments, **options: fast)
    assert run(model, rows, *QUICK, "--out", "run").code == 0
    slow = replace(fast, step_seconds=30.0, evaluate_seconds_per_token=0.1)
    monkeypatch.setattr(LocalExecutor, "measure_speed", lambda *arguments, **options: slow)
    assert run(model, rows, *QUICK, "--out", "other", "--budget", "60").code == 0
    plans = [json.loads((tmp_path / name / "run.json").read_text())["plan"] for name in ("run", "other")]
    assert plans[0] != plans[1], "the plan hangs on the speed"
    assert run(model, rows, *QUICK, "--out", "run", "--budget", "60", "--resume").code == 0


def closed_early(process: subprocess.Popen[str]) -> str:
    """What a process says whose reader has left."""
    assert process.stderr is not None
    with process.stderr as stderr:
        said = stderr.read()
    assert process.wait(timeout=60) == 1
    return said


def test_a_reader_who_leaves_is_no_error(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    assert run(model, rows, *QUICK, "--out", "other").code == 0
    for arguments in (
        ("recommend", model, rows, *QUICK, "--out", "run"),
        ("report", "other"),
        ("report", "other", "--json"),
    ):
        process = own_process(tmp_path, *arguments)
        assert process.stdout is not None
        process.stdout.close()
        said = closed_early(process)
        assert "Traceback" not in said and "Exception" not in said and "rightrank: " not in said
    assert (tmp_path / "run" / "recommendation.json").exists()


def test_an_output_that_takes_nothing_says_where_the_answer_is(
    run: Run, model: Path, rows: Path, tmp_path: Path
) -> None:
    assert run(model, rows, *QUICK, "--out", "run").code == 0
    full = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    for extra in ((), ("--json",)):
        said = finished(own_process(tmp_path, "report", "run", *extra, code=full))
        assert said.code == 3
        assert said.complaint.endswith("It is kept: `rightrank report run` prints it.")


def test_closed_streams(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    assert run(model, rows, *QUICK, "--out", "run").code == 0
    closed = "import sys; sys.stdout = None"
    said = finished(own_process(tmp_path, "report", "run", code=closed))
    assert said.code == 0 and said.err == ""


def test_a_terminal_without_the_characters(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    assert run(model, rows, *QUICK, "--out", "run").code == 0
    narrow = "import sys; sys.stdout.reconfigure(encoding='ascii'); sys.stderr.reconfigure(encoding='ascii')"
    said = finished(own_process(tmp_path, "report", "run", code=narrow))
    assert said.code == 0 and "gain lost" in said.out


def test_foreign_text_does_not_reach_the_terminal(run: Run, model: Path, tmp_path: Path) -> None:
    odd = "\x1b[31m<script>[bold]"
    rows = [{**row, "completion": f"{row['completion']} {odd}", odd: odd} for row in small_rows()]
    odd_model = model.rename(tmp_path / "m\x1b[31m[bold]")
    said = run(odd_model, save_rows(tmp_path / "\x1b[31m[bold].jsonl", rows), *QUICK, "--out", "run")
    assert said.code == 0, said.err
    assert "\x1b" not in said.out + said.err and "<script>" not in said.out + said.err
    assert "[bold]" in said.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "\x1b" not in page and "<script>[" not in page


@pytest.mark.parametrize("extra", [(), ("--debug",)])
def test_our_own_bar_shows_in_a_terminal(
    model: Path, rows: Path, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    ours, theirs = pty.openpty()
    code = f"{SLOWER}\nfrom rightrank.cli import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "recommend", model, rows, *QUICK, *extra],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    try:
        while not (b"rates" in seen and b"s left" in seen) and (part := os.read(ours, 4096)):
            seen += part
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"rates" in seen and b"s left" in seen
    assert b"Loading weights" not in seen and b"it/s" not in seen
