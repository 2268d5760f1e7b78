"""What the benchmark's data sets look like, and how well that foretells the rank and the learning rate that were best.

    python -m bench.characteristics MODEL DATA_DIR [--sets nl2bash,klingon,…] [--gradient-rows 128]
    python -m bench.characteristics show
    python -m bench.characteristics fit [--folder bench/surfaces] [--write]

The first measures ``bench/results/characteristics.json``: what needs no weights (``rightrank.data.characteristics``) for every recorded
size, base loss and the gradient's spectrum at the start (``bench.gradient_spectrum``) on the first rows; on a CPU, minutes a data set.
What is there already is not measured again. The second prints it. The third fits (``bench.foretelling``) and
scores (``bench.told``), offline.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.design import EPOCHS, SETS
from bench.tables import FOLDER
from rightrank import priors
from rightrank.data.characteristics import Characteristics, characteristics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.design import DataSet

KEPT = Path(__file__).parent / "results" / "characteristics.json"
AT_ROWS = 128
"""Rows that gradients are compared on: their directions grow with the rows."""
RANKS = tuple(2**i for i in range(9))
PRIOR = Path(priors.__file__).parent / "characteristics.json"
ABOUT = (
    "Characteristics of the benchmark's data sets: of every recorded size without weights (lzma bytes of token ids), and of the first rows"
    " by one forward and backward pass of the untrained model in float32 (gradients of the linear layers at a third, two thirds and the end"
    " of the depth; means over their 21 matrices). One model, so its width and depth are constant and foretell nothing here."
)


def read(path: Path = KEPT) -> dict[str, Any]:
    """What was measured."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def gradient_rank(known: Mapping[str, Any], what: str = "beyond_edge") -> int:
    """Directions of the gradient at the start, as a rank."""
    return nearest_rank(math.log2(max(1.0, spectrum_of(known)[what])))


def spectrum_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """On ``AT_ROWS`` rows, or the nearest to it."""
    found: dict[str, Any] = min(known["spectra"], key=lambda one: abs(one["rows"] - AT_ROWS))
    return found


def nearest_rank(doublings: float) -> int:
    """The power of two from 1 to 256 that is nearest."""
    return RANKS[min(max(round(doublings), 0), len(RANKS) - 1)]


def sizes_of(tokenizer: object, data_set: DataSet, folder: Path) -> tuple[dict[str, Any], Any]:
    """Characteristics at every size of the longest recipe, and the training rows. Sizes of the other recipe are among them."""
    from bench.record import prepared

    recipe, data = prepared(tokenizer, data_set, folder, max(EPOCHS))
    sizes = sorted(data_set.sizes(len(data.train), recipe), reverse=True)
    return {str(size): asdict(characteristics(data.train[:size])) for size in sizes}, data.train[: sizes[0]]


