"""What a trainer does that depends on the rows it finds: settled when the rows are known, so that what it trains is what is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rightrank.data import Parsed, PreparedData
    from rightrank.request import Request


def as_its_trainer_reads(request: Request, rows: Parsed) -> Request:
    """``request`` with the chat template and the trained tokens of the kind that ``rows`` are.

    TRL, say, puts no template around prompts that are strings, and trains on the whole of a conversation unless told otherwise.
    """
    request = _with_format_noted(request, rows)
    first = rows.conversations[0]
    if first.kind == "messages" and request.message_loss_on is not None:
        recipe = request.recipe.given("trainer", loss_on=request.message_loss_on)
        request = replace(request, recipe=recipe)
    if first.raw is not None and not request.string_template:
        request = replace(request, chat_template=False)
    return request


def _with_format_noted(request: Request, rows: Parsed) -> Request:
    """``request`` with a note, said at once, where its config takes the rows for something else than they are."""
    said = request.row_format
    if said is None or request.config is None or rows.format in said.formats:
        return request
    note = (
        f"{Path(request.config).name} says {said.words}, but {rows.name} is {rows.format}, which {request.trainer} would not find its"
        f" columns in. Measured as {rows.format}; that line stays as it is in the config that is written."
    )
    request.on_text(note)
    return replace(request, notes=(*request.notes, note))


def with_template_noted(request: Request, rows: Parsed, data: PreparedData) -> Request:
    """``request`` with a note, said at once, on the chat template around rows that are plain strings, where a config decided on it."""
    first = rows.conversations[0]
    if request.config is None or first.raw is None or first.kind == "text":
        return request
    strings = "The rows are plain strings; measured is"
    if data.template != "none":
        note = f"{strings} with the tokenizer's chat template around them. Without it: `rightrank recommend --no-chat-template`."
    elif not request.string_template:
        note = f"{strings} without a chat template, as {request.trainer} joins them."
    else:
        note = f"{strings} without a chat template."
    request.on_text(note)
    return replace(request, notes=(*request.notes, note))


def with_warm_up_steps(request: Request, data: PreparedData) -> Request:
    """``request`` with its warm-up as a share of the steps that the person's own run on all the rows has."""
    if request.warmup_steps is None:
        return request
    held_out = 0 if data.held_out_from == "--eval-data" else len(data.decide) + len(data.score)
    share = warm_up_share(request.warmup_steps, request.recipe.steps(data.train_rows + held_out))
    return replace(request, recipe=request.recipe.given("config", warmup_ratio=share))


def warm_up_share(steps: int, whole: int) -> float:
    """The share of ``whole`` steps that rounds up to ``steps`` again, in as few digits as that takes; at most 99 %."""
    wanted = min(steps, math.floor(0.99 * whole))
    if wanted <= 0:
        return 0.0
    exact = wanted / whole
    for digits in range(3, 17):
        step = 10.0 ** (math.floor(math.log10(exact)) + 1 - digits)
        share = round(math.floor(exact / step) * step, 17)
        if math.ceil(share * whole) == wanted:
            return share
    return (wanted - 0.5) / whole
