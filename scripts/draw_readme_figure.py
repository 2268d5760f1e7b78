"""Draw the README's picture: what each rank costs, from a recorded answer, as the report draws it.

    python scripts/draw_readme_figure.py bench/records/nl2bash_smollm2_h100/probe/recommendation.json docs/answer.svg

The chart is the report's own. Around it come a title, a legend and a white ground, since a picture in a README knows nothing of the
page's colours: it looks the same in light and dark.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from markupsafe import escape

from rightrank.recommendation import Recommendation
from rightrank.report.charts import rank_chart
from rightrank.report.figures import rank_figure

WIDTH, CHART, ABOVE, BELOW, EDGE = 1000, 380, 84, 46, 20
STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.inner { fill: none; stroke: none; }
.title { fill: #1b1f1d; font-size: 19px; font-weight: 650; }
.soft, .tick { fill: #5b635f; } .axis-title { fill: #1b1f1d; }
.label { fill: #1b1f1d; paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round; }
.grid { stroke: #dde1de; } .band { fill: #0b6b53; fill-opacity: .08; }
.curve { stroke: #0b6b53; stroke-width: 1.75; opacity: .55; }
.curve.guide { stroke: #b4530a; stroke-dasharray: 6 4; opacity: .8; }
.interval { stroke-width: 1.75; } .interval.tuned { stroke: #0b6b53; }
.interval.guide { stroke: #b4530a; stroke-dasharray: 3 3; }
.mark { stroke-width: 1.75; } .mark.tuned { fill: #0b6b53; stroke: #0b6b53; }
.mark.guide { fill: #b4530a; stroke: #b4530a; } .mark.hollow { fill: #fff; }
.ring { fill: none; stroke: #1b1f1d; stroke-width: 1.75; }
"""


def picture(answer: Recommendation) -> str:
    """The whole drawing as SVG text."""
    chart = re.sub(
        "^<svg ",
        f'<svg class="inner" y="{ABOVE}" width="{WIDTH}" height="{CHART}" ',
        rank_chart(rank_figure(answer), "rank", WIDTH, CHART),
    )
    height, choice = ABOVE + CHART + BELOW, answer.choice
    status = answer.status.replace("_", " ")
    title = f"{status}: safe meanwhile r={choice.rank}, alpha {choice.alpha:g}, lr {choice.learning_rate:g}"
    if answer.status != "UNDECIDED":
        title = f"{status}: r={choice.rank}, alpha {choice.alpha:g}, lr {choice.learning_rate:g}"
    model = Path(answer.model.name).name
    subject = (
        f"{model}, {answer.data.name}: {answer.data.train:,} training rows, {answer.recipe.epochs:g} epochs;"
        f" {answer.cost.took_minutes:.0f} minutes on {answer.cost.device}. Seed {answer.provenance.seed}."
    )
    y = ABOVE + CHART + 22
    legend = (
        f'<circle class="mark tuned hollow" cx="26" cy="{y - 4}" r="5"/>'
        f'<text class="soft" x="40" y="{y}">each rank at its own learning rate</text>'
        f'<path class="mark guide hollow" d="M296 {y - 11}l7 7l-7 7l-7 -7z"/>'
        f'<text class="soft" x="311" y="{y}">the guides\' learning rate</text>'
        f'<rect class="band" x="482" y="{y - 11}" width="24" height="13"/>'
        f'<text class="soft" x="513" y="{y}">as good as the best</text>'
        f'<text class="soft" x="662" y="{y}">hollow: extrapolated; lines: 95 % intervals</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<style>{STYLE}</style>"
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#fff"/>'
        f'<text class="title" x="{EDGE}" y="38">{escape(title)}</text>'
        f'<text class="soft" x="{EDGE}" y="62">{escape(subject)}</text>'
        f"{chart}{legend}</svg>\n"
    )


def main(source: Path, target: Path) -> int:
    target.write_text(picture(Recommendation.from_json(source.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
