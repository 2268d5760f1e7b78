"""Everything measured, example by example, on disk as it grows. Read without torch.

A run directory holds ``run.json`` (what is being measured, so that only like is resumed with like) and, for every pack of
configurations trained together, ``packs/NNNN.json`` written before training and ``packs/NNNN.safetensors`` written after it, each
whole or not at all, under a checksum. A result says itself what was trained, in which run, on which device and with which versions;
the plan is for resuming only. ``packs/base.safetensors`` is the untrained model.

Dimensions: K configurations of a pack, C of all packs, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.errors import ConfigurationError, ResourceError
from rightrank.probe.pack import Configuration, Pack, PackResult, Role, pack_from, packed, unpacked, written
from rightrank.probe.record import another_run, group, held_out_sizes, run_record, told_about
from rightrank.runs.durable import (
    DRAFT,
    DamagedError,
    read_json,
    read_whole,
    synchronise,
    write_json,
    write_whole,
)
from rightrank.stats.evidence import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jaxtyping import Float, Int

__all__ = ["Configuration", "LossTable", "Pack", "PackResult", "Role", "run_record"]

BASE = "base"


class LossTable:
    """The measurements of one run directory."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        *,
        look_only: bool = False,
    ) -> None:
        """Make the directory, or go on with the run that it holds, which must have the same ``settings``.

        ``about``: how model and data were named, device, versions: kept with everything that is measured, and never compared.
        ``look_only``: make and write nothing.
        """
        self.directory = directory
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings), sort_keys=True))
        self.packs: list[Pack] = []
        self.results: list[PackResult] = []
        self.origins: list[dict[str, Any]] = []
        """For each pack, on what it was measured: what ``about`` said then. Empty for tables of before 0.2."""
        self.base: PackResult | None = None
        self.damaged: list[str] = []
        """Files that were left out, and why."""
        self.mended: list[str] = []
        """What was put right, a sentence each."""
        self._about: dict[str, Any] = json.loads(json.dumps(dict(about or {})))
        self._folder = directory / "packs"
        self._unknown = False
        """Whether nothing but the files themselves says which run they belong to."""
        if not look_only:
            self._make_folders()
            self._check_settings()
        self._read()

    @classmethod
    def opened(cls, directory: Path) -> LossTable:
        """What ``directory`` holds, to look at. Raises ConfigurationError where it holds no run."""
        record = run_record(directory)
        if record is None:
            raise ConfigurationError(f"{directory} holds no run.", "Name the directory of a run.")
        return cls(directory, record["settings"], record["about"], look_only=True)

    def _make_folders(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            synchronise(self.directory.absolute().parent)
            self.directory.chmod(0o700)  # adapters and losses per example say something of the data
            for draft in (*self.directory.glob(f"*{DRAFT}"), *self._folder.glob(f"*{DRAFT}")):
                if draft.is_file():
                    draft.unlink()
        except OSError as error:
            raise ResourceError(
                f"Nothing can be written to {self.directory}.", "Name another folder with --out."
            ) from error

    @property
    def about(self) -> dict[str, Any]:
        """How model and data were named, on what the run began."""
        return dict(self._about)

    @property
    def seconds(self) -> float:
        """Time that measuring took, all parts of an interrupted run together."""
        base = 0.0 if self.base is None else self.base.seconds
        return base + sum(result.seconds for result in self.results)

    def _check_settings(self) -> None:
        path, wanted = self.directory / "run.json", self.settings
        record = run_record(self.directory)
        self._unknown = record is None
        if record is not None:
            if (other := another_run(self.directory, record["settings"], wanted)) is not None:
                raise other
            if not record["restored"]:
                return
        about = self._about if record is None else record["about"]
        if record is not None or path.exists():
            self.mended.append(f"{path.name} was damaged or missing and was written again.")
        write_json(path, {**wanted, "about": about})

    def _read(self) -> None:
        base = self._folder / f"{BASE}.safetensors"
        if base.exists() and (found := self._load(base)) is not None:
            self.base = found[0]
        for path in self._numbered(".safetensors"):
            if (found := self._load(path)) is None:
                continue
            result, pack, about = found
            # Tables of before 0.1 name what was trained in the plan alone.
            if (pack := pack or _plan_at(path.with_suffix(".json"))) is not None:
                self._add(pack, result, about)
        for path in self._numbered(".json"):
            if not path.with_suffix(".safetensors").exists() and _plan_at(path) is None:
                self.damaged.append(f"{path.name}: the file is not what was written")

    def _numbered(self, suffix: str) -> list[Path]:
        """Files of packs, in their order. A copy that a file manager made, ``0003 copy.json``, is none."""
        found = [p for p in self._folder.glob(f"*{suffix}") if re.fullmatch("[0-9]{4,9}", p.stem, re.ASCII)]
        return sorted(found, key=lambda path: int(path.stem))

    def _load(self, path: Path) -> tuple[PackResult, Pack | None, dict[str, Any]] | None:
        try:
            result, facts = unpacked(read_whole(path))
            run = facts.get("run")
            if run is None and self._unknown:
                raise DamagedError("the file does not say which run it belongs to")
            if run is not None and any(group(run).get(key) != value for key, value in self.settings.items()):
                raise DamagedError("the file belongs to another run")
            pack = pack_from(facts["pack"]) if facts.get("pack") else None
            self._check_place(path, pack, result)
            return result, pack, told_about(facts.get("about"))
        except (DamagedError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.damaged.append(f"{path.name}: {why}")
            return None

    def _check_place(self, path: Path, pack: Pack | None, result: PackResult) -> None:
        """Raise DamagedError for a copy under another number, and for a result of other configurations or held-out rows."""
        adapters, width = result.loss_KE.shape
        if pack is not None and (pack.number != int(path.stem) or len(pack.configurations) != adapters):
            raise DamagedError("the file is in another's place")
        sizes = held_out_sizes(self.settings)
        held_out = None if self.base is None else self.base.loss_KE.shape[1]
        if sizes is not None:
            held_out = sum(sizes)
        if (held_out is not None and width != held_out) or (
            pack is None and path.stem == BASE and adapters != 1
        ):
            raise DamagedError("the file is of other held-out rows")

    def _add(self, pack: Pack, result: PackResult, about: dict[str, Any]) -> None:
        place = sum(other.number < pack.number for other in self.packs)
        self.packs.insert(place, pack)
        self.results.insert(place, result)
        self.origins.insert(place, about)

    def _begun(self) -> dict[int, Path]:
        """Plans by number. A stage of which not all packs were written down was never begun: it is planned again, and the same."""
        found = {int(path.stem): path for path in self._numbered(".json")}
        return {number: path for number, path in found.items() if _until(path, number) in found}

    @property
    def next_number(self) -> int:
        """For a new pack: above all that were begun."""
        return max([*self._begun(), *(pack.number for pack in self.packs)], default=-1) + 1

    @property
    def unfinished(self) -> list[Pack]:
        """Packs that were begun and not finished, or whose result is damaged, in their order: trained first on resuming."""
        finished = {pack.number for pack in self.packs}
        plans = [path for number, path in self._begun().items() if number not in finished]
        return [pack for path in plans if (pack := _plan_at(path)) is not None]

    def begin(self, pack: Pack, until: int | None = None) -> None:
        """Write down what is to be trained. ``until``: the last number of its stage, all of which is written before any is trained."""
        plan = {**written(pack), "until": pack.number if until is None else until}
        write_json(self._folder / f"{pack.number:04d}.json", plan)

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Add a pack's results; they are on disk when this returns."""
        path, content = self._folder / f"{pack.number:04d}.safetensors", self._packed(result, pack)
        try:
            write_whole(path, content)
        except KeyboardInterrupt:  # it is measured: the answer that follows counts it, and so must the disk
            write_whole(path, content)
            self._add(pack, result, self._about)
            raise
        self._add(pack, result, self._about)

    def set_base(self, result: PackResult) -> None:
        """Keep the untrained model's results."""
        write_whole(self._folder / f"{BASE}.safetensors", self._packed(result, None))
        self.base = result

    def _packed(self, result: PackResult, pack: Pack | None) -> bytes:
        whose = {"run": self.settings, "about": self._about, "pack": None if pack is None else written(pack)}
        return packed(result, whose)

    def configurations(self, examples: int | None = None) -> list[Configuration]:
        """Everything measured so far, or what was measured on ``examples`` training examples."""
        return [c for pack in self.packs if examples in (None, pack.examples) for c in pack.configurations]

    def evidence(
        self,
        *,
        tokens_E: Int[np.ndarray, " E"],
        scores_E: np.ndarray,
        frequency_loss_E: Float[np.ndarray, " E"],
        all_examples: int,
        starved: bool,
    ) -> Evidence:
        """All finished runs as the statistics take them. The base must have been evaluated."""
        assert self.base is not None
        rows = [(c, pack.examples) for pack in self.packs for c in pack.configurations]
        count, width = len(rows), len(tokens_E)
        loss_CE = np.concatenate([r.loss_KE for r in self.results]) if rows else np.zeros((0, width))
        right_CE = (
            np.concatenate([r.right_KE for r in self.results])
            if rows
            else np.zeros((0, width), dtype=np.int64)
        )
        return Evidence(
            rank_C=np.array([c.rank for c, _ in rows], dtype=np.int64),
            alpha_C=np.array([c.alpha for c, _ in rows], dtype=np.float64),
            learning_rate_C=np.array([c.learning_rate for c, _ in rows], dtype=np.float64),
            seed_C=np.array([c.seed for c, _ in rows], dtype=np.int64),
            examples_C=np.array([n for _, n in rows], dtype=np.int64),
            loss_CE=loss_CE.reshape(count, width),
            right_CE=right_CE.reshape(count, width),
            tokens_E=tokens_E,
            scores_E=scores_E,
            base_loss_E=self.base.loss_KE[0],
            base_right_E=self.base.right_KE[0],
            frequency_loss_E=frequency_loss_E,
            all_examples=all_examples,
            starved=starved,
        )


def _until(path: Path, number: int) -> int:
    """The last number of the stage of a plan; its own where the plan does not say, or cannot be read."""
    try:
        until = read_json(path).get("until")
    except (DamagedError, OSError):
        return number
    return until if isinstance(until, int) else number


def _plan_at(path: Path) -> Pack | None:
    """The pack of a plan; None where it cannot be read."""
    try:
        return pack_from(read_json(path))
    except (DamagedError, OSError):
        return None
