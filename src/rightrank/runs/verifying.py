"""``rightrank verify``: is what a run directory holds what was written, and does one of its runs give the same again?

Not named after its function, as ``measuring`` is not.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.besides.layers import trained_before
from rightrank.besides.results import LAYERS_FOLDER
from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError, DataError
from rightrank.preparing import prepare
from rightrank.probe.loss_table import LossTable, run_record
from rightrank.recommendation import Recommendation
from rightrank.request import LONGEST_MINUTES
from rightrank.runs.directory import damaged_adapter
from rightrank.runs.durable import read_text, write_json
from rightrank.runs.recorded import about, differing, request_of, settings
from rightrank.runs.verification import Comparison, Difference, Verification

if TYPE_CHECKING:
    from collections.abc import Callable

    from rightrank.preparing import Prepared
    from rightrank.probe.pack import Configuration, Pack, PackResult

# Rounding that differs (another card, another version, on a GPU other neighbours in the same step) is amplified by every step, at most
# to what another seed does: 0.02 to 0.7 % of the gain (roughness across ranks, nl2bash, SmolLM2-135M on one H100). The bound is assumed.
# On one CPU nothing of it was seen: SmolLM2-135M in bfloat16 gave the same bits again, alone and in a pack of three.
ROUNDING_SHARE = 0.01


def verify(
    directory: str | Path,
    *,
    model: Any = None,
    dataset: Any = None,
    eval_data: Any = None,
    tokenizer: Any = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    on_text: Callable[[str], None] = lambda line: None,
) -> Verification:
    """Check the files of a finished run and train one of its configurations again: the chosen one where it was trained.

    ``trust_remote_code``: the model may run code of its own; that the run was allowed to counts for nothing.

    ``model``, ``dataset``, ``eval_data``, ``tokenizer``, ``device``: in place of what the run recorded, or had in memory.
    Writes nothing. Raises UserError where there is no run, or where its model or data are not there any more.
    """
    table = LossTable.opened(Path(directory))
    answer, damaged = _answer_of(table)
    pack, place, chosen = _which(table, answer)
    request = request_of(
        table, model=model, dataset=dataset, eval_data=eval_data, tokenizer=tokenizer, device=device
    )
    request = replace(request, trust_remote_code=trust_remote_code)
    then = table.origins[place[0]] or table.about
    on_text(_plan_line(table, answer, request.model))
    with TemporaryDirectory() as scratch:
        # The recorded sizes are taken from here, so that the run directory itself need not be writable.
        write_json(Path(scratch) / "run.json", {**table.settings, "about": table.about})
        prepared = prepare(
            replace(request, out=scratch, resume=True, budget_minutes=LONGEST_MINUTES, metric=None),
            agree=False,
        )
    now = about(prepared.request, prepared.base, prepared.path.words, prepared.plan)
    fixed = _changed_settings(table, prepared)
    seen, started = Comparison(), time.monotonic()
    if not fixed:
        on_text(_announcement(pack, table.results[place[0]]))
        seen = _again(prepared, table, pack, place)
    seconds = time.monotonic() - started
    configuration = pack.configurations[place[1]]
    return Verification(
        directory=str(directory),
        rank=configuration.rank,
        alpha=configuration.alpha,
        learning_rate=configuration.learning_rate,
        seed=configuration.seed,
        examples=pack.examples,
        chosen=chosen,
        comparison=seen,
        seconds=seconds,
        seconds_then=table.results[place[0]].seconds,
        differences=(*fixed, *_changed_surroundings(then, now)),
        damaged=(
            *damaged,
            *table.damaged,
            *_damaged_layers(table.directory),
            *damaged_adapter(table.directory),
        ),
    )


def _damaged_layers(directory: Path) -> list[str]:
    """Files of what ``--layers`` trained that are not what was written."""
    found = trained_before(directory)
    return [] if found is None else [f"{LAYERS_FOLDER}/{damage}" for damage in found.damaged]


def _answer_of(table: LossTable) -> tuple[Recommendation | None, list[str]]:
    """The answer where it can be read, and the names of the files beside the measurements that are damaged."""
    path, damaged = table.directory / "recommendation.json", []
    record = run_record(table.directory)
    if record is not None and record["restored"]:
        damaged.append("run.json: damaged or missing")
    answer = None
    try:
        answer = Recommendation.from_json(read_text(path))
    except (DataError, UnicodeDecodeError):
        damaged.append(f"{path.name}: the file is not what was written")
    except OSError:
        damaged.append(f"{path.name}: there is none; the run was not finished")
    return answer, damaged


def _which(table: LossTable, answer: Recommendation | None) -> tuple[Pack, tuple[int, int], bool]:
    """What to train again, where it is (pack, configuration), and whether it is the answer's choice.

    The choice on the most rows it was trained on; where it was not trained, what is cheapest: fewest rows, then lowest rank.
    """
    places = [(p, k) for p, pack in enumerate(table.packs) for k in range(len(pack.configurations))]
    if not places:
        raise ConfigurationError(
            f"{table.directory} holds no measurement to repeat.", "Run `rightrank recommend` with --resume."
        )

    def at(place: tuple[int, int]) -> tuple[Pack, Configuration]:
        pack = table.packs[place[0]]
        return pack, pack.configurations[place[1]]

    wanted = None
    if answer is not None:
        wanted = (answer.choice.rank, answer.choice.alpha, answer.choice.learning_rate)
    same = [p for p in places if (at(p)[1].rank, at(p)[1].alpha, at(p)[1].learning_rate) == wanted]
    if same:
        place = max(same, key=lambda p: (at(p)[0].examples, -at(p)[1].seed))
    else:
        place = min(places, key=lambda p: (at(p)[0].examples, at(p)[1].rank, p))
    return at(place)[0], place, bool(same)


def _changed_settings(table: LossTable, prepared: Prepared) -> list[Difference]:
    """What belongs to the measurement and is another now: the weights, the rows, …"""
    now = settings(prepared.request, prepared.base, prepared.data, prepared.candidates, prepared.plan)
    return [
        Difference(name, str(table.settings.get(name)), str(value))
        for name, value in _plain(now).items()
        if table.settings.get(name) != value
    ]


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    import json

    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def _changed_surroundings(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Device, versions and the way to run steps that are others now: they may change last digits."""
    return [
        Difference(name, str(one or "none"), str(other or "none"))
        for name, (one, other) in differing(then, now).items()
    ]


