"""Recommendations for tests and for looking at: one for each status, all of invented numbers from closed forms, nothing measured."""

from __future__ import annotations

import math
from dataclasses import replace

from rightrank.recipe import Recipe, alpha_for
from rightrank.recommendation import (
    Choice,
    Cost,
    DataFacts,
    Figure,
    Margin,
    MeasuredPoint,
    ModelFacts,
    NextStep,
    Option,
    Provenance,
    Recommendation,
    Status,
)

BASE, BEST = 2.140, 1.203
GAIN = BASE - BEST
TRAIN = 2700
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEASURED_FULLY = ("FLAT", "NO_GAIN")
STATUSES: tuple[Status, ...] = ("SETTLED", "FLAT", "CEILING", "UNDECIDED", "NO_GAIN")

# rank -> (best learning rate, percent of the gain lost, half the interval).
RANKS = (4, 8, 16, 32, 64, 128)
CURVES: dict[Status, dict[int, tuple[float, float, float]]] = {
    status: {
        rank: (rate * 1e-4, lost, half)
        for rank, rate, lost, half in zip(ranks, rates, losts, halves, strict=True)
    }
    for status, ranks, rates, losts, halves in (
        ("SETTLED", RANKS, (6, 6, 4, 4, 3, 3), (2.4, 1.4, 0.1, 0.2, 0, 0.3), (0.8, 0.35, 0.6, 0.6, 0, 0.6)),
        ("FLAT", RANKS, (4, 4, 4, 3, 3, 2), (0.3, 0.2, 0.1, 0, 0.3, 0.4), (0.4, 0.4, 0.4, 0, 0.4, 0.4)),
        ("CEILING", RANKS, (6, 6, 6, 4, 4, 4), (24.1, 16.4, 10.2, 6.1, 2.9, 0), (1.2, 1.0, 0.9, 0.8, 0.7, 0)),
        ("UNDECIDED", RANKS, (6, 6, 4, 4, 4, 3), (6.9, 3.8, 1.6, 0.4, 0, 0.9), (2.2, 2.1, 2.0, 1.4, 0, 1.9)),
        ("NO_GAIN", (4, 16, 64), (1, 1, 0.5), (0, 0.4, 0.6), (0, 0.9, 0.9)),
    )
}

CHOSEN: dict[Status, int] = {"SETTLED": 16, "FLAT": 4, "CEILING": 128, "UNDECIDED": 32, "NO_GAIN": 4}

HEADLINES: dict[Status, str] = {
    "SETTLED": "No rank up to 128 is better by more than 1 % of what training gains.",
    "FLAT": "Every rank from 4 to 128 is as good as the best, each at its own learning rate.",
    "CEILING": "Rank 256 would still gain more than the margin over 128, the largest rank tried.",
    "UNDECIDED": "Ranks 16 to 128 cannot be told apart yet.",
    "NO_GAIN": "Training on these rows does not beat the model as it is.",
}

REASONS: dict[Status, tuple[str, ...]] = {
    "SETTLED": (
        "r=8 loses 1.4 % [1.0, 1.8] of the gain, more than the margin.",
        "r=16 is within the margin of the best, r=64, at 95 %, and gets as many completions right.",
        "The best learning rate is interior: both neighbours lose more.",
    ),
    "FLAT": (
        "No difference between two ranks is larger than the margin at 95 %.",
        "Learning rates matter more: twice the best one loses 3 %.",
    ),
    "CEILING": ("From r=64 to r=128 the loss still falls by 2.9 % of the gain.", "Nothing levels off within the ranks tried."),
    "UNDECIDED": ("r=4 and r=8 lose more than the margin.", "The intervals of r=16 to r=128 overlap the margin."),
    "NO_GAIN": ("The best of 9 runs is 0.002 nats a token above the base model.", "Higher learning rates make it worse."),
}  # fmt: skip


def figure(value: float, unit: str, half: float = 0.0, source: str = "measured") -> Figure:
    low, high = (round(value - half, 4), round(value + half, 4)) if half else (None, None)
    return Figure(value=value, unit=unit, source=source, low=low, high=high)  # type: ignore[arg-type]


