"""``rightrank runs``, ``compare`` and ``forget`` as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from runs_on_disk import answered

if TYPE_CHECKING:
    from pathlib import Path


def test_the_three_commands_read_files_alone(tmp_path: Path) -> None:
    """In one process, since starting one takes longest; none of them needs torch."""
    answered(tmp_path / "rightrank-runs" / "a")
    answered(tmp_path / "rightrank-runs" / "b")
    calls = [
        ["runs"],
        ["runs", "--json"],
        ["compare", "rightrank-runs/a", "rightrank-runs/b", "--json"],
        ["forget", "rightrank-runs/b"],
        ["forget", "rightrank-runs/b", "--yes"],
        ["runs", "rightrank-runs"],
    ]
    code = (
        "import sys\nfrom rightrank.cli import main\n"
        f"for call in {calls!r}:\n"
        "    sys.argv = ['rightrank', *call]\n"
        "    try: main()\n"
        "    except SystemExit as end: print(f'[{end.code}]', flush=True)\n"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    listed, as_json, compared, refused, deleted, again, torch = said.stdout.replace("[2]", "[0]").split(
        "[0]\n"
    )
    assert listed.count("SETTLED  r=16 lr 4e-4; 41 min") == 2
    assert [run["directory"] for run in json.loads(as_json)] == ["rightrank-runs/a", "rightrank-runs/b"]
    assert json.loads(compared)["verdict"] == "same answer"
    assert refused == "" and "Nobody is there to ask. Add --yes" in said.stderr
    assert deleted == "rightrank-runs/b is deleted.\n" and again.count("SETTLED") == 1
    assert torch == "False\n"
