"""What the commands are for is said whole, however narrow the window."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from rightrank.cli import app


@pytest.mark.parametrize("columns", [50, 80])
def test_no_description_of_a_command_is_cut(columns: int) -> None:
    said = CliRunner().invoke(app, ["--help"], terminal_width=columns).stdout
    assert "..." not in said.partition("Commands:")[2]
    assert "Measure which rank, alpha and learning rate to use." in " ".join(said.split())
