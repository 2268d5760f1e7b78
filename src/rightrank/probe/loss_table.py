"""Everything measured, example by example, on disk as it grows. Read without torch.

A run directory holds ``run.json`` (what is being measured, so that only like is resumed with like) and, for every pack of
configurations trained together, ``packs/NNNN.json`` written before training and ``packs/NNNN.safetensors`` written after it, each
whole or not at all. A result says itself what was trained, under one checksum with the losses; the plan is for resuming only.
``packs/base.safetensors`` is the untrained model.

Dimensions: K configurations of a pack, C of all packs, E held-out examples (those that decide first, then those that score).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rightrank.errors import ConfigurationError, ResourceError
from rightrank.stats.evidence import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jaxtyping import Float, Int

Role = Literal["learning rate", "rank", "seed", "guide", "yours"]


@dataclass(frozen=True)
class Configuration:
    """One way to fine-tune: what a person would type into a trainer."""

    rank: int
    alpha: float
    learning_rate: float
    seed: int = 0
    role: Role = field(default="rank", compare=False)


@dataclass(frozen=True)
class Pack:
    """Configurations that train together on the first ``examples`` training examples, in the same batches."""

    number: int
    examples: int
    configurations: tuple[Configuration, ...]
    with_score: bool
    """Whether the held-out examples that only score are evaluated too."""


@dataclass(frozen=True)
class PackResult:
    """What training and evaluating a pack gave. Diverged configurations carry infinite losses."""

    loss_KE: Float[np.ndarray, "K E"]
    """Nats summed per held-out example; NaN where not evaluated."""
    right_KE: Int[np.ndarray, "K E"]
    """Greedy-right trained tokens; -1 where not evaluated."""
    train_loss_K: tuple[float | None, ...]
    steps: int
    train_tokens: int
    """Tokens each configuration trained on."""
    seconds: float


class LossTable:
    """The measurements of one run directory."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        self.packs: list[Pack] = []
        self.results: list[PackResult] = []
        self.base: PackResult | None = None
        self.damaged: list[str] = []
        self._folder = directory / "packs"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            directory.chmod(0o700)  # adapters and losses per example say something of the data
        except OSError as error:
            raise ResourceError(
                f"Nothing can be written to {directory}.", "Name another folder with --out."
            ) from error
        self._check_settings(dict(settings))
        self._read()

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.directory / "run.json"
        wanted = json.loads(json.dumps(settings, sort_keys=True))
        if not path.exists():
            _write_whole(path, json.dumps(wanted, indent=1, sort_keys=True).encode())
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path} is damaged.", "Start anew with another --out.") from error
        odd = sorted(key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key])
        if odd:
            raise ConfigurationError(
                f"{self.directory} holds another run: {', '.join(odd)} {'differs' if len(odd) == 1 else 'differ'}.",
                "Resume with the same settings, or name another --out.",
            )

    def _read(self) -> None:
        base = self._folder / "base.safetensors"
        if base.exists() and (found := self._load(base)) is not None:
            self.base = found[0]
        for path in sorted(self._folder.glob("[0-9]*.safetensors")):
            if (found := self._load(path)) is None:
                continue
            result, pack = found
            # Tables of before 0.1 name what was trained in the plan alone.
            if (pack := pack or _plan_at(path.with_suffix(".json"))) is not None:
                self._add(pack, result)

    def _load(self, path: Path) -> tuple[PackResult, Pack | None] | None:
        try:
            return _unpack(path.read_bytes())
        except (ValueError, KeyError, TypeError, OSError) as error:
            self.damaged.append(f"{path.name}: {error}")
            return None

    def _add(self, pack: Pack, result: PackResult) -> None:
        place = sum(other.number < pack.number for other in self.packs)
        self.packs.insert(place, pack)
        self.results.insert(place, result)

    @property
    def next_number(self) -> int:
        """For a new pack: above all that were begun."""
        begun = [int(path.stem) for path in self._folder.glob("[0-9]*.json")]
        return max([*begun, *(pack.number for pack in self.packs)], default=-1) + 1

    @property
    def unfinished(self) -> list[Pack]:
        """Packs that were begun and not finished, or whose result is damaged, in their order: trained first on resuming."""
        finished = {pack.number for pack in self.packs}
        plans = [path for path in sorted(self._folder.glob("[0-9]*.json")) if int(path.stem) not in finished]
        return [pack for path in plans if (pack := _plan_at(path)) is not None]

    def begin(self, pack: Pack) -> None:
        """Write down what is to be trained."""
        _write_whole(self._folder / f"{pack.number:04d}.json", json.dumps(asdict(pack)).encode())

    def finish(self, pack: Pack, result: PackResult) -> None:
        """Add a pack's results; they are on disk when this returns."""
        _write_whole(self._folder / f"{pack.number:04d}.safetensors", _packed(result, pack))
        self._add(pack, result)

    def set_base(self, result: PackResult) -> None:
        """Keep the untrained model's results."""
        _write_whole(self._folder / "base.safetensors", _packed(result))
        self.base = result

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


def _plan_at(path: Path) -> Pack | None:
    """The pack of a plan; None where it cannot be read."""
    try:
        return _pack_from(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, OSError):
        return None


def _pack_from(raw: dict[str, Any]) -> Pack:
    configurations = tuple(Configuration(**c) for c in raw["configurations"])
    return Pack(int(raw["number"]), int(raw["examples"]), configurations, bool(raw["with_score"]))


def _packed(result: PackResult, pack: Pack | None = None) -> bytes:
    """The result as safetensors, behind the SHA-256 of what follows. ``pack`` is what was trained."""
    from safetensors.numpy import save

    facts = {
        "pack": None if pack is None else asdict(pack),
        "train_loss": result.train_loss_K,
        "steps": result.steps,
        "train_tokens": result.train_tokens,
        "seconds": result.seconds,
    }
    arrays = {
        "loss": np.ascontiguousarray(result.loss_KE),
        "right": np.ascontiguousarray(result.right_KE, dtype=np.int64),
    }
    body: bytes = save(arrays, metadata={"facts": json.dumps(facts)})
    return hashlib.sha256(body).digest() + body


def _unpack(raw: bytes) -> tuple[PackResult, Pack | None]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    digest, body = raw[:32], raw[32:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the file is not what was written")
    try:
        arrays = load(body)
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    facts = json.loads(header["__metadata__"]["facts"])
    result = PackResult(
        loss_KE=arrays["loss"],
        right_KE=arrays["right"],
        train_loss_K=tuple(facts["train_loss"]),
        steps=int(facts["steps"]),
        train_tokens=int(facts["train_tokens"]),
        seconds=float(facts["seconds"]),
    )
    return result, _pack_from(facts["pack"]) if facts.get("pack") else None


def _write_whole(path: Path, content: bytes) -> None:
    """Write so that the file is there whole or not at all, whatever happens meanwhile."""
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ResourceError(
            f"{path} cannot be written: {error.strerror or 'the disk is full'}.",
            "Free some space and run the same command with --resume: what was measured is kept.",
        ) from error
