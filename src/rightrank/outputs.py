"""What lies beside the answer for people and trainers: the report, the trainers' configs, the rows as TRL reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank.errors import ResourceError, UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rightrank.measuring import Request
    from rightrank.recommendation import Recommendation


@dataclass(frozen=True)
class Written:
    """The files written, by label, and what kept others from being written."""

    paths: dict[str, Path]
    problem: UserError | None


def write_outputs(answer: Recommendation, directory: Path, request: Request | None = None) -> Written:
    """Write report and configs beside ``recommendation.json``; with the request at hand also the rows for TRL.

    Never raises: an answer that took an hour is shown even where its report cannot be written.
    """
    paths = {"Answer": directory / "recommendation.json"}
    try:
        paths = {**_written(answer, directory, request), **paths}
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
    return Written(paths, None)


def _written(answer: Recommendation, directory: Path, request: Request | None) -> dict[str, Path]:
    from rightrank.report import page
    from rightrank.trainers import texts, write_configs

    rows = directory / "trl_rows"
    report = page.write(answer, directory, configs=texts(answer, rows))
    if request is not None:
        _write_rows(request, rows)
    configs = write_configs(answer, directory, rows) if rows.is_dir() else {}
    return {"Report": report, **configs}


def _write_rows(request: Request, folder: Path) -> None:
    """TRL puts no chat template around string prompts: the rows as messages, so that it trains on what was measured."""
    from rightrank.data import conversational_rows

    rows = conversational_rows(
        request.dataset,
        config=request.data_config,
        split=request.data_split,
        revision=request.data_revision,
        chat_template=request.chat_template,
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