def option(
    label: str,
    kind: str,
    rank: int,
    alpha: float,
    rate: float,
    lost: float,
    half: float,
    verdict: str,
    source: str,
) -> Option:
    return Option(
        label=label,
        kind=kind,  # type: ignore[arg-type]
        rank=rank,
        alpha=alpha,
        learning_rate=rate,
        verdict=verdict,  # type: ignore[arg-type]
        loss=figure(round(BEST + GAIN * lost / 100, 4), "nats a token", 0.03, source),
        gain_lost=figure(lost, "% of the gain", half, source),
        exact=figure(round(34 - lost, 1), "%", 2.5),
        tokens_right=figure(round(71 - lost / 2, 1), "%", 1.0),
        train_gib=Figure(round(13.7 + rank / 30, 1), "GiB", "derived"),
        adapter_mb=5.24 * rank,
    )


def options(status: Status) -> tuple[Option, ...]:
    source = "measured" if status in MEASURED_FULLY else "extrapolated"
    tuned = []
    for rank, (rate, lost, half) in CURVES[status].items():
        verdict = (
            "best"
            if lost == 0
            else "worse"
            if lost - half > 1
            else "as good"
            if lost + half < 1
            else "cannot tell"
        )
        measured = "measured" if rank == 128 else source
        tuned.append(option(f"r={rank}", "tuned", rank, alpha_for(rank), rate, lost, half, verdict, measured))
    return (
        *tuned,
        option("yours r=32 a=16 2e-4", "yours", 32, 16, 2e-4, 3.1, 0.9, "worse", source),
        option("guide r=16 a=32 2e-4", "guide", 16, 32, 2e-4, 1.5, 0.8, "worse", source),
        option("guide r=8 a=16 1e-4", "guide", 8, 16, 1e-4, 14.8, 1.4, "worse", source),
    )


