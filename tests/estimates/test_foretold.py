"""The rank that the rows let one expect: by hand from a line that is known, in words, and what ships against what it was fitted to."""

from __future__ import annotations

from typing import Any

import pytest

from rightrank.data.characteristics import Characteristics
from rightrank.estimates.words import rank_lines
from rightrank.priors import characteristics as prior
from rightrank.priors.characteristics import foretold

FEATURES = {"rows_seen": 10.0, "tokens_a_row": 9.0, "copied_share": 0.5}


def planted(less: float = 0.1, features: dict[str, Any] | None = None) -> dict[str, Any]:
    line = {
        "tokens_a_row": {"mean": 4.0, "spread": 2.0, "slope": 1.5, "least": 2.0, "most": 6.0},
        "copied_share": {"mean": 0.25, "spread": 0.25, "slope": -0.5, "least": 0.0, "most": 1.0},
    }
    return {
        "sets": ["a", "b", "c"],
        "tried": 7,
        "rank": {
            "level": 2.0,
            "features": line if features is None else features,
            "off": {"mean": 1.0, "worst": 2.0},
        },
        "lost": {
            "foretold": {"mean": 1.0},
            "r=32": {"mean": 1.1},
            "less": {"mean": less, "standard_error": 0.1},
        },
    }


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    line = planted()
    monkeypatch.setattr(prior, "stored", lambda: line)
    return line


@pytest.mark.usefixtures("known")
def test_by_hand() -> None:
    """9 counts as 6, the most recorded: 2 + (6 - 4) / 2 × 1.5 - (0.5 - 0.25) / 0.25 × 0.5 = 3."""
    found = foretold(FEATURES, 256)
    assert (found.rank, found.low, found.high) == (8, 2, 32)
    assert (found.up, found.down) == (("longer completions",), ("more copied from the prompt",))
    assert foretold(FEATURES, 16).high == 16


@pytest.mark.usefixtures("known")
def test_the_causes_turn_with_the_side_of_the_mean() -> None:
    found = foretold({"tokens_a_row": 2.0, "copied_share": 0.0}, 256)
    assert found.rank == 2  # 2 - 1.5 + 0.5
    assert (found.up, found.down) == (("less copied from the prompt",), ("shorter completions",))


def test_words_say_plainly_whether_r_32_is_beaten(known: dict[str, Any]) -> None:
    said = rank_lines(foretold(FEATURES, 256))[0]
    assert "about 8, 2 to 32" in said
    assert "Raised here by longer completions" in said
    assert "Lowered here by more copied from the prompt" in said
    assert "It does not beat r=32: 1.0 % of the gain lost there, 1.1 % at r=32." in said
    known["lost"]["less"]["mean"] = 0.21
    assert "It beat r=32" in rank_lines(foretold(FEATURES, 256))[0]


def test_a_line_without_characteristics_is_the_mean_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior, "stored", lambda: planted(features={}))
    found = foretold(FEATURES, 256)
    assert (found.rank, found.up, found.down) == (4, (), ())
    assert "Nothing about your rows moves it: none of 7 characteristics" in rank_lines(found)[0]
    assert rank_lines(None) == []


def test_what_ships_goes_by_characteristics_that_are_measured_and_have_words() -> None:
    known = prior.stored()
    features = Characteristics(100, 1000, 500, 400, 300, 90, 0.1).features(3.0)
    assert set(features) == set(prior.WORDS)
    assert set(known["rank"]["features"]) <= set(features)
    found = foretold(features, 256)
    assert 1 <= found.low <= found.rank <= found.high <= 256
    assert found.off_mean <= found.off_worst
