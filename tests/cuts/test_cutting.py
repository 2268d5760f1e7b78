"""``rightrank.cut`` from an adapter's folder to a smaller one, with the right rank known."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import cut_world
import tiny_world
from rightrank import cut
from rightrank.cuts.result import CutResult
from rightrank.data import prepare
from rightrank.errors import ConfigurationError, DataError, TooFewExamplesError, UserError
from rightrank.recipe import Recipe
from rightrank.runs.durable import write_json

ROWS = cut_world.rows()


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The answer on the planted adapter, the base that was given, and what was said."""
    place = tmp_path_factory.mktemp("cut")
    cut_world.write_adapter(place / "given")
    model, said = tiny_world.base(), []
    before = copy.deepcopy(model.state_dict())
    result = cut(
        place / "given",
        ROWS,
        model,
        tokenizer=tiny_world.word_tokenizer(),
        out=place / "out",
        on_text=said.append,
    )
    return result, place, model, before, said


def test_the_planted_rank_is_found_and_the_noise_cut_away(answered):
    result, *_ = answered
    assert (result.status, result.choice) == ("SETTLED", "r=4")
    assert result.line("r=2").verdict == "worse" and result.whole.verdict == "worse"
    assert result.against_whole is not None and result.against_whole.high < 0
    assert "better than what was trained" in " ".join(result.reasons)
    assert result.chosen.parameters * 4 == result.whole.parameters


def test_the_written_adapter_serves_what_was_measured(answered):
    result, place, model, before, _ = answered
    assert result.served is not None and result.served.holds and result.served.loader == "PEFT"
    assert abs(result.served.mean_difference) < 1e-5 and result.served.largest_difference < 1e-4
    config = json.loads((place / "out" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 4, {})
    assert config["base_model_name_or_path"] == "tiny"
    assert stat.S_IMODE((place / "out").stat().st_mode) == 0o700
    assert not hasattr(model, "peft_config")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "the model must come back as it was"


def test_the_answer_is_saved_and_read_back(answered):
    result, place, *_ = answered
    text = (place / "out" / "cut.json").read_text()
    assert CutResult.from_json(text) == result
    with pytest.raises(DataError):
        CutResult.from_json(text.replace('"r=4"', '"r=8"'))
    assert not any(row["completion"].strip() in text for row in ROWS)


def test_what_was_said_names_rows_and_rounds(answered):
    result, *_, said = answered
    assert said[0].endswith("120 rows choose, 120 others score.")
    assert "rank 16 on 7 linear layers" in said[1]
    assert said[2].startswith(
        "Plan: 10 versions of the adapter (cuts, the whole, the whole shrunk) and the bare model, on 240 rows"
    )
    assert said[2].endswith("fewer where those tell: less than a minute.")
    assert said[3] == "10 versions of the adapter on 64 rows that decide."
    assert result.tried == 10 + sum(int(line.split()[0]) for line in said if "shrunk cuts on" in line)


def test_ranks_of_single_layers_are_padded_for_servers(tmp_path):
    """What PEFT computes with the padded adapter is what was measured with the ragged one."""
    cut_world.write_adapter(tmp_path / "given", ranks=(16, 2, 3, 16, 16, 16, 16))
    result = cut(
        tmp_path / "given",
        ROWS[:120],
        tiny_world.base(),
        tokenizer=tiny_world.word_tokenizer(),
        out=tmp_path / "out",
        uniform=True,
    )
    assert result.chosen.rank == 4 and result.uniform
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 4, {})
    assert {
        tuple(tensor.shape)[:1]
        for name, tensor in load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors").items()
        if "lora_A" in name
    } == {(4,)}
    assert result.served is not None and result.served.loader == "PEFT"
    assert abs(result.served.mean_difference) < 1e-5


def test_layers_may_have_ranks_of_their_own(tmp_path):
    cut_world.write_adapter(tmp_path / "given", ranks=(16, 2, 3, 16, 16, 16, 16))
    options = {"tokenizer": tiny_world.word_tokenizer(), "out": tmp_path / "out", "by_layer": True}
    result = cut(tmp_path / "given", ROWS[:120], tiny_world.base(), **options)
    assert result.choice.endswith(" by layer") and not result.uniform
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["rank_pattern"]
    assert result.served is not None and result.served.holds and abs(result.served.mean_difference) < 1e-5


def test_one_rank_for_all_and_one_for_each_are_not_both_to_be_had(tmp_path):
    with pytest.raises(ConfigurationError, match="--by-layer"):
        cut(tmp_path, ROWS, tiny_world.base(), uniform=True, by_layer=True)


