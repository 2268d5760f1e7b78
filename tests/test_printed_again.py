"""Printing an answer again writes the report anew, and leaves alone what is the person's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from report.samples import sample
from rightrank.outputs import write_outputs
from rightrank.trainers.settings import places

if TYPE_CHECKING:
    from pathlib import Path

MINE = "# edited by rightrank, and by me since\nlora_r: 12\n"


@pytest.mark.parametrize("recipe_from", ["axolotl.yml (Axolotl)", None])
def test_the_edited_config_of_a_person_stays_as_it_is(tmp_path: Path, recipe_from: str | None) -> None:
    answer = replace(sample("SETTLED"), recipe_from=recipe_from)
    places(answer, tmp_path).trl_rows.mkdir()
    config = tmp_path / "axolotl.yml"
    config.write_text(MINE)
    written = write_outputs(answer, tmp_path)
    assert written.problem is None
    assert (tmp_path / "report.html").is_file()
    assert (config.read_text() == MINE) == (recipe_from is not None)
