"""A GGUF's header, read fast and once. transformers reads it anew for the configuration and for the tokenizer, through a memory map that
numpy slices slowly: 2.2 s each time for a vocabulary of 49,152 (measured on one CPU core), the most of what an estimate takes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def header_read_once() -> Iterator[None]:
    """Within this context transformers reads every GGUF's header once, through a plain view of the memory map.

    What it makes of the header stays its own affair. Where its or gguf's names are others by now, it reads as it always does. Not for
    loading weights.
    """
    try:
        import gguf
        from transformers import modeling_gguf_pytorch_utils as theirs

        reader, load = gguf.GGUFReader, theirs.load_gguf_checkpoint
    except (ImportError, AttributeError):
        yield
        return
    known: dict[str, dict[str, Any]] = {}

    class Quick(reader):  # type: ignore[misc, valid-type]
        """Reads as its base does; a slice of a plain array costs a quarter of a slice of a memory map."""

        data: Any

        def _get(self, *arguments: Any, **options: Any) -> Any:
            if isinstance(self.data, np.memmap):
                self.data = self.data.view(np.ndarray)
            return super()._get(*arguments, **options)

    def once(path: Any, *arguments: Any, **options: Any) -> Any:
        if arguments or options.get("return_tensors"):
            return load(path, *arguments, **options)
        if str(path) not in known:
            known[str(path)] = load(path, **options)
        return {name: dict(values) for name, values in known[str(path)].items()}

    gguf.GGUFReader, theirs.load_gguf_checkpoint = Quick, once
    try:
        yield
    finally:
        gguf.GGUFReader, theirs.load_gguf_checkpoint = reader, load
