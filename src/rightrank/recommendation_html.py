"""How a recommendation is written wherever a person reads it: numbers, other people's words made harmless, and a notebook's HTML.

The terminal, the page and the comments in trainers' configs use the first two, so that all say the same.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rightrank.recommendation import Choice, Figure, ModelFacts, Option, Recommendation

# Whole escape sequences go, not just their first byte: CSI (colours, cursor), OSC (titles, links; ended by BEL or ST, or by nothing),
# and the two-byte ones. ECMA-48, sections 5.3 to 5.6.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
GAIN_LOST_SHORT = "gain lost: what a choice gives away of what training gains over the base model"
_SPACES = frozenset("\t\n\v\f\r\x85\u2028\u2029")


def clean(text: str) -> str:
    """``text`` on one line without anything that steers a terminal or reorders what is read.

    Escape sequences, control characters, bidirectional and other invisible format characters are removed, line breaks become spaces,
    and halves of surrogate pairs (undecodable file names) become U+FFFD, so that the result can always be encoded.
    """
    kept: list[str] = []
    for character in _ESCAPES.sub("", text):
        category = unicodedata.category(character)
        if character in _SPACES:
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif category not in ("Cc", "Cf"):
            kept.append(character)
    return "".join(kept).strip()


def clean_lines(text: str) -> str:
    """``clean`` for a text of several lines, whose indentation and line breaks stay."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line[: len(line) - len(line.lstrip(" "))] + clean(line) for line in lines)


def number(value: float, digits: int) -> str:
    """``value`` with ``digits`` decimals and thousands separated; never "-0.0"."""
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def short(value: float) -> str:
    """``value`` without needless zeros: ``2`` epochs, ``0.5``, ``32`` for an alpha of 32.0."""
    return f"{value:.6g}"


def learning_rate(value: float, digits: int = 2) -> str:
    """``value`` as people type it, ``4e-4`` or ``1.3e-3``, with at most ``digits`` significant digits."""
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def loss(value: float) -> str:
    """Nats a token: three decimals, four where the loss is so low that three would hide differences."""
    return number(value, 3 if abs(value) >= 0.1 else 4)


def percent(value: float) -> str:
    """``2.4 %``; without the decimal from 100 on."""
    return f"{number(value, 1 if abs(value) < 100 else 0)} %"


def percent_interval(figure: Figure) -> str:
    """``2.4 % [1.6, 3.2]``; the value alone where there is no interval."""
    if figure.low is None or figure.high is None:
        return percent(figure.value)
    digits = 1 if max(abs(figure.low), abs(figure.high)) < 100 else 0
    return f"{percent(figure.value)} [{number(figure.low, digits)}, {number(figure.high, digits)}]"


def percent_beside(value: float, margin: float) -> str:
    """``percent``, with a second decimal where the first would hide on which side of ``margin`` the value lies."""
    return f"{number(value, 2)} %" if _hidden(value, margin) else percent(value)


def interval_beside(figure: Figure, margin: float) -> str:
    """``percent_interval``, likewise: two decimals throughout where one of its numbers needs them."""
    parts = (figure.value, figure.low, figure.high)
    if figure.low is None or figure.high is None or not any(_hidden(one or 0.0, margin) for one in parts):
        return percent_interval(figure)
    return f"{number(figure.value, 2)} % [{number(figure.low, 2)}, {number(figure.high, 2)}]"


def _hidden(value: float, margin: float) -> bool:
    return value != margin and round(value, 1) == round(margin, 1)


def percent_cell(figure: Figure) -> str:
    """``percent_interval`` in a table: a dash stands where there is no interval to be trusted."""
    return f"{percent(figure.value)} –" if figure.low is None else percent_interval(figure)


def minutes(value: float) -> str:
    """A duration as one would say it: ``41 min``, ``2.4 h``, ``less than a minute``."""
    if value < 1:
        return "less than a minute"
    return f"{value:.0f} min" if value < 119.5 else f"{value / 60:.1f} h"


def minutes_between(low: float, high: float) -> str:
    """``3 min``, ``2 to 5 min``, ``up to 4 min``, ``1.2 to 3.4 h``, ``less than a minute``."""
    if high < 1:
        return "less than a minute"
    if high >= 119.5:
        return f"{low / 60:.1f} to {high / 60:.1f} h"
    if round(low) == round(high):
        return f"{high:.0f} min"
    return f"{low:.0f} to {high:.0f} min" if low >= 1 else f"up to {high:.0f} min"


def about_minutes(value: float) -> str:
    """``about 41 min``, ``less than a minute``."""
    return minutes(value) if value < 1 else f"about {minutes(value)}"


