"""The race drops what is hopeless early, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rightrank.bank.cut import Update
from rightrank.bank.evaluate import HeldOut
from rightrank.bank.targets import Target
from rightrank.cuts.race import race, versions_of
from rightrank.errors import ConfigurationError
from rightrank.stats.cuts import decide_cut

UPDATES = (Update(Target("m", 32, 32), torch.eye(32), torch.ones(20), torch.eye(20, 32)),)


class Planted:
    """Losses by rank and factor, and how much was evaluated."""

    def __init__(self, true, *, noise=0.02):
        self.true, self.noise, self.evaluated = true, noise, {}

    def bare(self, examples):
        return HeldOut(
            np.array([[(3.0 + e.hard) * e.trained_tokens for e in examples]]),
            np.zeros((1, len(examples)), int),
        )

    def cuts(self, cuts, examples):
        rng = np.random.default_rng(len(self.evaluated))
        losses = []
        for cut in cuts:
            key = (cut.rank, cut.factor)
            self.evaluated[key] = self.evaluated.get(key, 0) + len(examples)
            noise = self.noise * rng.standard_normal(len(examples))
            losses.append(
                [
                    (self.true(*key) + e.hard + n) * e.trained_tokens
                    for e, n in zip(examples, noise, strict=True)
                ]
            )
        return HeldOut(np.array(losses), np.zeros((len(cuts), len(examples)), int))


def examples(count):
    rng = np.random.default_rng(1)
    return [SimpleNamespace(trained_tokens=int(rng.integers(4, 12)), hard=rng.normal()) for _ in range(count)]


def raced(true, **options):
    rows, planted = examples(500), Planted(true, **options)
    found = race(versions_of(UPDATES, 20), UPDATES, rows[:250], rows[250:], planted)
    return [version.label for version in found.versions], planted, found.evidence


def test_the_versions_are_every_power_of_two_the_whole_and_the_controls():
    versions = versions_of(UPDATES, 20)
    assert [v.label for v in versions[:6]] == ["r=1", "r=2", "r=4", "r=8", "r=16", "r=20"]
    assert [v.kind for v in versions] == ["cut"] * 5 + ["whole"] + ["scaled"] * 5
    assert {v.cut.rank for v in versions[5:]} == {20}


def test_cuts_by_layer_are_as_large_and_keep_each_layer_s_largest_directions():
    plain, ragged = (versions_of(UPDATES, 20, by_layer=by_layer) for by_layer in (False, True))
    assert [v.label for v in ragged[:2]] == ["r=1 by layer", "r=2 by layer"]
    assert [v.kind for v in ragged] == [v.kind for v in plain]
    targets = [update.target for update in UPDATES]
    for one, other in zip(ragged, plain, strict=True):
        assert one.cut.parameters(targets) <= other.cut.parameters(targets)
    assert ragged[5:] == plain[5:], "the whole and the controls are the same"


def stairs(rank, factor):
    return {1: 2.9, 2: 2.5, 4: 2.2}.get(rank, 2.0) + (1 - factor)


def test_hopeless_versions_see_64_rows_and_contenders_score():
    _, planted, evidence = raced(stairs, noise=0.01)
    assert all(planted.evaluated[rank, 1.0] == 64 for rank in (1, 2, 4))
    assert all(planted.evaluated[20, c] == 64 for c in (0.9, 0.5))
    used = [planted.evaluated[rank, 1.0] for rank in (8, 16, 20)]
    assert min(used) == evidence.loss_VE.shape[1] == evidence.scores_E.sum() + (~evidence.scores_E).sum()


def test_it_goes_on_while_noise_hides_the_margin_and_stops_when_it_does_not():
    _, _, clear = raced(stairs, noise=0.005)
    assert ((~clear.scores_E).sum(), clear.scores_E.sum()) == (64, 128)
    _, _, noisy = raced(stairs, noise=0.2)
    assert ((~noisy.scores_E).sum(), noisy.scores_E.sum()) == (250, 250)


def doubtful(rank, factor):
    """Rank 4 loses about the margin, larger ones nothing."""
    return {1: 2.9, 2: 2.5, 4: 2.009}.get(rank, 2.0) + (1 - factor)


def test_what_is_larger_than_a_cut_that_will_do_waits_for_no_doubt_about_smaller_ones():
    labels, planted, evidence = raced(doubtful, noise=0.02)
    used = {rank: planted.evaluated[rank, 1.0] for rank in (4, 8, 16, 20)}
    assert used[20] == used[8] == used[4] == 500, "the whole, the one that will do, and the doubtful one"
    best = min(("r=8", "r=16"), key=lambda label: np.nansum(evidence.loss_VE[labels.index(label), :64]))
    assert used[16] < 250 or best == "r=16"
    decision = decide_cut(evidence)
    assert labels[decision.chosen] in ("r=4", "r=8")
    left = decision.versions[labels.index("r=16")]
    assert left.verdict != "worse" and not left.scored


def test_of_controls_that_do_not_help_the_best_goes_on():
    _, planted, _ = raced(lambda rank, factor: stairs(rank, 1.0) + (1 - factor) / 50, noise=0.05)
    used = [planted.evaluated[20, factor] for factor in (0.9, 0.8, 0.7, 0.6, 0.5)]
    assert sorted(used)[:4] == [64] * 4 and max(used) > 64


def test_no_gain_is_never_settled_early():
    _, _, evidence = raced(lambda rank, factor: 3.0, noise=0.001)
    assert (~evidence.scores_E).sum() == 250


def test_the_whole_adapter_is_kept_even_where_it_is_worst():
    _, planted, evidence = raced(lambda rank, factor: 2.0 + 0.05 * rank)
    assert planted.evaluated[20, 1.0] == evidence.loss_VE.shape[1] > planted.evaluated[16, 1.0] == 64


def test_a_loss_that_is_not_finite_is_one_sentence():
    with pytest.raises(ConfigurationError, match="no finite loss"):
        raced(lambda rank, factor: np.inf)


def too_large(rank, factor):
    """Shrinking by 0.8 gains 0.1 of a gain of 1, whatever the rank; ranks below 8 are hopeless."""
    return {1: 2.9, 2: 2.5, 4: 2.2}.get(rank, 2.0) - 0.1 + abs(factor - 0.8) / 2


def test_where_shrinking_helps_the_living_cuts_are_shrunk_too_and_may_be_chosen():
    labels, planted, evidence = raced(too_large, noise=0.01)
    assert labels == [
        "r=1", "r=2", "r=4", "r=8", "r=8 × 0.8", "r=16", "r=16 × 0.8", "r=20", "whole × 0.8",
    ]  # fmt: skip
    assert evidence.candidate_V.all()
    assert evidence.parameters_V.tolist() == sorted(evidence.parameters_V.tolist())
    assert (8, 0.6) not in planted.evaluated and planted.evaluated[20, 0.5] == 64
    assert planted.evaluated[8, 0.8] == evidence.loss_VE.shape[1], "the first rows too"
    decision = decide_cut(evidence)
    assert (decision.status, labels[decision.chosen]) == ("SETTLED", "r=8 × 0.8")


def test_where_shrinking_does_not_help_the_controls_stay_controls():
    labels, _, evidence = raced(stairs, noise=0.01)
    assert labels == [v.label for v in versions_of(UPDATES, 20)]
    assert evidence.candidate_V.tolist() == [True] * 6 + [False] * 5


def test_what_is_as_good_unshrunk_is_taken_as_it_is():
    """Shrinking gains 0.1 % of the gain: within the margin, so that the plain cut is taken."""
    labels, _, evidence = raced(
        lambda rank, factor: stairs(rank, 1.0) - 0.001 + abs(factor - 0.8) / 200, noise=0.0005
    )
    decision = decide_cut(evidence)
    assert "r=8 × 0.8" in labels and labels[decision.chosen] == "r=8"
