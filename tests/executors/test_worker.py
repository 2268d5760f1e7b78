"""What comes back from a worker: values, the person's errors as they were, and others with their trace."""

from __future__ import annotations

import pickle

import pytest

from rightrank.errors import BudgetError, ConfigurationError, MalformedRowError, ModelError, UserError
from rightrank.executors.worker import Order, Worker, answer
from rightrank.recipe import Recipe
from tiny import random_examples, tiny_base


def raising(error):
    class Failing(Worker):
        def memory(self):
            raise error

    return pickle.loads(pickle.dumps(answer(Failing(), "memory", ())))


@pytest.mark.parametrize(
    "error",
    [
        ModelError("No.", "Try."),
        BudgetError("Never.", "Wait."),
        MalformedRowError("rows", 3, "no JSON"),
        UserError("A.", "B."),
    ],
)
def test_the_persons_errors_come_back_as_they_were(error):
    with pytest.raises(type(error)) as caught:
        raising(error).unpacked()
    assert type(caught.value) is type(error)
    assert (caught.value.problem, caught.value.mend, str(caught.value)) == (
        error.problem,
        error.mend,
        str(error),
    )
    assert caught.value.exit_code == error.exit_code


def test_other_errors_come_back_with_their_trace():
    with pytest.raises(RuntimeError, match=r"(?s)A worker failed:\nTraceback .*ZeroDivisionError: oh"):
        raising(ZeroDivisionError("oh")).unpacked()


def test_a_value_comes_back():
    assert raising_nothing().unpacked() == (1.0, 2.0)


def raising_nothing():
    class Fine(Worker):
        def memory(self):
            return 1.0, 2.0

    return pickle.loads(pickle.dumps(answer(Fine(), "memory", ())))


def test_options_of_loading_reach_the_loader(monkeypatch):
    heard = {}

    def load(source, tokenizer, **options):
        heard.update(options, source=source)
        raise ConfigurationError("Stop.", "Here.")

    monkeypatch.setattr("rightrank.bank.base_model.load_base", load)
    with pytest.raises(ConfigurationError):
        Worker().open(Order("model", {"revision": "abc", "trust_remote_code": False}, "cpu", None))
    assert heard == {"source": "model", "device": "cpu", "revision": "abc", "trust_remote_code": False}


@pytest.mark.parametrize("shared", [0, 20])
def test_a_worker_lets_examples_share_what_all_begin_with(shared):
    worker, examples = Worker(tiny_base()), random_examples(16, shared=shared)
    found = worker.survey(examples, examples[:3], Recipe(), "base")
    assert found.path.shares == worker.executor.path.shares == (shared > 0)
    assert ("what all prompts begin with" in found.path.words) == (shared > 0)
