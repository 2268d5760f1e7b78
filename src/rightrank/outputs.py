"""What lies beside the answer for people and trainers: the report, the trainers' configs, the rows as trainers read them."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rightrank.besides.results import CUT_FOLDER
from rightrank.errors import ResourceError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rightrank.recommendation import Recommendation
    from rightrank.request import Request


@dataclass(frozen=True)
class Written:
    """The files written, by label, and what kept others from being written."""

    paths: dict[str, str | Path]
    """What a person reads of each: its path, and for their own config how many lines changed."""
    problem: UserError | None
    notes: tuple[str, ...] = field(default=())
    """What changed in the person's own config, and what trainers cannot express, a sentence each."""


def write_outputs(answer: Recommendation, directory: Path, request: Request | None = None) -> Written:
    """Write report and configs beside ``recommendation.json``; with the request at hand also the rows and the person's own config.

    Never raises: an answer that took an hour is shown even where its report cannot be written.
    """
    paths: dict[str, str | Path] = {"Answer": directory / "recommendation.json"}
    try:
        found, notes = _written(answer, directory, request)
        paths = {**found, **paths}
    except OSError as error:
        problem: UserError = ResourceError(
            f"The report cannot be written to {directory}: {error.strerror or type(error).__name__}.",
            f"Free some space, then run `rightrank report {directory}`.",
        )
        return Written(paths, problem)
    except UserError as error:  # the data set is gone, or another one by now
        problem = UserError(
            f"The trainers' configs were not written: {error.problem}", "The answer itself is complete."
        )
        return Written(paths, problem)
    if (directory / "adapter").is_dir():
        paths["Trained adapter"] = directory / "adapter"
    if answer.cuts is not None and answer.cuts.kept is not None and (directory / CUT_FOLDER).is_dir():
        paths["Cut adapter"] = (
            f"{directory / CUT_FOLDER} (r={answer.cuts.kept}, cut from r={answer.cuts.rank})"
        )
    if answer.finished is not None:
        rows = f"{answer.finished.examples:,}"
        paths["Finished adapter"] = f"{answer.finished.directory} (trained on all {rows} rows)"
    return Written(paths, None, notes)


def _written(
    answer: Recommendation, directory: Path, request: Request | None
) -> tuple[dict[str, str | Path], tuple[str, ...]]:
    from rightrank.report import page
    from rightrank.runs.directory import refuse_links
    from rightrank.trainers import texts, write_configs
    from rightrank.trainers.settings import places

    refuse_links(directory)
    report = page.write(answer, directory, configs=texts(answer, directory))
    paths: dict[str, str | Path] = {"Report": report}
    if request is not None:
        _write_rows(request, answer, directory)
    notes: tuple[str, ...] = ()
    if places(answer, directory).trl_rows.is_dir():
        # Printed again, the person's own config, edited and perhaps edited further, stays in the place that it took.
        own_name = (answer.recipe_from or "").rpartition(" (")[0] if request is None else ""
        configs, notes = write_configs(answer, directory, kept=own_name)
        paths |= configs
    if request is not None and request.config is not None:
        own, changes = _own_config(request.config, answer, paths)
        return {**own, **{k: v for k, v in paths.items() if k not in _replaced(own, paths)}}, (
            *changes,
            *notes,
        )
    return paths, notes


def _replaced(own: Mapping[str, str | Path], paths: Mapping[str, str | Path]) -> list[str]:
    """Labels of configs that the person's own took the place of."""
    places = [str(path).rpartition(" (")[0] for path in own.values()]
    return [label for label, path in paths.items() if str(path) in places]


# Names in a run directory that no config may take.
_RESERVED = ("recommendation.json", "run.json")


def _own_config(
    config: str | Path, answer: Recommendation, written: Mapping[str, str | Path]
) -> tuple[dict[str, str | Path], tuple[str, ...]]:
    """The person's config with the answer in it, beside the answer under its own name; and what changed.

    It takes the place of the config that was made for the same trainer, if that has the same name.
    """
    from rightrank.recommendation_html import count
    from rightrank.trainers import edit_config, read_config

    try:
        read = read_config(config)
        edited = edit_config(read, answer)
    except UserError as error:
        return {}, (f"Your config was not edited: {error.problem}",)
    directory = Path(written["Report"]).parent
    others = {Path(path).name for label, path in written.items() if label != read.trainer}
    taken = read.path.name in {*others, *_RESERVED}
    path = directory / (f"yours_{read.path.name}" if taken else read.path.name)
    path.write_text(edited.text, encoding="utf-8", newline="")
    changed = f"{count(len(edited.changes), 'line')} changed" if edited.changes else "nothing to change"
    shown = [
        f"{key} {before or 'not there'} → {after or 'taken out'}" for key, before, after in edited.changes
    ]
    what = (f"In {read.path.name}: {', '.join(shown)}.",) if shown else ()
    return {"Config": f"{path} ({changed})"}, (*what, *edited.notes)


def _write_rows(request: Request, answer: Recommendation, directory: Path) -> None:
    """The rows so that trainers train on what was measured: most put no chat template around prompts that are strings."""
    from rightrank.data import each_conversational_row
    from rightrank.trainers.settings import places

    rows = each_conversational_row(
        request.dataset,
        config=request.data_config,
        split=request.data_split,
        revision=request.data_revision,
        chat_template=answer.data.template != "none",
    )
    where = places(answer, directory)
    with ExitStack() as stack:
        as_trl = stack.enter_context(_new(where.trl_rows))
        as_chat = None if where.chat_rows == where.trl_rows else stack.enter_context(_new(where.chat_rows))
        for row in rows:
            as_trl.write(json.dumps(row, ensure_ascii=False) + "\n")
            if as_chat is not None:
                as_chat.write(json.dumps(_as_chat(row), ensure_ascii=False) + "\n")


def _as_chat(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*row["prompt"], *row["completion"]]}


@contextmanager
def _new(folder: Path) -> Iterator[TextIO]:
    """``train.jsonl`` in ``folder``, there only when it is whole."""
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / "train.jsonl.part"
    draft.unlink(missing_ok=True)
    try:
        with draft.open("x", encoding="utf-8") as file:  # "x": follows no link that somebody laid there
            yield file
        draft.replace(folder / "train.jsonl")
    finally:
        draft.unlink(missing_ok=True)
