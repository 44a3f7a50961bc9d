"""Max and average pooling, and max-unpooling, for data (*batch, *spatial, channels) of any rank.

In a jaxpr each function is one jitted call named `max_pool`, `max_pool_with_indices`, `avg_pool` or `max_unpool`
(the `name` parameter of the `jit` equation; under reverse mode the derivative's parts carry the same name).
"""

import math
from functools import partial, reduce
from typing import Literal, NamedTuple, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import is_open, per_axis, refuse_open
from jaxconv._eager import in_one_program
from jaxconv._hints import hinting
from jaxconv.resampling import open_sizes
from jaxconv.resampling.axis_maps import AxisMap
from jaxconv.resampling.axis_reads import apply_axis_map
from jaxconv.resampling.unpooling import unpool
from jaxconv.resampling.windows import (
    AxisWindow,
    Ints,
    Padding,
    axis_taps,
    index_dtype,
    named,
    on_sharded_axes,
    pad_axis,
    resolve_windows,
    spatial_rank,
    spatial_sizes,
)

_LARGE_WINDOW = 8  # taps an axis beyond which the window is built up in stages of growing reach


@overload
def max_pool(
    x: ArrayLike, window: Ints, *, stride: Ints | None = ..., padding: Padding = ..., dilation: Ints = ...,
    ceil_mode: bool = ..., return_indices: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def max_pool(
    x: ArrayLike, window: Ints, *, return_indices: Literal[True], stride: Ints | None = ..., padding: Padding = ...,
    dilation: Ints = ..., ceil_mode: bool = ...,
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def max_pool(
    x: ArrayLike, window: Ints, *, return_indices: bool, stride: Ints | None = ..., padding: Padding = ...,
    dilation: Ints = ..., ceil_mode: bool = ...,
) -> Array | tuple[Array, Array]: ...  # fmt: skip
@in_one_program("x")
@hinting
def max_pool(
    x: ArrayLike,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """Maximum over sliding windows.

    y[q, c] = max over t of x[q * stride + t * dilation - low, c]; pads never take part. NaN wins over everything, and
    of equal values the first in row-major order counts as the maximum: it gives the index and receives the gradient.

    Args:
      x: (*batch, *spatial, channels), real.
      window: window size, one for all spatial axes (every axis but the first and the last) or one per spatial axis.
      stride: step between windows; the window size by default.
      padding: int, one int per axis, (low, high) per axis, or a name, as in `conv`.
      dilation: distance between the taps of a window.
      ceil_mode: also count a last, incomplete window that starts inside the input or its low pad.
      return_indices: also return the position of each maximum.

    Returns:
      y, (*batch, *output, channels), of x's type; with `return_indices` the pair (y, indices), where indices (int32;
      int64, in jax's x64 mode, where there are 2^31 positions or more) are flat row-major positions in the spatial axes
      of x, one for each batch entry and channel. A window that holds nothing but padding along an axis gives the lowest
      value of the type and position 0 there.

    Raises:
      ValueError, TypeError: where an argument is out of range; the message names it.

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([1.0, 5.0, 2.0, 3.0]).reshape(1, 4, 1)
    >>> y, i = max_pool(x, 2, return_indices=True)
    >>> y.ravel().tolist(), i.ravel().tolist()
    ([5.0, 3.0], [1, 3])
    """
    x = jnp.asarray(x)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"max_pool needs real numbers, got {x.dtype}")
    if is_open(spatial_sizes(x.shape, window, stride, padding, dilation)):
        if return_indices:
            refuse_open("max_pool with return_indices", x.shape)
        return open_sizes.pool("max_pool", x, window, stride, padding, dilation, ceil_mode)
    windows = resolve_windows(x.shape, window, stride, padding, dilation, ceil_mode=ceil_mode)
    return _max_pool_with_indices(x, windows) if return_indices else _max_pool(x, windows)


@in_one_program("x")
@hinting
def avg_pool(
    x: ArrayLike,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Array:
    """Mean over sliding windows.

    y[q, c] = (1 / N[q]) * sum over t of x[q * stride + t * dilation - low, c], where x is 0 in the pads.

    Args:
      x: (*batch, *spatial, channels). Floats of less than 32 bits accumulate in float32. Integers are summed without
        overflow and divided towards zero.
      window, stride, padding, dilation, ceil_mode: as for `max_pool`.
      count_include_pad: whether N counts the taps that fall on pads. Taps beyond the pads, which only `ceil_mode`
        reaches, are never counted.
      divisor: this number instead of N; a whole one for integers.

    Returns:
      (*batch, *output, channels), of x's type.

    Raises:
      ValueError, TypeError: where an argument is out of range; the message names it.

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([1.0, 5.0, 2.0, 4.0]).reshape(1, 4, 1)
    >>> avg_pool(x, 2).ravel().tolist()
    [3.0, 3.0]
    """
    x = jnp.asarray(x)
    if x.dtype == jnp.bool_:
        raise TypeError("avg_pool needs numbers, got bool")
    if divisor is not None and (isinstance(divisor, bool) or divisor == 0):
        raise ValueError(f"divisor={divisor!r} must be a number other than zero")
    if divisor is not None and not jnp.issubdtype(x.dtype, jnp.inexact) and divisor != int(divisor):
        raise ValueError(f"divisor={divisor!r} must be a whole number for data of type {x.dtype}")
    if is_open(spatial_sizes(x.shape, window, stride, padding, dilation)):
        mean = bool(count_include_pad), divisor
        return open_sizes.pool("avg_pool", x, window, stride, padding, dilation, ceil_mode, mean)
    windows = resolve_windows(x.shape, window, stride, padding, dilation, ceil_mode=ceil_mode)
    return _avg_pool(x, windows, bool(count_include_pad), divisor)


@in_one_program("y", "indices")
@hinting
def max_unpool(y: ArrayLike, indices: ArrayLike, output_size: Ints) -> Array:
    """Put values back to the positions that max-pooling took them from; zero elsewhere.

    x[indices[q, c], c] = y[q, c]. Where overlapping windows name a position more than once, the last q in row-major
    order wins, on every platform, and it alone receives the gradient. Indices outside of the output are dropped.

    Args:
      y: (*batch, *spatial, channels).
      indices: integers of y's shape, flat row-major positions in the output's spatial axes (as `max_pool` gives them).
      output_size: size of every spatial axis of the output, or one per axis.

    Returns:
      (*batch, *output_size, channels), of y's type.

    Raises:
      ValueError, TypeError: where shapes or types do not fit; the message names them.

    >>> import jax.numpy as jnp
    >>> y, i = jnp.asarray([5.0, 3.0]).reshape(1, 2, 1), jnp.asarray([1, 3]).reshape(1, 2, 1)
    >>> max_unpool(y, i, 4).ravel().tolist()
    [0.0, 5.0, 0.0, 3.0]
    """
    y, indices = jnp.asarray(y), jnp.asarray(indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    if y.shape != indices.shape:
        raise ValueError(f"y and indices must have the same shape, got {y.shape} and {indices.shape}")
    rank = spatial_rank(y.ndim, f"shape {y.shape}", output_size=output_size)
    refuse_open("max_unpool", y.shape[-rank - 1 : -1])
    return _max_unpool(y, indices, per_axis(output_size, "output_size", rank, 1))


# ---------------------------------------------------------------------------------------------------------- maximum
def _max_pool_values(x: Array, windows: tuple[AxisWindow, ...]) -> Array:
    # Innermost axis first: ties then resolve to the first in row-major order, axis by axis.
    for w in reversed(windows):
        for stage in _stages(w):
            x = _stage(x, stage)
    return x


def _max_pool_indexed(x: Array, windows: tuple[AxisWindow, ...]) -> tuple[Array, Array]:
    dtype = index_dtype([w.n_in for w in windows])
    place, indices = 1, jnp.zeros_like(x, dtype)
    for w in reversed(windows):
        indices = indices + lax.broadcasted_iota(dtype, x.shape, x.ndim + w.axis) * place
        place *= w.n_in
        for stage in _stages(w):
            # Compared twice in the program, once in the compiled one: the same operations on the same values.
            indices = cast(Array, _compare(lax.stop_gradient(x), indices, stage)[1])
            x = _stage(x, stage)
    return x, indices


class _Stage(NamedTuple):
    """One pass of comparisons along one axis."""

    axis: int
    offsets: tuple[int, ...]
    stride: int
    low: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    first: tuple[int, ...]  # the first tap that is not padding, of the windows that begin in it; that of others is 0


def _stages(w: AxisWindow) -> list[_Stage]:
    """A window as passes along its axis: one where it is small, else a few of growing reach."""
    plan, reach, low = [], 1, w.low
    if w.taps > _LARGE_WINDOW:
        count = (w.n_out - 1) * w.stride + w.offsets[-1] + 1
        while reach * 4 < w.taps:  # after each pass position p holds the maximum over the `reach` taps from p on
            step = tuple(t * reach * w.dilation for t in range(4))
            count -= step[-1]
            plan.append((step, 1, low, count))
            reach, low = reach * 4, 0
    steps = -(-w.taps // reach)
    plan.append((tuple(min(t * reach, w.taps - reach) * w.dilation for t in range(steps)), w.stride, low, w.n_out))
    stages, real, end = [], np.ones(0, bool), w.n_in  # `real`: of the leading positions; others are, up to the end
    for offsets, stride, low, count in plan:
        leading = np.arange(min(-(-(len(real) + low) // stride), count))
        position = leading[:, None] * stride + np.asarray(offsets) - low
        known = np.append(real, True)[np.clip(position, 0, len(real))]
        taps = known & (position >= 0) & (position < end)
        stages.append(_Stage(w.axis, offsets, stride, low, count, tuple(int(t) for t in taps.argmax(axis=1))))
        real, end = taps.any(axis=1), end + low
    return stages


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _stage(x: Array, stage: _Stage) -> Array:
    taps = axis_taps(x, *stage[:-1], _lowest(x.dtype))
    return reduce(lax.max, taps)  # NaN stays


@_stage.defjvp
def _stage_jvp(stage: _Stage, primals, tangents):
    y, _, winner = _compare(primals[0], None, stage)
    taps = axis_taps(tangents[0], *stage[:-1], 0)
    # A sum of selects, not a chain of them: the transpose of a chain is one long dependence.
    return y, sum(jnp.where(winner == t, tap, jnp.zeros((), tap.dtype)) for t, tap in enumerate(taps))


def _compare(x: Array, indices: Array | None, stage: _Stage) -> tuple[Array, Array | None, Array]:
    """Maximum over the taps, the first maximum's index where indices are given, and its tap number."""
    axis, offsets, stride, low, count, first = stage
    taps = axis_taps(x, axis, offsets, stride, low, count, _lowest(x.dtype))
    best = reduce(lax.max, taps)
    winner = jnp.full_like(best, len(taps) - 1, dtype=jnp.int8)
    for t, tap in reversed(list(enumerate(taps[:-1]))):
        is_best = tap == best
        if jnp.issubdtype(x.dtype, jnp.floating):
            is_best |= tap != tap  # where a tap is NaN, so is the best
        # Pads before the input hold the lowest value and may tie with it.
        is_best = _where_real(is_best, axis % x.ndim, np.asarray(first, int) <= t)
        winner = jnp.where(is_best, jnp.int8(t), winner)
    if indices is not None:
        parts = axis_taps(indices, axis, offsets, stride, low, count, 0)
        indices = parts[0]
        for t, part in enumerate(parts[1:], 1):
            indices = jnp.where(winner == t, part, indices)
    return best, indices, winner


def _where_real(mask: Array, axis: int, real: np.ndarray) -> Array:
    """`mask` where `real` holds along the axis, as it does behind its end; compares a counter, which vectorises, rather
    than reading a table."""
    if real.all():
        return mask
    begin = len(real) - int(np.argmin(real[::-1]))  # behind the last that is not
    if not real[:begin].any():
        return mask & (lax.broadcasted_iota(jnp.int32, mask.shape, axis) >= begin)
    real = np.append(real, np.ones(mask.shape[axis] - len(real), bool))
    return mask & lax.broadcast_in_dim(jnp.asarray(real), mask.shape, (axis,))


def _lowest(dtype) -> object:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


# ------------------------------------------------------------------------------------------------------------- mean
def _avg_pool_impl(x: Array, windows: tuple[AxisWindow, ...], count_include_pad: bool, divisor) -> Array:
    dtype = x.dtype
    if divisor is not None:
        number = np.asarray(divisor)
    else:
        number = np.ones((), np.int64)
        for w in windows:
            number = number[..., None] * _tap_counts(w, count_include_pad)
        number = np.maximum(number, 1)
        number = number.flat[0] if (number == number.flat[0]).all() else number[..., None]
    if not jnp.issubdtype(dtype, jnp.inexact):
        return _integer_mean(x, windows, number)
    acc = x.astype(jnp.float32) if jnp.finfo(dtype).bits < 32 else x
    for w in reversed(windows):
        acc = _axis_sum(acc, w)
    return lax.div(acc, jnp.broadcast_to(jnp.asarray(number).astype(acc.dtype), acc.shape)).astype(dtype)


def _integer_mean(x: Array, windows: tuple[AxisWindow, ...], number: np.ndarray) -> Array:
    """The sum over each window divided by `number`, towards zero, by long division in 32 bits: nothing overflows.

    Values are taken apart into digits of base 2^b, which are summed apart; then one digit of the quotient after the
    other is found from the top, where the rest of the last one counts 2^b times.
    """
    taps, largest = math.prod(w.taps for w in windows), int(np.abs(number).max())
    base = next((b for b in (16, 8, 4) if taps + largest <= 1 << (32 - b)), None)
    if base is None:
        raise ValueError(f"avg_pool of integers: {taps} taps and a divisor of {largest} are too many to sum exactly")
    bits, signed = jnp.iinfo(x.dtype).bits, jnp.issubdtype(x.dtype, jnp.signedinteger)
    whole = x.astype(jnp.int32 if signed else jnp.uint32) if bits < 32 else x
    by, top = jnp.asarray(np.abs(number), jnp.uint32), range(0, bits, base)[-1]
    quotient, rest = jnp.zeros((), whole.dtype), jnp.zeros((), jnp.uint32)
    for place in range(top, -1, -base):
        digit = lax.shift_right_arithmetic(whole, jnp.asarray(place, whole.dtype))
        kind = jnp.int32 if signed and place == top else jnp.uint32
        if kind == jnp.uint32:
            digit = digit & jnp.asarray((1 << base) - 1, whole.dtype)
        digit = digit.astype(kind)
        for w in reversed(windows):
            digit = _axis_sum(digit, w)
        digit = digit + (rest << base).astype(kind)
        part = jnp.floor_divide(digit, by.astype(kind))
        rest = (digit - part * by.astype(kind)).astype(jnp.uint32)
        quotient = (quotient << base) + part.astype(whole.dtype)
    if signed:  # so far rounded down
        quotient = quotient + ((quotient < 0) & (rest > 0)).astype(quotient.dtype)
    return jnp.where(jnp.asarray(number < 0), -quotient, quotient).astype(x.dtype)


def _axis_sum(x: Array, w: AxisWindow) -> Array:
    if w.taps <= _LARGE_WINDOW:
        taps = axis_taps(x, w.axis, w.offsets, w.stride, w.low, w.n_out, 0)
        return sum(taps[1:], taps[0])
    axis = w.axis % x.ndim
    if w.stride >= w.taps > w.n_in // 4 and w.dilation == 1:  # few windows, and nothing is read twice
        blocks = pad_axis(x, axis, w.low, w.n_out * w.stride - w.low - w.n_in, 0)
        blocks = blocks.reshape(*x.shape[:axis], w.n_out, w.stride, *x.shape[axis + 1 :])
        return jnp.sum(lax.slice_in_dim(blocks, 0, w.taps, axis=axis + 1), axis + 1, dtype=x.dtype)
    met = w.met()
    ones = AxisMap(w.n_in, np.maximum(met, 0), (met >= 0).astype(np.float64))
    return apply_axis_map(x, axis, ones)


def _tap_counts(w: AxisWindow, include_pads: bool) -> np.ndarray:
    reads, (low, high) = w.reads(), (w.low, w.high) if include_pads else (0, 0)
    return ((reads >= -low) & (reads < w.n_in + high)).sum(axis=1)


_max_pool = named(on_sharded_axes(_max_pool_values), "max_pool", (1,))
_max_pool_with_indices = named(on_sharded_axes(_max_pool_indexed), "max_pool_with_indices", (1,))
_avg_pool = named(on_sharded_axes(_avg_pool_impl), "avg_pool", (1, 2, 3))
_max_unpool = named(unpool, "max_unpool", (2,))
