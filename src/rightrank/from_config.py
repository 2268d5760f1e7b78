"""From a trainer's config or a run to go on with, and what the person said beside it, to a request; and ``rightrank.recommend`` itself."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rightrank.arguments import command_of
from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.recipe import Recipe
from rightrank.request import Request
from rightrank.trainers import read_config
from rightrank.trainers.keys import DID_YOU_MEAN
from rightrank.trainers.settings import is_here

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.recommendation import Recommendation
    from rightrank.trainers.config import TrainerConfig


def recommend(
    model: Any = None, dataset: Any = None, *, config: str | Path | None = None, **options: Any
) -> Recommendation:
    """Which LoRA rank, learning rate and alpha to fine-tune ``model`` on ``dataset`` with, measured.

    ``config``: a trainer's config that names model, data, recipe and the person's own setting; what is given here wins over it.
    With ``resume`` and ``out`` model and data may be left out: they and all that is not given are those of the run in ``out`` then.
    ``options`` are the fields of ``rightrank.request.Request``. Ctrl-C answers from what is measured by then. Everything is kept in the
    run directory (``recommendation.provenance.run_directory``). Raises UserError (``rightrank.UserError``) with one sentence and its mend.
    """
    # Only here: what measures imports scipy, and an estimate waits for nothing that it does not use.
    from rightrank.measuring import measure
    from rightrank.preparing import prepare

    return measure(prepare(request(model, dataset, config=config, **options)))


def request(
    model: Any = None, dataset: Any = None, *, config: str | Path | None = None, **options: Any
) -> Request:
    """The request. Raises ConfigurationError where nothing names the model or the rows, and as ``read_config`` does.

    Where ``config`` names a model and no rows, as PEFT's does, one name alone is that of the rows.
    What was read of ``config``, and the keys that were not, ``options["on_text"]`` hears a line at a time.
    """
    if config is None and options.get("resume") and None in (model, dataset):
        return _as_begun({"model": model, "dataset": dataset, **options})
    read = None if config is None else read_config(config)
    if read is not None and dataset is None and read.data is None and read.model is not None:
        model, dataset = None, model
    given = {"model": model, "dataset": dataset, **options}
    if read is not None:
        given = request_options(read, given)
    for name, words, option in (
        ("model", "model", "MODEL, a folder or hub id"),
        ("dataset", "rows", "DATA, your rows"),
    ):
        if given.get(name) is None:
            where = "" if read is None else f" {read.path.name} names none."
            raise ConfigurationError(f"No {words} to measure on.{where}", f"Name {option}.")
    if read is not None and options.get("on_text") is not None:
        for line in lines(read):
            options["on_text"](line)
    return Request(**given)


def request_options(config: TrainerConfig, given: dict[str, Any]) -> dict[str, Any]:
    """Fields of ``Request``: those of ``config``, and those ``given`` that are not None, which win.

    A recipe that is given wins only where it says of a field that the person gave it. Data of another name does not inherit what the
    config says of its own: split, configuration, held-out rows.
    """
    from_file: dict[str, Any] = {
        "model": _found(config.model, config.path),
        "dataset": _found(config.data, config.path),
        "yours": config.yours,
        "revision": config.revision,
        "target_modules": config.target_modules or None,
        "quantization": config.quantization,
        "string_template": config.string_template,
        "message_loss_on": config.message_loss_on,
        "warmup_steps": config.warmup_steps,
        "seed": config.seed,
        "config": config.path,
        "trainer": config.trainer,
        "notes": config.notes,
        "row_format": config.row_format,
    }
    if given.get("dataset") is None:
        from_file |= {
            "eval_data": _found(config.eval_data, config.path),
            "data_config": config.data_config,
            # "train" is what is looked for anyway, and a file has no splits.
            "data_split": None if config.data_split == "train" else config.data_split,
            "data_revision": config.data_revision,
        }
    if given.get("model") is not None:
        from_file["revision"] = None
    return _merged(from_file, config.recipe, given)


def _merged(found: dict[str, Any], recipe: Recipe, given: dict[str, Any]) -> dict[str, Any]:
    """Fields of ``Request``: those ``found``, with ``recipe``, but for what is ``given``."""
    own = given.get("recipe") or Recipe()
    said = {name: getattr(own, name) for name, origin in own.origins.items() if origin == "given"}
    if "warmup_ratio" in said:
        found = {**found, "warmup_steps": None}
    if "loss_on" in said:
        found = {**found, "message_loss_on": None}
    merged = {**found, **{name: value for name, value in given.items() if value is not None}}
    merged["recipe"] = recipe.given("given", **said)
    return {name: value for name, value in merged.items() if value is not None}


def _as_begun(given: dict[str, Any]) -> Request:
    """The request that the run in ``given["out"]`` was begun with, but for what is given. Raises ConfigurationError, as ``request_of``."""
    from rightrank.probe.loss_table import LossTable
    from rightrank.runs.directory import choose_directory
    from rightrank.runs.recorded import LOADED, OF_THE_MOMENT, request_of

    directory = choose_directory(given.get("out"), None, resume=True)
    begun = request_of(LossTable.opened(directory), **{name: given.get(name) for name in LOADED})
    found = {f.name: getattr(begun, f.name) for f in fields(begun) if f.name not in OF_THE_MOMENT}
    request = Request(**_merged(found, begun.recipe, given))
    names = " on ".join(
        cleaned(str(name), 200) if isinstance(name, str) else type(name).__name__
        for name in (request.model, request.dataset)
    )
    request.on_text(f"Going on with {cleaned(str(directory), 200)}: {names}, as it was begun.")
    return replace(request, command=command_of(request))


def lines(config: TrainerConfig) -> list[str]:
    """What was read, and which keys were not, a line each."""
    setting = "no rank or learning rate of your own"
    if config.yours is not None:
        rank, alpha, rate = config.yours
        setting = f"your own setting r={rank} alpha={alpha:g} lr {rate:g} is measured too"
    named = [f"model {config.model}" if config.model else "", f"rows {config.data}" if config.data else ""]
    parts = ", ".join([part for part in named if part] + ["recipe"])
    found = [f"{config.path.name} is a config of {config.trainer}: {parts}; {setting}."]
    # What looks misspelt is said in a note of its own.
    unread = [key for key in config.unread if DID_YOU_MEAN not in key]
    if unread:
        found.append(f"Keys not read: {', '.join(unread)}.")
    loud = [note for note in config.notes if DID_YOU_MEAN in note]
    return [*loud, *found, *(note for note in config.notes if note not in loud)]


def _found(name: str | None, config: Path) -> str | None:
    """A path as the trainer finds it: from where it is started, else beside its config."""
    if name is None:
        return None
    beside = config.parent / name
    return str(beside) if not is_here(name) and is_here(beside) else name
