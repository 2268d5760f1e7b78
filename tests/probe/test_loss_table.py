"""Measurements on disk: bitwise what was written, or told to be damaged; nothing that was finished is lost."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from rightrank.errors import ConfigurationError, ResourceError
from rightrank.probe.loss_table import Configuration, LossTable, Pack, PackResult
from rightrank.probe.pack import packed

SETTINGS = {"model": "abc", "recipe": {"epochs": 3.0, "adam_betas": (0.9, 0.999)}, "held_out": [3, 2]}
ABOUT = {"device": "CPU, 1 thread", "versions": {"torch": "2"}, "request": {"model": "m"}}
E = 5


def pack_of(number, count=2, examples=100):
    configurations = tuple(Configuration(4 << k, 16.5, 1e-3 / 3, number, "seed") for k in range(count))
    return Pack(number, examples, configurations, with_score=number % 2 == 1)


def result_of(number, count=2):
    rng = np.random.default_rng(number)
    loss_KE = rng.random((count, E))
    loss_KE[0, :2] = np.nan, np.inf
    right_KE = rng.integers(-1, 9, (count, E))
    return PackResult(loss_KE, right_KE, (None, *rng.random(count - 1).tolist()), 12, 345, 1 / 3)


def same(a, b):
    return (
        a.loss_KE.tobytes() == b.loss_KE.tobytes()
        and a.right_KE.tobytes() == b.right_KE.tobytes()
        and (a.train_loss_K, a.steps, a.train_tokens, a.seconds)
        == (b.train_loss_K, b.steps, b.train_tokens, b.seconds)
    )


def fill(directory, packs=3):
    table = LossTable(directory, SETTINGS, ABOUT)
    table.set_base(result_of(99, 1))
    for number in range(packs):
        table.begin(pack_of(number))
        table.finish(pack_of(number), result_of(number))
    return table


def numbers(table):
    return [pack.number for pack in table.packs]


def test_what_was_written_is_read_back_bitwise(tmp_path):
    written = fill(tmp_path / "run")
    read = LossTable(tmp_path / "run", SETTINGS)
    assert read.packs == written.packs == [pack_of(n) for n in range(3)]
    assert [c.role for c in read.configurations()] == ["seed"] * 6  # equality leaves roles out
    assert all(same(r, result_of(n)) for n, r in enumerate(read.results))
    assert read.base is not None and same(read.base, result_of(99, 1))
    assert (read.damaged, read.unfinished, read.next_number) == ([], [], 3)


def test_layers_are_named_where_they_are_not_all_and_are_read_where_no_one_named_them(tmp_path):
    """What older versions wrote, and what they can read, names none."""
    every, some = Configuration(4, 16.0, 1e-3), Configuration(4, 16.0, 1e-3, layers="attention")
    assert every != some and len({every, some}) == 2
    table = LossTable(tmp_path / "run", SETTINGS)
    table.begin(Pack(0, 100, (every, some), with_score=True))
    plain, named = json.loads((tmp_path / "run/packs/0000.json").read_text())["configurations"]
    assert sorted(plain) == ["alpha", "learning_rate", "rank", "role", "seed"]
    assert named == {**plain, "layers": "attention"}
    table.finish(table.unfinished[0], result_of(1))
    assert LossTable(tmp_path / "run", SETTINGS).configurations() == [every, some]
    (tmp_path / "run/packs/0001.json").write_text(
        json.dumps(
            {"number": 1, "examples": 9, "configurations": [{**plain, "layers": "x"}], "with_score": True}
        )
    )
    assert LossTable(tmp_path / "run", SETTINGS).unfinished == []


def test_no_one_else_reads_the_run(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    fill(tmp_path / "run", 1)
    for folder in (tmp_path / "run", tmp_path / "run" / "packs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_half_written_does_not_count(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "packs" / "0002.safetensors.part").write_bytes(b"half")
    table = LossTable(tmp_path, SETTINGS)
    assert (numbers(table), table.damaged, table.next_number) == ([0, 1], [], 2)
    table.begin(pack_of(2))
    table.finish(pack_of(2), result_of(2))
    assert not list(tmp_path.glob("packs/*.part"))


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_truncated_results_are_named_and_the_others_kept(tmp_path, keep):
    fill(tmp_path)
    path = tmp_path / "packs" / "0001.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    table = LossTable(tmp_path, SETTINGS)
    assert numbers(table) == [0, 2]
    assert same(table.results[1], result_of(2))
    assert table.damaged == ["0001.safetensors: the file is not what was written"]
    assert table.unfinished == [pack_of(1)]
    assert table.next_number == 3


def test_every_flipped_bit_is_found(tmp_path):
    fill(tmp_path, 1)
    path = tmp_path / "packs" / "0000.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        table = LossTable(tmp_path, SETTINGS)
        assert (table.packs, len(table.damaged)) == ([], 1)


def test_a_damaged_base_is_measured_again(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "packs" / "base.safetensors").write_bytes(b"x" * 100)
    table = LossTable(tmp_path, SETTINGS)
    assert table.base is None
    assert numbers(table) == [0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"number": 0}', b"\xff\xfe"])
def test_a_damaged_plan_loses_no_result(tmp_path, content):
    fill(tmp_path, 2)
    (tmp_path / "packs" / "0000.json").write_bytes(content)
    table = LossTable(tmp_path, SETTINGS)
    assert table.packs == [pack_of(0), pack_of(1)]
    assert table.unfinished == []


def test_a_result_says_itself_what_was_trained(tmp_path):
    """A plan written over an old one, and killed before its training was done, cannot claim the old result."""
    fill(tmp_path, 2)
    other = Pack(1, 77, (Configuration(64, 1, 1e-5), Configuration(65, 1, 1e-5)), with_score=False)
    (tmp_path / "packs" / "0001.json").write_text(json.dumps({"number": 1}))
    LossTable(tmp_path, SETTINGS).begin(other)
    table = LossTable(tmp_path, SETTINGS)
    assert table.packs == [pack_of(0), pack_of(1)]


def test_an_unfinished_pack_is_found(tmp_path):
    table = fill(tmp_path, 1)
    assert table.unfinished == []
    table.begin(pack_of(1, count=3))
    table.begin(pack_of(2))
    read = LossTable(tmp_path, SETTINGS)
    assert read.unfinished == table.unfinished == [pack_of(1, count=3), pack_of(2)]
    assert [c.role for c in read.unfinished[0].configurations] == ["seed"] * 3
    assert (numbers(read), read.next_number) == ([0], 3)
    read.finish(read.unfinished[0], result_of(1, 3))
    assert read.unfinished == [pack_of(2)]


def test_a_stage_that_was_not_wholly_written_down_was_never_begun(tmp_path):
    """Killed in between, half of it would be trained, and what follows planned from that half."""
    table = fill(tmp_path, 1)
    table.begin(pack_of(1), until=3)
    table.begin(pack_of(2), until=3)
    assert (LossTable(tmp_path, SETTINGS).unfinished, LossTable(tmp_path, SETTINGS).next_number) == ([], 1)
    table.begin(pack_of(3), until=3)
    read = LossTable(tmp_path, SETTINGS)
    assert (read.unfinished, read.next_number) == ([pack_of(1), pack_of(2), pack_of(3)], 4)


def test_an_unreadable_plan_alone_is_nothing_to_go_on_with(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "packs" / "0001.json").write_text("{")
    table = LossTable(tmp_path, SETTINGS)
    assert (table.unfinished, table.next_number) == ([], 2)
    assert table.damaged == ["0001.json: the file is not what was written"]


def test_a_pack_trained_again_takes_its_old_place(tmp_path):
    undisturbed = fill(tmp_path)
    (tmp_path / "packs" / "0000.safetensors").write_bytes(b"")
    table = LossTable(tmp_path, SETTINGS)
    table.finish(table.unfinished[0], result_of(0))
    assert table.packs == undisturbed.packs
    assert all(map(same, table.results, undisturbed.results))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "xyz"}, "holds another run: its model is not the same"),
        (
            {"model": "xyz", "recipe": {"epochs": 1.0, "adam_betas": (0.9, 0.999)}},
            "another run: epochs 3 there, 1 here; its model is not the same",
        ),
        ({"new": 1}, "new none there, 1 here"),
    ],
)
def test_another_runs_settings_are_refused_by_name(tmp_path, changes, words):
    fill(tmp_path, 1)
    with pytest.raises(ConfigurationError, match=words):
        LossTable(tmp_path, {**SETTINGS, **changes})
    assert numbers(LossTable(tmp_path, SETTINGS)) == [0], "nothing was changed"


@pytest.mark.parametrize("content", ["", "[1]", '{"model": "ab', '{"model": "abc", "checksum": "0"}', None])
def test_a_damaged_run_file_is_written_again_from_the_measurements(tmp_path, content):
    """Each of them says which run it belongs to; so another run's settings are refused all the same."""
    fill(tmp_path, 1)
    path = tmp_path / "run.json"
    whole = path.read_bytes()
    path.write_text(content) if content is not None else path.unlink()
    with pytest.raises(ConfigurationError, match="another run: its model is not"):
        LossTable(tmp_path, {**SETTINGS, "model": "xyz"})
    looked = LossTable.opened(tmp_path)
    assert numbers(looked) == [0] and looked.about == ABOUT
    assert not path.exists() or path.read_bytes() != whole
    table = LossTable(tmp_path, SETTINGS, {"device": "another"})
    assert numbers(table) == [0] and path.read_bytes() == whole
    assert table.mended == ["run.json was damaged or missing and was written again."]
    assert LossTable(tmp_path, SETTINGS).mended == []


