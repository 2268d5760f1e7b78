"""What is known of a base before anything is planned, and which bases are refused."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from rightrank.bank.memory import measure_memory
from rightrank.bank.targets import not_adapted
from rightrank.errors import ModelError
from rightrank.executors.survey import facts_of, require_causal, survey
from rightrank.recipe import Recipe
from tiny import VOCABULARY, random_examples, tiny_base


def test_facts_are_the_models_own_and_travel():
    base = tiny_base(hidden=32, layers=3)
    facts = facts_of(base)
    assert (facts.fingerprint, facts.parameters, facts.layers) == (
        base.fingerprint,
        base.model.num_parameters(),
        3,
    )
    assert (facts.architecture, facts.dtype_name) == ("LlamaForCausalLM", "float64")
    assert (facts.vocabulary, facts.tokens_known, facts.hidden, facts.longest) == (
        VOCABULARY,
        VOCABULARY,
        32,
        256,
    )
    assert len(facts.targets) == 3 * 7 and facts.not_adapted == not_adapted(base.model, facts.targets)
    assert facts.device_words.startswith("CPU, ")
    assert pickle.loads(pickle.dumps(facts)) == facts


def test_a_survey_counts_what_the_recipe_will_keep():
    base, examples = tiny_base(), random_examples(3)
    found = survey(base, examples, Recipe(dropout=0.1))
    assert found.path.packed and found.path.words == "packed rows"
    assert found.memory == measure_memory(base, base.targets, examples, packed=True, dropout=0.1)
    plain = survey(base, examples, Recipe())
    assert plain.memory.saved_bytes_per_token <= found.memory.saved_bytes_per_token


def test_a_base_on_several_devices_is_refused_in_one_sentence():
    base = tiny_base()
    base.model.lm_head.to("meta")
    with pytest.raises(ModelError, match=r"spread over several devices \(cpu, meta\)") as caught:
        facts_of(base)
    assert "4-bit" in caught.value.mend


def test_a_model_that_reads_ahead_is_refused():
    base, example = tiny_base(), random_examples(1, shortest=10)[0]
    require_causal(base, example)

    class Bidirectional(torch.nn.Module):
        """Every position sees the mean of all."""

        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

        def forward(self, input_ids, use_cache):
            every = self.table(input_ids)
            logits = every + every.mean(1, keepdim=True)
            return type("Output", (), {"logits": logits})

    with pytest.raises(ModelError, match="reads ahead"):
        require_causal(replace(base, model=_with_head(Bidirectional())), example)


def _with_head(model):
    model.get_output_embeddings = lambda: model.table
    return model
