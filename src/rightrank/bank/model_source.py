"""Where a model lies, what is refused before anything of it is loaded, and what a failure to load it means."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank.hub import can_be_had
from rightrank.bank.model_files import check_folder, check_gguf
from rightrank.data.wording import cleaned, similar_names
from rightrank.errors import ModelError, ResourceError, UnsafeModelError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

A_MODEL = "a folder with config.json and .safetensors, a .gguf file, or a hub id"
HUB_ID = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SHOWN = 200
"""Characters of a path that a message shows."""


@dataclass(frozen=True)
class Place:
    """What transformers is asked to load, what people call it, and the options that go with it."""

    path: str
    title: str
    options: dict[str, Any]


def locate(name: str, *, trust_remote_code: bool = False) -> Place:
    """Where transformers shall look, once everything that needs no model is checked. Never uses the network."""
    shown = cleaned(name, SHOWN)
    try:
        path = Path(name).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, the home of nobody
        path, is_file, is_folder = Path(name), False, False
    if is_file:
        if path.suffix == ".gguf":
            check_gguf(path, shown)
            return Place(str(path.parent), path.stem, {"gguf_file": path.name})
        if path.suffix in PICKLES:
            raise _pickled(shown)
        raise ModelError(f"{shown} is a file, not a model.", f"Name {A_MODEL}.")
    if is_folder:
        return _locate_folder(shown, path, trust_remote_code=trust_remote_code)
    if _is_local(name, path) or not HUB_ID.fullmatch(name):
        raise ModelError(f"There is no model at {shown}.", _nearby(path))
    return Place(name, name, {})


def find(name: str, *, revision: str | None = None) -> None:
    """Raise ModelError for a name of nothing here that is no hub id either, or that is not in the cache while the hub is not reached."""
    locate(name)
    with explaining(name):
        if not can_be_had(name, revision=revision):
            raise _not_had(cleaned(name, SHOWN))


def _not_had(name: str) -> ModelError:
    return ModelError(
        f"{name} is no folder here and cannot be had from the hub.",
        "Check the name and the network; for private models run `hf auth login`.",
    )


def _is_local(name: str, path: Path) -> bool:
    """Whether a name that does not exist can only have been meant for a path: then it never leaves the machine."""
    if (
        path.is_absolute()
        or name.startswith((".", "~"))
        or path.suffix in (".gguf", ".safetensors", *PICKLES)
    ):
        return True
    return len(path.parts) > 1 and (path.parent.is_dir() or path.parent.is_symlink())


def _nearby(path: Path) -> str:
    """What lies beside a model that is not there and has nearly its name."""
    try:
        near = similar_names(path.name, [entry.name for entry in path.parent.iterdir()])
    except (OSError, ValueError):
        near = ()
    return f"In its folder there is {' or '.join(near)}." if near else f"Name {A_MODEL}."


def _locate_folder(name: str, path: Path, *, trust_remote_code: bool) -> Place:
    try:
        files = [file.name for file in path.iterdir() if file.is_file()]
    except OSError as error:
        raise ModelError(f"{name} cannot be read ({error.strerror}).", "Check its permissions.") from error
    ggufs = [file for file in files if file.endswith(".gguf")]
    weights = any(file.endswith(".safetensors") for file in files)
    if len(ggufs) == 1 and not weights:
        check_gguf(path / ggufs[0], name)
        return Place(str(path), ggufs[0].removesuffix(".gguf"), {"gguf_file": ggufs[0]})
    if ggufs and not weights:
        raise ModelError(f"{name} holds {len(ggufs)} GGUF models.", "Name the .gguf file to use.")
    if "config.json" not in files:
        if "adapter_config.json" in files:
            raise ModelError(
                f"{name} is an adapter, not a base model.", "Name the base model it was trained on."
            )
        raise ModelError(f"{name} holds no config.json.", f"Name {A_MODEL}.")
    if weights:
        check_folder(path, name, trust_remote_code=trust_remote_code)
        return Place(str(path), path.absolute().name, {})
    if any(file.endswith(PICKLES) for file in files):
        raise _pickled(name)
    raise ModelError(
        f"{name} holds no weights.", "Copy its .safetensors files there, or name another folder."
    )


def _pickled(name: str) -> UnsafeModelError:
    return UnsafeModelError(
        f"{name} holds pickled weights, which can run code when loaded.",
        "Convert them to safetensors (`model.save_pretrained(DIR)` on a machine you trust) and name that folder.",
    )


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Turn whatever transformers and the libraries below it raise on a model into one sentence and its mend."""
    try:
        yield
    except UserError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ResourceError(
            f"{cleaned(name, SHOWN)} does not fit into the GPU's memory.",
            "Use a quantised model, or a larger GPU.",
        ) from error
    except Exception as error:
        raise _explained(cleaned(name, SHOWN), error) from error


def _explained(name: str, error: Exception) -> ModelError | ResourceError:
    text = f"{type(error).__name__}: {error}"
    low = text.lower()

    def says(*parts: str) -> bool:
        return any(part in low for part in parts)

    if isinstance(error, MemoryError) or ("alloc" in low and "memory" in low):
        return ResourceError(f"{name} does not fit into memory.", "Use a smaller or quantised model.")
    if says("trust_remote_code", "custom code"):
        return UnsafeModelError(
            f"{name} wants to run code of its own.",
            "If you trust its author, run again with --trust-remote-code.",
        )
    if says("gguf") and (isinstance(error, ImportError) or says("is required when")):
        return ModelError(
            "Reading a GGUF model needs the packages gguf and accelerate.",
            "Run `pip install 'rightrank[gguf]'`.",
        )
    if says("safetensorerror", "error while deserializing"):
        return ModelError(f"The weights of {name} are damaged.", "Download or save them again.")
    if says("gated", "401 client", "403 client"):
        return ModelError(f"{name} is gated.", "Accept its licence on the hub, then run `hf auth login`.")
    if says("is not a local folder", "connect", "offline", "resolve", "localentrynotfound", "404 client"):
        return _not_had(name)
    if says("safetensors") and says("not appear to have", "no file named"):
        return _pickled(name)
    if says("model type", "model_type", "unrecognized configuration", "unrecognized model"):
        return ModelError(
            f"{name} is no causal language model that this transformers knows.",
            "Name one that is, or run `pip install -U transformers`.",
        )
    if says("ignore_mismatched_sizes", "size mismatch"):
        return ModelError(f"The weights of {name} do not fit its config.json.", "Download both again.")
    if isinstance(error, ImportError):
        return ModelError(
            f"{name} needs a package that is missing: {_first_line(str(error))}.",
            "Install it, then run again.",
        )
    return ModelError(
        f"{name} cannot be loaded ({_first_line(text)}).",
        "Download it again, or run with --debug for the whole story.",
    )


def _first_line(text: str) -> str:
    line = text.strip().split("\n")[0]
    return cleaned(line, 160).rstrip(".:") or "no reason given"


def has_tokenizer(folder: Path) -> bool:
    """Whether ``folder`` holds files of a tokenizer. Without them transformers makes an empty one up for some architectures."""
    names = [file.name for file in folder.iterdir()]
    return any(name.startswith(("tokenizer", "vocab", "spiece", "sentencepiece", "tekken")) for name in names)
