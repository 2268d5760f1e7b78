"""A tiny base on disk, packs over it, and what one worker in this process makes of them: the truth for workers elsewhere."""

from __future__ import annotations

import os
from dataclasses import replace

from rightrank.executors.worker import Order, Worker
from rightrank.probe.loss_table import Configuration, Pack
from rightrank.recipe import Recipe
from small_run import save_model
from tiny import random_examples

RECIPE = Recipe(epochs=4, batch_size=4, dropout=0.1)
KNOWN = 20  # tokens of the saved model


def examples(count, seed):
    return [replace(e, token_ids_T=e.token_ids_T % KNOWN) for e in random_examples(count, seed=seed)]


TRAIN, DECIDE, SCORE = examples(40, 1), examples(5, 2), examples(4, 3)
PACKS = [
    Pack(number, 40, (Configuration(rank, 16.0, 1e-2, seed=1),), with_score=True)
    for number, rank in enumerate((2, 4, 8, 3, 5))
]


def save_base(folder):
    save_model(folder)
    return Order(str(folder), {}, "cpu", int(os.environ.get("OMP_NUM_THREADS", "1")))


def truth(order):
    """A surveyed worker of this process, and its result of each of ``PACKS``."""
    worker = Worker()
    worker.open(order)
    prepared(worker)
    return worker, [worker.train(pack, None, lambda share: None)[0] for pack in PACKS]


def prepared(workers):
    """``workers`` surveyed and told the held-out examples."""
    survey = workers.survey(TRAIN, TRAIN[:3], RECIPE, "the base")
    workers.judge_by(DECIDE, SCORE)
    return survey


def same(results, wanted):
    return [
        (a.loss_KE.tobytes(), a.right_KE.tobytes(), a.train_loss_K, a.steps, a.train_tokens)
        == (b.loss_KE.tobytes(), b.right_KE.tobytes(), b.train_loss_K, b.steps, b.train_tokens)
        for a, b in zip(results, wanted, strict=True)
    ]