def test_an_adapter_that_went_too_far_is_cut_and_shrunk_and_its_file_holds_the_factor(tmp_path):
    cut_world.write_adapter(tmp_path / "given", beyond=1.6, noise=0.1)
    result = cut(
        tmp_path / "given",
        ROWS,
        tiny_world.base(),
        tokenizer=tiny_world.word_tokenizer(),
        out=tmp_path / "out",
    )
    assert result.status == "SETTLED" and result.choice == f"r=4 × {result.chosen.factor:g}"
    assert 0.5 <= result.chosen.factor <= 0.8
    assert f"multiply the update by {result.chosen.factor:g}" in result.headline
    assert any("learning rate was likely too high" in reason for reason in result.reasons)
    assert result.served is not None and result.served.loader == "PEFT"
    assert result.served.holds and abs(result.served.mean_difference) < 1e-5
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)


@pytest.mark.filterwarnings("ignore")  # bitsandbytes says much of what it lacks on a CPU
def test_a_base_in_4_bits_is_cut_and_serves_what_was_measured(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("rightrank.bank.base_model.pick_dtype", lambda device: torch.float32)
    model = tiny_world.base(hidden=64)  # 4-bit weights come in blocks of 64
    model.save_pretrained(tmp_path / "model")
    cut_world.write_adapter(tmp_path / "given", hidden=64)
    rows, said = cut_world.rows(120, hidden=64), []
    options = {"tokenizer": tiny_world.word_tokenizer(), "device": "cpu", "on_text": said.append}
    four = cut(
        tmp_path / "given", rows, tmp_path / "model", out=tmp_path / "4", quantization="4-bit", **options
    )
    assert "in 4-bit NF4" in said[1]
    assert four.written is not None and four.served is not None
    assert four.served.loader == "PEFT" and four.served.holds
    assert abs(four.served.mean_difference) < 1e-4 and four.served.largest_difference < 1e-3
    plain = cut(tmp_path / "given", rows, tmp_path / "model", out=tmp_path / "plain", **options)
    assert 1e-3 < abs(four.base_loss.value - plain.base_loss.value) < 0.5, "rounded, and still the same model"


def refused(match, adapter, data=None, **options):
    with pytest.raises(UserError, match=match) as caught:
        cut(
            adapter,
            ROWS if data is None else data,
            options.pop("model", tiny_world.base()),
            tokenizer=tiny_world.word_tokenizer(),
            **options,
        )
    return caught.value


def test_what_cannot_be_cut_is_refused_in_a_sentence(tmp_path):
    folder = cut_world.write_adapter(tmp_path / "given")
    config = json.loads((folder / "adapter_config.json").read_text())

    def edited(**changes):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))

    refused("nowhere holds no adapter_model", tmp_path / "nowhere")
    edited(use_dora=True)
    assert "no low rank" in refused("use_dora", folder).mend
    edited(base_model_name_or_path=None)
    refused("does not say what its base model is", folder, model=None)
    edited()
    (tmp_path / "out" / "adapter").mkdir(parents=True)
    refused("holds an adapter already", folder, out=tmp_path / "out")
    with pytest.raises(TooFewExamplesError):
        cut(folder, ROWS[:8], tiny_world.base(), tokenizer=tiny_world.word_tokenizer(), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 32)
    save_file(tensors, folder / "adapter_model.safetensors")
    refused("adapts lm_head", folder, out=tmp_path / "new")


@pytest.mark.parametrize("named", ["data", "rows"])
def test_rows_that_the_adapter_was_trained_on_are_refused(named, tmp_path):
    folder = cut_world.write_adapter(tmp_path / "run" / "given")
    known = prepare(ROWS, tiny_world.word_tokenizer(), Recipe()).rows_fingerprint
    write_json(folder / "rightrank.json", {"rank": 16, "data": "0", named: known})
    seen = refused("was trained on these rows", folder, out=tmp_path / "new")
    assert "--eval-data" in seen.mend and isinstance(seen, DataError)
    write_json(tmp_path / "run" / "run.json", {"about": {"request": {"eval_data": "held\nout.jsonl"}}})
    seen = refused("was trained on these rows", folder, out=tmp_path / "new")
    assert seen.mend.startswith("Its run held out held?out.jsonl: name that")
    write_json(folder / "rightrank.json", {"rank": 16, "data": "0", "rows": "1"})
    refused("holds no config.json", folder, out=tmp_path / "new", model=tmp_path / "run")


def test_the_command_prints_the_answer_and_writes_a_page(tmp_path):
    cut_world.write_adapter(tmp_path / "given")
    model = tiny_world.base()
    model.save_pretrained(tmp_path / "model")
    tiny_world.word_tokenizer().save_pretrained(tmp_path / "model")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = subprocess.run(
        [sys.executable, "-m", "rightrank", "cut", "given", "rows.jsonl", "--model", "model", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SETTLED   Cut r=16 → r=4\n")
    assert "r=4           <--" in done.stdout and "Loaded again with PEFT" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Cut r=16 → r=4" in page and "<script" not in page
    assert not any(row["completion"].strip() in page + done.stdout + done.stderr for row in ROWS)
