"""What a run directory says of its run: what must be the same for measurements to belong together, and how to do it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.probe.record import another_run, group, run_record
from rightrank.recipe import Recipe
from rightrank.request import Request
from rightrank.runs.directory import foreseen, planned
from rightrank.runs.facts import versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rightrank.data import PreparedData
    from rightrank.executors.survey import BaseFacts
    from rightrank.probe.loss_table import LossTable
    from rightrank.probe.plan import Plan

OF_THE_MOMENT = (
    "recipe",
    "notes",
    "finish",
    "metric",
    "keep",
    "layers",
    "report_to",
    "show_stderr",
    "out",
    "resume",
    "budget_minutes",
    "command",
    "on_text",
    "on_progress",
)
"""Fields of a request that do not say what is measured, or are kept elsewhere."""
LOADED = ("model", "dataset", "eval_data", "tokenizer")
"""Fields that may hold something already in memory."""


def settings(
    request: Request, base: BaseFacts, data: PreparedData, ranks: Sequence[int], plan: Plan
) -> dict[str, Any]:
    """What must be the same for measurements to belong together, and the sizes that they were planned with."""
    return {
        "model": base.fingerprint,
        "dtype": base.dtype_name,
        **_without_model(request, data),
        "ranks": list(ranks),
        "plan": planned(plan),
    }


def _without_model(request: Request, data: PreparedData) -> dict[str, Any]:
    """What of ``settings`` is known before the model is loaded."""
    return {
        "data": data.fingerprint,
        "recipe": {k: v for k, v in asdict(request.recipe).items() if k != "origins"},
        "seed": request.seed,
        "chat_template": request.chat_template,
        **({} if request.target_modules is None else {"target_modules": list(request.target_modules)}),
    }


def refuse_another_run(
    directory: Path, request: Request, data: PreparedData, ranks: Sequence[int] | None
) -> None:
    """Raise ConfigurationError where ``directory`` holds a run of other settings, as far as they are known before the model is loaded.

    ``ranks``: to try, None where only the model tells.
    """
    record = run_record(directory)
    wanted = {"target_modules": None, **_without_model(request, data)}
    if ranks is not None:
        wanted["ranks"] = list(ranks)
    other = None if record is None else another_run(directory, record["settings"], wanted)
    if other is not None:
        raise other


def about(request: Request, base: BaseFacts, how_it_runs: str, plan: Plan) -> dict[str, Any]:
    """How to do it again: how model and data were named, on what it was measured, and what was foreseen. No row text."""
    return {
        "request": _named(request),
        "origins": dict(request.recipe.origins),
        "device": base.device_words,
        "versions": versions(),
        "path": how_it_runs,
        "foreseen": foreseen(plan),
    }


def _named(request: Request) -> dict[str, Any]:
    """The request in JSON's types. What was handed over in memory is not kept: only that it was."""
    kept: dict[str, Any] = {}
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in OF_THE_MOMENT:
            continue
        if field.name in LOADED and not isinstance(value, (str, Path, type(None))):
            kept[field.name] = {"in memory": type(value).__name__}
        elif isinstance(value, (str, Path)):
            kept[field.name] = _place(value) if field.name in LOADED or isinstance(value, Path) else value
        elif isinstance(value, (bool, int, float, tuple, list, type(None))):
            kept[field.name] = value
    return kept


def _place(name: str | Path) -> str:
    """A file or folder by its full path, so that it is found from elsewhere; a hub id as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else str(name)


def request_of(table: LossTable, **given: Any) -> Request:
    """The request that the run in ``table`` was made with; ``given`` takes the place of what was handed over in memory, or is elsewhere.

    Raises ConfigurationError where the run does not say, or where something was in memory and is not given.
    """
    from pydantic import TypeAdapter

    told = table.about.get("request")
    if told is None:
        raise ConfigurationError(
            f"{table.directory} does not say how its model and data were named: it was made by an older version.",
            "Run `rightrank recommend` again.",
        )
    damaged = ConfigurationError(
        f"{table.directory} does not say in full how its run was made: the file is not what was written.",
        "Run `rightrank recommend` again.",
    )
    try:
        options = _checked(told)
        recipe = TypeAdapter(Recipe).validate_python(_recipe(table))
    except (ValueError, ConfigurationError) as error:
        raise damaged from error
    options |= {name: value for name, value in given.items() if value is not None}
    if "model" not in options or "dataset" not in options:
        raise damaged
    for name in LOADED:
        if isinstance(options.get(name), dict):
            raise ConfigurationError(
                f"The run had its {name} in memory ({cleaned(str(options[name].get('in memory')))}), and it cannot be loaded again.",
                f"Do it from Python and pass `{name}=`.",
            )
    return Request(**options, recipe=recipe)


def _recipe(table: LossTable) -> dict[str, Any]:
    """The recipe of the run in ``table``, and where it says so, who gave each of its fields. Raises ValueError where it has none."""
    recipe = table.settings.get("recipe")
    if not isinstance(recipe, dict):
        raise ValueError("recipe")
    known = {field.name for field in fields(Recipe)}
    origins = group(table.about.get("origins"))
    kept = {name: origin for name, origin in origins.items() if name in known}
    return {**recipe, "origins": kept}


def _checked(told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that a run recorded, each of its type. Raises ValueError: what is in a file may be anyone's.

    Whether code that comes with a model may run is for whoever asks now, never for a file.
    """
    from pydantic import TypeAdapter

    kinds = get_type_hints(Request, localns={"Callable": Callable, "Sequence": Sequence})
    kept: dict[str, Any] = {}
    for name, value in told.items():
        if name in LOADED and not isinstance(value, (str, dict, type(None))):
            raise ValueError(name)
        if name in kinds and name not in (*OF_THE_MOMENT, "trust_remote_code"):
            kept[name] = TypeAdapter(kinds[name]).validate_python(value)
    return kept


def told(table: LossTable) -> list[str]:
    """What a person hears of the run directory before measuring goes on, a sentence each."""
    left_out = [f"A damaged file was left out and is measured again: {damage}" for damage in table.damaged]
    return [*table.mended, *left_out, f"Everything measured is kept in {table.directory} as it comes."]


def mixed_origins(table: LossTable) -> list[str]:
    """One sentence where parts of a run were measured on another device, with other versions or otherwise; none where all were alike."""
    origins = [origin for origin in table.origins if origin]
    changed = sorted(set().union(*(differing(origins[0], origin) for origin in origins)))
    if not changed:
        return []
    return [
        f"Parts of this run were measured with another {_listed(changed)}: figures may differ in their last digits."
    ]


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of device, versions and the way to run steps (where both say it) is not the same, then and now.

    Python's own version does not count.
    """
    one, other = then.get("versions", {}), now.get("versions", {})
    names = sorted({*one, *other} - {"python"})
    pairs = {"device": (then.get("device"), now.get("device"))}
    if "path" in then and "path" in now:
        pairs["way to run steps"] = (_way(then), _way(now))
    pairs |= {name: (one.get(name), other.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _way(about: Mapping[str, Any]) -> str:
    """How steps ran, without why not faster: figures in that differ from one time to the next."""
    return str(about["path"]).split(" (")[0].split(";")[0]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
