"""Which run a directory holds, as its files say; whatever else they say is left out. Read without torch."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

from rightrank.data.wording import cleaned
from rightrank.errors import ConfigurationError
from rightrank.probe.pack import unpacked
from rightrank.probe.plan import Breadth
from rightrank.runs.durable import DamagedError, read_json, read_whole
from rightrank.runs.saved_answer import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run_record(directory: Path) -> dict[str, Any] | None:
    """Which run ``directory`` holds: its ``settings``, what is kept ``about`` it, and whether these are ``restored``.

    They are restored from a measurement, each of which carries them, where ``run.json`` is damaged or missing. None: there is no run.
    """
    try:
        found = read_json(directory / "run.json")
        about = told_about(found.pop("about", {}))
        return {"settings": found, "about": about, "restored": False}
    except (DamagedError, OSError):
        pass
    for path in sorted((directory / "packs").glob("*.safetensors")):
        with suppress(DamagedError, OSError):
            _, facts = unpacked(read_whole(path))
            if isinstance(facts.get("run"), dict):
                return {"settings": facts["run"], "about": told_about(facts.get("about")), "restored": True}
    return None


def another_run(
    directory: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> ConfigurationError | None:
    """What to raise where the run in ``directory``, whose settings were ``found``, is not as ``wanted``, setting by setting."""
    now = json.loads(json.dumps(dict(wanted)))
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in now:
        then = found.get(name)
        if isinstance(then, dict) and isinstance(now[name], dict):
            pairs |= {inner: (then.get(inner), value) for inner, value in now[name].items()}
        else:
            pairs[name] = (then, now[name])
    odd = [_apart(name, *pair) for name, pair in sorted(pairs.items()) if pair[0] != pair[1]]
    if not odd:
        return None
    return ConfigurationError(
        f"{directory} holds another run: {'; '.join(odd)}.",
        "Resume with the same settings, or name another --out.",
    )


def _apart(name: str, then: Any, now: Any) -> str:
    """A setting there and here; a fingerprint would tell a person nothing."""
    if name in ("model", "data"):
        return f"its {name} {'is' if name == 'model' else 'are'} not the same"
    there, here = (
        "none" if value is None
        else ", ".join(map(str, value)) if isinstance(value, list)
        else f"{value:g}" if isinstance(value, float)
        else str(value)
        for value in (then, now)
    )  # fmt: skip
    return f"{name.replace('_', ' ')} {cleaned(there)} there, {cleaned(here)} here"


def told_about(raw: Any) -> dict[str, Any]:
    """What a file says of how it came about, without what cannot be so: groups that are none, versions that are no text."""
    known = group(raw)
    kept = {
        name: value
        for name, value in known.items()
        if name not in ("versions", "foreseen", "request", "device")
    }
    for name in ("versions", "foreseen", "request"):
        if isinstance(known.get(name), dict):
            kept[name] = known[name]
    if "versions" in kept:
        kept["versions"] = {name: text for name, text in kept["versions"].items() if isinstance(text, str)}
    if isinstance(known.get("device"), str):
        kept["device"] = known["device"]
    return kept


def group(raw: Any) -> dict[str, Any]:
    """``raw`` where it is a JSON object; else an empty one."""
    return raw if isinstance(raw, dict) else {}


def held_out_sizes(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Held-out examples that decide, and that score, as the run was planned; None where it does not say so in whole numbers."""
    plan = group(settings.get("plan"))
    decide, score = plan.get("decide"), plan.get("score")
    if isinstance(decide, int) and isinstance(score, int) and min(decide, score) >= 0:
        return decide, score
    return None


def can_be_planned(sizes: dict[str, Any], candidates: Sequence[int]) -> bool:
    """Whether these can be a plan's: a file under a checksum may have been written by anyone."""
    ranks = [sizes["ranks"], sizes["scout_ranks"]]
    return (
        all(_is_count(sizes[name], least) for name, least in _LEAST.items())
        and all(isinstance(one, tuple) and one for one in ranks)
        and all(_is_count(rank, 1) and rank <= max(candidates) for one in ranks for rank in one)
        and sizes["breadth"] in get_args(Breadth)
        and isinstance(sizes["starved"], bool)
    )


_LEAST = {"scout_examples": 1, "final_examples": 1, "decide": 0, "score": 0}


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def is_time(value: object) -> bool:
    """Whether this is a number of seconds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LARGEST
