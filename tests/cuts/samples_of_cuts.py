"""An answer of ``rightrank cut`` of invented numbers."""

from __future__ import annotations

from rightrank.cuts.result import CutLine, CutResult, ServeCheck
from rightrank.recommendation import Figure


def line(label, kind, rank, loss, lost, verdict, *, rows=150, factor=1.0, half=0.4):
    scored = rows > 64
    source = "measured" if scored else "derived"
    return CutLine(
        label=label,
        kind=kind,
        rank=rank,
        factor=factor,
        parameters=1000 * rank,
        megabytes=0.004 * rank,
        loss=Figure(loss, "nats a token", source, loss - 0.1, loss + 0.1),
        gain_lost=Figure(lost, "percent of the gain", source, lost - half, lost + half),
        exact=Figure(31.0, "percent", "measured", 25.0, 37.0) if scored else None,
        tokens_right=Figure(61.0, "percent", "measured", 58.0, 64.0) if scored else None,
        verdict=verdict,
        rows=rows,
    )


def a_cut() -> CutResult:
    lines = (
        line("r=2", "cut", 2, 1.9, 25.0, "worse", rows=64),
        line("r=4", "cut", 4, 1.5, 0.0, "best"),
        line("r=16", "whole", 16, 1.52, 1.6, "worse"),
        line("whole × 0.7", "scaled", 16, 1.51, 1.2, "worse", factor=0.7),
    )
    return CutResult(
        status="SETTLED",
        headline="Cut to rank 4: neither rank 16 nor any other cut is better by more than 1 % of what the adapter gains.",
        reasons=(),
        choice="r=4",
        best="r=4",
        worst_case=Figure(0.4, "percent of the gain", "measured"),
        against_whole=Figure(-0.02, "nats a token", "measured", -0.03, -0.01),
        lines=lines,
        margin_percent=1.0,
        base_loss=Figure(2.5, "nats a token", "measured", 2.4, 2.6),
        gain=Figure(1.0, "nats a token", "measured", 0.9, 1.1),
        adapter="given",
        directory="out",
        base_name="base",
        data_name="rows.jsonl",
        data_format="prompt/completion",
        data_fingerprint="0" * 16,
        decide=150,
        score=150,
        rows_given=300,
        layers=7,
        uniform=True,
        written="out/adapter",
        served=ServeCheck("PEFT", 8, 1e-6, 2e-6, True),
        seconds=41.0,
        device="CPU, 2 threads",
        created="2026-01-01T00:00:00+00:00",
        warnings=(),
    )
