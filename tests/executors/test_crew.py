"""Workers that are lost: what they were doing is done again, others are started, and it ends with a sentence where that does not help."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from crews import FACTS, Scripted
from rightrank.errors import ModelError, ResourceError
from rightrank.executors.crew import MOST_LOSSES, Crew, Task
from rightrank.executors.fleet import Fleet
from rightrank.executors.links import WorkerLostError
from rightrank.executors.worker import Answer, answer


def crew_of(behave=None, **options):
    transport = Scripted(behave, **options)
    crew = Crew(transport)
    return crew, transport, crew.notes


def tasks(count):
    return iter([Task("train", (number,), f"training {number}") for number in range(count)])


def worked(crew, wanted):
    done = {}
    crew.work(wanted, lambda task, value: done.__setitem__(task.arguments[0], value))
    return done


def losing(when):
    """Workers that are lost where ``when(link, method, *arguments)`` says so."""

    def behave(link, method, *arguments):
        if when(link, method, *arguments):
            raise WorkerLostError("ended by SIGKILL")
        return Answer(FACTS if method == "open" else (link.number, *arguments))

    return behave


def test_every_worker_opens_its_own_order_and_hears_what_all_are_told():
    crew, transport, _ = crew_of()
    assert [link.asked for link in transport.links] == [
        [("open", "order for one")],
        [("open", "order for two")],
    ]
    assert crew.tell("judge_by", 7) == [(7,), (7,)]
    assert crew.facts is FACTS and len(crew) == 2


def test_work_is_shared_out_and_asked_for_only_when_a_worker_is_free():
    crew, transport, _ = crew_of()
    given, done = [], []

    def asked_for():
        for task in tasks(5):
            given.append(task.arguments[0])
            assert len(given) - len(done) <= 2, "no task is taken that no one is free for"
            yield task

    crew.work(asked_for(), lambda task, value: done.append(task.arguments[0]))
    assert given == [0, 1, 2, 3, 4] and sorted(done) == given
    assert all(sum(a[0] == "train" for a in link.asked) >= 2 for link in transport.links)


def test_what_a_lost_worker_was_doing_is_done_again_and_a_new_one_is_told_all():
    crew, transport, notes = crew_of(losing(lambda link, method, *a: link.number == 0 and a == (0,)))
    crew.tell("judge_by", 7)
    crew.tell("memory", again=False)
    done = worked(crew, tasks(4))
    assert sorted(done) == [0, 1, 2, 3]
    assert done[0][0] != 0, "by another"
    assert notes == [
        "The worker on one was lost while it was training 0 (ended by SIGKILL); that was done again."
    ]
    assert not transport.links[0].open and len(transport.links) == 3
    assert transport.links[2].asked[:2] == [("open", "order for one"), ("judge_by", 7)], (
        "but not what is no longer true"
    )
    assert worked(crew, tasks(6)).keys() == set(range(6)) and len(transport.links[2].asked) > 2, (
        "and it works with them"
    )


def test_a_worker_that_is_lost_while_idle_is_found_out_when_it_is_asked():
    gone = set()
    crew, _, notes = crew_of(losing(lambda link, *_: link.number in gone))
    gone.add(1)
    assert sorted(worked(crew, tasks(3))) == [0, 1, 2]
    assert len(notes) == 1 and "The worker on two was lost" in notes[0]


def test_what_is_lost_again_and_again_ends_with_a_sentence_and_what_was_done_is_heard_of():
    crew, transport, _ = crew_of(losing(lambda link, method, *a: a == (1,)))
    done = []
    with pytest.raises(ResourceError, match="3 workers in turn ended while they were training 1") as caught:
        crew.work(tasks(9), lambda task, _: done.append(task.arguments[0]))
    assert "SIGKILL" in caught.value.problem and "--resume" in caught.value.mend
    assert 0 in done and 1 not in done
    assert MOST_LOSSES == 3 and not any(link.open for link in transport.links)


def test_where_no_worker_can_be_started_any_more_the_others_go_on():
    crew, _, notes = crew_of(losing(lambda link, method, *a: link.number == 0 and method == "train"), rooms=1)
    assert sorted(worked(crew, tasks(4))) == [0, 1, 2, 3]
    assert notes[1] == "one was given up: its worker could not go on (no room)."
    assert len(crew) == 1


def test_a_place_whose_new_worker_is_lost_as_well_is_given_up():
    crew, transport, notes = crew_of(
        losing(lambda link, method, *_: (link.number == 0 and method == "train") or link.number == 2)
    )
    assert sorted(worked(crew, tasks(4))) == [0, 1, 2, 3]
    assert "given up" in notes[1] and len(transport.links) == 3


def test_the_last_worker_gone_ends_with_a_sentence():
    with pytest.raises(ResourceError, match="No worker is left: the one on"):
        crew_of(losing(lambda *_: True))
    crew, _, _ = crew_of(losing(lambda link, method, *_: method == "train"), rooms=1)
    with pytest.raises(ResourceError, match="No worker is left"):
        worked(crew, tasks(4))


@pytest.mark.parametrize("how", ["at the start", "later"])
def test_workers_must_hold_the_same_model(how):
    other = SimpleNamespace(fingerprint="xyz", dtype_name="float32", name="model")

    def behave(link, method, *arguments):
        if method == "train" and link.number == 0:
            raise WorkerLostError("gone")
        odd = link.number == (1 if how == "at the start" else 2)
        return Answer((other if odd else FACTS) if method == "open" else arguments)

    transport = Scripted(behave)
    with pytest.raises(ModelError, match="do not all find the same model under the name model"):
        worked(Crew(transport), tasks(9))
    assert len(transport.links) == (2 if how == "at the start" else 3)
    assert not any(link.open for link in transport.links)


def test_what_a_worker_raises_is_raised_and_all_are_ended():
    def fail(*_):
        raise ResourceError("Memory ran out.", "Use less.")

    crew, transport, _ = crew_of(
        lambda link, method, *a: answer(SimpleNamespace(train=fail, open=lambda _: FACTS), method, a)
    )
    with pytest.raises(ResourceError, match=r"Memory ran out\. Use less\."):
        worked(crew, tasks(3))
    assert not any(link.open for link in transport.links)


def test_ctrl_c_ends_all_workers_and_whoever_goes_on_has_new_ones():
    crew, transport, _ = crew_of()
    crew.tell("judge_by", 7)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crew.work(tasks(3), lambda *_: None, interrupt)
    assert not any(link.open for link in transport.links) and len(crew) == 2
    assert sorted(worked(crew, tasks(3))) == [0, 1, 2]
    assert [a[0] for a in transport.links[2].asked][:2] == ["open", "judge_by"]


def test_a_crew_that_is_forgotten_ends_its_workers():
    transport = Scripted()
    fleet = Fleet(transport)
    del fleet  # at once: nothing in it refers to itself
    assert transport.closed and not any(link.open for link in transport.links)
