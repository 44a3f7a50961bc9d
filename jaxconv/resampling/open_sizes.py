"""Spatial sizes that an exported program leaves open (`jax.export.symbolic_shape`): lax's windows, gathers, products.

Windows and maps are tables of numbers elsewhere. Where a size is a symbol, settings are checked against a stand-in, and
positions and weights are computed when the program runs.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv._checks import is_open, is_sequence, per_axis, refuse_open, stand_ins
from jaxconv.resampling.windows import resolve_windows, spatial_rank

# Taken for an open size where settings are checked: larger than any window.
STAND_IN = 2**14


def pool(name: str, x: Array, window, stride, padding, dilation, ceil_mode: bool, mean: Any = None) -> Array:
    """`max_pool`, or with ``mean = (count_include_pad, divisor)`` `avg_pool`, as one of lax's windows.

    Raises:
        ValueError: ceil mode, whose last window depends on the size, "CAUSAL", means of integers.
    """
    windows = resolve_windows(stand_ins(x.shape, STAND_IN), window, stride, padding, dilation)
    rank = len(windows)
    named = padding.upper() if isinstance(padding, str) else None
    if ceil_mode or named == "CAUSAL" or (mean is not None and not jnp.issubdtype(x.dtype, jnp.inexact)):
        what = "ceil_mode" if ceil_mode else "padding='CAUSAL'" if named == "CAUSAL" else f"data of type {x.dtype}"
        refuse_open(f"{name} with {what}", x.shape[-rank - 1 : -1])
    lead = (1,) * (x.ndim - rank - 1)
    size, step, spread = ((*lead, *(getattr(w, key) for w in windows), 1) for key in ("taps", "stride", "dilation"))
    pads = named or [(0, 0)] * len(lead) + [(w.low, w.high) for w in windows] + [(0, 0)]

    def over(a: Array, start, join) -> Array:
        return lax.reduce_window(a, start, join, size, step, pads, window_dilation=spread)

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


def unfold(x: Array, window, stride, padding, dilation) -> Array:
    """`unfold` as one slice a tap.

    Raises:
        ValueError: "SAME" with a stride, whose pads depend on the size.
    """
    windows = resolve_windows(stand_ins(x.shape, STAND_IN), window, stride, padding, dilation, crop=True)
    space = [w.axis % x.ndim for w in windows]
    if isinstance(padding, str) and padding.upper() != "VALID" and any(w.stride > 1 for w in windows):
        refuse_open(f"unfold with padding={padding!r} and stride={stride!r}", [x.shape[a] for a in space])
    config = [(0, 0, 0)] * x.ndim
    for a, w in zip(space, windows, strict=True):
        config[a] = (w.low, w.high, 0)
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
    size = jnp.asarray(n, x.dtype)
    if align_corners:
        ratio = (size - 1) / jnp.maximum(jnp.asarray(m - 1, x.dtype), 1)
        at = out * ratio
    else:
        ratio = size / m if scale is None else jnp.asarray(1 / scale, x.dtype)
        at = (out + 0.5) * ratio - 0.5
    c = (-0.5 if antialias else -0.75) if cubic_coeff is None else cubic_coeff

    def weight(t: Array) -> Array:
        t = jnp.abs(t)
        if method == "linear":
            return jnp.maximum(1 - t, 0)
        far = jnp.where(t < 2, ((c * t - 5 * c) * t + 8 * c) * t - 4 * c, 0)
        return jnp.where(t <= 1, ((c + 2) * t - (c + 3)) * t * t + 1, far)

    if antialias:
        matrix = weight((jnp.arange(n) - at[:, None]) / jnp.maximum(ratio, 1)).astype(x.dtype)
        matrix = matrix / matrix.sum(1, keepdims=True)
        x = jnp.moveaxis(x, axis, -1)
        y = lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
        # The matrix's zeros would meet what is not finite. A condition, for this is differentiated as it stands, which
        # no loop of `made_again_where_not_finite` can be.
        apart = lambda x, _: jnp.where(matrix == 0, 0, x[..., None, :] * matrix).sum(-1)  # noqa: E731
        return jnp.moveaxis(lax.cond(jnp.isfinite(y).all(), lambda _, y: y, apart, x, y), -1, axis)
    low, total = jnp.floor(at), jnp.zeros((), x.dtype)
    for shift in (0, 1) if method == "linear" else (-1, 0, 1, 2):
        own = weight(at - low - shift).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - axis - 1))
        total = total + jnp.where(own == 0, 0, own * _take(x, axis, n, low.astype(int) + shift))
    return total


def _take(x: Array, axis: int, n, positions: Array) -> Array:
    positions = jnp.clip(positions, 0, n - 1)
    return x.at[(*(slice(None),) * axis, positions)].get(mode="promise_in_bounds")
