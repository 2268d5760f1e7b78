"""The page in a real browser: it renders, its tabs and buttons work, what is hostile stays text, and nothing is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from report.samples import HOSTILE, STATUSES, hostile, sample
from rightrank.recommendation import Check
from rightrank.report import page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from rightrank.recommendation import Recommendation, Status

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
CONFIGS = {"PEFT": '{"r": 16}\n', "TRL": "trl sft --packing False\n", HOSTILE: HOSTILE}
WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 375, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page in a context of its own, with everything it complained about or asked for."""

    def __init__(self, browser: Browser, path: Path, viewport: dict[str, int], scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport=viewport,  # type: ignore[arg-type]
            color_scheme=scheme,  # type: ignore[arg-type]
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.close()


def looked_at(answer: Recommendation) -> Recommendation:
    """With looks at every run, so that every figure is drawn."""
    checks = (Check(1.0, 1.25, 1.3), Check(2.0, 1.21, 1.1))
    return replace(answer, points=tuple(replace(point, checks=checks) for point in answer.points))


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("status", STATUSES)
def test_every_status_fits_the_screen_and_loads_nothing(
    browser: Browser, tmp_path: Path, status: Status, viewport: dict[str, int]
) -> None:
    path = page.write(looked_at(sample(status)), tmp_path, CONFIGS)
    with Opened(browser, path, viewport) as opened:
        assert opened.page.get_by_role("heading", level=1).is_visible()
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        charts = opened.page.locator("svg[role=img]:visible")
        assert charts.count() >= 1
        for box in (chart.bounding_box() for chart in charts.all()):
            assert box is not None
            assert box["width"] > 200
            assert box["height"] > 150
        assert opened.complaints == []
        assert opened.asked == [path.as_uri()]


def test_nothing_in_a_chart_is_cut_off_or_on_top_of_a_label(browser: Browser, tmp_path: Path) -> None:
    path = page.write(looked_at(sample("SETTLED")), tmp_path)
    with Opened(browser, path, WIDE) as opened:
        outside = opened.page.evaluate(
            """() => [...document.querySelectorAll('svg[role=img]')].filter(svg => svg.getClientRects().length).flatMap(svg => {
              const frame = svg.getBoundingClientRect();
              return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
              }).map(text => text.textContent);
            })"""
        )
        assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_colour_the_charts_and_can_be_read(browser: Browser, tmp_path: Path, scheme: str) -> None:
    path = page.write(sample("SETTLED"), tmp_path)
    with Opened(browser, path, WIDE, scheme) as opened:
        paper, ink, mark = opened.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
              getComputedStyle(document.querySelector('svg[role=img] .mark.tuned')).stroke]"""
        )
    assert _contrast(paper, ink) > 7
    assert _contrast(paper, mark) > 3
    assert (_luminance(paper) < 0.05) == (scheme == "dark")


def test_tabs_work_by_keyboard_and_copy_copies_the_config_shown(browser: Browser, tmp_path: Path) -> None:
    path = page.write(sample("SETTLED"), tmp_path, CONFIGS)
    with Opened(browser, path, WIDE) as opened:
        tabs = opened.page.locator(".tabs input")
        tabs.first.focus()
        assert opened.page.locator("#config-1").is_visible()
        opened.page.keyboard.press("ArrowRight")
        assert opened.page.locator("#config-2").is_visible()
        assert not opened.page.locator("#config-1").is_visible()
        button = opened.page.locator("button[data-copies=config-2]")
        button.click()
        button.filter(has_text="Copied").wait_for()
        assert opened.page.evaluate("navigator.clipboard.readText()") == CONFIGS["TRL"]
        opened.page.locator("button[data-copies=choice-text]").click()
        assert "lora_r: 16" in opened.page.evaluate("navigator.clipboard.readText()")
        assert opened.complaints == []


@pytest.mark.parametrize("status", STATUSES)
def test_a_data_set_full_of_scripts_stays_text(browser: Browser, tmp_path: Path, status: Status) -> None:
    path = page.write(hostile(status), tmp_path, {HOSTILE: HOSTILE})
    with Opened(browser, path, WIDE) as opened:
        assert opened.page.locator("script").count() == 1
        assert "<script>alert(1)</script>" in opened.page.locator("body").inner_text()
        assert opened.complaints == []
        assert opened.asked == [path.as_uri()]


def test_paper_shows_every_config_and_no_buttons(browser: Browser, tmp_path: Path) -> None:
    path = page.write(sample("SETTLED"), tmp_path, CONFIGS)
    with Opened(browser, path, WIDE, "dark") as opened:
        opened.page.emulate_media(media="print")
        assert opened.page.locator("#config-1").is_visible()
        assert opened.page.locator("#config-2").is_visible()
        assert opened.page.locator("button:visible").count() == 0
        assert opened.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def test_those_who_hear_the_page_get_the_charts_in_words(browser: Browser, tmp_path: Path) -> None:
    path = page.write(looked_at(sample("SETTLED")), tmp_path)
    with Opened(browser, path, WIDE) as opened:
        names = opened.page.locator("svg[role=img]:visible").evaluate_all(
            "charts => charts.map(c => c.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id).textContent))"
        )
        assert len(names) == 4
        assert any(
            "r=16: 0.1 % of the gain lost [-0.5, 0.7], extrapolated, the choice" in said for _, said in names
        )
        ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))


def _luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, WCAG 2.2."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)
