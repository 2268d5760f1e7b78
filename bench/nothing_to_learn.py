"""Data on which no rank can be right: what does the whole product say?

    python -m bench.nothing_to_learn MODEL ROWS --out DIR [--rows 400] [--minutes 5] [--kinds random,written,shuffled]
        [--max-length 1024] [--epochs 3]

``random``: completions of random tokens, as long as the real ones: never SETTLED or CEILING. ``written``: completions that the base model
itself wrote, sampled at temperature 1, to its own end or beyond ``--max-length``, where they are cut as any row is: NO_GAIN.
``shuffled``: real completions dealt to other prompts: what can be learnt is how answers look, which needs the smallest rank. Each is
made from ROWS, put into DIR and given to ``rightrank.recommend``; prints a line each and writes DIR/answers.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rightrank.bank.base_model import BaseModel

KINDS = ("random", "written", "shuffled")
TOGETHER_ON_CPU, TOGETHER_ON_GPU = 32, 500
LONGER = 1.25
"""Tokens written at most, as a share of the maximum length: other tokens may spell the same text in fewer."""


def read(path: Path, count: int) -> list[dict[str, str]]:
    """Some rows of a JSONL file of prompts and completions, each prompt once."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows)
    return list({row["prompt"]: row for row in rows}.values())[:count]


def random_words(rows: list[dict[str, str]], base: BaseModel) -> list[dict[str, str]]:
    """Completions of as many tokens, drawn evenly from the whole vocabulary."""
    draw = random.Random(1)
    tokenizer: Any = base.tokenizer
    found = []
    for row in rows:
        length = max(4, len(tokenizer(row["completion"])["input_ids"]))
        ids = [draw.randrange(base.vocabulary) for _ in range(length)]
        found.append({**row, "completion": tokenizer.decode(ids, skip_special_tokens=True)})
    return [row for row in found if row["completion"].strip()]


def written(rows: list[dict[str, str]], base: BaseModel, max_length: int) -> list[dict[str, str]]:
    """What the base answers, sampled at temperature 1 to its own end, or until it is longer than ``max_length`` allows.

    No completion ends where the base did not, since that would be something to learn.
    """
    import torch

    tokenizer: Any = base.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(2)
    found = []
    together = TOGETHER_ON_GPU if base.device.type == "cuda" else TOGETHER_ON_CPU
    for start in range(0, len(rows), together):
        some = rows[start : start + together]
        asked = [[{"role": "user", "content": row["prompt"]}] for row in some]
        batch = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        ).to(base.device)
        with torch.no_grad():
            out = base.model.generate(
                **batch,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=int(LONGER * max_length),
                eos_token_id=stops(base) or None,
            )
        for row, ids in zip(some, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            if text.strip():
                found.append({**row, "completion": text})
    return found


def stops(base: BaseModel) -> list[int]:
    """The tokens at which the model stops: its own are not always the tokenizer's."""
    named = base.model.generation_config.eos_token_id
    own = named if isinstance(named, list) else [named]
    return sorted({base.tokenizer.eos_token_id, *own} - {None})


def shuffled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Every prompt with another's completion."""
    completions = [row["completion"] for row in rows]
    random.Random(3).shuffle(completions)
    return [{**row, "completion": text} for row, text in zip(rows, completions, strict=True)]


def main() -> None:
    import rightrank
    from rightrank.bank.base_model import load_base

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("rows_file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--epochs", type=float, default=3.0)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    base = load_base(chosen.model)
    rows = read(chosen.rows_file, chosen.rows)
    kept = chosen.out / "answers.json"
    answers: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for kind in chosen.kinds.split(","):
        made = {
            "random": lambda: random_words(rows, base),
            "written": lambda: written(rows, base, chosen.max_length),
            "shuffled": lambda: shuffled(rows),
        }[kind]()
        path = chosen.out / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        answer = rightrank.recommend(
            chosen.model,
            str(path),
            max_length=chosen.max_length,
            epochs=chosen.epochs,
            budget_minutes=chosen.minutes,
            out=chosen.out / f"run-{kind}",
            on_text=print,
        )
        answers[kind] = {
            "data": chosen.rows_file.name,
            "rows": len(made),
            "minutes": chosen.minutes,
            "max_length": chosen.max_length,
            "epochs": chosen.epochs,
            "status": answer.status,
            "rank": answer.choice.rank,
            "reasons": list(answer.reasons),
            "runs": len(answer.points),
            "ranks_tried": sorted({point.rank for point in answer.points}),
        }
        print(kind, json.dumps(answers[kind]), flush=True)
        kept.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
