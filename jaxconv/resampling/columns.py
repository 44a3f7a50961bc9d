"""Windows of many taps as columns, and columns added back, in programs of few slices.

Columns of K taps are K slices of the input, and K slices are a program that takes K steps to compile. So one axis is
taken at a time, and a long axis in two levels that both have about sqrt(K) slices:

- taps t = m a + b: first z[p, b] = x[p + d b], then z[s q + d m a, b];
- with a stride and no dilation the positions are views: t = s a + b, and ``u + lo = s v + b`` makes b a channel of
  blocks, of which a window of ceil(K / s) is taken.

`add` is the transpose, level by level in the other order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from jaxconv.resampling.windows import AxisWindow, add_axis_taps, axis_taps, pad_axis

# Windows of more taps than this are taken here, in levels of so few slices an axis: of 31x31 taps of 64x64 pixels,
# XLA's CPU compiler makes a program in 0.4 CPU-seconds so, in 2.3 with 32 slices an axis, in minutes with 961.
MANY = 32
FEW = 8


def take(x: Array, windows: Sequence[AxisWindow]) -> Array:
    """(..., *n, C) -> (..., *m, K C), taps row-major."""
    x = x[..., None, :]
    for w in windows:
        x = _take(x, w.axis - 1, w.taps, w.dilation, w.stride, w.low, w.n_out)
        x = x.reshape(*x.shape[:-3], -1, x.shape[-1])
    return x.reshape(*x.shape[:-2], -1)


def add(cols: Array, windows: Sequence[AxisWindow]) -> Array:
    """(..., *m, K C) -> (..., *n, C): every entry added to the position that it was taken from."""
    count = math.prod(w.taps for w in windows)
    x = cols.reshape(*cols.shape[:-1], count, cols.shape[-1] // count)
    for w in reversed(windows):
        x = x.reshape(*x.shape[:-2], x.shape[-2] // w.taps, w.taps, x.shape[-1])
        x = _add(x, w.axis - 1, w.taps, w.dilation, w.stride, w.low, w.n_in)
    return x[..., 0, :]


def _take(x: Array, axis: int, taps: int, dilation: int, stride: int, low: int, count: int) -> Array:
    """(..., n, ..., T, C) -> (..., count, ..., T, taps, C): x[stride q + dilation t - low], q < count."""
    if taps <= FEW:
        return jnp.stack(axis_taps(x, axis, [dilation * t for t in range(taps)], stride, low, count, 0), -2)
    blocks, outer, inner = _levels(taps, dilation, stride)
    if blocks:
        padded = pad_axis(x, axis % x.ndim, low, (count - 1 + outer) * stride - x.shape[axis] - low, 0)
        z = _take(_to_blocks(padded, axis, stride), axis, outer, 1, 1, 0, count)
    else:
        reach = (count - 1) * stride + dilation * inner * (outer - 1) + 1
        z = _take(x, axis, inner, dilation, 1, low, reach)
        z = _take(z.reshape(*z.shape[:-2], -1), axis, outer, dilation * inner, stride, 0, count)
    return z.reshape(*z.shape[:-2], outer * inner, x.shape[-1])[..., :taps, :]


def _add(x: Array, axis: int, taps: int, dilation: int, stride: int, low: int, size: int) -> Array:
    """The transpose of `_take`: (..., count, ..., T, taps, C) -> (..., size, ..., T, C)."""
    if taps <= FEW:
        parts = [x[..., t, :] for t in range(taps)]
        return add_axis_taps(parts, axis, [dilation * t for t in range(taps)], stride, low, size)
    count, channels = x.shape[axis - 1], x.shape[-1]
    blocks, outer, inner = _levels(taps, dilation, stride)
    x = pad_axis(x, x.ndim - 2, 0, outer * inner - taps, 0)
    x = x.reshape(*x.shape[:-2], outer, inner * channels)
    if blocks:
        z = _from_blocks(_add(x, axis, outer, 1, 1, 0, count - 1 + outer), axis, stride)
        return pad_axis(z, axis % z.ndim, -low, size + low - z.shape[axis], 0)
    reach = (count - 1) * stride + dilation * inner * (outer - 1) + 1
    z = _add(x, axis, outer, dilation * inner, stride, 0, reach)
    return _add(z.reshape(*z.shape[:-1], inner, channels), axis, inner, dilation, 1, low, size)


def _levels(taps: int, dilation: int, stride: int) -> tuple[bool, int, int]:
    """Whether blocks of a stride serve, and the taps of both levels, whose product is at least `taps`."""
    blocks = dilation == 1 and stride > 1
    inner = stride if blocks else math.isqrt(taps - 1) + 1
    return blocks, -(-taps // inner), inner


def _to_blocks(x: Array, axis: int, size: int) -> Array:
    """(..., n, ..., C) -> (..., n / size, ..., size C)."""
    axis %= x.ndim
    x = x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
    x = jnp.moveaxis(x, axis + 1, -2)
    return x.reshape(*x.shape[:-2], -1)


def _from_blocks(x: Array, axis: int, size: int) -> Array:
    """(..., n, ..., size C) -> (..., n size, ..., C)."""
    axis %= x.ndim
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], size, x.shape[-1] // size), -2, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
