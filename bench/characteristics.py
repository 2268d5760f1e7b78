"""What the benchmark's data sets look like, and how well that foretells the rank and the learning rate that were best.

    python -m bench.characteristics MODEL DATA_DIR [--sets nl2bash,klingon,…] [--no-gradients]
    python -m bench.characteristics show
    python -m bench.characteristics fit [--folder bench/surfaces] [--write]

The first measures ``bench/results/characteristics.json``: what needs no weights (``rightrank.data.characteristics``) for every recorded
size, base loss and the gradient's spectrum at the start (``bench.gradient_spectrum``) on the first rows; on a CPU, minutes a data set.
What is there already is not measured again. The second prints it. The third fits and scores (``bench.foretelling``), offline.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.design import EPOCHS, SETS

if TYPE_CHECKING:
    from bench.design import DataSet

KEPT = Path(__file__).parent / "results" / "characteristics.json"
ABOUT = (
    "Characteristics of the benchmark's data sets: of every recorded size without weights (lzma bytes of token ids), and of the first rows"
    " by one forward and backward pass of the untrained model in float32 (gradients of the linear layers at a third, two thirds and the end"
    " of the depth; means over their 21 matrices). One model, so its width and depth are constant and foretell nothing here."
)


def read(path: Path = KEPT) -> dict[str, Any]:
    """What was measured."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def sizes_of(tokenizer: object, data_set: DataSet, folder: Path) -> tuple[dict[str, Any], Any]:
    """Characteristics at every size of the longest recipe, and the training rows. Sizes of the other recipe are among them."""
    from bench.record import prepared
    from rightrank.data.characteristics import characteristics

    recipe, data = prepared(tokenizer, data_set, folder, max(EPOCHS))
    sizes = sorted(data_set.sizes(len(data.train), recipe), reverse=True)
    return {str(size): asdict(characteristics(data.train[:size])) for size in sizes}, data.train[: sizes[0]]


def measure(model: str, folder: Path, names: list[str], *, gradients: bool) -> None:
    """Add what is missing to the file, a data set at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.gradient_spectrum import measure as of_gradients
    from rightrank.runs.facts import versions

    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    kept = read() if KEPT.exists() else {"sets": {}}
    kept |= {
        "about": ABOUT,
        "model": Path(model).name if base.config.name_or_path == model else base.config.name_or_path,
        "hidden": base.config.hidden_size,
        "layers": base.config.num_hidden_layers,
        "versions": versions(),
        "command": "python -m bench.characteristics MODEL DATA_DIR",
    }
    for name in names:
        sizes, rows = sizes_of(tokenizer, SETS[name], folder)
        known = kept["sets"].setdefault(name, {})
        known |= {"lockbox": SETS[name].lockbox, "sizes": sizes}
        if gradients and "spectra" not in known:
            began = time.monotonic()
            known |= of_gradients(base, rows)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--no-gradients", action="store_true")
    chosen = parser.parse_args()
    measure(chosen.model, chosen.data, chosen.sets.split(","), gradients=not chosen.no_gradients)


if __name__ == "__main__":
    main()
