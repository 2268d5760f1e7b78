"""Which examples train, which decide and which score: never one prompt on two sides.

N examples, G groups of examples that ask the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rightrank.data.near import Groups, exact_groups, near_links, united
from rightrank.data.wording import counted
from rightrank.errors import TooFewExamplesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64

HELD_OUT_SHARE = 0.2
# About 1,450 held-out examples certify a margin of 1 % of the gain on nl2bash (measured); beyond 2,000
# evaluation costs more than it resolves.
HELD_OUT_MOST = 2_000
FEWEST_ROWS = 20
FEWEST_GROUPS = 10
IN_THE_HELD_OUT = " in the held-out data"
# A group of near-duplicates larger than a side (a tenth of the rows) could never be held out, and is more likely a shared
# template than a repeated question (assumed). Its rows are then kept together by their exact prompt only.
TEMPLATE_SHARE = HELD_OUT_SHARE / 2
TEMPLATE_ROWS = 10  # in a small data set, where a tenth is a handful, plain near-duplicates number that many
# Where more of the training rows than this resemble a held-out prompt, resemblance is the template's
# (assumed).
OVERLAP_SHARE = 0.2


@dataclass(frozen=True)
class Prompt:
    """What an example asks, for grouping."""

    exact: str
    """The whole prompt; equal ones (but for case and white space) share a side."""
    near: str
    """What is compared for near-duplicates: the prompt without a system turn."""


@dataclass(frozen=True)
class Split:
    """Indices of the examples on each side, each side in a random order whose prefixes are random subsets."""

    train: tuple[int, ...]
    decide: tuple[int, ...]
    score: tuple[int, ...]
    overlap_removed: int = 0
    """Training rows left out since their prompt is among the user's held-out ones."""
    notes: tuple[str, ...] = ()


