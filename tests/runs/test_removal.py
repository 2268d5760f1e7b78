"""Forgetting a run: all that it wrote, nothing else, and never through a link."""

from __future__ import annotations

import io
import shlex
import shutil
import stat
import sys
from typing import TYPE_CHECKING

import pytest

import rightrank
from cuts.samples_of_cuts import a_cut
from rightrank import Recipe
from rightrank.errors import ConfigurationError
from rightrank.outputs import write_outputs
from rightrank.request import Request
from rightrank.runs.history import list_runs
from rightrank.runs.removal import line_after, lines_before, plan_removal, remove, require_someone_to_ask
from runs_on_disk import answered, unfinished
from small_run import save_model, save_rows, small_rows

if TYPE_CHECKING:
    from pathlib import Path


def test_a_real_run_is_gone_whole_with_every_file_that_it_ever_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new output that removal does not know of fails here."""
    monkeypatch.chdir(tmp_path)
    rows, model = save_rows(tmp_path / "rows.jsonl"), save_model(tmp_path / "model")
    old = save_rows(tmp_path / "old.jsonl", small_rows(60, seed=7))
    answer = rightrank.recommend(
        str(model), rows, recipe=Recipe().given(epochs=1, batch_size=8), ranks=(4, 8), budget_minutes=5, device="cpu",
        keep=old, metric=shlex.join([sys.executable, "-S", "-c", "print(1)"]),
    )  # fmt: skip
    (run,) = list_runs(tmp_path / "rightrank-runs")
    directory = tmp_path / run.directory
    for place in (directory, directory.parent, directory / "packs"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, place
    write_outputs(answer, directory, Request(str(model), rows))
    assert (directory / "report.html").is_file() and (directory / "trl_rows").is_dir()
    planned = plan_removal(directory)
    assert planned.leaves == ()
    assert remove(planned) and not directory.exists()
    assert rows.is_file() and model.is_dir()


def test_what_rightrank_did_not_write_is_listed_and_left(tmp_path: Path) -> None:
    answered(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "my_adapter").mkdir()
    planned = plan_removal(tmp_path / "run")
    assert planned.leaves == ("my_adapter", "notes.txt")
    assert set(planned.removes) == {"packs", "recommendation.json", "run.json"}
    assert planned.removes[-2:] == ("recommendation.json", "run.json"), (
        "what tells that it is a run goes last"
    )
    before = lines_before(planned)
    assert (
        before[1] == "Deleted: packs, recommendation.json, run.json." and "my_adapter, notes.txt" in before[2]
    )
    assert not remove(planned)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["my_adapter", "notes.txt"]
    assert "left, since rightrank did not write it: my_adapter, notes.txt" in line_after(planned)


def test_a_cut_is_removed_as_a_run_is(tmp_path: Path) -> None:
    run = tmp_path / "cut"
    (run / "adapter").mkdir(parents=True)
    (run / "report.html").write_text("")
    (run / "recommendation.html").write_text("mine")
    a_cut().save(run)
    planned = plan_removal(run)
    assert planned.removes == ("adapter", "report.html", "cut.json"), "what tells that it is a cut goes last"
    assert planned.leaves == ("recommendation.html",)
    assert f"a cut of {a_cut().adapter}, " in lines_before(planned)[0]
    assert not remove(planned) and line_after(planned).startswith("The cut in ")
    (run / "cut.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="holds no run and no cut"):
        plan_removal(run)


def test_planning_touches_nothing(tmp_path: Path) -> None:
    answered(tmp_path / "run")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    plan_removal(tmp_path / "run")
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["adapters", "trl_rows", "report.html"])
def test_a_link_inside_is_removed_and_what_it_points_to_is_not(tmp_path: Path, name: str) -> None:
    answered(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / "run" / name).symlink_to(outside)
    (tmp_path / "run" / "packs" / "deep").symlink_to(outside)
    assert remove(plan_removal(tmp_path / "run"))
    assert (outside / "precious").read_text() == "x"


def test_links_other_folders_and_runs_in_use_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "run.json").write_text("{}")
    for name, words in (("link", "is a link"), ("plain", "holds no run"), ("nowhere", "holds no run")):
        with pytest.raises(ConfigurationError, match=words):
            plan_removal(tmp_path / name)
    monkeypatch.setattr("rightrank.runs.removal.in_use", lambda directory: "process 7 on here")
    with pytest.raises(ConfigurationError, match="process 7"):
        plan_removal(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").exists() and (tmp_path / "plain" / "run.json").exists()


def test_unfinished_and_half_removed_runs_can_be_removed(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    (tmp_path / "run" / "packs" / "0001.safetensors.part").write_text("x")
    (tmp_path / "run" / "run.json.part").write_text("x")
    assert remove(plan_removal(tmp_path / "run"))
    answered(tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "packs")
    assert remove(plan_removal(tmp_path / "half"))


def test_nobody_to_ask_is_no_yes() -> None:
    with pytest.raises(ConfigurationError, match="Add --yes"):
        require_someone_to_ask(io.StringIO("y\n"))
