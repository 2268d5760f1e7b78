"""Matplotlib lays a figure out, the page's style sheet colours it.

A part that ``Canvas.part`` named carries its class and its tip in the SVG; everything else about looks is dropped there, so that one
drawing serves light and dark, screen and paper, and needs no inline styles, which the page's policy forbids.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FONT_PX = 13
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
# Of what matplotlib writes as style: what places a part. The rest is looks.
_PLACING = ("text-anchor", "transform")
_KEPT = frozenset({"d", "x", "y", "width", "height", "transform", "id", "clip-path", "viewBox"})


class Canvas:
    """One figure being drawn, ``width`` × ``height`` CSS pixels. ``name`` makes its ids unique on a page."""

    def __init__(self, name: str, width: int, height: int) -> None:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        self.name, self.width, self.height = name, width, height
        self._parts: dict[str, tuple[str, str]] = {}
        with rc_context({"font.size": FONT_PX, "axes.titlesize": FONT_PX, "axes.labelsize": FONT_PX}):
            # The SVG back end writes points, of which there are 72 an inch: here they are pixels.
            tight = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=2 / 72)
            self.figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout=tight)
            self.axes: Axes = self.figure.add_subplot()
        self.part(self.figure.patch, "nothing")
        self.part(self.axes.patch, "nothing")
        for side, spine in self.axes.spines.items():
            self.part(spine, "grid" if side == "bottom" else "nothing")

    def part(self, artist: Artist | Sequence[Artist], css: str, tip: str = "") -> None:
        """Give a part its class in the style sheet, and what it says when pointed at."""
        for one in artist if isinstance(artist, (list, tuple)) else (artist,):
            key = f"part-{len(self._parts)}"
            one.set_gid(key)
            self._parts[key] = (css, tip)

    def ranks(self, ranks: Sequence[int]) -> None:
        """A logarithmic rank axis below, with a tick at every rank that has room."""
        axis, known = self.axes, sorted(set(ranks))
        axis.set_xscale("log", base=2)
        axis.set_xlim(known[0] / 1.35, known[-1] * 1.35)
        self.ticks("x", [(rank, str(rank)) for rank in known])
        self.part(axis.set_xlabel("rank"), "axis-title")

    def ticks(self, which: str, ticks: Sequence[tuple[float, str]]) -> None:
        """These ticks (value, text) and no others, on ``x`` or ``y``; grid lines for those of ``y``."""
        axis = self.axes.xaxis if which == "x" else self.axes.yaxis
        axis.set_ticks([value for value, _ in ticks], [text for _, text in ticks])
        axis.set_ticks([], minor=True)
        self._dress(which)

    def value_axis(self, title: str) -> None:
        """The left axis with round ticks and its title above it."""
        self._dress("y")
        self.part(self.axes.set_title(title, loc="left"), "axis-title")

    def _dress(self, which: str) -> None:
        axis = self.axes.xaxis if which == "x" else self.axes.yaxis
        axis.set_tick_params(length=0 if which == "y" else 4)
        if which == "y":
            self.axes.grid(visible=True, axis="y")
            self.part(list(self.axes.get_ygridlines()), "grid")
        self.part(list(axis.get_ticklines()), "grid")
        self.part(list(axis.get_ticklabels()), "tick")

    def svg(self, title: str, summary: str) -> Markup:
        """The drawing. ``title`` and ``summary`` are for those who do not see it."""
        from matplotlib import rc_context

        buffer = io.BytesIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name, "font.size": FONT_PX}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        drawn = ElementTree.fromstring(buffer.getvalue())
        root = ElementTree.Element("svg", {"viewBox": f"0 0 {self.width} {self.height}", "role": "img"})
        for tag, text in (("title", title), ("desc", summary)):
            ElementTree.SubElement(root, tag, {"id": f"{self.name}-{tag}"}).text = text
        root.set("aria-labelledby", f"{self.name}-title {self.name}-desc")
        for child in drawn:
            if (plain := self._plain(child)) is not None:
                root.append(plain)
        return Markup(ElementTree.tostring(root, encoding="unicode"))

    def _plain(self, element: ElementTree.Element) -> ElementTree.Element | None:
        """``element`` without looks, with its class and tip where it is a named part."""
        tag = element.tag.removeprefix(_SVG)
        if tag not in ("g", "path", "use", "text", "defs", "clipPath", "rect", "tspan"):
            return None
        css, tip = self._parts.get(element.get("id", ""), ("", ""))
        if css == "nothing":
            return None
        attributes = {k: v for k, v in element.attrib.items() if k in _KEPT}
        for kind, value in re.findall(r"([a-z-]+):\s*([^;]+)", element.get("style", "")):
            if kind in _PLACING:
                attributes[kind] = value
        if _HREF in element.attrib:
            attributes["href"] = element.attrib[_HREF]
        if "id" in attributes and tag == "g":
            del attributes["id"]
        if css:
            attributes["class"] = css
        plain = ElementTree.Element(tag, attributes)
        plain.text = element.text if tag in ("text", "tspan") else None
        if tip:
            ElementTree.SubElement(plain, "title").text = tip
        plain.extend(child for part in element if (child := self._plain(part)) is not None)
        return plain if len(plain) or tag not in ("g", "defs") else None
