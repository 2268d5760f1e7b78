"""A run directory in which somebody laid links: nothing outside it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rightrank.errors import ResourceError
from rightrank.runs.directory import choose_directory, refuse_links
from rightrank.runs.durable import write_whole

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "name",
    [
        "recommendation.json",
        "report.html",
        "run.json.part",
        "packs/0001.json",
        "adapters",
        "trl_rows/train.jsonl",
    ],
)
@pytest.mark.parametrize("kind", ["a file", "nothing", "a folder"])
def test_links_in_the_place_of_what_we_write_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    target, link = tmp_path / "precious", tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    if kind == "a file":
        target.write_text("mine")
    elif kind == "a folder":
        target.mkdir()
    link.symlink_to(target)
    with pytest.raises(ResourceError, match=f"holds a symbolic link \\({link.name}\\)"):
        choose_directory(tmp_path / "run", "rows.jsonl", resume=True)


def test_other_links_are_let_be(tmp_path: Path) -> None:
    """Whoever names the folder of a project as --out has links of his own there; and the folder may be one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "data").symlink_to(tmp_path)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    refuse_links(tmp_path / "run")
    assert choose_directory(tmp_path / "run", "rows.jsonl", resume=False) == tmp_path / "run"


def test_a_file_is_replaced_and_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("a.json", "a.json.part"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "a.json", b"ours")
    assert (tmp_path / "a.json").read_bytes() == b"ours" and not (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"
