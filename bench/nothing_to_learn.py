"""Data on which no rank can be right: what does the whole product say?

    python -m bench.nothing_to_learn MODEL ROWS --out DIR [--rows 400] [--minutes 5] [--kinds random,written,shuffled]

``random``: completions of random tokens, as long as the real ones: never SETTLED or CEILING. ``written``: completions that the base model
itself wrote, sampled at temperature 1: NO_GAIN. ``shuffled``: real completions dealt to other prompts: what can be learnt is how answers
look, which needs the smallest rank. Each is made from ROWS, put into DIR and given to ``rightrank.recommend``; prints a line each and
writes DIR/answers.json.
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
TOGETHER_ON_CPU, TOGETHER_ON_GPU, LONGEST = 32, 1000, 900


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


def written(rows: list[dict[str, str]], base: BaseModel) -> list[dict[str, str]]:
    """What the base answers, sampled at temperature 1 to its own end; what does not end within ``LONGEST`` tokens is left out.

    Cut off instead, a completion would end where the base does not, and that is something to learn.
    """
    import torch

    tokenizer: Any = base.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    stops = base.model.generation_config.eos_token_id  # not always the tokenizer's
    ends = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
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
                **batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=LONGEST
            )
        for row, ids in zip(some, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            if ends & set(ids) and text.strip():
                found.append({**row, "completion": text})
    if not found:
        raise SystemExit(f"The base ends none of {len(rows)} completions within {LONGEST} tokens.")
    return found


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
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    base = load_base(chosen.model)
    rows = read(chosen.rows_file, chosen.rows)
    kept = chosen.out / "answers.json"
    answers: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for kind in chosen.kinds.split(","):
        made = {
            "random": lambda: random_words(rows, base),
            "written": lambda: written(rows, base),
            "shuffled": lambda: shuffled(rows),
        }[kind]()
        path = chosen.out / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        answer = rightrank.recommend(
            chosen.model,
            str(path),
            budget_minutes=chosen.minutes,
            out=chosen.out / f"run-{kind}",
            on_text=print,
        )
        answers[kind] = {
            "data": chosen.rows_file.name,
            "rows": len(made),
            "minutes": chosen.minutes,
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
