"""``rightrank.cut``: choose the rank after training. No retraining: the adapter's own singular directions, fewer of them.

Not named after its function: importing a module ``rightrank.cut`` would put the module in the function's place.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.cuts import words
from rightrank.cuts.answer import make_cut_result, opened
from rightrank.cuts.race import evaluations, race, versions_of
from rightrank.cuts.result import FILE_NAME
from rightrank.cuts.writing import FOLDER, write_cut
from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError, DataError
from rightrank.fitting import enough_memory, tokens_fit
from rightrank.probe.record import group, run_record
from rightrank.recipe import Recipe
from rightrank.runs.directory import LABEL, choose_directory
from rightrank.runs.durable import DamagedError, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rightrank.cuts.answer import Adapter
    from rightrank.cuts.race import Evaluates, Raced, Version
    from rightrank.cuts.result import CutResult
    from rightrank.data import TokenizedExample
    from rightrank.data.held_out import HeldOutData


def cut(
    adapter: str | Path,
    dataset: Any,
    model: Any = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    uniform: bool = False,
    by_layer: bool = False,
    recipe: Recipe | None = None,
    chat_template: bool = True,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: str | None = None,
    seed: int = 0,
    on_text: Callable[[str], None] = lambda line: None,
) -> CutResult:
    """Measure cuts of a trained PEFT adapter to every power of two below its rank, and write the smallest that is as good as the best.

    ``dataset``: rows that the adapter was *not* trained on, as ``recommend`` reads them; one half chooses, the other scores. ``model``:
    its base, None: the one that its config names; ``quantization``: ``4-bit`` or ``8-bit``, as it is loaded, None: as it is stored.
    ``uniform``: one rank and one scale for all layers, as servers want it. ``by_layer``: a rank of its own for each layer, as many
    numbers together; not both.
    ``recipe``: maximum length and what the loss is on; the rest of it counts for nothing. Writes ``cut.json`` and the adapter into
    ``out``. Raises UserError, also where ``rightrank.json`` beside the adapter says that it was trained on ``dataset``.
    """
    if uniform and by_layer:
        raise ConfigurationError(
            "One rank for all layers, or one for each?", "Leave --uniform or --by-layer out."
        )
    started, adapter = time.monotonic(), Path(adapter).expanduser()
    directory = _directory(out, adapter)
    source, name = _base_of(adapter, model)
    loading: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    recipe = recipe or Recipe()
    with enough_memory():
        data, tokenizer = _rows(dataset, source, tokenizer, recipe, loading, chat_template, seed)
        _refuse_rows_seen(adapter, data)
        on_text(
            f"{data.name}: {data.format}, {len(data.decide):,} rows choose, {len(data.score):,} others score."
        )
        packing = {"quantization": quantization}
        read = _read(adapter, source, name, tokenizer, device, loading | packing)
        on_text(words.adapter_line(read.rank, len(read.updates), read.base.name, read.base.dtype_name))
        versions = versions_of(read.updates, read.rank, by_layer=by_layer)
        raced, packed = _measured(read, versions, data, recipe, on_text)
        from rightrank.stats.cuts import decide_cut

        decision = decide_cut(raced.evidence, seed=seed)
        result = make_cut_result(read, data, raced, decision, uniform=uniform)
        tried = len({version.label for version in (*versions, *raced.versions)})
        result = replace(result, tried=tried)
        result = write_cut(read, data, raced, result, directory, packed=packed)
    result = replace(result, directory=str(directory), seconds=time.monotonic() - started)
    result.save(directory)
    return result


def _directory(out: str | Path | None, adapter: Path) -> Path:
    directory = choose_directory(out, f"cut-of-{adapter.absolute().name}", resume=False)
    if (directory / FILE_NAME).exists() or (directory / FOLDER).exists():
        raise ConfigurationError(f"{directory} holds an adapter already.", "Name another folder with --out.")
    return directory


def _base_of(adapter: Path, model: Any) -> tuple[Any, str]:
    """What to load as base, and its name for the cut adapter's own config."""
    from rightrank.bank.peft_format import read_adapter_config

    named = read_adapter_config(adapter, whole_modules=True).get("base_model_name_or_path")
    named = named if isinstance(named, str) and named.strip() else None
    if model is None and named is None:
        raise ConfigurationError(f"{adapter} does not say what its base model is.", "Name it with --model.")
    given = str(model) if isinstance(model, (str, Path)) else None
    return (named if model is None else model), named or given or "base"


