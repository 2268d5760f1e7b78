"""Many adapters under one serving ceiling: the smallest common rank, and what each of them gives away for it. Reads answers alone.

Dimensions: none; a tenant is one answer, of ``rightrank recommend`` or of ``rightrank cut``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rightrank import recommendation_html as wording
from rightrank.cuts.result import FILE_NAME, CutResult
from rightrank.errors import DataError, UserError
from rightrank.recommendation import Recommendation
from rightrank.runs.durable import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER = "recommendation.json"
SERVED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as ``max_lora_rank`` (published: its LoRAConfig, which takes 1 too)."""
Verdict = Literal["fits", "may lose", "loses", "unknown"]


@dataclass(frozen=True)
class Way:
    """One rank at which a tenant can be served."""

    rank: int
    lost: float | None
    """Percent of the tenant's gain; None: not known."""
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Tenant:
    """One answer."""

    name: str
    kind: Literal["recommendation", "cut"]
    status: str
    rank: int
    """That it asks for."""
    margin: float
    """Percent of the gain that counts as nothing."""
    ways: tuple[Way, ...]
    """By rank. None: it gains nothing, and asks for no adapter at all."""


@dataclass(frozen=True)
class Served:
    """A tenant under a ceiling."""

    name: str
    rank: int | None
    """That it is served at; None: nothing that small was measured."""
    lost: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    """``fits``: surely within its margin, or at the rank it asks for; ``may lose``: more than its margin, as far as the interval tells."""
    seen: bool = False
    """Whether the loss measured there is more than its margin."""


@dataclass(frozen=True)
class Ceiling:
    """All tenants under one ceiling."""

    rank: int
    served: tuple[Served, ...]

    @property
    def worst(self) -> float:
        """Upper end of what any of them may lose, in percent; infinite where that is not known of one."""
        return max((math.inf if one.high is None else one.high for one in self.served), default=0.0)

    @property
    def fits_all(self) -> bool:
        """Whether every tenant is surely within its margin, or is served at the rank that it asks for."""
        return all(one.verdict == "fits" for one in self.served)

    @property
    def serves_all(self) -> bool:
        """Whether every tenant has a rank there, and none was seen to lose more than its margin."""
        return not any(one.seen or one.verdict == "unknown" for one in self.served)


@dataclass(frozen=True)
class Fleet:
    """The smallest common rank and the ceilings around it."""

    tenants: tuple[Tenant, ...]
    ceilings: tuple[Ceiling, ...]
    """Ascending."""
    common: int
    """The smallest ceiling at which none was seen to lose more than its margin."""
    sure: int
    """The smallest at which none surely does."""
    without: tuple[str, ...]
    """Tenants that gain nothing from an adapter, and are left out."""