def measure(model: str, folder: Path, names: list[str], rows_of_gradients: int, called: str) -> None:
    """Add what is missing to the file, a data set at a time. ``rows_of_gradients``: 0 for none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.gradient_spectrum import measure as of_gradients
    from rightrank.runs.facts import versions

    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    kept = read() if KEPT.exists() else {"sets": {}}
    kept |= {
        "about": ABOUT,
        "model": called,
        "hidden": base.config.hidden_size,
        "layers": base.config.num_hidden_layers,
        "versions": versions(),
        "command": "python -m bench.characteristics MODEL DATA_DIR",
    }
    for name in names:
        sizes, rows = sizes_of(tokenizer, SETS[name], folder)
        known = kept["sets"].setdefault(name, {})
        known |= {"lockbox": SETS[name].lockbox, "sizes": sizes}
        if rows_of_gradients and "spectra" not in known:
            began = time.monotonic()
            known |= of_gradients(base, rows, rows_of_gradients)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def show() -> list[str]:
    """The file as a table."""
    found = [
        f"{'':21}{'rows':>5}{'trained':>9}{'a row':>7}{'KiB':>6}{'new KiB':>8}{'bits':>6}{'distinct':>9}{'copied':>7}"
    ]
    kept = read()
    for name, known in kept["sets"].items():
        for sized in known["sizes"].values():
            one = Characteristics(**sized)
            found.append(
                f"{name:21}{one.examples:5}{one.trained_tokens:9,}{one.trained_tokens_a_row:7.1f}{one.answer_bytes / 1024:6.1f}"
                f"{one.new_bytes / 1024:8.1f}{one.new_bits_a_token:6.2f}{100 * one.distinct_share:7.0f} %{100 * one.copied_share:5.0f} %"
            )
    head = "beyond the edge | noise | replicated, at rows"
    found += ["", f"{'untrained model':21}{'nats':>6}{'by token':>9}{'by row':>8}   {head}"]
    for name, known in kept["sets"].items():
        if "spectra" not in known:
            continue
        base, spectra = known["base"], known["spectra"]
        cells = [
            "/".join(f"{one[what]:.0f}" for one in spectra)
            for what in ("beyond_edge", "beyond_noise", "replicated")
        ]
        rows = "/".join(str(one["rows"]) for one in spectra)
        found.append(
            f"{name:21}{base['nats_a_token']:6.2f}{base['spread_tokens']:9.2f}{base['spread_examples']:8.2f}   {' | '.join(cells)}, {rows}"
        )
    return found


def report(folder: Path, *, write: bool) -> list[str]:
    """Every rule's score, and what characteristics foretell one by one; ``write``: keep the line that ships."""
    from bench import foretelling as f
    from bench import told as t

    measured = read()
    every = f.cases(folder, measured)
    scored = t.told(every, measured)
    found = [f"{len(every)} cases of {len({c.name for c in every})} data sets", ""]
    for case in every:
        found.append(
            f"{case.label:22} smallest rank {', '.join(map(str, case.ranks)):20} best rate {10**case.axis:.1e}"
        )
    found += ["", f"{'misses, sets left out; lockbox':50}{'doublings':>16}{'decades':>16}"]
    for names in ((), *f.TRIED):
        if all(name in case.features for name in names for case in every):
            cells = ""
            for target in (f.doublings, f.axis):
                miss_N = abs(f.misses(every, names, target))
                sides = [
                    [i for i, c in enumerate(every) if c.lockbox == lockbox] for lockbox in (False, True)
                ]
                cells += "".join(
                    f"{f.by_set([every[i] for i in side], miss_N[side]).mean():8.2f}" if side else f"{'':8}"
                    for side in sides
                )
            found.append(f"{', '.join(names)[:48] or 'none: the mean of the others':50}{cells}")
    for lockbox in (False, True):
        side = "Lockbox" if lockbox else "Sets left out"
        found += ["", f"{side:45}{'doublings (outside)':>20}{'decades':>9}  gain lost, percent (worst)"]
        for who in dict.fromkeys(one.who for one in scored):
            some = [one for one in scored if one.who == who and one.case.lockbox == lockbox]
            if some:
                s = t.summary(some)
                found.append(
                    f"{who:45}{s['doublings_off']:12.2f} ({s['doublings_outside']:5.2f}){s['decades_off']:9.2f}  {s['lost']:6.2f}"
                    f" ± {s['lost_error']:.2f} ({s['lost_worst']:.2f}), {s['cases']} cases"
                )
    ships = t.prior(every, scored)
    for what in ("rank", "learning_rate"):
        found.append(
            f"Ships for the {what}: {', '.join(ships[what]['features']) or 'the mean of the sets'}; {ships[what]['off']} off"
        )
    found.append(f"Less lost than r=32 at the same rate: {ships['less_lost_than_r_32']}")
    by = {w: [o for o in scored if o.who == w and not o.case.lockbox] for w in (t.THIRTY_TWO, t.PLAIN)}
    found.append(f"Less lost by the rate foretold, at r=32: {t.less_lost(by[t.THIRTY_TWO], by[t.PLAIN])}")
    if write:
        PRIOR.write_text(json.dumps(ships, indent=1) + "\n", encoding="utf-8")
        found.append(f"Written: {PRIOR.name}")
    return found


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    if sys.argv[1:2] == ["show"]:
        print("\n".join(show()))
        return
    if sys.argv[1:2] == ["fit"]:
        parser.add_argument("fit")
        parser.add_argument("--folder", type=Path, default=FOLDER)
        parser.add_argument("--write", action="store_true", help="into what rightrank estimate reads")
        chosen = parser.parse_args()
        print("\n".join(report(chosen.folder, write=chosen.write)))
        return
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--called", default="SmolLM2-135M-Instruct", help="the model's name")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--gradient-rows", type=int, default=AT_ROWS, help="rows for gradients; 0: none")
    chosen = parser.parse_args()
    measure(chosen.model, chosen.data, chosen.sets.split(","), chosen.gradient_rows, chosen.called)


if __name__ == "__main__":
    main()
