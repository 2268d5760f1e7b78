"""The LoRA products as loops over the adapters that anyone can read and every device can run: what ``kernels`` does in one launch each.

Dimensions: K adapters, T tokens of the row each of them sees, R rows of all ranks together, W numbers in or out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.flat import Side


def shrink(
    x_KTW: Float[Tensor, "K T W"],
    working: Float[Tensor, " P"],
    side: Side,
    scale_R: Float[Tensor, " R"],
    h_TR: Float[Tensor, "T R"],
) -> None:
    """Each adapter's x projected onto its own matrix [rank, W] in ``working``, scaled, into its columns of h."""
    for k, place, columns in _adapters(side):
        matrix_rW = _matrix(working, place, columns, x_KTW.shape[2])
        h_TR[:, columns] = (x_KTW[k] @ matrix_rW.T) * scale_R[columns].to(x_KTW.dtype)


def expand(
    y: Float[Tensor, "K T W"] | Float[Tensor, " W"] | None,
    h_TR: Float[Tensor, "T R"],
    working: Float[Tensor, " P"],
    side: Side,
    out_KTW: Float[Tensor, "K T W"],
) -> None:
    """y plus each adapter's h through its own matrix [rank, W] in ``working``, into ``out_KTW``."""
    out_KTW.copy_(out_KTW.new_zeros(()) if y is None else y)
    for k, place, columns in _adapters(side):
        out_KTW[k] += h_TR[:, columns] @ _matrix(working, place, columns, out_KTW.shape[2])


def add_outer(
    gradient: Float[Tensor, " P"], h_TR: Float[Tensor, "T R"], x_KTW: Float[Tensor, "K T W"], side: Side
) -> None:
    """Add hᵀ x of each adapter to its own matrix [rank, W] in ``gradient``."""
    gradient = (
        gradient.data
    )  # autograd would take it for a mistake, as it keeps the vector for the next layer
    for k, place, columns in _adapters(side):
        matrix_rW = _matrix(gradient, place, columns, x_KTW.shape[2])
        matrix_rW += (h_TR[:, columns].T @ x_KTW[k]).to(gradient.dtype)


def _adapters(side: Side) -> Iterator[tuple[int, int, slice]]:
    """For each adapter of rank above 0: its number, where its matrix begins, and its columns of h."""
    for k, (column, rank) in enumerate(side.starts_K2.tolist()):
        if rank:
            yield k, int(side.places_K[k]), slice(column, column + rank)


def _matrix(flat: Tensor, place: int, columns: slice, width: int) -> Tensor:
    rank = columns.stop - columns.start
    return flat[place : place + rank * width].view(rank, width)
