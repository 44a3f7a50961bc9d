"""Spatial sizes that an exported program leaves open (`jax.export.symbolic_shape`): lax's windows, gathers, products.

Windows and maps are tables of numbers elsewhere. Where a size is a symbol, settings are checked against a stand-in, and
positions and weights are computed when the program runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv._checks import is_open, is_sequence, per_axis, refuse_open, stand_ins
from jaxconv._finite import made_again_where_not_finite
from jaxconv.lattice import Padding, Window
from jaxconv.resampling import along
from jaxconv.resampling.windows import AxisWindow, resolve_windows, spatial_rank

# Taken for an open size where settings are checked: larger than any window.
STAND_IN = 2**14


def pool(name: str, x: Array, window, stride, padding, dilation, ceil_mode: bool, mean: Any = None) -> Array:
    """`max_pool`, or with ``mean = (count_include_pad, divisor)`` `avg_pool`, as one of lax's windows.

    Raises:
        ValueError: ceil mode, whose last window depends on the size, and means of integers.
    """
    windows = resolve_windows(stand_ins(x.shape, STAND_IN), window, stride, padding, dilation)
    rank = len(windows)
    if ceil_mode or (mean is not None and not jnp.issubdtype(x.dtype, jnp.inexact)):
        refuse_open(f"{name} with {'ceil_mode' if ceil_mode else f'data of type {x.dtype}'}", x.shape[-rank - 1 : -1])
    lead = (1,) * (x.ndim - rank - 1)
    size, step, spread = ((*lead, *(getattr(w, key) for w in windows), 1) for key in ("taps", "stride", "dilation"))
    around = [(*w.fitted(n), 0) for w, n in zip(_named(windows, padding), x.shape[-rank - 1 : -1], strict=True)]
    config = [(0, 0, 0)] * len(lead) + around + [(0, 0, 0)]

    def over(a: Array, start, join) -> Array:
        return lax.reduce_window(lax.pad(a, start, config), start, join, size, step, "VALID", window_dilation=spread)

    if mean is None:
        lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        return over(x, np.array(lowest, x.dtype), lax.max)
    include_pads, divisor = mean
    acc = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    zero = np.zeros((), acc.dtype)
    if divisor is None and not include_pads:
        number = over(jnp.ones((*lead, *x.shape[-rank - 1 : -1], 1), acc.dtype), zero, lax.add)
        return (over(acc, zero, lax.add) / jnp.maximum(number, 1)).astype(x.dtype)
    count = math.prod([w.taps for w in windows]) if divisor is None else divisor
    return (over(acc, zero, lax.add) / count).astype(x.dtype)


def _named(windows: Sequence[AxisWindow], padding: Padding) -> list[Window]:
    """The windows before the size under them is known: by the rule of the padding, where it has a name."""
    rule = padding.upper() if isinstance(padding, str) else None
    return [Window(w.taps, w.stride, w.dilation, padding=rule or (w.low, w.high)) for w in windows]


def unfold(x: Array, window, stride, padding, dilation) -> Array:
    """`unfold` as one slice a tap.

    Raises:
        ValueError: pads that depend on the size, as those of "SAME" with a stride.
    """
    windows = resolve_windows(stand_ins(x.shape, STAND_IN), window, stride, padding, dilation, crop=True)
    space = [w.axis % x.ndim for w in windows]
    config = [(0, 0, 0)] * x.ndim
    for a, window in zip(space, _named(windows, padding), strict=True):
        low, high = window.pads(x.shape[a])
        if is_open((low, high)):
            refuse_open(f"unfold with padding={padding!r} and stride={stride!r}", [x.shape[a] for a in space])
        config[a] = (low, high, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    taps = []
    for offsets in itertools.product(*(w.offsets for w in windows)):
        start, limit, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
        for a, w, o in zip(space, windows, offsets, strict=True):
            count = (x.shape[a] - w.offsets[-1] - 1) // w.stride + 1
            start[a], limit[a], step[a] = o, o + (count - 1) * w.stride + 1, w.stride
        taps.append(lax.slice(x, start, limit, step))
    return jnp.concatenate(taps, -1)


def resize(x: Array, size, scales, method: str, align_corners: bool, antialias: bool, cubic_coeff) -> Array:
    """`resize` by at most four gathers an axis; with `antialias`, which reads as many as the size says, by a product.

    Raises:
        ValueError: "area"; integers, but for the nearest methods; scales that are neither whole nor one over a whole
            number.
    """
    rank = spatial_rank(x.ndim, f"shape {x.shape}", size=size, scale=scales)
    inputs = x.shape[-rank - 1 : -1]
    nearest = method.startswith("nearest")
    if method == "area" or not (nearest or jnp.issubdtype(x.dtype, jnp.inexact)):
        what = "method='area'" if method == "area" else f"data of type {x.dtype}"
        refuse_open(f"resize with {what}", inputs)
    given = size if is_sequence(size) else (size,) * rank
    y = x if nearest or jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
    for a, (n, scale) in enumerate(zip(inputs, scales, strict=True)):
        if scale is None:
            m = given[a] if is_open([given[a]]) else per_axis(given[a], "size", 1, 1)[0]
        elif scale == round(scale) or 1 / scale == round(1 / scale):
            m = n * int(scale) if scale >= 1 else n // round(1 / scale)
        else:
            refuse_open(f"resize by scale={scale}", inputs)
        y = _along(y, x.ndim - rank - 1 + a, n, m, scale, method, align_corners, antialias, cubic_coeff)
    return y.astype(x.dtype)


def _along(x: Array, axis: int, n, m, scale, method: str, align_corners: bool, antialias: bool, cubic_coeff) -> Array:
    out = jnp.arange(m)
    if method == "nearest":
        return _take(x, axis, n, out * n // m if scale is None else jnp.floor(out / scale).astype(int))
    if method == "nearest-exact":
        middle = (2 * out + 1) * n // (2 * m) if scale is None else jnp.floor((out + 0.5) / scale).astype(int)
        return _take(x, axis, n, middle)
    if antialias:
        return along.apply(x, axis, _Widened(n, m, scale, method, align_corners, cubic_coeff), _product)
    at, _ = _coordinates(n, m, scale, align_corners, x.dtype)
    weight = partial(_weight, method=method, c=-0.75 if cubic_coeff is None else cubic_coeff)
    low, total = jnp.floor(at), jnp.zeros((), x.dtype)
    for shift in (0, 1) if method == "linear" else (-1, 0, 1, 2):
        own = weight(at - low - shift).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
        total = total + jnp.where(own == 0, 0, own * _take(x, axis, n, low.astype(int) + shift))
    return total


def _coordinates(n, m, scale, align_corners: bool, dtype) -> tuple[Array, Array]:
    """Where the m outputs lie on the grid of the n inputs, and the distance between them."""
    size = jnp.asarray(n, dtype)
    if align_corners:
        ratio = (size - 1) / jnp.maximum(jnp.asarray(m - 1, dtype), 1)
        return jnp.arange(m) * ratio, ratio
    ratio = size / m if scale is None else jnp.asarray(1 / scale, dtype)
    return (jnp.arange(m) + 0.5) * ratio - 0.5, ratio


def _weight(t: Array, method: str, c: float) -> Array:
    t = jnp.abs(t)
    if method == "linear":
        return jnp.maximum(1 - t, 0)
    far = jnp.where(t < 2, ((c * t - 5 * c) * t + 8 * c) * t - 4 * c, 0)
    return jnp.where(t <= 1, ((c + 2) * t - (c + 3)) * t * t + 1, far)


class _Widened(NamedTuple):
    """The map of an antialiased resize along one axis, n -> m, or its transpose."""

    n: Any
    m: Any
    scale: float | None
    method: str
    align_corners: bool
    cubic_coeff: float | None
    transposed: bool = False

    @property
    def output_size(self) -> Any:
        return self.n if self.transposed else self.m

    @property
    def transpose(self) -> _Widened:
        return self._replace(transposed=not self.transposed)

    def matrix(self, dtype) -> Array:
        """(out, in)."""
        at, ratio = _coordinates(self.n, self.m, self.scale, self.align_corners, dtype)
        distance = (jnp.arange(self.n) - at[:, None]) / jnp.maximum(ratio, 1)
        matrix = _weight(distance, self.method, -0.5 if self.cubic_coeff is None else self.cubic_coeff).astype(dtype)
        matrix = matrix / matrix.sum(1, keepdims=True)
        return matrix.T if self.transposed else matrix


def _product(x: Array, axis: int, m: _Widened) -> Array:
    matrix, x = m.matrix(x.dtype), jnp.moveaxis(x, axis, -1)
    y = lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)

    def apart(_, y: Array) -> Array:  # the matrix's zeros would meet what is not finite
        return jnp.where(matrix == 0, 0, x[..., None, :] * matrix).sum(-1)

    return jnp.moveaxis(made_again_where_not_finite(y, 1, apart), -1, axis)


def _take(x: Array, axis: int, n, positions: Array) -> Array:
    positions = jnp.clip(positions, 0, n - 1)
    return x.at[(*(slice(None),) * axis, positions)].get(mode="promise_in_bounds")
