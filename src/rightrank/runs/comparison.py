"""Whether two answers differ: what was asked of each, what each chose, and where one run measured both choices, row by row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from rightrank import recommendation_html as wording
from rightrank.errors import DataError, UserError
from rightrank.probe.loss_table import LossTable
from rightrank.recommendation import Recommendation
from rightrank.runs.contrasts import Contrast, contrasts_of, plain_setting
from rightrank.runs.durable import read_text
from rightrank.runs.history import ANSWER
from rightrank.stats.paired import FEWEST_EXAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Choice

Verdict = Literal["same answer", "not distinguishable", "different", "cannot tell", "other question"]


@dataclass(frozen=True)
class Comparison:
    """Two answers side by side."""

    verdict: Verdict
    sentence: str
    answers: tuple[str, str]
    both_open: tuple[int, ...]
    """Ranks that neither has shown to be worse than the best."""
    contrasts: tuple[Contrast, ...]
    asked_differently: tuple[str, ...]
    """What differs between the two questions."""
    measured_differently: tuple[str, ...]
    """What differs in how they were answered."""


@dataclass(frozen=True)
class Side:
    """One answer and, where they are there, the losses behind it."""

    answer: Recommendation
    table: LossTable | None


def read_side(path: Path) -> Side:
    """A run's directory, or a ``recommendation.json`` alone. Raises UserError."""
    file = path / ANSWER if path.is_dir() else path
    try:
        answer = Recommendation.from_json(read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read.", "Name the directory of a finished run.") from error
    except DataError as error:
        raise DataError(f"{file}: {error.problem}", error.mend) from error
    try:
        table = LossTable.opened(file.parent)
    except UserError:
        return Side(answer, None)
    return Side(answer, table if table.base is not None else None)


def compare(a: Side, b: Side) -> Comparison:
    """Pure but for the tables that the sides have read."""
    asked, how = _asked(a.answer, b.answer), _measured(a.answer, b.answer)
    both_open = tuple(sorted(_open(a.answer) & _open(b.answer)))
    contrasts = (
        ()
        if _setting(a.answer.choice) == _setting(b.answer.choice) or asked
        else contrasts_of(a.table, b.table, _setting(a.answer.choice), _setting(b.answer.choice))
    )
    verdict, sentence = _verdict(a.answer, b.answer, asked, contrasts, both_open)
    return Comparison(
        verdict, sentence, (_answer(a.answer), _answer(b.answer)), both_open, contrasts, asked, how
    )


def _verdict(
    a: Recommendation,
    b: Recommendation,
    asked: tuple[str, ...],
    contrasts: tuple[Contrast, ...],
    both_open: tuple[int, ...],
) -> tuple[Verdict, str]:
    same = _setting(a.choice) == _setting(b.choice)
    if asked:
        end = "their settings are the same" if same else "their settings differ"
        return "other question", f"They answer different questions, and {end}."
    if same:
        if a.status == b.status:
            return "same answer", "Same answer."
        return "same answer", "Same setting, not equally certain."
    margin = max((r.margin.as_percent_of_gain for r in (a, b) if r.margin is not None), default=1.0)
    trusted = [c for c in contrasts if c.rows >= FEWEST_EXAMPLES]
    if trusted:
        if all(c.low > 0 for c in trusted) and any(c.value > margin for c in trusted):
            return "different", "They differ: B's choice is better than A's, row by row."
        if all(c.high < 0 for c in trusted) and any(c.value < -margin for c in trusted):
            return "different", "They differ: A's choice is better than B's, row by row."
        if all(-margin <= c.low and c.high <= margin for c in trusted):
            return (
                "not distinguishable",
                f"Different settings, worth the same to within {margin:.2g} % of the gain.",
            )
        return "not distinguishable", "Different settings, not distinguishable by these runs."
    if a.choice.rank in b.ruled_out or b.choice.rank in a.ruled_out:
        return "different", "They differ: what one chooses the other has ruled out."
    if not both_open:
        return "different", "They differ: no rank is left open by both."
    return (
        "cannot tell",
        "Different settings; no run has measured both on enough rows, so nothing says whether it matters.",
    )


def _setting(choice: Choice) -> tuple[int, float, float]:
    return plain_setting(choice.rank, choice.alpha, choice.learning_rate)


def _open(answer: Recommendation) -> set[int]:
    return {o.rank for o in answer.options if o.kind == "tuned" and o.verdict != "worse"} | {
        answer.choice.rank
    }


def _answer(answer: Recommendation) -> str:
    c = answer.choice
    lead = "" if answer.lead == "Use" else f"{answer.lead.lower()} "
    setting = f"r={c.rank} alpha={wording.short(c.alpha)} lr {wording.learning_rate(c.learning_rate)}"
    return f"{answer.status.replace('_', ' ')}  {lead}{setting}"


def _asked(a: Recommendation, b: Recommendation) -> tuple[str, ...]:
    """Differences of model, data and recipe."""
    found = []
    if a.model.fingerprint != b.model.fingerprint:
        found.append(_pair("model", a.model.name, b.model.name, a.model.fingerprint, b.model.fingerprint))
    if a.data.fingerprint != b.data.fingerprint:
        found.append(_pair("data", a.data.name, b.data.name, a.data.fingerprint, b.data.fingerprint))
    one, other = asdict(a.recipe), asdict(b.recipe)
    found += [
        f"{name.replace('_', ' ')} ({one[name]}, {other[name]})"
        for name in one
        if name != "origins" and one[name] != other[name]
    ]
    if a.choice.target_modules != b.choice.target_modules:
        found.append("target modules")
    return tuple(found)


def _pair(what: str, name: str, other: str, mark: str, other_mark: str) -> str:
    if name == other:
        return f"{what} ({wording.clean(name)}, whose content is not the same)"
    return f"{what} ({wording.clean(name)} {wording.clean(mark)[:8]}, {wording.clean(other)} {wording.clean(other_mark)[:8]})"


def _measured(a: Recommendation, b: Recommendation) -> tuple[str, ...]:
    """Differences in seeds, sizes, device and versions."""
    pairs: list[tuple[str, object, object]] = [
        ("seed", a.provenance.seed, b.provenance.seed),
        ("trained on rows", _top(a), _top(b)),
        ("held-out rows", a.data.decide + a.data.score, b.data.decide + b.data.score),
        ("base held in", a.model.dtype, b.model.dtype),
        ("device", a.cost.device, b.cost.device),
        ("runs", len(a.points), len(b.points)),
    ]
    versions = sorted({*a.provenance.versions, *b.provenance.versions})
    pairs += [
        (v, a.provenance.versions.get(v, "none"), b.provenance.versions.get(v, "none")) for v in versions
    ]
    return tuple(
        f"{wording.clean(name)} ({wording.clean(str(x))}, {wording.clean(str(y))})"
        for name, x, y in pairs
        if x != y
    )


def _top(answer: Recommendation) -> int:
    return max((point.examples for point in answer.points), default=0)


def exit_code(comparison: Comparison) -> int:
    """1 where the answers differ, 2 where they cannot be compared, as ``diff`` and its like have it."""
    return {"different": 1, "other question": 2}.get(comparison.verdict, 0)


def comparison_lines(comparison: Comparison) -> list[str]:
    """The comparison in plain words, the verdict first."""
    lines = [comparison.sentence, f"  A  {comparison.answers[0]}", f"  B  {comparison.answers[1]}"]
    for c in comparison.contrasts:
        where = (
            "each in its own run" if c.measured_in == "A against B" else f"both measured in {c.measured_in}"
        )
        more = wording.percent(c.value)
        lines.append(
            f"A's choice loses {more} [{wording.number(c.low, 1)}, {wording.number(c.high, 1)}] more of the gain than B's "
            f"({c.rows:,} held-out rows, {where})."
        )
    if any(c.rows < FEWEST_EXAMPLES for c in comparison.contrasts):
        lines.append(f"Fewer than {FEWEST_EXAMPLES} rows give no reliable interval.")
    if comparison.verdict not in ("same answer", "other question") and comparison.both_open:
        lines.append(
            f"Ranks that both leave open: {', '.join(f'r={rank}' for rank in comparison.both_open)}."
        )
    if comparison.asked_differently:
        lines.append(f"Asked differently (A, B): {'; '.join(comparison.asked_differently)}.")
    if comparison.measured_differently:
        lines.append(f"Measured differently (A, B): {'; '.join(comparison.measured_differently)}.")
    return lines
