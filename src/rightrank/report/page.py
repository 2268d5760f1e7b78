"""The report: one HTML file that needs nothing else, holds no row text and runs no script but the copy buttons'."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rightrank import recommendation_html as wording
from rightrank.report import besides, choices, facts, figures, recipe_words, trends
from rightrank.report.charts import epoch_chart, map_chart, rank_chart, size_chart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Template

    from rightrank.recommendation import MeasuredPoint, Recommendation

FILE_NAME = "report.html"
_HERE = Path(__file__).parent
_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["clean"] = wording.clean
_TEMPLATES.filters["tight"] = lambda text: text.replace(" %", "\u00a0%").replace(" ×", "\u00a0×")


def render(recommendation: Recommendation, configs: Mapping[str, str] | None = None) -> str:
    """The page. ``configs`` are trainers' configs by name, shown in tabs."""
    versions = recommendation.provenance.versions
    style, script = _asset("page.css"), _asset("page.js")
    template = _TEMPLATES.get_template("page.html.j2")
    return template.render(
        r=recommendation,
        facts=facts,
        recipe_words=recipe_words,
        besides=besides,
        wording=wording,
        clean=wording.clean,
        minus=_minus,
        style=style,
        script=script,
        # Whatever slipped through the escaping could still neither run nor load anything.
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        rows=choices.rows(recommendation),
        marks=choices.marks(recommendation),
        timed=any(option.train_minutes for option in recommendation.options),
        runs=[_run(point, gains=recommendation.gains) for point in _sorted_runs(recommendation)],
        charts=_charts(recommendation),
        versions=", ".join(
            f"{wording.clean(name)} {wording.clean(version)}" for name, version in versions.items()
        ),
        copied=_copied(recommendation),
        configs={wording.clean(name): wording.clean_lines(text) for name, text in (configs or {}).items()},
    )


def page_parts(template: str) -> tuple[Template, dict[str, Any]]:
    """Another page's template, and what it shares with the report: the style sheet, and a policy under which nothing runs."""
    style = _asset("page.css")
    policy = f"default-src 'none'; style-src '{_digest(style)}'"
    shared = {"style": style, "policy": policy, "clean": wording.clean, "minus": _minus}
    return _TEMPLATES.get_template(template), shared


def write(
    recommendation: Recommendation, directory: str | Path, configs: Mapping[str, str] | None = None
) -> Path:
    """Write ``report.html`` into ``directory`` (made if need be) and return its path."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.write_text(render(recommendation, configs), encoding="utf-8")
    return path


def _asset(name: str) -> Markup:
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _minus(text: str) -> str:
    """Numbers with a real minus sign."""
    return text.replace("-", "−")


def _charts(recommendation: Recommendation) -> dict[str, Any]:
    """The figures; the large ones for wide and for narrow screens: text in an SVG merely scaled down cannot be read on a phone."""
    curve, area = figures.rank_figure(recommendation), figures.map_figure(recommendation)
    size, epochs = trends.size_figure(recommendation), trends.epoch_figure(recommendation)
    return {
        "curve": curve,
        "curve_wide": rank_chart(curve, "curve-wide"),
        "curve_narrow": rank_chart(curve, "curve-narrow", width=380, height=330),
        "map": area,
        "map_wide": map_chart(area, "map-wide"),
        "map_narrow": map_chart(area, "map-narrow", width=380, height=400),
        "size": size_chart(size, "size") if size.points else None,
        "epochs": epochs,
        "epochs_chart": epoch_chart(epochs, "epochs") if epochs else None,
    }


def _copied(recommendation: Recommendation) -> str:
    """What the copy button beside the choice copies: plain lines that every trainer's config resembles."""
    choice = recommendation.choice
    return (
        f"lora_r: {choice.rank}\nlora_alpha: {wording.short(choice.alpha)}\nlearning_rate: {choice.learning_rate!r}\n"
        f"num_train_epochs: {wording.short(choice.epochs)}\n"
        f"target_modules: [{', '.join(wording.clean(name) for name in choice.target_modules)}]\n"
    )


def _sorted_runs(recommendation: Recommendation) -> list[MeasuredPoint]:
    return sorted(recommendation.points, key=lambda p: (p.rank, p.learning_rate, p.alpha, p.examples, p.seed))


def _run(point: MeasuredPoint, *, gains: bool) -> tuple[str, ...]:
    """A line of the table of runs, its gain lost withheld where that of the choices is."""
    lost = point.gain_lost if gains else None
    return (
        str(point.rank),
        wording.short(point.alpha),
        wording.learning_rate(point.learning_rate),
        str(point.seed),
        f"{point.examples:,}",
        f"{point.steps:,}",
        "diverged" if point.loss is None else _minus(wording.loss(point.loss)),
        "–" if lost is None else _minus(wording.percent_cell(lost)),
        "–" if point.train_loss is None else _minus(wording.loss(point.train_loss)),
        point.role,
    )
