"""Files that are there whole or not at all, and that tell when they are not what was written.

A file is written under another name, synchronised, and put into place by a rename; then its folder is synchronised, so that it is there
after a power cut too. JSON carries its own SHA-256 under ``checksum``, arrays stand behind theirs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rightrank.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

CHECKSUM = "checksum"
LENGTH = 64
"""Characters of a SHA-256. Nothing else at the top of our files has as many: a checksum is known even where its name is damaged."""
DRAFT = ".part"
MOST_BYTES = 256 * 2**20
"""Of one file that is read back. A pack of 32 adapters judged by 200,000 rows has 100 MB; answers and plans have kilobytes."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a folder's synchronisation may complain of in earnest; some file systems cannot synchronise a folder at all."""


class DamagedError(ValueError):
    """A file that is not what was written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write so that the file is there whole or not at all, whatever happens meanwhile. Raises ResourceError."""
    draft = path.with_name(path.name + DRAFT)
    try:
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:  # "x": follows no link that somebody laid there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        synchronise(path.parent)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ResourceError(
            f"{path} cannot be written: {error.strerror or 'the disk is full'}.",
            "Free some space and run the same command with --resume: what was measured is kept.",
        ) from error


def synchronise(folder: Path) -> None:
    """Make a rename in ``folder`` last. Where the system cannot (Windows, some network folders), the rename alone has to do."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in FULL:
            raise
    finally:
        os.close(descriptor)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` as JSON gives it back, with its checksum."""
    plain = json.loads(json.dumps(content))
    return {**plain, CHECKSUM: _checksum(plain)}


def unsealed(content: Any) -> dict[str, Any]:
    """``content`` without its checksum. Raises DamagedError where that is wrong; files of before 0.2 have none."""
    if not isinstance(content, dict):
        raise DamagedError("the file is not what was written")
    plain = {key: value for key, value in content.items() if key != CHECKSUM}
    renamed = CHECKSUM not in content and any(
        isinstance(value, str) and len(value) == LENGTH for value in plain.values()
    )
    if renamed or (CHECKSUM in content and content[CHECKSUM] != _checksum(plain)):
        raise DamagedError("the file is not what was written")
    return plain


def _checksum(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with its checksum. Raises ResourceError."""
    write_whole(path, json.dumps(sealed(content), indent=1, sort_keys=True).encode())


def read_whole(path: Path) -> bytes:
    """A file of a run. Raises OSError where there is none, for a pipe or a device (which may never end), and above ``MOST_BYTES``."""
    if not path.is_file():
        raise OSError(errno.EINVAL if path.exists() else errno.ENOENT, "no file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, "the file is too large")
    return content


def read_text(path: Path) -> str:
    """The same in UTF-8. Raises OSError or UnicodeDecodeError."""
    return read_whole(path).decode("utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote. Raises DamagedError, or OSError where there is nothing to read."""
    try:
        return unsealed(json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        raise DamagedError("the file is not what was written") from error


def array_bytes(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    """Arrays and facts as safetensors, behind the SHA-256 of what follows."""
    from safetensors.numpy import save

    body: bytes = save(dict(arrays), metadata={"facts": json.dumps(facts)})
    return hashlib.sha256(body).digest() + body


def arrays_and_facts(raw: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What ``array_bytes`` was given. Raises DamagedError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    digest, body = raw[:32], raw[32:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedError("the file is not what was written")
    try:
        arrays = load(body)
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError("the file is not what was written") from error
    if not isinstance(facts, dict):
        raise DamagedError("the file is not what was written")
    return arrays, facts


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
