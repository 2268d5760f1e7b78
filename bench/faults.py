"""Every fault that ``docs/reliability.md`` names, tried on real runs of a tiny model; the table of what became of each.

python bench/faults.py [--kills 20] [--places 8] [--out bench/results/faults.json]

A run is disturbed, resumed, and compared bit for bit with an undisturbed one (losses of every held-out row of every run, answer, adapter;
but for times, memory and the directory's name). The trials are those of the suite (tests/faults), only more of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests" / "faults"), str(HERE.parent / "tests")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20, help="at random moments")
    parser.add_argument("--places", type=int, default=8, help="file operations, for each way to fail there")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "faults.json")
    given = parser.parse_args()
    from trials import trials

    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials(Path(folder), given.kills, given.places):
            found.append(trial)
            print(
                f"{'ok ' if trial.well else 'BAD'} {trial.fault}, {trial.at}: {trial.kept} kept", flush=True
            )
    table = {}
    for fault in dict.fromkeys(trial.fault for trial in found):
        tried = [trial for trial in found if trial.fault == fault]
        table[fault] = {
            "tried": len(tried),
            "measurements_lost": sum(trial.lost for trial in tried),
            "resumed_bitwise_the_same": sum(trial.resumed_code == 0 and not trial.differs for trial in tried),
            "stopped_in_its_middle": sum(trial.code != 0 for trial in tried),
            "fewest_kept": min(trial.kept for trial in tried),
            "most_kept": max(trial.kept for trial in tried),
        }
    result = {
        "command": f"python bench/faults.py --kills {given.kills} --places {given.places}",
        "all_well": all(trial.well for trial in found),
        "faults": table,
        "trials": [{**asdict(trial), "said": trial.said.replace(folder, "…")} for trial in found],
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for fault, row in table.items():
        print(fault, row)
    sys.exit(not result["all_well"])


if __name__ == "__main__":
    main()