def read_tenant(path: Path) -> Tenant:
    """A run's directory, a cut's, or one of their JSON files. Raises UserError."""
    files = [path / FILE_NAME, path / ANSWER] if path.is_dir() else [path]
    file = next((one for one in files if one.is_file()), None)
    if file is None:
        mend = "Name the directory of a finished run or cut."
        if (path / "adapter_config.json").is_file():
            mend = f"Run `rightrank cut {path} DATA` first: what its cuts lose must be measured."
        raise UserError(f"{wording.clean(str(path))} holds no answer.", mend)
    try:
        text = read_text(file)
        return _cut_tenant(path, text) if file.name == FILE_NAME else _run_tenant(path, text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{wording.clean(str(file))} cannot be read.", "Name another.") from error
    except DataError as error:
        raise DataError(f"{wording.clean(str(file))}: {error.problem}", error.mend) from error


def _cut_tenant(path: Path, text: str) -> Tenant:
    result = CutResult.from_json(text)
    ways = [
        Way(line.rank, lost.value, lost.low, lost.high)
        if (lost := line.gain_lost) is not None
        else Way(line.rank, None, None, None)
        for line in sorted(result.lines, key=lambda line: line.label != result.choice)
        if line.kind != "scaled" or line.label == result.choice
    ]
    return Tenant(str(path), "cut", result.status, result.chosen.rank, result.margin_percent, _by_rank(ways))


def _run_tenant(path: Path, text: str) -> Tenant:
    answer = Recommendation.from_json(text)
    ways = [
        Way(option.rank, lost.value, lost.low, lost.high)
        for option in answer.options
        if option.kind == "tuned" and (lost := option.gain_lost) is not None
    ]
    margin = 1.0 if answer.margin is None else answer.margin.as_percent_of_gain
    return Tenant(str(path), "recommendation", answer.status, answer.choice.rank, margin, _by_rank(ways))


def _by_rank(ways: Sequence[Way]) -> tuple[Way, ...]:
    return tuple(sorted(ways, key=lambda way: way.rank))


def plan_fleet(tenants: Sequence[Tenant]) -> Fleet:
    """The smallest ceiling under which no tenant was seen to lose more than its margin, and what smaller ones cost.

    Where intervals are wide it may lose more: ``Fleet.sure`` is the smallest where that is ruled out. Raises UserError without tenants.

    Under a ceiling a tenant is served at the rank it asks for where that fits, else at the one that surely loses least (lowest upper
    end). Servers take the ceilings of ``SERVED_RANKS``; beyond the largest of these, the rank asked for itself.
    """
    asking = [tenant for tenant in tenants if tenant.status != "NO_GAIN"]
    if not asking:
        raise UserError("None of these gains anything from an adapter.", "Serve the base model.")
    needed = max(tenant.rank for tenant in asking)
    most = next((ceiling for ceiling in SERVED_RANKS if ceiling >= needed), needed)
    ranks = [*(ceiling for ceiling in SERVED_RANKS if ceiling < most), most]
    ceilings = tuple(Ceiling(rank, tuple(_served(tenant, rank) for tenant in asking)) for rank in ranks)
    common = next(ceiling.rank for ceiling in ceilings if ceiling.serves_all)
    sure = next(ceiling.rank for ceiling in ceilings if ceiling.fits_all)
    left_out = tuple(tenant.name for tenant in tenants if tenant.status == "NO_GAIN")
    return Fleet(tuple(asking), ceilings, common, sure, left_out)


def _served(tenant: Tenant, ceiling: int) -> Served:
    """The tenant at the best that fits under ``ceiling``."""
    known = [way for way in tenant.ways if way.rank <= ceiling and way.high is not None]
    if tenant.rank <= ceiling:
        way = next((way for way in known if way.rank == tenant.rank), None)
        if way is None:
            return Served(tenant.name, tenant.rank, None, None, None, "fits")
        return Served(tenant.name, way.rank, way.lost, way.low, way.high, "fits")
    if not known:
        return Served(tenant.name, None, None, None, None, "unknown")
    way = min(known, key=lambda way: (way.high if way.high is not None else math.inf, way.rank))
    verdict: Verdict = "may lose"
    if (way.high or 0.0) <= tenant.margin:
        verdict = "fits"
    elif (way.low or 0.0) > tenant.margin:
        verdict = "loses"
    seen = verdict != "fits" and (way.lost or 0.0) > tenant.margin
    return Served(tenant.name, way.rank, way.lost, way.low, way.high, verdict, seen)


def fleet_lines(fleet: Fleet) -> list[str]:
    """The answer in plain words: the common rank, each tenant under it, then what smaller ceilings cost."""
    common = next(ceiling for ceiling in fleet.ceilings if ceiling.rank == fleet.common)
    lines = [f"Serve {wording.count(len(fleet.tenants), 'adapter')} at a largest rank of {fleet.common}.", ""]
    width = min(40, max(len(_name(tenant.name)) for tenant in fleet.tenants))
    for tenant, one in zip(fleet.tenants, common.served, strict=True):
        mark = (
            ""
            if tenant.status in ("SETTLED", "FLAT")
            else f"  ({tenant.status.replace('_', ' ')}: not certain)"
        )
        lines.append(f"  {_name(one.name):<{width}}  {_at(one)}{mark}")
    if fleet.sure > fleet.common:
        unsure = ", ".join(_name(one.name) for one in common.served if one.verdict == "may lose")
        lines.append(
            f"Not certain of {unsure}; {fleet.sure} is the smallest at which none loses more than its margin at 95 %."
        )
    smaller = [ceiling for ceiling in fleet.ceilings if ceiling.rank < fleet.common]
    if smaller:
        lines += ["", "Under a smaller one:"]
    for ceiling in reversed(smaller):
        losing = [one for one in ceiling.served if one.verdict != "fits"]
        lines.append(f"  {ceiling.rank:>4}  " + "; ".join(f"{_name(one.name)} {_at(one)}" for one in losing))
    lines += [f"Left out, since no adapter helps there: {_name(name)}." for name in fleet.without]
    lines.append(f"vLLM: --max-lora-rank {fleet.common}" if fleet.common in SERVED_RANKS else "")
    return lines if lines[-1] else lines[:-1]


def _name(name: str) -> str:
    return wording.clean(Path(name).name if Path(name).suffix != ".json" else Path(name).parent.name) or name


def _at(one: Served) -> str:
    if one.rank is None:
        return "nothing that small was measured"
    if one.lost is None or one.low is None or one.high is None:
        return f"r={one.rank}"
    if round(one.lost, 1) <= 0:
        return f"r={one.rank}: no loss seen, up to {wording.percent(max(0.0, one.high))} of its gain"
    ends = f"[{wording.number(one.low, 1)}, {wording.number(one.high, 1)}]"
    return f"r={one.rank} loses {wording.percent(one.lost)} {ends} of its gain"
