"""No prompt on two sides, whatever the data; sizes, order and refusals."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.data import Prompt, Split, split_by_prompt, split_with_eval
from rightrank.data import near as near_module
from rightrank.data.near import exact_groups, near_links, normalised, signatures, united
from rightrank.data.split import HELD_OUT_MOST, prompt_groups
from rightrank.errors import TooFewExamplesError

WORDS = [
    "river",
    "stone",
    "cloud",
    "paper",
    "light",
    "garden",
    "winter",
    "engine",
    "silver",
    "window",
    "orange",
    "market",
]


def prompts(texts: list[str]) -> list[Prompt]:
    return [Prompt(text, text) for text in texts]


def distinct(count: int, seed: int = 0) -> list[str]:
    """Sentences that resemble each other by chance only."""
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnop ", k=60)) + str(i) for i in range(count)]


def assert_apart(split: Split, texts: list[str]) -> None:
    sides = [{normalised(texts[i]) for i in side} for side in (split.train, split.decide, split.score)]
    assert all(sides)
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=10, max_size=60), seed=st.integers(0, 2**32 - 1))
def test_no_prompt_on_two_sides(counts: list[int], seed: int) -> None:
    names = distinct(len(counts))
    texts = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    texts = [text.upper() if i % 2 else f"  {text} " for i, text in enumerate(texts)]
    if len(texts) < 20:
        with pytest.raises(TooFewExamplesError):
            split_by_prompt(prompts(texts), seed=seed)
        return
    split = split_by_prompt(prompts(texts), seed=seed)
    assert_apart(split, texts)
    used = Counter([*split.train, *split.decide, *split.score])
    assert set(used.values()) == {1}
    spare = len(texts) - len(used)
    assert spare == 0 or f"{spare} rows that repeat held-out prompts" in " ".join(split.notes)
    assert len(split.decide) + len(split.score) <= 0.2 * len(texts) + 1
    assert split == split_by_prompt(prompts(texts), seed=seed)


@settings(max_examples=30, deadline=None)
@given(
    shared=st.integers(0, 30),
    trains=st.integers(20, 60),
    helds=st.integers(20, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_users_held_out_rows(shared: int, trains: int, helds: int, seed: int) -> None:
    names = distinct(trains + helds + shared)
    held = names[trains : trains + helds]
    train = names[:trains] + [name.title() for name in held[:shared]]
    split = split_with_eval(prompts(train), prompts(held), seed=seed)
    assert sorted(split.train) == list(range(trains))
    assert split.overlap_removed == len(train) - trains
    assert sorted([*split.decide, *split.score]) == list(range(helds))
    assert abs(len(split.decide) - len(split.score)) <= 1


def test_sizes_and_seeds() -> None:
    texts = distinct(500)
    split = split_by_prompt(prompts(texts), seed=0)
    assert (len(split.train), len(split.decide), len(split.score)) == (400, 50, 50)
    other = split_by_prompt(prompts(texts), seed=1)
    assert set(other.decide) != set(split.decide)
    assert split.notes == () and split.overlap_removed == 0


def test_large_data_hold_out_at_most_two_thousand() -> None:
    split = split_by_prompt(prompts(distinct(12_000)), seed=0)
    assert (len(split.train), len(split.decide), len(split.score)) == (
        10_000,
        HELD_OUT_MOST // 2,
        HELD_OUT_MOST // 2,
    )


def test_order_is_random_so_that_prefixes_are_samples() -> None:
    split = split_by_prompt(prompts(distinct(2_000)), seed=0)
    for side in (split.train, split.decide, split.score):
        half = np.asarray(side[: len(side) // 2])
        # The mean of a random half differs from 1000 by about 577 / sqrt(len); five of those allowed.
        assert abs(half.mean() - 999.5) < 5 * 577 / np.sqrt(len(half))
        assert list(side) != sorted(side)


def near_variants() -> list[str]:
    """Forty long sentences, each in a second wording that differs by a word."""
    base = [" ".join(random.Random(i).choices(WORDS, k=40)) + f" {i}" for i in range(40)]
    return [
        *base,
        *(text.replace(WORDS[i % 12], "different", 1) for i, text in enumerate(base)),
        *distinct(120),
    ]


def test_near_duplicates_share_a_side() -> None:
    texts = near_variants()
    for seed in range(5):
        split = split_by_prompt(prompts(texts), seed=seed)
        side = {i: name for name in ("train", "decide", "score") for i in getattr(split, name)}
        assert all(side[i] == side[i + 40] for i in range(40))
        assert len({side[i] for i in range(40)}) > 1


def test_near_duplicates_of_held_out_rows_are_left_out() -> None:
    texts = near_variants()
    split = split_with_eval(prompts([*texts[40:45], *texts[80:]]), prompts(texts[:40]), seed=0)
    assert split.overlap_removed == 5
    assert not set(split.train) & set(range(5))


def test_a_shared_template_is_no_near_duplicate() -> None:
    frame = " ".join(random.Random(1).sample([a + b for a in WORDS for b in WORDS], 70))
    texts = [f"{frame} Review: {text}" for text in distinct(200)]
    split = split_by_prompt(prompts(texts), seed=0)
    assert (len(split.train), len(split.decide), len(split.score)) == (160, 20, 20)
    assert any("a template" in note for note in split.notes)
    held = split_with_eval(prompts(texts[:150]), prompts([*texts[150:], texts[0]]), seed=0)
    assert held.overlap_removed == 1 and len(held.train) == 149
    assert any("a template" in note for note in held.notes)
    few = split_by_prompt(prompts(texts[:20]), seed=0)
    assert len(few.train) == 16


def test_one_prompt_of_most_rows_stays_in_training() -> None:
    texts = ["Tell me a story"] * 900 + distinct(100)
    split = split_by_prompt(prompts(texts), seed=0)
    assert_apart(split, texts)
    assert set(range(900)) <= set(split.train)
    assert len(split.decide) == len(split.score) == 25


def test_groups_larger_than_a_side() -> None:
    names = distinct(10)
    texts = [name for name in names for _ in range(3_000)]
    split = split_by_prompt(prompts(texts), seed=0)
    assert_apart(split, texts)
    assert len(split.decide) == len(split.score) == 1_000 and len(split.train) == 24_000
    assert "4,000 rows that repeat held-out prompts" in split.notes[0]


def test_system_prompts_do_not_make_prompts_alike() -> None:
    system = "You are a helpful assistant who answers at length. " * 20
    items = [Prompt(system + text, text) for text in distinct(100)]
    groups, notes = prompt_groups(items)
    assert groups.count == 100 and notes == ()


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (distinct(19), "There are 19 usable examples; at least 20"),
        (distinct(9) * 5, "There are 9 distinct prompts in 45 examples; at least 10"),
        (["same"] * 500, "There is 1 distinct prompt in 500"),
    ],
)
def test_too_few(texts: list[str], why: str) -> None:
    with pytest.raises(TooFewExamplesError, match=why):
        split_by_prompt(prompts(texts), seed=0)


def test_too_few_beside_held_out_rows() -> None:
    texts = distinct(60)
    with pytest.raises(TooFewExamplesError, match="19 usable examples in the held-out data"):
        split_with_eval(prompts(texts[:40]), prompts(texts[40:59]), seed=0)
    with pytest.raises(TooFewExamplesError, match=r"0 usable examples to train on \(40 more occur"):
        split_with_eval(prompts(texts[:40]), prompts(texts), seed=0)


def shingles(text: str) -> set[str]:
    return {text[i : i + near_module.SHINGLE] for i in range(len(text) - near_module.SHINGLE + 1)}


def test_signatures_estimate_the_jaccard_similarity() -> None:
    rng = random.Random(0)
    errors = []
    for _ in range(200):
        words = rng.choices(WORDS, k=30)
        other = [word if rng.random() < 0.9 else rng.choice(WORDS) for word in words]
        a, b = " ".join(words), " ".join(other)
        exact = len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))
        signature_NP = signatures([a.encode(), b.encode()])
        estimate = float((signature_NP[0] == signature_NP[1]).mean())
        errors.append((estimate - exact) / np.sqrt(max(exact * (1 - exact), 0.01) / near_module.HASHES))
    # Unbiased, with the spread of 126 independent hashes: standardised errors have mean 0 and variance 1.
    assert abs(np.mean(errors)) < 0.35
    assert 0.7 < np.std(errors) < 1.3


def test_links_agree_with_exact_similarity() -> None:
    texts = near_variants()
    links, _ = near_links(texts)
    assert {tuple(sorted(link)) for link in links} >= {(i, i + 40) for i in range(40)}
    for a, b in links:
        one, other = shingles(normalised(texts[a])), shingles(normalised(texts[b]))
        assert len(one & other) / len(one | other) > 0.65


def test_short_and_empty_prompts() -> None:
    links, _ = near_links(["", "a", "ab", "a", "abc"])
    assert (1, 3) in links and (0, 1) not in links


def test_long_prompts_and_large_sets_are_sampled_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "".join(random.Random(0).choices("abcdefgh ", k=10_000))
    links, notes = near_links([long, long[:5_000] + "middle" + long[5_000:], "other"])
    assert links == [(0, 1)] and "2 long prompts" in notes[0]
    monkeypatch.setattr(near_module, "MOST_TEXTS", 2)
    links, notes = near_links(["a" * 30, "a" * 29 + "b", "c"])
    assert links == [] and "near-duplicates were not sought" in notes[0]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text.encode() for text in near_variants()]
    whole = signatures(texts)
    monkeypatch.setattr(near_module, "CHUNK_SHINGLES", 500)
    assert (signatures(texts) == whole).all()


def test_groups_by_hand() -> None:
    groups = exact_groups(["B", "a", " b", "A  ", "c1", "c2"])
    assert groups.of_N.tolist() == [0, 1, 0, 1, 2, 3]
    assert groups.first_G.tolist() == [0, 1, 4, 5] and groups.sizes_G().tolist() == [2, 2, 1, 1]
    labels = united(5, [(0, 1), (3, 4), (1, 3)]).tolist()
    assert len(set(united(3, [(0, 1), (0, 2)]).tolist())) == 1
    assert len(set(labels)) == 2 and labels[0] == labels[4] != labels[2]
