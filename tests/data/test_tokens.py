"""Our tokens and masks against those that TRL's SFTTrainer builds, and against hand-made ones."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rightrank.data import (
    Rows,
    TokenizedExample,
    conversational_rows,
    parse_rows,
    prepare,
    read_rows,
    tokenize,
)
from rightrank.data import spans as spans_module
from rightrank.errors import DataError
from rightrank.recipe import Recipe

USER, BOT = "Find all files below the current directory.", "find . -type f"
EXCHANGES = [
    {
        "prompt": [
            {"role": "system", "content": "You are short."},
            {"role": "user", "content": f"{USER} {i}"},
        ],
        "completion": [{"role": "assistant", "content": f"{BOT} {i}"}],
    }
    for i in range(4)
]
STRINGS = [{"prompt": f"{USER} {i}\n", "completion": f"{BOT} {i}"} for i in range(4)]
# "Pa" + "ris": tokens merge across the boundary between prompt and completion.
MERGING = [*STRINGS, {"prompt": "The capital of France is Pa", "completion": "ris."}]
ALPACA = [{"instruction": USER, "input": f"{i}" if i % 2 else "", "output": f"{BOT} {i}"} for i in range(4)]
DIALOGUES = [
    {
        "messages": [
            {"role": "system", "content": "You are short."},
            {"role": "user", "content": f"{USER} {i}"},
            {"role": "assistant", "content": BOT},
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": f"Paris, {i} times."},
        ]
    }
    for i in range(4)
]
TEXTS = [{"text": f"{USER} {i}"} for i in range(3)] + [{"text": "ends already<|end|>"}]


def ours(rows: list[dict[str, Any]], tokenizer: Any, **changes: Any) -> tuple[TokenizedExample, ...]:
    conversations = parse_rows(read_rows(rows)).conversations
    template = changes.pop("chat_template", True)
    return tokenize(conversations, tokenizer, Recipe(**changes), chat_template=template).examples


@pytest.fixture(scope="session")
def trl_labels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ids and labels of the data set that SFTTrainer prepares, for rows, a tokenizer and settings."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    folder = str(tmp_path_factory.mktemp("trl"))

    def prepared(rows: list[dict[str, Any]], tokenizer: Any, **settings: Any) -> list[tuple[Any, Any]]:
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, bos_token_id=1, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        arguments = SFTConfig(
            folder, report_to=[], use_cpu=True, bf16=False, **{"max_length": 1024, **settings}
        )
        data = Dataset.from_list(rows)
        trainer = SFTTrainer(
            LlamaForCausalLM(config), arguments, train_dataset=data, processing_class=tokenizer
        )
        return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]

    return prepared


def assert_equal(examples: tuple[TokenizedExample, ...], expected: list[tuple[Any, Any]]) -> None:
    assert len(examples) == len(expected) > 0
    for example, (ids, labels) in zip(examples, expected, strict=True):
        assert example.token_ids_T.dtype == np.int32 and example.trained_T.dtype == bool
        assert example.token_ids_T.tolist() == list(ids)
        assert np.where(example.trained_T, example.token_ids_T, -100).tolist() == list(labels)


def masked_and_trained(expected: list[tuple[Any, Any]]) -> bool:
    """Whether a comparison could see a wrong mask: some tokens are trained, and some are not."""
    return all(-100 in labels and any(label != -100 for label in labels) for _, labels in expected)


def test_conversational_exchanges_equal_trl(chat_tokenizer: Any, trl_labels: Any) -> None:
    expected = trl_labels(EXCHANGES, chat_tokenizer)
    assert masked_and_trained(expected)
    assert_equal(ours(EXCHANGES, chat_tokenizer), expected)


def test_strings_without_template_equal_trl(bare_tokenizer: Any, trl_labels: Any) -> None:
    expected = trl_labels(MERGING, bare_tokenizer)
    assert masked_and_trained(expected)
    assert (
        expected[0][0][0] == bare_tokenizer.bos_token_id and expected[0][0][-1] == bare_tokenizer.eos_token_id
    )
    assert_equal(ours(MERGING, bare_tokenizer), expected)


def test_merging_tokens_are_trained(bare_tokenizer: Any) -> None:
    """The token that spans prompt and completion belongs to the completion, so fewer are masked."""
    example = ours(MERGING, bare_tokenizer)[-1]
    prompt = bare_tokenizer(MERGING[-1]["prompt"])["input_ids"]
    assert np.count_nonzero(~example.trained_T) < len(prompt)


def test_strings_with_template_switched_off_equal_trl(chat_tokenizer: Any, trl_labels: Any) -> None:
    assert_equal(ours(STRINGS, chat_tokenizer, chat_template=False), trl_labels(STRINGS, chat_tokenizer))


@pytest.mark.parametrize("rows", [STRINGS, ALPACA], ids=["strings", "alpaca"])
def test_strings_become_messages_as_trl_trains_on_the_export(
    rows: list[dict[str, Any]], chat_tokenizer: Any, trl_labels: Any
) -> None:
    exported = conversational_rows(rows)
    assert exported[1]["prompt"][0]["role"] == "user"
    expected = trl_labels(exported, chat_tokenizer)
    assert masked_and_trained(expected)
    assert_equal(ours(rows, chat_tokenizer), expected)


def test_alpaca_without_template_equals_trl_on_the_export(bare_tokenizer: Any, trl_labels: Any) -> None:
    exported = conversational_rows(ALPACA, chat_template=False)
    assert exported[1]["prompt"].endswith(f"### Instruction:\n{USER}\n\n### Input:\n1\n\n### Response:\n")
    assert_equal(ours(ALPACA, bare_tokenizer), trl_labels(exported, bare_tokenizer))


def test_marked_messages_equal_trl(marked_tokenizer: Any, trl_labels: Any) -> None:
    expected = trl_labels(DIALOGUES, marked_tokenizer, assistant_only_loss=True)
    assert masked_and_trained(expected)
    assert_equal(ours(DIALOGUES, marked_tokenizer), expected)


def test_unmarked_messages_equal_trl_on_the_marked_template(
    chat_tokenizer: Any, marked_tokenizer: Any, trl_labels: Any
) -> None:
    """Spans found by templating ever longer prefixes are those that markers in the same template would give."""
    expected = trl_labels(DIALOGUES, marked_tokenizer, assistant_only_loss=True)
    assert_equal(ours(DIALOGUES, chat_tokenizer), expected)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3", "phi3"])
def test_single_turns_equal_trl_on_real_templates(with_template: Any, trl_labels: Any, name: str) -> None:
    rows = [{"messages": row["messages"][1:3]} for row in DIALOGUES]
    tokenizer = with_template(trl_template(name))
    expected = trl_labels(rows, tokenizer, assistant_only_loss=True)
    assert masked_and_trained(expected)
    assert_equal(ours(rows, tokenizer), expected)


def test_turns_that_a_template_rewrites_use_the_training_template_of_trl(
    with_template: Any, trl_labels: Any
) -> None:
    """Qwen3 drops the empty thought of every turn but the last: what it renders for a part begins no whole."""
    tokenizer = with_template(trl_template("qwen3"))
    expected = trl_labels(DIALOGUES, tokenizer, assistant_only_loss=True)
    assert masked_and_trained(expected)
    assert_equal(ours(DIALOGUES, tokenizer), expected)


def test_turns_that_a_template_rewrites_without_a_way_out_are_refused(
    with_template: Any, marked_tokenizer: Any
) -> None:
    unmarked = marked_tokenizer.chat_template.replace("{% endgeneration %}", "")
    rewriting = unmarked.replace("{% generation %}", "{% if loop.last %}!{% endif %}")
    with pytest.raises(DataError, match=r"cannot be told apart.*--loss-on all"):
        ours(DIALOGUES, with_template(rewriting))
    assert len(ours(DIALOGUES, with_template(rewriting), loss_on="all")) == len(DIALOGUES)


def test_all_tokens_equal_trl(chat_tokenizer: Any, bare_tokenizer: Any, trl_labels: Any) -> None:
    assert_equal(ours(DIALOGUES, chat_tokenizer, loss_on="all"), trl_labels(DIALOGUES, chat_tokenizer))
    off = {"completion_only_loss": False}
    assert_equal(ours(EXCHANGES, chat_tokenizer, loss_on="all"), trl_labels(EXCHANGES, chat_tokenizer, **off))
    assert_equal(ours(STRINGS, bare_tokenizer, loss_on="all"), trl_labels(STRINGS, bare_tokenizer, **off))


def test_text_equals_trl(chat_tokenizer: Any, trl_labels: Any) -> None:
    expected = trl_labels(TEXTS, chat_tokenizer)
    assert_equal(ours(TEXTS, chat_tokenizer), expected)
    end = chat_tokenizer.eos_token_id
    assert [ids.count(end) for ids, _ in expected] == [1] * len(TEXTS)


def test_truncation_and_dropping_equal_trl(chat_tokenizer: Any, trl_labels: Any) -> None:
    long_prompt = {
        "prompt": [{"role": "user", "content": USER * 9}],
        "completion": [{"role": "assistant", "content": BOT}],
    }
    long_answer = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": BOT * 9}],
    }
    rows = [*EXCHANGES, long_prompt, long_answer]
    lengths = [len(example.token_ids_T) for example in ours(rows, chat_tokenizer)]
    limit = max(lengths[:4])
    assert min(lengths[4:]) > limit
    expected = trl_labels(rows, chat_tokenizer, max_length=limit)
    assert len(expected) == 5
    assert_equal(ours(rows, chat_tokenizer, max_length=limit), expected)
    conversations = parse_rows(read_rows(rows)).conversations
    cut = tokenize(conversations, chat_tokenizer, Recipe(max_length=limit))
    assert (cut.truncated, cut.dropped, cut.rows) == (1, 1, (0, 1, 2, 3, 5))
    dropped = tokenize(conversations, chat_tokenizer, Recipe(max_length=limit, over_long="drop"))
    assert (dropped.truncated, dropped.dropped, dropped.rows) == (0, 2, (0, 1, 2, 3))


def test_masks_by_hand(chat_tokenizer: Any) -> None:
    example = ours(DIALOGUES, chat_tokenizer)[0]
    trained = chat_tokenizer.decode(example.token_ids_T[example.trained_T].tolist())
    assert trained == f"{BOT}<|im_end|>\nParis, 0 times.<|im_end|>\n"
    assert example.trained_tokens == np.count_nonzero(example.trained_T)
    text = ours(TEXTS, chat_tokenizer)[0]
    assert text.trained_T.all() and text.trained_tokens == len(text.token_ids_T) - 1


@pytest.mark.parametrize(
    ("over_long", "why"), [("truncate", "prompt alone fills"), ("drop", "is longer than")]
)
def test_nothing_left_names_the_lengths(chat_tokenizer: Any, over_long: str, why: str) -> None:
    lengths = [len(example.token_ids_T) for example in ours(EXCHANGES, chat_tokenizer)]
    with pytest.raises(DataError, match=rf"{why} max_length \(5\).*longest {max(lengths)}.*--max-length 64"):
        ours(EXCHANGES, chat_tokenizer, max_length=5, over_long=over_long)


def test_messages_need_a_template(bare_tokenizer: Any, chat_tokenizer: Any) -> None:
    for rows in (EXCHANGES, DIALOGUES):
        with pytest.raises(DataError, match="need a chat template"):
            ours(rows, bare_tokenizer)
        with pytest.raises(DataError, match="need a chat template"):
            ours(rows, chat_tokenizer, chat_template=False)


def test_a_template_that_refuses_a_row_is_named(with_template: Any) -> None:
    template = trl_template("gemma")
    rows = Rows("x", ({"messages": DIALOGUES[0]["messages"][1:3]}, DIALOGUES[0]), (1, 7))
    conversations = parse_rows(rows).conversations
    with pytest.raises(DataError, match=r"row at line 7 .*System role not supported"):
        tokenize(conversations, with_template(template), Recipe())
    marked = template.replace(
        "{% for message in messages %}", "{% for message in messages %}{% generation %}{% endgeneration %}"
    )
    with pytest.raises(DataError, match=r"row at line 7 .*System role not supported"):
        tokenize(conversations, with_template(marked), Recipe())


def test_no_end_of_sequence_token(bare_tokenizer: Any) -> None:
    import copy

    endless = copy.deepcopy(bare_tokenizer)
    endless.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        ours(STRINGS, endless)


def test_a_dialogue_that_the_assistant_opens_needs_markers(
    chat_tokenizer: Any, marked_tokenizer: Any
) -> None:
    rows = [{"messages": [{"role": "assistant", "content": "Hello."}, *DIALOGUES[0]["messages"][1:3]]}]
    with pytest.raises(DataError, match="cannot be told apart"):
        ours(rows, chat_tokenizer)
    example = ours(rows, marked_tokenizer)[0]
    assert marked_tokenizer.decode(example.token_ids_T[example.trained_T]).startswith("Hello.<|im_end|>")


def test_the_tokenizer_is_left_alone(chat_tokenizer: Any) -> None:
    before = (
        chat_tokenizer.chat_template,
        chat_tokenizer.padding_side,
        chat_tokenizer.backend_tokenizer.to_str(),
    )
    for rows in (STRINGS, DIALOGUES, TEXTS):
        ours(rows, chat_tokenizer, max_length=70)
    after = (
        chat_tokenizer.chat_template,
        chat_tokenizer.padding_side,
        chat_tokenizer.backend_tokenizer.to_str(),
    )
    assert before == after


def test_prompt_keys(chat_tokenizer: Any) -> None:
    rows = [
        {"prompt": "What  is\nIT?", "completion": "a"},
        {"prompt": "what is it? ", "completion": "b"},
        {"prompt": "what is it", "completion": "a"},
        {"prompt": "what is 1t?", "completion": "a"},
    ]
    keys = [example.prompt_key for example in ours(rows, chat_tokenizer)]
    assert keys[0] == keys[1] and len(set(keys)) == 3
    assert all(len(key) == 16 for key in keys)
    answered = [
        {"messages": [*row["messages"][:4], {"role": "assistant", "content": "x"}]} for row in DIALOGUES
    ]
    dialogue_keys = [example.prompt_key for example in ours(DIALOGUES, chat_tokenizer)]
    assert len(set(dialogue_keys)) == len(DIALOGUES)
    assert dialogue_keys == [example.prompt_key for example in ours(answered, chat_tokenizer)]


def test_batches_change_nothing(chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rightrank.data import tokens

    whole = ours(DIALOGUES, chat_tokenizer)
    monkeypatch.setattr(tokens, "BATCH", 3)
    parts = ours(DIALOGUES, chat_tokenizer)
    assert [one.token_ids_T.tolist() for one in whole] == [one.token_ids_T.tolist() for one in parts]
    assert [one.trained_T.tolist() for one in whole] == [one.trained_T.tolist() for one in parts]


def test_one_rewritten_row_decides_for_all_batches(
    with_template: Any, trl_labels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen3.5's own template and TRL's variant mask a single turn differently; a data set must not mix them."""
    from rightrank.data import tokens

    rows = [{"messages": DIALOGUES[0]["messages"][1:3]}, DIALOGUES[0]]
    tokenizer = with_template(trl_template("qwen3_5_think"))
    alone = ours(rows[:1], tokenizer)[0]
    monkeypatch.setattr(tokens, "BATCH", 1)
    expected = trl_labels(rows, tokenizer, assistant_only_loss=True)
    examples = ours(rows, tokenizer)
    if examples[0].trained_T.tolist() == alone.trained_T.tolist():
        pytest.fail("this template no longer tells the two ways apart")
    assert_equal(examples, expected)


