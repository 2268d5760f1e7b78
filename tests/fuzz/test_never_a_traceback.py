"""Whatever is in a file of ours to read: a valid value, or a refusal that a person can read. The long run is ``bench/fuzz.py``."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import CONFIGS
from rightrank.errors import DataError
from targets import Target, targets, verdict

if TYPE_CHECKING:
    from random import Random

SLOW = {
    "model folder": 12,
    "GGUF file": 15,
    "saved answer": 15,
    "datasets folder": 20,
    "run directory": 3,
    "run directory, resumed": 6,
    "--metric output": 30,
    **dict.fromkeys((f"config {name}" for name in CONFIGS), 12),
}
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "_"))
def test_spoilt_files(target: Target) -> None:
    said = set()

    @settings(
        max_examples=SLOW.get(target.name, 60),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def search(rng: Random) -> None:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.spoil(Path(name), rng)
            said.add(verdict(lambda: target.use(Path(name))))

    logging.disable(logging.CRITICAL)
    try:
        search()
    finally:
        logging.disable(logging.NOTSET)
    assert "refused" in said or SLOW.get(target.name, 60) < 10, "too few to tell"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "_"))
def test_unspoilt_files_are_read(target: Target, tmp_path: Path) -> None:
    for path, content in target.files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert verdict(lambda: target.use(tmp_path)) == "valid"


@pytest.mark.parametrize("mend", ["", "no sentence", "Two\nlines.", "\x1b[31m.", "x" * 400 + "."])
def test_a_refusal_that_nobody_can_read_is_found(mend: str) -> None:
    def refuse() -> None:
        raise DataError("This is wrong.", mend)

    with pytest.raises(AssertionError):
        verdict(refuse)


def test_a_traceback_is_found() -> None:
    with pytest.raises(ZeroDivisionError):
        verdict(lambda: 1 / 0)