def _again(prepared: Prepared, table: LossTable, pack: Pack, place: tuple[int, int]) -> Comparison:
    """Train the configuration alone; what once trained beside others may differ by rounding then."""
    alone = replace(pack, configurations=(pack.configurations[place[1]],))
    result = prepared.executor.train(alone, export_to=None, on_step=lambda share: None)
    base = table.base or prepared.executor.evaluate_base()  # damaged, perhaps: it is named among the files
    return compare(
        table.results[place[0]].loss_KE[place[1]],
        result.loss_KE[0],
        base.loss_KE[0],
        np.array([e.trained_tokens for e in (*prepared.executor.decide, *prepared.executor.score)]),
    )


def compare(then_E: np.ndarray, now_E: np.ndarray, base_E: np.ndarray, tokens_E: np.ndarray) -> Comparison:
    """Losses in nats on held-out rows, as recorded and again; NaN where a row was not evaluated.

    Identical: every row bit for bit. Same within rounding: the mean has moved by less than ``ROUNDING_SHARE`` of the gain over the base.
    """
    seen_E = ~(np.isnan(then_E) & np.isnan(now_E))
    then, now, base, tokens = then_E[seen_E], now_E[seen_E], base_E[seen_E], tokens_E[seen_E].sum()
    identical = (then == now).sum()
    if identical == len(then):
        return Comparison("identical", len(then), len(then), 0.0, 0.0, 0.0)
    if not (np.isfinite(then).all() and np.isfinite(now).all()):
        return Comparison("differs", len(then), int(identical))
    mean = float((now - then).sum() / tokens)
    gain = float((base - then).sum() / tokens)
    within = abs(mean) <= ROUNDING_SHARE * abs(gain)
    return Comparison(
        "same within rounding" if within else "differs",
        len(then),
        int(identical),
        float(np.abs(now - then).max()),
        mean,
        100 * mean / gain if gain > 0 else None,
    )


def _announcement(pack: Pack, result: PackResult) -> str:
    took = _time(result.seconds / len(pack.configurations))
    return f"One of its runs is trained again, which took about {took} then."


def _plan_line(table: LossTable, answer: Recommendation | None, model: Any) -> str:
    """What comes before that, and how long it may take: what the run took besides training, which cuts and the like are part of."""
    name = cleaned(Path(model).name) if isinstance(model, (str, Path)) else "the model"
    line = (
        f"The files are read. Loading {name}, checking how it runs here and timing its steps, as the run did"
    )
    besides = 0.0 if answer is None else answer.cost.took_minutes * 60 - table.seconds
    return f"{line}: at most about {_time(besides)}." if besides > 0 else f"{line}."


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1.0, seconds):.0f} s"
