"""The whole tool on worlds whose answer is known."""

from __future__ import annotations

import pytest

import rightrank
import tiny_world
from rightrank.recipe import Recipe

RANKS = (1, 2, 4, 8, 16)


def ask(rows, held_out, tmp_path, *, epochs=12.0, batch_size=32, budget_minutes=10.0, ranks=RANKS, **options):
    return rightrank.recommend(
        tiny_world.base(),
        rows,
        tokenizer=tiny_world.word_tokenizer(),
        eval_data=held_out,
        # 4 words of prompt and 16 of completion: the end-of-text token that nobody wrote is cut off.
        recipe=Recipe().given(epochs=epochs, batch_size=batch_size, max_length=20),
        budget_minutes=budget_minutes,
        ranks=ranks,
        chat_template=False,
        out=tmp_path / "run",
        **options,
    )


@pytest.mark.parametrize(("rank", "strength"), [(1, 4.0), (4, 2.0)])
def test_a_planted_rank_is_found_within_a_factor_of_two(rank, strength, tmp_path):
    teacher = tiny_world.teacher(rank, strength)
    rows, held_out = (
        tiny_world.written_by(teacher, 1000, seed=0),
        tiny_world.written_by(teacher, 2000, seed=1),
    )
    answer = ask(rows, held_out, tmp_path)
    assert rank / 2 <= answer.choice.rank <= 2 * rank
    assert answer.gain.low > 0
    assert rank not in answer.ruled_out
    assert {r for r in RANKS if r < rank / 2} <= set(answer.ruled_out)
    assert answer.status in ("SETTLED", "UNDECIDED")


def test_starved_it_says_undecided(tmp_path):
    teacher = tiny_world.teacher(4, 2.0)
    rows, held_out = tiny_world.written_by(teacher, 60, seed=0), tiny_world.written_by(teacher, 40, seed=1)
    answer = ask(rows, held_out, tmp_path, epochs=2, batch_size=8)
    assert answer.status == "UNDECIDED"
    assert answer.to_decide


@pytest.mark.parametrize("seed", [0, 1])
def test_random_words_never_get_a_confident_rank(seed, tmp_path):
    answer = ask(
        tiny_world.random_rows(600, seed=seed),
        tiny_world.random_rows(1000, seed=100 + seed),
        tmp_path,
        epochs=3,
        seed=seed,
    )
    assert answer.status in ("NO_GAIN", "UNDECIDED", "FLAT")
    assert answer.gain.value > 0.05, (
        "training gains over this base by learning frequencies: the case that needs care"
    )


def test_completions_that_the_base_wrote_are_no_gain(tmp_path):
    rows = tiny_world.written_by(tiny_world.base(), 1000, seed=0)
    held_out = tiny_world.written_by(tiny_world.base(), 2000, seed=1)
    answer = ask(rows, held_out, tmp_path, epochs=2, batch_size=16)
    assert answer.status == "NO_GAIN"
