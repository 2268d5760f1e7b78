"""What README and docs name exists: commands, options, files, and the picture's answer."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import typer

from rightrank import Recommendation
from rightrank.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OTHERS = {"--max-lora-rank", "--signal", "--no-deps"}
"""Options of other programs."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)rightrank ([a-z]+)", text, re.MULTILINE))
    assert named <= set(COMMANDS)
    known = {option for command in COMMANDS.values() for param in command.params for option in param.opts}
    own = re.sub(r"^.*(?:bench/|pytest|python -m|pip |unsloth train).*$", "", text, flags=re.MULTILINE)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", own)) - OTHERS <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for named in re.findall(r"(?:bench|tests|docs|examples|scripts)/[\w./-]+\w", text):
        assert (ROOT / named).exists(), named


def test_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []


def test_the_picture_is_the_recorded_answer() -> None:
    record = ROOT / "bench" / "records" / "nl2bash_smollm2_h100" / "probe" / "recommendation.json"
    answer = Recommendation.from_json(record.read_text(encoding="utf-8"))
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_readme_figure.py"))["picture"](answer)
    kept = (ROOT / "docs" / "answer.svg").read_text(encoding="utf-8")
    for picture in (drawn, kept):
        assert (
            f">{answer.status}: safe meanwhile r={answer.choice.rank}, alpha {answer.choice.alpha:g}"
            in picture
        )
        assert picture.count('class="mark tuned') == 1 + sum(
            option.kind == "tuned" for option in answer.options
        )
