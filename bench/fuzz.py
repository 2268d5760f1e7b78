"""Spoilt files by the thousand through everything that reads what others wrote. A long run of what tests/fuzz does in seconds.

    python bench/fuzz.py --seconds 120 --seed 0

Each reader runs in a process of its own for so many seconds. Counted: inputs that were valid, refused in a sentence, or did neither
(a traceback, a dead process, more than 20 seconds, a sentence nobody can read). Input number N of a reader is a function of the seed and N
alone: ``--reader NAME --only N`` shows one again. Writes bench/results/fuzz.json; fails where a reader did neither, or held more memory
than ``MOST_MIB``.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "fuzz.json"
TOO_LONG_SECONDS = 20
MOST_MIB = 1024
"""Of a reader's process, its libraries included: what any file may take that is far below the limits of docs/reliability.md."""
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]


class TooLongError(BaseException):
    """Not an Exception: nothing may swallow it."""


def ring(*_: object) -> None:
    raise TooLongError


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= dict.fromkeys(("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY"), "critical")
    for stream in (1, 2):  # libraries print what they think of broken files
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def one(target: Any, seed: int, number: int) -> str:
    """What became of an input: ``valid``, ``refused``, or where it went wrong."""
    from targets import verdict

    with tempfile.TemporaryDirectory() as name:
        target.spoil(Path(name), random.Random(f"{seed}-{target.name}-{number}"))
        signal.alarm(TOO_LONG_SECONDS)
        try:
            return verdict(lambda: target.use(Path(name)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            signal.alarm(0)
            where = traceback.extract_tb(error.__traceback__)[-1]
            return (
                f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:120]!a}"
            )
        finally:
            signal.alarm(0)


def run(name: str, seconds: float, seed: int, first: int, results: Any) -> None:
    """A reader's inputs from number ``first`` on; the number of each is told before it is tried, in case it is the last."""
    quiet()
    from targets import targets

    signal.signal(signal.SIGALRM, ring)
    target = next(one for one in targets() if one.name == name)
    target.files()
    started, number, slowest = time.monotonic(), first, 0.0
    while time.monotonic() - started < seconds:
        results.put(("trying", number, None))
        before = time.monotonic()
        said = one(target, seed, number)
        slowest = max(slowest, time.monotonic() - before)
        results.put(("said", number, said))
        number += 1
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put(("done", slowest, peak_mib))


def reader(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """A reader's counts. A process that dies is one more crash, and another goes on behind it."""
    counts: Counter[str] = Counter()
    crashes: list[dict[str, Any]] = []
    slowest = peak = 0.0
    context, first, ends = multiprocessing.get_context("spawn"), 0, time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        results = context.SimpleQueue()
        process = context.Process(target=run, args=(name, left, seed, first, results))
        process.start()
        trying = first
        while True:
            if results.empty():
                if not process.is_alive() and results.empty():
                    counts["crash"] += 1
                    crashes.append({"number": trying, "what": f"process ended ({process.exitcode})"})
                    break
                time.sleep(0.002)
                continue
            kind, a, b = results.get()
            if kind == "done":
                slowest, peak = max(slowest, a), max(peak, b)
                ends = 0.0
                break
            if kind == "trying":
                trying = a
            elif b in ("valid", "refused"):
                counts[b] += 1
            else:
                counts["crash"] += 1
                crashes.append({"number": a, "what": b})
        process.join()
        first = trying + 1
    return {
        "reader": name,
        "inputs": sum(counts.values()),
        **{key: counts[key] for key in ("valid", "refused", "crash")},
        "slowest_seconds": round(slowest, 2),
        "peak_mib": round(peak),
        "crashes": crashes[:20],
    }


def keep(rows: list[dict[str, Any]], seed: int, seconds: float) -> None:
    """Write the results; readers that were not run this time keep theirs."""
    named = {row["reader"]: {**row, "seed": seed, "seconds": seconds} for row in rows}
    before = json.loads(RESULTS.read_text())["readers"] if RESULTS.exists() else []
    merged = {row["reader"]: row for row in before} | named
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"readers": list(merged.values())}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", default="", help="only readers whose names hold this")
    parser.add_argument("--only", type=int, help="one input, with its traceback")
    wanted = parser.parse_args()
    from targets import targets

    chosen = [target for target in targets() if wanted.reader in target.name]
    if wanted.only is not None:
        target = chosen[0]
        with tempfile.TemporaryDirectory() as name:
            target.spoil(Path(name), random.Random(f"{wanted.seed}-{target.name}-{wanted.only}"))
            target.use(Path(name))
        return
    rows = []
    print(
        f"{'reader':<22} {'inputs':>8} {'valid':>8} {'refused':>8} {'crash':>6} {'slowest s':>10} {'peak MiB':>9}"
    )
    for target in chosen:
        row = reader(target.name, wanted.seconds, wanted.seed)
        rows.append(row)
        print(
            f"{row['reader']:<22} {row['inputs']:>8,} {row['valid']:>8,} {row['refused']:>8,} {row['crash']:>6}"
            f" {row['slowest_seconds']:>10} {row['peak_mib']:>9,}",
            flush=True,
        )
        for crash in row["crashes"][:5]:
            print(f"    {crash['number']}: {crash['what']}", flush=True)
    keep(rows, wanted.seed, wanted.seconds)
    bad = [row["reader"] for row in rows if row["crash"] or row["peak_mib"] > MOST_MIB]
    if bad:
        sys.exit(f"Neither read nor refused, or too much memory: {', '.join(bad)}")


if __name__ == "__main__":
    main()