def _rows(
    dataset: Any,
    source: Any,
    tokenizer: Any,
    recipe: Recipe,
    loading: dict[str, Any],
    chat_template: bool,
    seed: int,
) -> tuple[HeldOutData, Any]:
    from rightrank.bank.base_model import load_tokenizer
    from rightrank.data import understand
    from rightrank.data.held_out import prepare_held_out
    from rightrank.data.prepare import EVAL_SPLITS

    parsed = understand(dataset, prefer=EVAL_SPLITS)  # a mistake in it shows before anything is loaded
    if tokenizer is None and isinstance(source, (str, Path)):
        tokenizer = load_tokenizer(source, **loading)
    return prepare_held_out(parsed, tokenizer, recipe, chat_template=chat_template, seed=seed), tokenizer


def _refuse_rows_seen(adapter: Path, data: HeldOutData) -> None:
    """Raise DataError where ``data`` is what the adapter says that it was trained on: what it knows by heart tells nothing of a cut."""
    try:
        label = read_json(adapter / LABEL)
    except (DamagedError, OSError):
        return
    if data.fingerprint not in (label.get("data"), label.get("rows")):
        return
    record = run_record(adapter.absolute().parent)
    held_out = None if record is None else group(record["about"].get("request")).get("eval_data")
    raise DataError(
        f"The adapter was trained on these rows ({LABEL} in its folder says so), so they cannot tell what a cut loses.",
        f"Its run held out {cleaned(held_out, 200)}: name that, or other rows that it has not seen."
        if isinstance(held_out, str)
        else "Name rows that it has not seen; `rightrank recommend --eval-data ROWS` keeps ROWS from every adapter of a run.",
    )


def _read(
    folder: Path, source: Any, name: str, tokenizer: Any, device: str | None, loading: dict[str, Any]
) -> Adapter:
    """Load the base and take the adapter apart. Raises ConfigurationError where they do not belong together."""
    from rightrank.bank.base_model import load_base
    from rightrank.bank.peft_format import read_adapter_config
    from rightrank.bank.whole_modules import read_whole_modules

    # A mistake in the adapter shows before the base is loaded.
    read_whole_modules(folder, read_adapter_config(folder, whole_modules=True))
    base = load_base(source, tokenizer, device=device, **loading)
    return opened(folder, base, name)


def _measured(
    read: Adapter,
    versions: tuple[Version, ...],
    data: HeldOutData,
    recipe: Recipe,
    on_text: Callable[[str], None],
) -> tuple[Raced, bool]:
    """The versions' losses, and whether the model ran on packed rows."""
    from rightrank.bank.cut_evaluation import CutEvaluation
    from rightrank.bank.verify import worth_sharing
    from rightrank.executors.survey import facts_of, survey_to_judge

    facts = facts_of(read.base)
    tokens_fit(facts.name, facts.tokens_known, facts.longest, data)
    examples = [*data.decide, *data.score]
    middling = sorted(data.decide, key=lambda e: len(e.token_ids_T))[len(data.decide) // 2 :][:3]
    longest = max(len(example.token_ids_T) for example in examples)
    shares = worth_sharing(data.decide, recipe)
    seen = survey_to_judge(read.base, middling, recipe, longest, shares=shares)
    evaluation = CutEvaluation(read.base, read.updates, seen.memory, seen.path, longest, read.whole)
    most = len(data.decide) + len(data.score)
    a_row = _seconds_a_row(evaluation, versions, middling)
    least_and_most = evaluations(len(versions), len(data.decide), len(data.score))
    on_text(words.plan_line(len(versions), most, (a_row * least_and_most[0], a_row * least_and_most[1])))
    found = race(versions, read.updates, data.decide, data.score, evaluation, on_text=on_text)
    return found, seen.path.packed


def _seconds_a_row(
    evaluation: Evaluates, versions: Sequence[Version], examples: Sequence[TokenizedExample]
) -> float:
    """A version on a row of middling length: the second time it is done, since the first also warms up."""
    whole = next(version.cut for version in versions if version.kind == "whole")
    evaluation.cuts([whole], examples)
    started = time.monotonic()
    evaluation.cuts([whole], examples)
    return (time.monotonic() - started) / len(examples)
