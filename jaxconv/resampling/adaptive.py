"""Adaptive pooling: the output's size is given, and the windows follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import any_below, as_index, is_open, refuse_open
from jaxconv.resampling.axis_maps import AxisMap, area_map
from jaxconv.resampling.axis_reads import apply_axis_maps
from jaxconv.resampling.pooling import avg_pool, max_pool
from jaxconv.resampling.windows import index_dtype

Sizes = int | None | Sequence[int | None]


def adaptive_avg_pool(x: ArrayLike, output_size: Sequence[int | None]) -> Array:
    """Mean over windows that share out each axis: ``y[q] = mean of x[floor(q n / m) : ceil((q + 1) n / m)]``.

    Args:
        x: (*batch, *spatial, channels).
        output_size: m, one int per spatial axis; None keeps an axis as it is.

    Returns:
        (*batch, *output_size, channels).

    Raises:
        ValueError: a size below 1, or more sizes than axes.
        TypeError: integers, where a size does not divide its axis, or the axis is open.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool(jnp.arange(5.0)[:, None], (2,)).ravel().tolist()
        [1.0, 3.0]
    """
    x, targets = _targets(jnp.asarray(x), output_size)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        # The mean of a whole axis is said as such: the analysis would take a pooling for a window of this length.
        first = x.ndim - 1 - len(targets)
        x = x.mean([first + i for i, m in enumerate(targets) if m == 1], keepdims=True)
    even, rest = _even(x, targets)
    if (rest or is_open(even)) and not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"means over windows of several sizes need floating-point data, got {x.dtype}")
    y = avg_pool(x, even) if max(even) > 1 else x
    maps: list[AxisMap | None] = [None] * len(targets)
    for axis, m in rest:
        maps[axis + 1 - y.ndim] = area_map(y.shape[axis], m)
    return apply_axis_maps(y, maps) if rest else y


def adaptive_max_pool(x: ArrayLike, output_size: Sequence[int | None]) -> Array:
    """Maximum over the windows of `adaptive_avg_pool`; of equal ones the first in row-major order has the gradient.

    Args:
        x: (*batch, *spatial, channels).
        output_size: m, one int per spatial axis; None keeps an axis as it is.

    Returns:
        (*batch, *output_size, channels).

    Raises:
        ValueError: a size below 1, or more sizes than axes.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool(jnp.arange(5.0)[:, None], (2,)).ravel().tolist()
        [2.0, 4.0]
    """
    x, targets = _targets(jnp.asarray(x), output_size)
    even, rest = _even(x, targets)
    x, even = _whole(x, even)
    if not rest:
        y = max_pool(x, even) if max(even) > 1 else x
        assert not isinstance(y, tuple)
        return y
    uneven = dict(rest)
    for i, k in reversed(list(enumerate(even))):
        axis = x.ndim - 1 - len(even) + i
        if axis in uneven:
            x = _first_max(jnp.take(x, _taps(x.shape[axis], uneven[axis]), axis=axis), axis + 1)
        elif k > 1:
            x = max_pool(x, tuple(k if i == j else 1 for j in range(len(even))))
    return x


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _first_max(x: Array, axis: int) -> Array:
    """The maximum along an axis; of equal ones the first receives the gradient."""
    return jnp.max(x, axis)


@_first_max.defjvp
def _first_max_jvp(axis, primals, tangents):
    winner = jnp.argmax(primals[0], axis, keepdims=True)
    return jnp.max(primals[0], axis), jnp.take_along_axis(tangents[0], winner, axis).squeeze(axis)


def adaptive_max_pool_with_indices(x: Array, output_size: Sequence[int | None]) -> tuple[Array, Array]:
    """`adaptive_max_pool`, and where each maximum stands: flat over the spatial axes, the first of equal ones.

    Raises:
        ValueError: as `adaptive_max_pool`, and where there are more positions than the indices' type counts.
    """
    x, targets = _targets(x, output_size)
    first = x.ndim - 1 - len(targets)
    sizes = x.shape[first:-1]
    dtype, place = index_dtype(sizes), 1
    indices = jnp.zeros_like(x, dtype)
    for axis, n, m in reversed(list(zip(range(first, x.ndim - 1), sizes, targets, strict=True))):
        indices, place = indices + lax.broadcasted_iota(dtype, x.shape, axis) * place, place * n
        if n != m:
            x, indices = (jnp.take(a, _taps(n, m), axis=axis) for a in (x, indices))
            winner = jnp.argmax(x, axis + 1, keepdims=True)
            x, indices = (jnp.take_along_axis(a, winner, axis + 1).squeeze(axis + 1) for a in (x, indices))
    return x, indices


def _targets(x: Array, output_size: Sequence[int | None]) -> tuple[Array, tuple[int, ...]]:
    rank = len(output_size)
    if not 1 <= rank < x.ndim:
        raise ValueError(f"output_size={tuple(output_size)} needs {rank} spatial axes before the channels of {x.shape}")
    sizes = x.shape[-rank - 1 : -1]
    columns = zip(sizes, output_size, strict=True)
    targets = tuple(n if m is None or is_open([m]) and m == n else as_index(m, "output_size") for n, m in columns)
    if any_below((*targets, *sizes), 1):
        raise ValueError(f"output_size={tuple(output_size)} of x {x.shape}: all sizes must be at least 1")
    for n, m in zip(sizes, targets, strict=True):
        if m != 1 and m != n:
            refuse_open(f"output_size={m}", [n])
    return x, targets


def _even(x: Array, targets: tuple[int, ...]) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Windows of the axes that the targets divide, and (axis, target) of the others."""
    first = x.ndim - 1 - len(targets)
    sizes = x.shape[first:-1]
    even = tuple(n // m if n % m == 0 else 1 for n, m in zip(sizes, targets, strict=True))
    return even, [(first + i, m) for i, (n, m) in enumerate(zip(sizes, targets, strict=True)) if n % m]


def _whole(x: Array, even: tuple[Any, ...]) -> tuple[Array, tuple[int, ...]]:
    """The maxima of axes of open size, whose one window is the whole axis, and no windows there any more."""
    first = x.ndim - 1 - len(even)
    axes = tuple(first + i for i, k in enumerate(even) if is_open([k]))
    for axis in reversed(axes):
        x = jnp.expand_dims(_first_max(x, axis), axis)
    return x, tuple(1 if is_open([k]) else k for k in even)


def _taps(n: int, m: int) -> Array:
    """What each window reads, (m, longest); a shorter one repeats its last element, which changes no maximum."""
    q, dtype = np.arange(m), index_dtype([n])
    begin, end = q * n // m, -(-(q + 1) * n // m)
    taps = jnp.asarray(begin, dtype)[:, None] + lax.iota(dtype, int(np.max(end - begin)))
    return jnp.minimum(taps, jnp.asarray(end - 1, dtype)[:, None])
