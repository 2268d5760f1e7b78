"""Yes or no: does a clause of a contract grant, limit or require something (CUAD, in LegalBench's words)? From Python.

    python examples/legal/legal.py [MODEL [RANK ...]]

The answers are one word long, so the loss says little by itself: read the share of clauses answered exactly right beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import rightrank

ROWS = Path(__file__).with_name("rows.jsonl")


def main(model: str = "HuggingFaceTB/SmolLM2-135M-Instruct", *ranks: str) -> rightrank.Recommendation:
    """Measure, and print what a program would act on."""
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    answer = rightrank.recommend(
        model,
        rows,
        recipe=rightrank.Recipe().given(epochs=4, batch_size=4),
        ranks=tuple(map(int, ranks)) or None,
        yours=(16, 32, 2e-4),
        budget_minutes=10,
    )
    print(answer.status, "-", answer.headline)
    for option in answer.options:
        if option.exact is not None:
            print(
                f"{option.label:22} loss {option.loss.value:.3f}   exactly right {option.exact.value:.0f} %"
            )
    choice = answer.choice
    print(f"Use r={choice.rank}, alpha {choice.alpha:g}, learning rate {choice.learning_rate:.1e}")
    for step in answer.to_decide:
        print("To decide:", step.why)
    return answer


if __name__ == "__main__":
    config = main(*sys.argv[1:]).to_peft()  # for peft.get_peft_model(model, config)
    print(f"peft.LoraConfig(r={config.r}, lora_alpha={config.lora_alpha}, ...)")