def count(value: int, one: str, many: str = "") -> str:
    """``1 seed``, ``2 seeds``, ``2,700 rows``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def epochs(value: float) -> str:
    """``1 epoch``, ``2 epochs``, ``0.5 epochs``."""
    return f"{short(value)} epoch{'' if value == 1 else 's'}"


def where(choice: Choice, model: ModelFacts) -> str:
    """Which layers get the adapter: ``all linear layers``, or their names.

    Says "all" only where the choice covers every kind of module probed and nothing but embeddings, output head and weights that are
    no linear layers (fused experts have no ``.weight`` of their own) was left out.
    """
    no_layer = ("embed", "wte", "wpe", "head")
    left_out = [
        name
        for name in model.not_adapted
        if name.endswith(".weight") and not any(w in name for w in no_layer)
    ]
    if not left_out and set(model.target_modules) <= set(choice.target_modules):
        return "all linear layers"
    return "on " + ", ".join(clean(name) for name in choice.target_modules)


def use(choice: Choice, model: ModelFacts) -> str:
    """The line one types from: ``r=16  alpha=32  lr 4e-4  2 epochs  all linear layers``."""
    parts = (
        f"r={choice.rank}",
        f"alpha={short(choice.alpha)}",
        f"lr {learning_rate(choice.learning_rate, 3)}",
        epochs(choice.epochs),
        where(choice, model),
    )
    return "  ".join(parts)


def searched(recommendation: Recommendation, rank: int) -> bool:
    """Whether learning rates of ``rank`` were looked for: one that was tried at nothing but the person's own setting or a guide's has
    no best learning rate yet."""
    runs = [point for point in recommendation.points if point.rank == rank]
    return not runs or any(point.role not in ("yours", "guide") for point in runs)


def distinct(recommendation: Recommendation) -> list[tuple[Option, str]]:
    """Every setting once, with the names that it goes by besides: ``yours``, ``guide``, ``yours/guide``, or none.

    A rank at its best learning rate first, then the person's own, then the guides'; each by rank and learning rate. Where the only
    learning rate of a rank is the person's own or a guide's, the line is that one's.
    """
    order = {"tuned": 0, "yours": 1, "guide": 2}
    groups: list[list[Option]] = []
    for option in sorted(recommendation.options, key=lambda one: order[one.kind]):
        same = next((group for group in groups if _same(group[0], option)), None)
        if same is None:
            groups.append([option])
        else:
            same.append(option)
    found = []
    for group in groups:
        first, names = group[0], [option.kind for option in group if option.kind != "tuned"]
        if first.kind == "tuned" and names and not searched(recommendation, first.rank):
            first = group[1]
        if first.kind != "tuned":
            first = replace(first, label=first.label.replace(first.kind, "/".join(names), 1))
        found.append((first, "/".join(names)))
    return sorted(found, key=lambda pair: (order[pair[0].kind], pair[0].rank, pair[0].learning_rate))


def _same(a: Option, b: Option) -> bool:
    return a.rank == b.rank and all(
        math.isclose(x, y, rel_tol=1e-6) for x, y in ((a.alpha, b.alpha), (a.learning_rate, b.learning_rate))
    )


_HEADINGS = ("", "loss", "gain lost [95 %]", "exact", "train GiB")
_CELL = "padding:2px 12px 2px 0;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"


def notebook_html(recommendation: Recommendation) -> str:
    """HTML for ``_repr_html_``. Notebooks drop style sheets from untrusted output, hence the inline styles."""
    r = recommendation
    lead = f"{r.lead}{' ' if r.lead == 'Use' else ': '}{use(r.choice, r.model)}"
    head = "".join(f'<th style="{_CELL}">{escape(heading)}</th>' for heading in _HEADINGS)
    body = "".join(_row(r, option, names) for option, names in distinct(r))
    sentences = (clean(r.headline), *(f"Note: {clean(warning)}" for warning in r.warnings))
    return (
        '<div style="line-height:1.5">'
        f"<div><strong>{r.status.replace('_', ' ')}</strong> &nbsp; {escape(lead)}</div>"
        + "".join(f"<div>{escape(sentence)}</div>" for sentence in sentences)
        + f'<table style="border-collapse:collapse;margin:.5em 0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _row(recommendation: Recommendation, option: Option, names: str) -> str:
    label = clean(option.label)
    if option.kind == "tuned":
        label += f"  lr {learning_rate(option.learning_rate)}{f' ({names})' if names else ''}"
    if (
        not recommendation.gains or option.gain_lost is None
    ):  # a share of a gain that does not exist is no number
        lost = "–"
    else:
        lost = "best" if option.verdict == "best" else percent_cell(option.gain_lost)
    cells = (
        loss(option.loss.value),
        lost,
        "–" if option.exact is None else f"{number(option.exact.value, 0)} %",
        number(option.train_gib.value, 1),
    )
    choice = recommendation.choice
    chosen = (option.rank, option.alpha, option.learning_rate) == (
        choice.rank,
        choice.alpha,
        choice.learning_rate,
    )
    weight = "font-weight:bold" if chosen else ""
    name = f'<th scope="row" style="{_CELL};text-align:left;{weight or "font-weight:normal"}">{escape(label)}</th>'
    return (
        f'<tr style="{weight}">{name}'
        + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
    )
