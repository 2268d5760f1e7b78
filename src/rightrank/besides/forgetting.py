"""What training takes from the model's old skills: its loss on a second data set before and after, paired row by row.

Dimensions: E rows of the second data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.besides.results import Change, Forgetting, Forgot
from rightrank.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Int

    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.memory import MemoryModel
    from rightrank.bank.targets import Target
    from rightrank.data import TokenizedExample
    from rightrank.request import Request
    from rightrank.runs.trained_adapters import Setting, TrainedAdapter

# Differences are paired, so that a few hundred rows tell them: 300 gave standard errors of 0.1 to 0.8 % of the gain (measured on five
# data sets, SmolLM2-135M). Below 30 an interval is not to be trusted (assumed, as elsewhere).
MOST_ROWS, FEWEST_ROWS = 500, 30
BUDGET_SHARE = 0.1
"""Of the budget, for measuring what is forgotten. Assumed."""


@dataclass(frozen=True)
class OldSkills:
    """The second data set, tokenized as the first, in a random order."""

    name: str
    format: str
    fingerprint: str
    of_rows: int
    examples: tuple[TokenizedExample, ...]
    notes: tuple[str, ...]

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row."""
        return float(np.mean([len(example.token_ids_T) for example in self.examples]))


@dataclass(frozen=True)
class OldLoss:
    """One model on E rows."""

    loss_E: Float[np.ndarray, " E"]
    """Nats, summed over each row's trained tokens."""
    right_E: Int[np.ndarray, " E"]
    """Trained tokens that are the greedy choice."""


def read_old_skills(request: Request, tokenizer: Any, trained: Sequence[TokenizedExample]) -> OldSkills:
    """Read ``request.keep`` as held-out data is read. Rows whose prompt is among the ``trained`` ones would be learnt, and are left out.

    Raises the DataErrors of reading, formats and tokens, and DataError where fewer than ``FEWEST_ROWS`` rows are left.
    """
    from rightrank.data import understand
    from rightrank.data.prepare import EVAL_SPLITS, fingerprint
    from rightrank.data.tokens import tokenize
    from rightrank.data.wording import counted

    parsed = understand(request.keep, prefer=EVAL_SPLITS)
    made = tokenize(parsed.conversations, tokenizer, request.recipe, chat_template=request.chat_template)
    learnt = {example.prompt_key for example in trained}
    kept = [example for example in made.examples if example.prompt_key not in learnt]
    if len(kept) < FEWEST_ROWS:
        raise DataError(
            f"--keep has {counted(len(kept), 'row')} that can be used; {FEWEST_ROWS} are needed to tell what is forgotten.",
            "Name more rows of what the model should still be able to do.",
        )
    notes = []
    if len(kept) < len(made.examples):
        lost = counted(len(made.examples) - len(kept), "row")
        notes.append(f"{lost} of --keep left out: the same prompts are trained on.")
    order = np.random.default_rng(request.seed).permutation(len(kept))
    return OldSkills(
        name=parsed.name,
        format=parsed.format,
        fingerprint=fingerprint([parsed.conversations]),
        of_rows=parsed.rows,
        examples=tuple(kept[i] for i in order),
        notes=tuple(notes),
    )


def rows_to_measure(pool: int, seconds_a_row: float, models: int, budget_seconds: float) -> int:
    """How many rows ``models`` models are measured on: ``MOST_ROWS`` at most, and what ``BUDGET_SHARE`` of the budget pays for."""
    affordable = int(BUDGET_SHARE * budget_seconds / max(1e-9, models * seconds_a_row))
    return min(pool, MOST_ROWS, max(FEWEST_ROWS, affordable))


def measure_loss(
    base: BaseModel,
    targets: Sequence[Target],
    memory: MemoryModel,
    examples: Sequence[TokenizedExample],
    adapter: TrainedAdapter | None,
    *,
    packed: bool,
) -> OldLoss:
    """The model with ``adapter`` (None: as it is) on ``examples``. Raises ConfigurationError where the adapter cannot be read."""
    from rightrank.bank.adapters import AdapterBank, AdapterSpec
    from rightrank.bank.evaluate import evaluate
    from rightrank.bank.forward import Forward
    from rightrank.bank.memory import ENOUGH_TOKENS_ON_CPU, available_bytes
    from rightrank.bank.peft_format import import_adapter

    bank, parameters = None, 0
    if adapter is not None:
        rank, alpha, rate = adapter.setting
        specs = [AdapterSpec(rank, alpha=alpha, learning_rate=rate)]
        bank = AdapterBank(targets, specs, device=base.device, dtype=base.dtype)
        import_adapter(bank, 0, adapter.directory)
        parameters = sum(master.numel() for master in bank.masters)
    longest = max(len(example.token_ids_T) for example in examples)
    fits = memory.capacity(parameters, 1, available_bytes(base.device))
    capacity = max(longest, fits if base.device.type == "cuda" else min(fits, ENOUGH_TOKENS_ON_CPU))
    with Forward(base, bank, packed=packed) as forward:
        held_out = evaluate(forward, examples, capacity=capacity)
    return OldLoss(held_out.loss_KE[0], held_out.right_KE[0])


def what_is_forgotten(
    skills: OldSkills,
    rows: int,
    training_rows: int,
    before: OldLoss,
    after: Mapping[Setting, OldLoss],
) -> Forgetting:
    """The losses before and after, with paired intervals over the rows (not over seeds: one run each)."""
    tokens_E = np.array([example.trained_tokens for example in skills.examples[:rows]])
    tokens = float(tokens_E.sum())
    base_loss = float(before.loss_E.sum()) / tokens
    return Forgetting(
        name=skills.name,
        format=skills.format,
        fingerprint=skills.fingerprint,
        rows=rows,
        of_rows=skills.of_rows,
        base_loss=base_loss,
        base_tokens_right=100 * float(before.right_E.sum()) / tokens,
        examples=training_rows,
        settings=tuple(
            _forgot(setting, after[setting], before, tokens_E, base_loss)
            for setting in sorted(after, key=_order)
        ),
    )


def _order(setting: Setting) -> tuple[int, float, float]:
    rank, alpha, rate = setting
    return rank, rate, alpha


def _forgot(
    setting: Setting,
    after: OldLoss,
    before: OldLoss,
    tokens_E: Int[np.ndarray, " E"],
    base_loss: float,
) -> Forgot:
    from rightrank.stats.paired import paired_contrast

    found = paired_contrast(after.loss_E, before.loss_E, tokens_E)
    share = 100 / base_loss if base_loss > 0 else 0.0
    return Forgot(
        *setting,
        change=Change(found.difference, found.low, found.high),
        percent=Change(share * found.difference, share * found.low, share * found.high),
        tokens_right=100 * float(after.right_E.sum()) / float(tokens_E.sum()),
    )