def test_a_run_file_damaged_before_anything_was_measured_costs_nothing(tmp_path):
    LossTable(tmp_path, SETTINGS)
    (tmp_path / "run.json").write_text("{")
    assert LossTable(tmp_path, SETTINGS).mended
    assert LossTable(tmp_path, SETTINGS).mended == []


def test_what_does_not_say_its_run_is_not_taken_into_another(tmp_path):
    """Results of before 0.2 rely on run.json; those of now are known as another run's whatever lies beside them."""
    fill(tmp_path / "old", 1)
    path = tmp_path / "old" / "packs" / "0000.safetensors"
    path.write_bytes(packed(result_of(0), {"pack": asdict(pack_of(0))}))
    assert numbers(LossTable(tmp_path / "old", SETTINGS)) == [0]
    (tmp_path / "old" / "packs" / "base.safetensors").unlink()
    (tmp_path / "old" / "run.json").unlink()
    table = LossTable(tmp_path / "old", SETTINGS)
    assert numbers(table) == []
    assert table.damaged == ["0000.safetensors: the file does not say which run it belongs to"]
    fill(tmp_path / "new", 2)
    other = LossTable(tmp_path / "other", {**SETTINGS, "seed": 5})
    other.finish(pack_of(1), result_of(1))
    (tmp_path / "other/packs/0001.safetensors").replace(tmp_path / "new/packs/0001.safetensors")
    table = LossTable(tmp_path / "new", {**SETTINGS})
    assert numbers(table) == [0, 1], "a setting that nobody asks for does not part runs"
    fill(tmp_path / "third", 1)
    other = LossTable(tmp_path / "fourth", {**SETTINGS, "model": "xyz"})
    other.finish(pack_of(0), result_of(0))
    (tmp_path / "fourth/packs/0000.safetensors").replace(tmp_path / "third/packs/0000.safetensors")
    table = LossTable(tmp_path / "third", SETTINGS)
    assert (numbers(table), table.damaged) == ([], ["0000.safetensors: the file belongs to another run"])


