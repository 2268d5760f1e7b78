"""Of the functions that an adapter writes for the held-out prompts, the percentage that is Python at all.

    python parses.py ADAPTER_DIR

It parses what the model wrote and runs none of it. A pass rate on the asserts would say more; run such code in a sandbox only.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import peft
import transformers

HELD_OUT = Path(__file__).with_name("held_out.jsonl")


def main(adapter: str, prompts: int = 20, longest: int = 96) -> float:
    """Percent of ``prompts`` completions, at most ``longest`` tokens each and chosen greedily, that parse."""
    model, tokenizer = load(adapter)
    rows = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()][:prompts]
    written = []
    for row in rows:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        out = model.generate(
            **asked, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        written.append(tokenizer.decode(out[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return 100 * sum(is_python(text) for text in written) / len(written)


def load(adapter: str) -> tuple[Any, Any]:
    """The base with the adapter on it, and the tokenizer; a GGUF file is a base too."""
    base = json.loads((Path(adapter) / "adapter_config.json").read_text())["base_model_name_or_path"]
    gguf = {"gguf_file": Path(base).name} if base.endswith(".gguf") else {}
    folder = str(Path(base).parent) if gguf else base
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **gguf)
    return peft.PeftModel.from_pretrained(model, adapter), transformers.AutoTokenizer.from_pretrained(
        folder, **gguf
    )


def is_python(text: str) -> bool:
    """Whether ``text`` is the source of at least one statement."""
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError):
        return False


if __name__ == "__main__":
    print(main(sys.argv[1]))
