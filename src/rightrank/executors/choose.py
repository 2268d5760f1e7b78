"""Where a request is measured: in this process, on all GPUs of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rightrank.executors.worker import Order, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rightrank.executors.fleet import Fleet


class Asking(Protocol):
    """What is read of a request."""

    @property
    def model(self) -> Any:
        """Folder, GGUF file, hub id, or a loaded model."""

    @property
    def device(self) -> str | None:
        """None: all there are."""

    @property
    def executor(self) -> str:
        """``local`` or ``ray``."""

    @property
    def on_text(self) -> Callable[[str], None]:
        """Hears what is found."""


def open_workers(
    request: Asking, tokenizer: Any, loading: Mapping[str, Any], *, one_device: bool
) -> Worker | Fleet:
    """The base, loaded where packs will be trained: on every GPU of this machine unless the person names a device, or on a Ray cluster.

    A loaded model stays where it is. ``loading``: further options of ``load_base``. ``one_device``: something will be measured besides
    runs, in this process. Raises as ``load_base`` does, and ConfigurationError and ResourceError for a cluster that cannot be used.
    """
    model, device = request.model, request.device
    named = isinstance(model, (str, Path))
    if request.executor == "ray":
        from rightrank.executors.fleet import Fleet
        from rightrank.executors.ray import RayCluster

        return Fleet(RayCluster(_order(model, loading)))
    devices = visible_gpus() if named and device is None else []
    if one_device and len(devices) > 1:
        request.on_text("One GPU is used: --metric and --keep are measured on one.")
    elif len(devices) > 1:
        from rightrank.executors.fleet import Fleet
        from rightrank.executors.processes import Processes

        return Fleet(Processes(_order(model, loading), devices))
    from rightrank.bank.base_model import load_base

    return Worker(load_base(model, tokenizer, device=device, **loading))


def visible_gpus() -> list[str]:
    """Devices of this machine that train side by side. Windows hands no pipes to other programs, and so has one."""
    import torch

    if os.name == "nt":
        return []
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _order(model: str | Path, loading: Mapping[str, Any]) -> Order:
    path = Path(model).expanduser()
    source = str(path.absolute()) if path.exists() else str(model)
    return Order(source, dict(loading), None, None)
