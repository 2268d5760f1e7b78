"""The runs on the most training rows, where their adapters lie on disk, and which of them are finalists."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.errors import ResourceError
from rightrank.runs.durable import DamagedError, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rightrank.besides.results import Role
    from rightrank.probe.loss_table import LossTable
    from rightrank.stats.results import Decision

Setting = tuple[int, float, float]
"""Rank, alpha, learning rate."""


@dataclass(frozen=True)
class TrainedAdapter:
    """One finished run on the most training rows."""

    setting: Setting
    seed: int
    examples: int
    directory: Path
    """Where its adapter lies, if it was kept: see ``exists``."""

    @property
    def key(self) -> str:
        """Names the run within its run directory: ``0003/1``."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def exists(self) -> bool:
        """Whether the adapter is still there."""
        return (self.directory / "adapter_model.safetensors").is_file()


def trained_adapters(table: LossTable) -> list[TrainedAdapter]:
    """The runs on as many training rows as the largest, in the order of training, diverged ones left out."""
    top = max((pack.examples for pack in table.packs), default=0)
    found = []
    for pack, result in zip(table.packs, table.results, strict=True):
        if pack.examples != top:
            continue
        for k, c in enumerate(pack.configurations):
            if not np.isinf(result.loss_KE[k]).any():
                folder = table.directory / "adapters" / f"{pack.number:04d}" / str(k)
                setting = (c.rank, c.alpha, c.learning_rate)
                found.append(TrainedAdapter(setting, c.seed, pack.examples, folder))
    return found


def finalists(decision: Decision, yours: Setting | None) -> dict[Setting, tuple[Role, ...]]:
    """Up to four settings and why: the chosen, the best by the loss, the smallest rank not ruled out, the person's own.

    Where these are all of one rank, the best of the other ranks too: a measure of one thing compares nothing.
    """

    def plain(setting: Any) -> Setting:
        return setting.rank, setting.alpha, setting.learning_rate

    wanted: list[tuple[Role, Setting]] = [
        ("chosen", plain(decision.choice)),
        ("best", plain(decision.best)),
    ]
    open_ = [p.setting for p in decision.choices if p.kind == "tuned" and p.verdict != "worse"]
    if open_:
        wanted.append(("smallest", plain(min(open_, key=lambda s: s.rank))))
    if yours is not None:
        wanted.append(("yours", yours))
    ranks = {setting[0] for _, setting in wanted}
    others = [
        (p.loss.value, p.setting)
        for p in decision.choices
        if p.kind == "tuned" and p.loss is not None and p.setting.rank not in ranks
    ]
    if len(ranks) == 1 and others:
        wanted.append(("rival", plain(min(others)[1])))
    roles: dict[Setting, tuple[Role, ...]] = {}
    for role, setting in wanted:
        roles[setting] = (*roles.get(setting, ()), role)
    return roles


def table_settings(decision: Decision) -> list[Setting]:
    """The settings that the answer's table shows, in its order, each once."""
    shown = (price.setting for price in decision.choices if price.loss is not None)
    return list(dict.fromkeys((s.rank, s.alpha, s.learning_rate) for s in shown))


def remembered(path: Path, what: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an earlier part of the run kept there, and its values by ``TrainedAdapter.key``; nothing where it is not of ``what``."""
    try:
        found = read_json(path)
        of, values = dict(found["of"]), dict(found["values"])
    except (DamagedError, OSError, KeyError, TypeError, ValueError):
        return {}, {}
    return (of, values) if all(of.get(key) == value for key, value in what.items()) else ({}, {})


def remember(path: Path, what: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Keep ``values`` for ``remembered``; a full disk is no error here, since they can be measured again."""
    with suppress(ResourceError):
        write_json(path, {"of": dict(what), "values": dict(values)})
