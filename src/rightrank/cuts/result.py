"""What ``rightrank cut`` found, as saved in ``cut.json``. Reports read this and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rightrank.errors import DataError
from rightrank.recommendation import Figure  # noqa: TC001  (pydantic resolves it at run time)
from rightrank.runs.durable import sealed, unsealed, write_whole
from rightrank.runs.saved_answer import parsed_answer

CUT_SCHEMA = 1
FILE_NAME = "cut.json"

CutStatus = Literal["NO_GAIN", "UNDECIDED", "FLAT", "SETTLED"]
CutVerdict = Literal["best", "as good", "worse", "cannot tell"]
CutKind = Literal["whole", "cut", "scaled"]


@dataclass(frozen=True)
class CutLine:
    """One version of the adapter."""

    label: str
    """``r=16``, ``r=16 × 0.8``, ``r=128``, ``whole × 0.7``."""
    kind: CutKind
    """``scaled``: the whole update shrunk and not cut; chosen only where shrinking helped on the first rows."""
    rank: int
    """The largest of its layers' ranks."""
    factor: float
    """By which the update is multiplied, cut or not; the adapter that is written holds it."""
    parameters: int
    megabytes: float
    """10**6 bytes of its file, in the number format of the adapter that was given."""
    loss: Figure
    """Held-out nats a token. ``derived``: it was dropped early, and this is the best's loss plus their difference until then."""
    gain_lost: Figure | None
    """Percent of what the best version gains over the base model; None where no gain is certain."""
    exact: Figure | None
    tokens_right: Figure | None
    """Percent, under teacher forcing; None where it was dropped early."""
    verdict: CutVerdict
    rows: int
    """Held-out rows that this rests on."""


@dataclass(frozen=True)
class ServeCheck:
    """The adapter as written, loaded again and compared with what was measured."""

    loader: Literal["PEFT", "rightrank"]
    rows: int
    mean_difference: float
    """Nats a token, loaded minus measured."""
    largest_difference: float
    """Nats a token, of any of those rows."""
    holds: bool


@dataclass(frozen=True)
class CutResult:
    """The answer: which version of the adapter to keep, how sure that is, and the evidence. ``rightrank.cut`` returns one."""

    status: CutStatus
    headline: str
    reasons: tuple[str, ...]
    choice: str
    """Label of the version to use."""
    best: str
    worst_case: Figure | None
    """Percent of the gain that ``choice`` may give away (upper end of its 95 % interval)."""
    against_whole: Figure | None
    """Nats a token by which ``choice`` loses more than the whole adapter, paired; None where that is what was chosen."""
    lines: tuple[CutLine, ...]
    margin_percent: float
    base_loss: Figure
    gain: Figure
    """Base loss minus best loss, nats a token."""
    adapter: str
    """The folder that was given."""
    directory: str
    """Where this answer lies."""
    base_name: str
    data_name: str
    data_format: str
    data_fingerprint: str
    decide: int
    """Held-out rows that chose: as many as it took."""
    score: int
    """Others that the figures are of."""
    rows_given: int
    layers: int
    """Linear layers that the adapter is on."""
    uniform: bool
    """Whether what was written has one rank and one scale for all layers."""
    written: str | None
    """The folder of the cut adapter; None where nothing was written."""
    served: ServeCheck | None
    seconds: float
    device: str
    created: str
    """ISO 8601, UTC."""
    warnings: tuple[str, ...] = ()
    tried: int | None = None
    """Versions that were measured, those that were dropped early included; None: as many as there are lines."""
    schema: int = field(default=CUT_SCHEMA)

    def __str__(self) -> str:
        return f"{self.status}: {self.headline}"

    def line(self, label: str) -> CutLine:
        """The version of that label. Raises KeyError."""
        for one in self.lines:
            if one.label == label:
                return one
        raise KeyError(label)

    @property
    def chosen(self) -> CutLine:
        """The version to use."""
        return self.line(self.choice)

    @property
    def whole(self) -> CutLine:
        """The adapter as it was given."""
        return next(one for one in self.lines if one.kind == "whole")

    def to_json(self) -> str:
        """This answer as JSON."""
        return json.dumps(asdict(self), indent=1, allow_nan=False, ensure_ascii=False)

    def save(self, directory: str | Path) -> Path:
        """Write ``cut.json`` into ``directory``, whole and with its checksum, and return its path. Raises ResourceError."""
        path = Path(directory) / FILE_NAME
        text = json.dumps(sealed(asdict(self)), indent=1, allow_nan=False, ensure_ascii=False)
        write_whole(path, text.encode())
        return path

    @classmethod
    def from_json(cls, text: str) -> CutResult:
        """What ``to_json`` or ``save`` wrote. Raises DataError where it is none, or of another schema."""
        from pydantic import TypeAdapter, ValidationError

        again = "Run `rightrank cut` again."
        try:
            raw: Any = parsed_answer(text)
            raw = unsealed(raw) if isinstance(raw, dict) else raw
            if not isinstance(raw, dict) or raw.get("schema") != CUT_SCHEMA:
                raise DataError("This is no cut of this version of rightrank.", again)
            result = TypeAdapter(cls).validate_python(raw)
            labels = [line.label for line in result.lines]
            if not {result.choice, result.best} <= set(labels) or "whole" not in {
                one.kind for one in result.lines
            }:
                raise ValueError("no line for what was chosen")
            return result
        except (ValidationError, ValueError, RecursionError) as error:
            raise DataError("This file of a cut is damaged.", again) from error