def test_a_template_that_marks_nothing_of_a_row(with_template: Any, marked_tokenizer: Any) -> None:
    blind = marked_tokenizer.chat_template.replace("== 'assistant'", "== 'nobody'")
    with pytest.raises(DataError, match=r"marks nothing of the row at line 1.*--loss-on all"):
        ours(DIALOGUES, with_template(blind))


def test_prepare_end_to_end(chat_tokenizer: Any) -> None:
    rng = random.Random(0)
    asked = ["".join(rng.choices("abcdefgh ", k=50)) for _ in range(60)]
    rows = [{"instruction": text, "input": "", "output": text[::-1]} for text in asked]
    data = prepare([*rows, rows[3]], chat_tokenizer, Recipe())
    assert (data.format, data.rows, data.duplicates, data.template) == (
        "Alpaca", 61, 1, "chat template of the tokenizer",
    )  # fmt: skip
    assert (len(data.train), len(data.decide), len(data.score)) == (49, 6, 6)
    assert data.held_out_from == "split by prompt" and data.overlap_removed == 0
    sides = [{example.prompt_key for example in side} for side in (data.train, data.decide, data.score)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    again = prepare([*rows, rows[3]], chat_tokenizer, Recipe())
    assert [e.prompt_key for e in again.train] == [e.prompt_key for e in data.train]
    assert again.fingerprint == data.fingerprint and len(data.fingerprint) == 16
    other = prepare([*rows, rows[4]], chat_tokenizer, Recipe())
    assert other.fingerprint != data.fingerprint
    system = "".join(rng.choices("abcdefgh ", k=900))
    fixed = [{**row, "system": system} for row in rows]
    assert prepare(fixed, chat_tokenizer, Recipe()).notes == ()
    held = prepare(rows[:30], chat_tokenizer, Recipe(), eval_data=rows[25:])
    assert (len(held.train), len(held.decide) + len(held.score), held.overlap_removed) == (25, 35, 5)
    assert (
        prepare(rows[:30], chat_tokenizer, Recipe()).fingerprint == held.rows_fingerprint != held.fingerprint
    )
    assert held.held_out_from == "--eval-data" and "5 training rows were left out" in " ".join(held.notes)


def trl_template(name: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def test_generation_markers_are_recognised(marked_tokenizer: Any) -> None:
    assert spans_module.GENERATION.search(marked_tokenizer.chat_template)
    assert not spans_module.GENERATION.search("{{ generation }} {% if add_generation_prompt %}")


@pytest.mark.parametrize("longest", ["512", [512], {"tokens": 512}])
def test_a_tokenizer_with_damaged_settings(chat_tokenizer: Any, longest: Any) -> None:
    """As tokenizer_config.json may say; transformers finds out when the first text is read."""
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.model_max_length = longest
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(3)]
    with pytest.raises(
        DataError, match=r"The tokenizer cannot read the rows \(TypeError.*Download its files again"
    ):
        tokenize(parse_rows(read_rows(rows)).conversations, tokenizer, Recipe())


def test_a_tokenizer_with_impossible_numbers() -> None:
    class Odd:
        chat_template = None
        eos_token = "</s>"

        def __call__(self, text: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1, 2, 2**31] for _ in text]}

    with pytest.raises(DataError, match=r"gives a token the number 2,147,483,648, which no model has"):
        tokenize(parse_rows(read_rows([{"text": "a b"}] * 3)).conversations, Odd(), Recipe())