def test_every_result_says_on_what_it_was_measured(tmp_path):
    fill(tmp_path, 1)
    table = LossTable(tmp_path, SETTINGS, {"device": "another", "versions": {"torch": "3"}})
    table.finish(pack_of(1), result_of(1))
    table = LossTable.opened(tmp_path)
    assert table.origins == [ABOUT, {"device": "another", "versions": {"torch": "3"}}]
    assert table.about == ABOUT and table.settings == json.loads(json.dumps(SETTINGS))
    assert table.seconds == pytest.approx(3 / 3)


def test_to_look_is_to_write_nothing(tmp_path):
    fill(tmp_path, 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    LossTable.opened(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ConfigurationError, match="holds no run"):
        LossTable.opened(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_loses_nothing_before_it(tmp_path, monkeypatch, where):
    table = fill(tmp_path, 2)
    table.begin(pack_of(2))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), full)
        with pytest.raises(ResourceError) as caught:
            table.finish(pack_of(2), result_of(2))
    assert "No space left on device" in caught.value.problem
    assert "--resume" in caught.value.mend
    assert numbers(table) == [0, 1]
    read = LossTable(tmp_path, SETTINGS)
    assert (numbers(read), read.damaged, read.unfinished) == ([0, 1], [], [pack_of(2)])
    assert not list(tmp_path.glob("packs/*.part"))


def test_ctrl_c_while_a_result_is_written_keeps_it(tmp_path, monkeypatch):
    table = fill(tmp_path, 2)
    real, calls = os.fsync, []

    def stop(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            table.finish(pack_of(2), result_of(2))
    assert numbers(table) == numbers(LossTable(tmp_path, SETTINGS)) == [0, 1, 2]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="Nothing can be written"):
        LossTable(tmp_path / "file" / "run", SETTINGS)


def test_evidence_lines_up_with_what_was_trained(tmp_path):
    table = fill(tmp_path)
    facts = {
        "tokens_E": np.arange(1, 6),
        "scores_E": np.arange(5) > 2,
        "frequency_loss_E": np.ones(5),
        "all_examples": 500,
        "starved": True,
    }
    evidence = table.evidence(**facts)
    assert evidence.rank_C.tolist() == [4, 8] * 3
    assert evidence.seed_C.tolist() == [0, 0, 1, 1, 2, 2]
    assert evidence.examples_C.tolist() == [100] * 6
    assert evidence.loss_CE.tobytes() == np.concatenate([result_of(n).loss_KE for n in range(3)]).tobytes()
    assert evidence.right_CE[5].tolist() == result_of(2).right_KE[1].tolist()
    assert evidence.base_loss_E.tobytes() == result_of(99, 1).loss_KE[0].tobytes()
    assert (evidence.all_examples, evidence.starved) == (500, True)
    empty = LossTable(tmp_path / "empty", {})
    empty.set_base(result_of(99, 1))
    assert empty.evidence(**facts).loss_CE.shape == (0, 5)
    assert table.configurations(50) == [] and len(table.configurations(100)) == 6


def test_tables_that_name_their_packs_in_the_plan_alone_are_read(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "packs" / "0000.safetensors").write_bytes(packed(result_of(0), {}))
    table = LossTable(tmp_path, SETTINGS)
    assert table.packs == [pack_of(0)]
    assert same(table.results[0], result_of(0))
