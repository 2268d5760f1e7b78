"""The rank and learning rate that the rows let one expect: by hand from lines that are known, in words, and what ships."""

from __future__ import annotations

from typing import Any

import pytest

from rightrank.data.characteristics import Characteristics
from rightrank.estimates.words import foretold_lines
from rightrank.priors import characteristics as prior
from rightrank.priors.characteristics import foretold
from rightrank.priors.grids import Likeness

FEATURES = {"epochs": 0.0, "tokens_a_row": 9.0, "copied_share": 0.5}
SAME = Likeness(1.0, ())


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    lines = {
        "sets": ["a", "b", "c"],
        "tried": 7,
        "rank": {
            "level": 2.0,
            "features": {
                "tokens_a_row": {"mean": 4.0, "spread": 2.0, "slope": 1.5, "least": 2.0, "most": 6.0},
                "copied_share": {"mean": 0.25, "spread": 0.25, "slope": -0.5, "least": 0.0, "most": 1.0},
            },
            "off": {"mean": 1.0, "worst": 2.0},
        },
        "learning_rate": {
            "level": -3.0,
            "features": {"epochs": {"mean": 1.0, "spread": 0.5, "slope": -0.15, "least": 0.0, "most": 1.6}},
            "off": {"mean": 0.2, "worst": 0.3},
        },
        "lost": {"foretold": {"lost": 1.0}, "r=32": {"lost": 1.1}},
        "less_lost_than_r_32": {"mean": 0.1, "standard_error": 0.1},
    }
    monkeypatch.setattr(prior, "stored", lambda: lines)
    return lines


@pytest.mark.usefixtures("known")
def test_by_hand() -> None:
    """9 counts as 6, the most recorded: 2 + (6 - 4) / 2 × 1.5 - (0.5 - 0.25) / 0.25 × 0.5 = 3; -3 + (1 - 0) / 0.5 × 0.15 = -2.7."""
    found = foretold(FEATURES, 256, SAME)
    rank, rate = found.rank, found.learning_rate
    assert (rank.value, rank.low, rank.high, rank.off_mean, rank.off_worst) == (8, 2, 32, 2.0, 4.0)
    assert (rank.up, rank.down) == (("longer completions",), ("more copied from the prompt",))
    assert (rate.value, rate.low, rate.high) == pytest.approx((10**-2.7, 10**-3.0, 10**-2.4))
    assert (rate.up, rate.down) == (("fewer epochs",), ())


@pytest.mark.usefixtures("known")
def test_no_wider_than_the_model_and_translated_to_it() -> None:
    wide = foretold(FEATURES, 16, Likeness(0.5, ("another model",)))
    assert wide.rank.high == 16
    assert wide.learning_rate.value == pytest.approx(10**-2.7 / 2)
    assert wide.learning_rate.low == pytest.approx(10**-3.0 / 4)  # a factor of two of doubt
    assert wide.learning_rate.high == pytest.approx(10**-2.4)


@pytest.mark.usefixtures("known")
def test_the_causes_turn_with_the_side_of_the_mean() -> None:
    found = foretold({"epochs": 1.05, "tokens_a_row": 2.0, "copied_share": 0.0}, 256, SAME)
    assert found.rank.value == 2  # 2 - 1.5 + 0.5
    assert (found.rank.up, found.rank.down) == (("less copied from the prompt",), ("shorter completions",))
    assert (found.learning_rate.up, found.learning_rate.down) == ((), ())  # 0.015 decades
    assert "your rows are like those on average" in foretold_lines(found)[1]


def test_words_say_plainly_whether_r_32_is_beaten(known: dict[str, Any]) -> None:
    rank, rate = foretold_lines(foretold(FEATURES, 256, SAME))
    assert "about 8, 2 to 32" in rank
    assert "off 2.0-fold on average, 4-fold at most" in rank
    assert "Raised here by longer completions than" in rank
    assert "Lowered here by more copied from the prompt than" in rank
    assert "It does not beat r=32: 1.0 % of the gain lost there, 1.1 % at r=32" in rank
    assert "about 2e-3, 1e-3 to 4e-3" in rate
    known["less_lost_than_r_32"]["mean"] = 0.21
    assert "It beat r=32: " in foretold_lines(foretold(FEATURES, 256, SAME))[0]


def test_a_line_without_characteristics_is_the_mean_and_says_so(known: dict[str, Any]) -> None:
    known["rank"]["features"] = {}
    found = foretold(FEATURES, 256, SAME)
    assert (found.rank.value, found.rank.up, found.rank.down) == (4, (), ())
    assert "Nothing about your rows moves it: choosing among 7 characteristics" in foretold_lines(found)[0]
    assert foretold_lines(None) == []


def test_what_ships_goes_by_characteristics_that_are_measured_and_have_words() -> None:
    lines = prior.stored()
    features = Characteristics(100, 1000, 500, 400, 300, 90, 0.1).features(3.0)
    assert set(features) == set(prior.WORDS)
    for line in (lines["rank"], lines["learning_rate"]):
        assert set(line["features"]) <= set(features)
        assert 0 < line["off"]["mean"] <= line["off"]["worst"]
    found = foretold(features, 256, SAME)
    assert 1 <= found.rank.low <= found.rank.value <= found.rank.high <= 256
    assert 1e-4 < found.learning_rate.low < found.learning_rate.value < found.learning_rate.high < 3e-2