def points(status: Status) -> tuple[MeasuredPoint, ...]:
    """Learning rates at three ranks on 675 rows, every rank at its best one on more with two seeds, and the other configs."""
    found = []
    curve = CURVES[status]
    for rank, (best, lost, _) in curve.items():
        runs = [(f, 675, 0, "learning rate") for f in (0.25, 0.5, 1, 2, 4)] if rank in (8, 32, 128) else []
        top = TRAIN if status in MEASURED_FULLY else TRAIN // 2
        runs += [(1, top, 0, "rank"), (1, top, 1, "seed")]
        for factor, examples, seed, role in runs:
            value = round(lost + 2.2 * math.log2(factor) ** 2 + 0.1 * seed, 3)
            found.append(
                _point(
                    rank,
                    alpha_for(rank),
                    best * factor,
                    seed,
                    examples,
                    value,
                    role,
                    diverged=factor * rank > 500,
                )
            )
    found.append(_point(32, 16, 2e-4, 0, TRAIN // 2, 3.1, "yours"))
    found.append(_point(16, 32, 2e-4, 0, TRAIN // 2, 1.5, "guide"))
    found.append(_point(8, 16, 1e-4, 0, TRAIN // 2, 14.8, "guide"))
    return tuple(found)


def _point(
    rank: int,
    alpha: float,
    rate: float,
    seed: int,
    examples: int,
    lost: float,
    role: str,
    diverged: bool = False,
) -> MeasuredPoint:
    loss = None if diverged else round(BEST + 0.08 * (TRAIN - examples) / TRAIN + GAIN * lost / 100, 4)
    return MeasuredPoint(
        rank=rank,
        alpha=alpha,
        learning_rate=rate,
        seed=seed,
        examples=examples,
        steps=2 * math.ceil(examples / 16),
        loss=loss,
        gain_lost=None if diverged else figure(lost, "% of the gain", 0.8),
        train_loss=None if loss is None else round(loss - 0.12, 4),
        role=role,  # type: ignore[arg-type]
    )


def sample(status: Status = "SETTLED") -> Recommendation:
    """A recommendation of ``status``. Invented."""
    rank = CHOSEN[status]
    rate, lost, half = CURVES[status][rank]
    no_gain = status == "NO_GAIN"
    base, best = (1.201, BEST) if no_gain else (BASE, BEST)
    recipe = Recipe(
        epochs=2.0,
        max_length=2048,
        origins={"epochs": "config", "max_length": "config", "batch_size": "given"},
    )
    return Recommendation(
        status=status,
        headline=HEADLINES[status],
        reasons=REASONS[status],
        choice=Choice(rank, alpha_for(rank), rate, 2.0, MODULES),
        worst_case=Figure(round(lost + half, 3), "% of the gain", "measured"),
        options=options(status),
        points=points(status),
        margin=Margin(
            used=Figure(0.0094, "nats a token", "derived"),
            one_percent_of_gain=Figure(0.0094, "nats a token", "derived"),
            ten_percent_more_data=Figure(0.0121, "nats a token", "extrapolated"),
            as_percent_of_gain=1.0,
        ),
        base_loss=figure(base, "nats a token", 0.04),
        best_loss=figure(best, "nats a token", 0.03),
        gain=figure(round(base - best, 4), "nats a token", 0.003),
        frequency_loss=Figure(5.871, "nats a token", "derived"),
        ruled_out={"SETTLED": (4, 8), "CEILING": (4, 8, 16, 32, 64), "UNDECIDED": (4, 8)}.get(status, ()),
        to_decide=_to_decide() if status == "UNDECIDED" else (),
        more_data=()
        if no_gain
        else ("With 2 × the data the answer would stay r=16 to r=32.", "With 10 × it cannot be told."),
        model=ModelFacts(
            name="meta-llama/Meta-Llama-3-8B",
            architecture="LlamaForCausalLM",
            fingerprint="sha256:0d1f2a3b4c5d6e7f",
            parameters=8_030_261_248,
            layers=32,
            dtype="4-bit",
            target_modules=MODULES,
            not_adapted=("lm_head.weight", "model.embed_tokens.weight"),
            path="packed",
        ),
        data=DataFacts(
            name="medqa.jsonl",
            format="Alpaca",
            fingerprint="sha256:9a8b7c6d5e4f3a2b",
            rows=3000,
            train=TRAIN,
            decide=150,
            score=150,
            truncated=14,
            dropped=0,
            duplicates=3,
            trained_tokens=412_300,
            total_tokens=1_204_811,
            template="chat template of the tokenizer",
            held_out_from="split by prompt",
        ),
        recipe=recipe,
        cost=Cost(
            38.0, 41.2, 0.93, 21.4, "NVIDIA GeForce RTX 4090", Figure(0.8, "% of the gain", "measured")
        ),
        provenance=Provenance(
            created="2026-01-02T03:04:05Z",
            command="rightrank recommend meta-llama/Meta-Llama-3-8B medqa.jsonl",
            seed=0,
            versions={"rightrank": "0.1.0", "torch": "2.9.0", "transformers": "5.17.0"},
            interrupted=False,
            run_directory="rightrank-runs/medqa-1",
        ),
        warnings=("14 rows are longer than 2,048 tokens and were truncated.",),
    )


def _to_decide() -> tuple[NextStep, ...]:
    return (
        NextStep(
            command="rightrank recommend meta-llama/Meta-Llama-3-8B medqa.jsonl --resume rightrank-runs/medqa-1 --time 90m",
            why="Trains the four open ranks on all 2,700 rows.",
            minutes=Figure(64.0, "minutes", "derived"),
        ),
        NextStep(
            command="rightrank recommend meta-llama/Meta-Llama-3-8B medqa.jsonl --eval-data more.jsonl",
            why="About 900 more held-out rows would halve the intervals.",
            minutes=None,
        ),
    )


HOSTILE = (
    "<script>alert(1)</script></title>[red]x[/red]\x1b[31mred\x1b]0;owned\x07\u202egnp.\u2066\x9b2J\r\n'\"&"
)


def hostile(status: Status = "UNDECIDED") -> Recommendation:
    """Every string that comes from outside holds markup, escape sequences and bidirectional controls."""
    plain = sample(status)
    return replace(
        plain,
        headline=HOSTILE,
        reasons=(HOSTILE,),
        choice=replace(plain.choice, target_modules=(*MODULES, HOSTILE)),
        options=tuple(replace(o, label=HOSTILE) if o.kind != "tuned" else o for o in plain.options),
        to_decide=(NextStep(HOSTILE, HOSTILE, None),),
        more_data=(HOSTILE,),
        model=replace(
            plain.model,
            name=HOSTILE,
            architecture=HOSTILE,
            fingerprint=HOSTILE,
            dtype=HOSTILE,
            not_adapted=(HOSTILE,),
            path=HOSTILE,
        ),
        data=replace(plain.data, name=HOSTILE, format=HOSTILE, fingerprint=HOSTILE, template=HOSTILE),
        cost=replace(plain.cost, device=HOSTILE),
        provenance=replace(
            plain.provenance,
            created=HOSTILE,
            command=HOSTILE,
            versions={HOSTILE: HOSTILE},
            run_directory=HOSTILE,
        ),
        warnings=(HOSTILE,),
    )