def split_by_prompt(prompts: Sequence[Prompt], *, seed: int) -> Split:
    """Split examples into train, decide and score by groups of equal or nearly equal prompts.

    20 % of the rows, at most 2,000, are held out, half to decide and half to score. Deterministic for a seed.
    Raises TooFewExamplesError below 20 rows or 10 groups.
    """
    groups, notes = prompt_groups(prompts)
    _require_enough(len(prompts), groups)
    target = max(1, min(round(HELD_OUT_SHARE * len(prompts)), HELD_OUT_MOST) // 2)
    rng = np.random.default_rng(seed)
    sides = _drawn(groups, [target, target], rng)
    held_out = set(sides[0]) | set(sides[1])
    train = [i for i in range(len(prompts)) if groups.of_N[i] not in held_out]
    decide, score = (np.flatnonzero(np.isin(groups.of_N, side)).tolist() for side in sides)
    spare = sum(max(0, len(side) - target) for side in (decide, score))
    if spare:
        repeat = "repeats" if spare == 1 else "repeat"
        used = f"{'is' if spare == 1 else 'are'} used neither to train nor to decide"
        notes += (f"{counted(spare, 'row')} that {repeat} held-out prompts {used}.",)
    ordered = [_shuffled(side, rng) for side in (train, decide, score)]
    return Split(ordered[0], ordered[1][:target], ordered[2][:target], notes=notes)


def split_with_eval(train: Sequence[Prompt], held_out: Sequence[Prompt], *, seed: int) -> Split:
    """Use the user's held-out examples: half decide, half score, by groups; train on every row that is not
    among them.

    ``decide`` and ``score`` index ``held_out``, ``train`` indexes ``train``. Rows of ``train`` whose prompt
    occurs in ``held_out``, exactly or nearly, are left out and counted. Raises TooFewExamplesError as
    ``split_by_prompt`` does, of either part.
    """
    groups, notes = prompt_groups(held_out)
    _require_enough(len(held_out), groups, IN_THE_HELD_OUT)
    kept, overlap_notes = _not_held_out(train, held_out)
    removed = len(train) - len(kept)
    left = exact_groups([train[i].exact for i in kept])
    occur = f"{removed} more {'occurs' if removed == 1 else 'occur'} in the held-out data"
    _require_enough(len(kept), left, f" to train on ({occur})" if removed else "")
    rng = np.random.default_rng(seed)
    decide, score, more = _halves(len(held_out), groups, rng)
    most = HELD_OUT_MOST // 2
    return Split(
        _shuffled(kept, rng),
        _shuffled(decide, rng)[:most],
        _shuffled(score, rng)[:most],
        removed,
        notes + more + overlap_notes,
    )


def split_held_out(held_out: Sequence[Prompt], *, seed: int) -> Split:
    """Examples that none was trained on: half decide, half score, by groups; none trains.

    Raises TooFewExamplesError as ``split_by_prompt`` does.
    """
    groups, notes = prompt_groups(held_out)
    _require_enough(len(held_out), groups)
    rng = np.random.default_rng(seed)
    decide, score, more = _halves(len(held_out), groups, rng)
    most = HELD_OUT_MOST // 2
    return Split((), _shuffled(decide, rng)[:most], _shuffled(score, rng)[:most], notes=notes + more)


def _halves(
    count: int, groups: Groups, rng: np.random.Generator
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Indices of the rows that decide and of those that score, in order, and a note where not all are used."""
    deciding = set(_drawn(groups, [count // 2], rng)[0])
    decide = [i for i in range(count) if groups.of_N[i] in deciding]
    score = [i for i in range(count) if groups.of_N[i] not in deciding]
    notes: tuple[str, ...] = ()
    if count > HELD_OUT_MOST:
        notes = (f"Of {count} held-out rows at most {HELD_OUT_MOST} are used, drawn at random.",)
    return decide, score, notes


def prompt_groups(prompts: Sequence[Prompt]) -> tuple[Groups, tuple[str, ...]]:
    """Groups of examples that ask the same, exactly or nearly, and notes on what was done about it.

    Near-duplicates that hang together beyond a tenth of the rows share a template; they are grouped
    exactly.
    """
    exact = exact_groups([prompt.exact for prompt in prompts])
    links, notes = near_links([prompts[i].near for i in exact.first_G])
    joined_G = united(exact.count, links)
    rows_J = np.bincount(joined_G, weights=exact.sizes_G())
    members_J = np.bincount(joined_G)
    template_J = (rows_J > max(TEMPLATE_SHARE * len(prompts), TEMPLATE_ROWS)) & (members_J > 1)
    if len(np.unique(joined_G)) < FEWEST_GROUPS <= exact.count:
        template_J = members_J > 1
    if template_J.any():
        rows = int(rows_J[template_J].sum())
        notes += (
            f"{rows} rows resemble each other throughout (a template); only equal prompts share a side.",
        )
        links = [(a, b) for a, b in links if not template_J[joined_G[a]]]
        joined_G = united(exact.count, links)
    return Groups.of(joined_G[exact.of_N]), notes


def require_enough_rows(rows: int, where: str = "") -> None:
    """Raise TooFewExamplesError below 20 rows."""
    if rows < FEWEST_ROWS:
        there = f"There {'is' if rows == 1 else 'are'} {counted(rows, 'usable example')}{where}"
        raise TooFewExamplesError(f"{there}; at least {FEWEST_ROWS} are needed.", "Give more examples.")


def _require_enough(rows: int, groups: Groups, where: str = "") -> None:
    require_enough_rows(rows, where)
    if groups.count < FEWEST_GROUPS:
        there = f"There {'is' if groups.count == 1 else 'are'} {counted(groups.count, 'distinct prompt')}"
        found = f"{there} in {counted(rows, 'example')}{where}"
        problem = f"{found}; at least {FEWEST_GROUPS} are needed."
        raise TooFewExamplesError(
            problem, "Give more prompts, or held-out data of your own with --eval-data."
        )


def _drawn(groups: Groups, targets: list[int], rng: np.random.Generator) -> list[list[int]]:
    """Random groups for sides of about ``targets`` rows; at most half of all groups, and none that
    overfills its side.

    Groups too large for the room left stay in training, so held-out rows lean towards rarer prompts; with
    distinct prompts the draw is plainly random. A side that nothing fits gets the smallest group there is.
    """
    sizes_G = groups.sizes_G()
    room = list(targets)
    sides: list[list[int]] = [[] for _ in targets]
    most = groups.count // (2 * len(targets))
    order = rng.permutation(groups.count).tolist()
    for group in order:
        side = max(range(len(room)), key=room.__getitem__)
        if sizes_G[group] <= room[side] and len(sides[side]) < most:
            sides[side].append(group)
            room[side] -= int(sizes_G[group])
    for groups_of_side in sides:
        if not groups_of_side:
            taken = {group for other in sides for group in other}
            groups_of_side.append(
                min((group for group in order if group not in taken), key=lambda group: int(sizes_G[group]))
            )
    return sides


def _not_held_out(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> tuple[list[int], tuple[str, ...]]:
    """Indices of training rows whose prompt is not among the held-out ones, and notes."""
    exact = exact_groups([prompt.exact for prompt in (*train, *held_out)])
    held_G = np.zeros(exact.count, dtype=bool)
    held_G[exact.of_N[len(train) :]] = True
    every = (*train, *held_out)
    links, notes = near_links([every[i].near for i in exact.first_G], across_N=held_G)
    near_G = held_G.copy()
    for a, b in links:
        near_G[a if held_G[b] else b] = True
    train_groups_N: Int64[np.ndarray, " N"] = exact.of_N[: len(train)]
    left_out_N = near_G[train_groups_N]
    exactly_N = held_G[train_groups_N]
    if left_out_N.sum() - exactly_N.sum() > OVERLAP_SHARE * len(train):
        left_out_N = exactly_N
        notes += (
            "Most training prompts resemble held-out ones (a template); only equal ones were left out.",
        )
    return np.flatnonzero(~left_out_N).tolist(), notes


def _shuffled(indices: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(i) for i in rng.permutation(np.asarray(indices, dtype=np.int64)))
