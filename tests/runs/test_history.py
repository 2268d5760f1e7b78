"""The list of runs: what it says of whole, unfinished and damaged ones."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from report.samples import HOSTILE, sample
from rightrank.errors import UserError
from rightrank.runs.history import is_run, list_runs, run_lines
from runs_on_disk import answered, base_E, unfinished

if TYPE_CHECKING:
    from pathlib import Path


def when(created: str):
    return replace(sample("SETTLED").provenance, created=created)


def test_every_run_with_its_model_data_answer_and_cost_the_oldest_first(tmp_path: Path) -> None:
    answered(tmp_path / "b", provenance=when("2026-03-01T10:00:00+00:00"))
    answered(
        tmp_path / "a",
        {(8, 16.0, 1e-3): base_E() - 1},
        status="UNDECIDED",
        provenance=when("2026-03-02T10:00:00+00:00"),
    )
    (tmp_path / "no run").mkdir()
    (tmp_path / "file").write_text("x")
    runs = list_runs(tmp_path)
    assert [run.directory for run in runs] == [str(tmp_path / "b"), str(tmp_path / "a")]
    assert [(run.state, run.status, run.rank, run.measured) for run in runs] == [
        ("answered", "SETTLED", 16, 0),
        ("answered", "UNDECIDED", 32, 1),
    ]
    assert (runs[0].minutes, runs[0].runs, runs[0].data_fingerprint) == (
        41.2,
        0.93,
        "sha256:9a8b7c6d5e4f3a2b",
    )
    lines = run_lines(runs)
    assert lines[0] == str(tmp_path / "b")
    assert "meta-llama/Meta-Llama-3-8B on medqa.jsonl (sha256:9)" in lines[1]
    assert lines[2].startswith("  SETTLED  r=16 lr 4e-4; 41 min, 0.93 × the tokens of one run; ") and lines[
        2
    ].endswith(" MB")
    assert lines[5].startswith("  UNDECIDED  safe meanwhile r=32 lr 4e-4; ")


def test_a_folder_that_is_a_run_is_listed_itself(tmp_path: Path) -> None:
    answered(tmp_path / "run")
    assert [run.directory for run in list_runs(tmp_path / "run")] == [str(tmp_path / "run")]


def test_an_unfinished_run_is_named_after_what_it_was_asked(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    (run,) = list_runs(tmp_path)
    assert (run.state, run.model, run.data, run.data_fingerprint, run.measured) == (
        "unfinished",
        "/home/me/llama",
        "medqa.jsonl",
        "d",
        2,
    )
    lines = run_lines([run])
    assert "llama on medqa.jsonl (d)" in lines[1] and "/home/me" not in lines[1]
    assert lines[2].startswith("  unfinished; 2 trainings measured, kept for --resume; ")


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b"[1]", b'{"schema": 1}', b'{"schema": 1, "status": "SETTLED", "checksum": "no"}'],
)
def test_a_damaged_answer_is_said_and_hides_no_other_run(tmp_path: Path, content: bytes) -> None:
    answered(tmp_path / "whole")
    answered(tmp_path / "broken", {(8, 16.0, 1e-3): base_E()})
    (tmp_path / "broken" / "recommendation.json").write_bytes(content)
    runs = {run.directory.rpartition("/")[2]: run for run in list_runs(tmp_path)}
    assert (runs["whole"].state, runs["broken"].state, runs["broken"].data) == (
        "answered",
        "damaged",
        "medqa.jsonl",
    )
    assert "its answer cannot be read; 1 training measured" in run_lines([runs["broken"]])[2]


def test_a_damaged_record_is_no_matter_where_the_answer_is_whole(tmp_path: Path) -> None:
    answered(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_bytes(b"\x00")
    assert list_runs(tmp_path)[0].status == "SETTLED"


def test_a_run_in_use_is_said(tmp_path: Path) -> None:
    import subprocess
    import sys

    unfinished(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from rightrank.runs.lock import locked\n"
        f"with locked(Path({str(tmp_path / 'run')!r}), print): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        (run,) = list_runs(tmp_path)
        assert run.state == "running" and "running now; 2 trainings" in run_lines([run])[2]
    finally:
        holder.communicate("")


def test_links_and_other_peoples_folders_are_no_runs(tmp_path: Path) -> None:
    answered(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"scripts": {}}))
    (other / "recommendation.json").symlink_to(tmp_path / "run" / "recommendation.json")
    assert [run.directory for run in list_runs(tmp_path)] == [str(tmp_path / "run")]
    assert not is_run(other)


def test_hostile_names_do_nothing_to_the_terminal(tmp_path: Path) -> None:
    plain = sample("SETTLED")
    answered(
        tmp_path / "run\x1b[31m",
        model=replace(plain.model, name=HOSTILE),
        data=replace(plain.data, name=HOSTILE, fingerprint=HOSTILE),
    )
    text = "".join(run_lines(list_runs(tmp_path)))
    assert "owned" not in text and not any(c in text for c in "\x1b\x07\u202e\n")


@pytest.mark.parametrize(("name", "words"), [("nowhere", "There is no folder"), ("empty", "holds no run")])
def test_nothing_to_list_is_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        list_runs(tmp_path / name)


def test_a_guess_is_not_listed_as_safe(tmp_path: Path) -> None:
    answered(tmp_path / "run", status="UNDECIDED", worst_case=None)
    (line,) = [line for line in run_lines(list_runs(tmp_path)) if "UNDECIDED" in line]
    assert line.startswith("  UNDECIDED  best guess meanwhile r=32 lr 4e-4; ")
