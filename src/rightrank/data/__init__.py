"""From whatever the user has to tokenized examples that train, decide and score."""

from rightrank.data.formats import Conversation, Parsed, Turn, parse_rows
from rightrank.data.frequency import token_frequency_loss
from rightrank.data.prepare import (
    EVAL_SPLITS,
    PreparedData,
    conversational_rows,
    each_conversational_row,
    prepare,
    understand,
    understood,
)
from rightrank.data.reading import Rows, read_rows
from rightrank.data.split import Prompt, Split, split_by_prompt, split_with_eval
from rightrank.data.tokens import Tokenized, TokenizedExample, tokenize

__all__ = [
    "EVAL_SPLITS",
    "Conversation",
    "Parsed",
    "PreparedData",
    "Prompt",
    "Rows",
    "Split",
    "Tokenized",
    "TokenizedExample",
    "Turn",
    "conversational_rows",
    "each_conversational_row",
    "parse_rows",
    "prepare",
    "read_rows",
    "split_by_prompt",
    "split_with_eval",
    "token_frequency_loss",
    "tokenize",
    "understand",
    "understood",
]
