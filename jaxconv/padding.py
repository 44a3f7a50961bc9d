"""Padding modes as linear maps, and their exact transposes.

A padding mode only says which input element stands at each padded position: ``padded[p] = x[source(p)]``. Along one
axis the sources fall into a few runs that go forwards, backwards or stand still, so padding is a concatenation of
slices and its transpose a sum of padded slices; no gather or scatter is left in the program.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax import Array, lax

from jaxconv import _compat
from jaxconv.geometry import ConvGeometry

# (start, length, step) in the input; step 1 forwards, -1 backwards, 0 one element repeated
Run = tuple[int, int, int]


def source_positions(n: int, pads: tuple[int, int], mode: str) -> np.ndarray:
    """Which of n input elements stands at each of the n + lo + hi padded positions; -1 is a zero.

    ``circular: p mod n``, ``replicate: clip(p, 0, n-1)``, ``reflect: a triangle wave of period 2(n-1)``, with p counted
    from the first input element. Pads beyond the input wrap, repeat or reflect again.

    Example:
        >>> source_positions(4, (2, 2), "reflect").tolist()
        [2, 1, 0, 1, 2, 3, 2, 1]
    """
    p = np.arange(-pads[0], n + pads[1])
    if mode == "circular":
        return p % n
    if mode == "replicate":
        return np.clip(p, 0, n - 1)
    if mode == "reflect":
        if n == 1:
            return np.zeros_like(p)
        q = p % (2 * (n - 1))
        return np.minimum(q, 2 * (n - 1) - q)
    return np.where((p >= 0) & (p < n), p, -1)


@functools.lru_cache(maxsize=4096)
def runs(n: int, pads: tuple[int, int], mode: str) -> tuple[Run, ...]:
    """The padded axis as maximal runs of sources.

    Example:
        >>> runs(4, (2, 2), "reflect")
        ((2, 2, -1), (0, 4, 1), (2, 2, -1))
    """
    return tuple(_runs(source_positions(n, pads, mode).tolist()))


def _runs(source: list[int]) -> Iterator[Run]:
    at = 0
    while at < len(source):
        step = source[at + 1] - source[at] if at + 1 < len(source) else 1
        if step not in (-1, 0, 1):
            step = 1
        end = at + 1
        while end < len(source) and source[end] == source[end - 1] + step:
            end += 1
        if step == -1 and end < len(source) and source[end] == source[end - 1] + 1:
            end -= 1  # the turning point of a reflection belongs to the run that follows, which is the whole input
        yield source[at], end - at, step
        at = end


def pad(x: Array, geometry: ConvGeometry, first_axis: int) -> Array:
    """Put the padding mode's values around the spatial axes of x.

    Args:
        x: input; its spatial axes start at `first_axis`.
        geometry: the convolution's geometry, any padding mode but "zeros".
        first_axis: position of the first spatial axis.

    Returns:
        x with spatial sizes `geometry.padded_size`.

    Raises:
        ValueError: an axis that is padded is sharded on an Explicit mesh.
    """
    _refuse_sharded(x, geometry, first_axis)
    for i, (n, pads) in enumerate(zip(geometry.input_size, geometry.pads, strict=True)):
        if pads == (0, 0):
            continue
        axis = first_axis + i
        pieces = [_take(x, axis, run) for run in runs(n, pads, geometry.padding_mode)]
        x = pieces[0] if len(pieces) == 1 else lax.concatenate(pieces, axis)
    return x


def _refuse_sharded(x: Array, geometry: ConvGeometry, first_axis: int) -> None:
    for i, pads in enumerate(geometry.pads):
        if pads != (0, 0) and _compat.sharded_from(x, first_axis + i, first_axis + i + 1):
            raise ValueError(
                f"padding_mode={geometry.padding_mode!r} pads spatial axis {i} by {pads}, and the array's type says "
                "that it is sharded: on an Explicit mesh reshard it first (jax.sharding.reshard), or use an Auto mesh"
            )


def _take(x: Array, axis: int, run: Run) -> Array:
    start, length, step = run
    if step == 0:
        piece = lax.slice_in_dim(x, start, start + 1, axis=axis)
        return jax.numpy.repeat(piece, length, axis=axis) if length > 1 else piece
    if step == 1:
        return lax.slice_in_dim(x, start, start + length, axis=axis)
    return lax.rev(lax.slice_in_dim(x, start - length + 1, start + 1, axis=axis), (axis,))


def fold(y: Array, geometry: ConvGeometry, first_axis: int) -> Array:
    """The transpose of [`pad`][jaxconv.padding.pad]: every padded position is added to the element that it was taken
    from.

    ``x[u] = sum over {p : source(p) = u} of y[p]``

    Args:
        y: array whose spatial sizes are `geometry.padded_size`.
        geometry: the convolution's geometry.
        first_axis: position of the first spatial axis.

    Returns:
        Array with spatial sizes `geometry.input_size`.
    """
    _refuse_sharded(y, geometry, first_axis)
    for i, (n, pads) in enumerate(zip(geometry.input_size, geometry.pads, strict=True)):
        if pads == (0, 0):
            continue
        axis, at = first_axis + i, 0
        total: Array | None = None
        for start, length, step in runs(n, pads, geometry.padding_mode):
            piece = lax.slice_in_dim(y, at, at + length, axis=axis)
            at += length
            first = start
            if step == 0:
                piece = jax.numpy.sum(piece, axis=axis, keepdims=True, dtype=piece.dtype)
            elif step == -1:
                piece, first = lax.rev(piece, (axis,)), start - length + 1
            count = piece.shape[axis]
            config = [(0, 0, 0)] * y.ndim
            config[axis] = (first, n - first - count, 0)
            piece = lax.pad(piece, jax.numpy.zeros((), y.dtype), config)
            total = piece if total is None else total + piece
        assert total is not None  # a padded axis has at least one run
        y = total
    return y
