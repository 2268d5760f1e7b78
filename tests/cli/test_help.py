"""What the commands are for is said whole, however narrow the window."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from rightrank.cli import app
from rightrank.trainers import _trainers


@pytest.mark.parametrize("columns", [50, 80])
def test_no_description_of_a_command_is_cut(columns: int) -> None:
    said = CliRunner().invoke(app, ["--help"], terminal_width=columns).stdout
    assert "..." not in said.partition("Commands:")[2]
    assert "Measure which rank, alpha and learning rate to use." in " ".join(said.split())


def test_check_names_every_config_that_it_reads() -> None:
    """All but PEFT's, which has no learning rate."""
    said = CliRunner().invoke(app, ["check", "--help"]).stdout
    readers = [trainer.LABEL for trainer in _trainers() if hasattr(trainer, "recognises")]
    assert {name for name in readers if name not in said} == {"PEFT"}
