"""What pyproject.toml allows, what is tested, and what the README says are the same versions."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
IMPORTED_AS = {"pyyaml": "yaml"}
FOR_OTHERS = {"accelerate", "bitsandbytes", "gguf"}  # transformers imports these where it loads such a model


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def floor(requirement: Requirement) -> Version:
    (lowest,) = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")]
    return lowest


def needed() -> dict[str, Version]:
    """What rightrank runs with, by name: the lowest version allowed."""
    extras = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *extras["data"], *extras["gguf"], *extras["4bit"], *extras["ray"]]
    lines += [line for line in extras["test"] if line.startswith(("peft", "trl"))]
    return {Requirement(line).name: floor(Requirement(line)) for line in lines}


def test_the_oldest_versions_tested_are_the_oldest_allowed() -> None:
    pinned = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = [Requirement(line.partition("#")[0]) for line in pinned if line.partition("#")[0].strip()]
    tested = {pin.name: floor(pin) for pin in pins}
    (torch,) = set(re.findall(r"torch==([\d.]+)", (ROOT / "Makefile").read_text()))
    assert {**tested, "torch": Version(torch)} == needed()


def test_what_is_run_for_every_change_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for file in (".ci/run", ".github/workflows/tests.yml"):
        made = set(
            re.findall(r"^\s*(?:- run: )?make ([a-z-]+)(?: .*)?$", (ROOT / file).read_text(), re.MULTILINE)
        )
        assert {"test", "test-oldest"} <= made <= targets
    assert "make audit" in (ROOT / ".github/workflows/tests.yml").read_text()
    listed = re.search(r"^OLDEST_TESTS = ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert listed is not None
    named = [word for word in listed[1].split() if word != "\\"]
    assert len(named) > 15 and all((ROOT / name).exists() for name in named)


def test_the_readme_names_the_oldest_versions() -> None:
    text = (ROOT / "README.md").read_text()
    assert f"Python ≥ {project()['requires-python'].removeprefix('>=')}, " in text
    assert f"PyTorch ≥ {needed()['torch']}, transformers ≥ {needed()['transformers']}" in text


def test_every_dependency_is_imported() -> None:
    imported: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    assert {IMPORTED_AS.get(name, name) for name in needed()} - FOR_OTHERS <= imported
    optional = {"peft", "trl", "triton", "wandb", "trackio"}  # used where they are installed
    of_transformers = {"huggingface_hub"}  # never installed without it, and bounded by it
    ours = {IMPORTED_AS.get(name, name) for name in needed()} | optional | of_transformers | {"rightrank"}
    assert imported - set(sys.stdlib_module_names) <= ours
