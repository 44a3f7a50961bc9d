"""How the linear maps of `jaxconv.resampling.axis_maps` are applied to arrays.

A map of T reads an output is T gathers in one fused loop, or less where the reads are evenly spaced. Reverse mode
applies the transposed map in the same way, so that no scatter is left there. A product with the dense matrix is slower
on CPU, but for very wide maps, and so is a gather whose transpose is a scatter.

The zeros of a matrix would meet what is not finite: where a wide map's product is not, it is read after all; but for
the gradient of what enlarges so much that more than 64 outputs read an input.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import is_open
from jaxconv._compat import left_to_the_partitioner, partition_of, sharded_from
from jaxconv._finite import made_again_where_not_finite
from jaxconv.resampling import along, products
from jaxconv.resampling.axis_maps import AxisMap

_MOST_UNROLLED = 64  # taps; each costs about 10 ms of compilation
_LARGEST_DENSE = 1 << 22  # entries
# Entries of the matrices of TPUs, which programs for other platforms hold while they are traced: 4096 positions from as
# many, but not the seconds of a signal.
_LARGEST_PRODUCT = 1 << 24
# Elements behind the axis from which on a product for each entry before it, which moves no axis, is faster on CPU: 2 to
# 5 times for 512 -> 3 of (8, 512, 64) and for either axis of (4, 256, 256, 16). Its copies of the matrix are no larger
# than x.
_LEAST_TAIL = 8
# Maps of two taps gain by shifts from this factor on, with this few elements behind the axis: a loop over them is then
# mostly overhead.
_SHORT_TAIL = (4, 16)


def apply_axis_maps(x: ArrayLike, maps: Sequence[AxisMap | None]) -> Array:
    """Apply one linear map to each spatial axis of x, (*batch, *spatial, channels); None leaves an axis alone.

    Floats of less than 32 bits accumulate in float32; maps that only copy take any type.
    """
    x, rank = jnp.asarray(x), len(maps)
    if x.ndim < rank + 1:
        raise ValueError(f"{rank} maps need {rank} spatial axes and channels, got shape {x.shape}")
    for a, m in enumerate(maps):
        if m is not None and x.shape[a - rank - 1] != m.input_size:
            raise ValueError(f"axis {a} has size {x.shape[a - rank - 1]}, its map is for size {m.input_size}")
    if not jnp.issubdtype(x.dtype, jnp.inexact) and not all(m is None or m.is_selection for m in maps):
        raise TypeError(f"interpolation needs floating-point data, got {x.dtype}; maps that only copy take any type")
    return _resize(x, tuple(maps))


def _resize_impl(x: Array, maps: tuple[AxisMap | None, ...]) -> Array:
    if sharded_from(x, -len(maps) - 1, -1):  # gathers along sharded axes have no rule
        return left_to_the_partitioner(partial(_apply_maps, maps=maps), x)
    return _apply_maps(x, maps)


def _apply_maps(x: Array, maps: tuple[AxisMap | None, ...]) -> Array:
    todo = [(x.ndim - len(maps) - 1 + a, m) for a, m in enumerate(maps) if m is not None and not m.is_identity]
    if not todo:
        return x
    # Shrinking axes first, so that the arrays in between stay small.
    todo.sort(key=lambda item: item[1].output_size / item[1].input_size)
    reads = partial(_apply_reads, todo=todo)
    # The transpose of a product in a branch loses an Explicit mesh's types.
    if partition_of(jax.typeof(x)) is not None or any(m.entries > _LARGEST_PRODUCT for _, m in todo):
        return reads(x)
    return lax.platform_dependent(x, tpu=partial(products.apply, todo=todo), default=reads)


def _apply_reads(x: Array, todo: Sequence[tuple[int, AxisMap]]) -> Array:
    dtype = x.dtype
    if not all(m.is_selection for _, m in todo) and jnp.finfo(dtype).bits < 32:
        x = x.astype(jnp.float32)
    for axis, m in todo:
        x = apply_axis_map(x, axis, m)
    return x.astype(dtype)


_resize_impl.__name__ = _resize_impl.__qualname__ = "resize"
_resize = jax.jit(_resize_impl, static_argnums=1)


def apply_axis_map(x: Array, axis: int, m: AxisMap) -> Array:
    """Apply a map to one axis, counted from the front, inside other jitted functions."""
    return x if m.is_identity else _read_taps(x, axis, m)


def _repeat(x: Array, axis: int, times: int) -> Array:
    shape = x.shape[: axis + 1] + (times,) + x.shape[axis + 1 :]
    y = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape)
    return y.reshape(x.shape[:axis] + (x.shape[axis] * times,) + x.shape[axis + 1 :])


def _read_map(x: Array, axis: int, m: AxisMap, *, derivative: bool = False) -> Array:
    if m.repeats:
        return _repeat(x, axis, m.repeats)
    y = _reads(x, axis, m)
    # A second reader of x makes XLA compute twice what x is made of. Behind a resize from 16 to 1120 that are gathers:
    # its gradient took 1.6 ms instead of 0.4. Behind wide means it is a product, which is kept.
    costly = derivative and m.transpose.taps.shape[1] <= _MOST_UNROLLED
    return finite_or_read(y, x, axis, m) if _is_product(m) and not costly else y


_read_derivative = partial(_read_map, derivative=True)
# The primal is left open to whoever reads the jaxpr; derivatives are one equation.
_read_taps = jax.custom_jvp(_read_map, nondiff_argnums=(1, 2))


@_read_taps.defjvp
def _read_taps_jvp(axis, m, primals, tangents):
    return _read_taps(primals[0], axis, m), along.apply(tangents[0], axis, m, _read_derivative)


def _is_product(m: AxisMap) -> bool:
    return m.taps.shape[1] > _MOST_UNROLLED and m.entries <= _LARGEST_DENSE


@partial(jax.jit, static_argnums=(2, 3))
def finite_or_read(y: Array, x: Array, axis: int, m: AxisMap) -> Array:
    """y; where not all of it is finite, what the map reads, tap by tap.

    One call in a jaxpr, so that whoever reads the jaxpr sees by its name that nothing more is read than y was made of.
    """
    taps, weights = jnp.asarray(m.taps.T), jnp.asarray(m.weights.T, x.dtype)

    def turn(t: Array, y: Array) -> Array:
        positions = lax.dynamic_index_in_dim(taps, t, keepdims=False)
        read = x.at[(*(slice(None),) * axis, positions)].get(mode="promise_in_bounds")
        weight = lax.dynamic_index_in_dim(weights, t, keepdims=False).reshape(-1, *(1,) * (x.ndim - axis - 1))
        return jnp.where(t > 0, y, 0) + jnp.where(weight == 0, 0, read * weight)

    return made_again_where_not_finite(y, len(taps), turn)


def _reads(x: Array, axis: int, m: AxisMap) -> Array:
    if m.is_selection:
        return _read(x, axis, m.taps[:, 0])
    count = m.taps.shape[1]
    if _reads_by_shifts(x, axis, m):
        return _shifted_reads(x, axis, m)
    if count > 2:
        # Several readers of one element: without this the axis before would be computed anew for each of them.
        x = lax.optimization_barrier(x)
    if count > _MOST_UNROLLED:
        return _wide_reads(x, axis, m)
    reads = (_weighted(_read(x, axis, taps), weights, axis) for taps, weights in zip(m.taps.T, m.weights.T))
    return sum(reads, jnp.zeros((), x.dtype))


def _weighted(read: Array, weights: np.ndarray, axis: int) -> Array:
    """Nothing where the weight is zero, which only fills up a row: zero times infinity is not nothing."""
    product = read * _along(weights, read, axis, read.ndim)
    if weights.all():
        return product
    return jnp.where(_along(weights != 0, read, axis, read.ndim, bool), product, jnp.zeros((), read.dtype))


def _read(x: Array, axis: int, positions: np.ndarray) -> Array:
    """x at these positions of the axis: a strided slice where they are evenly spaced, which is read faster."""
    steps = set(np.diff(positions).tolist())
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return lax.slice_in_dim(x, int(positions[0]), int(positions[-1]) + 1, step, axis)
    return x.at[(*(slice(None),) * axis, positions)].get(mode="promise_in_bounds")


def _reads_by_shifts(x: Array, axis: int, m: AxisMap) -> bool:
    if m.shifts is None or partition_of(jax.typeof(x)) is not None:
        return False
    factor, tail = m.output_size // m.input_size, math.prod(x.shape[axis + 1 :])
    return m.taps.shape[1] > 2 or (factor >= _SHORT_TAIL[0] and tail <= _SHORT_TAIL[1])


def _shifted_reads(x: Array, axis: int, m: AxisMap) -> Array:
    """The r outputs of every input as sums of shifted copies of x: one table of weights for each shift, no gather."""
    assert m.shifts is not None
    (first, weights), n = m.shifts, m.input_size
    last = first + len(weights) - 1
    lead, tail = x.shape[:axis], x.shape[axis + 1 :]
    x = x.reshape(*lead, n, math.prod(tail))  # one long loop behind the axis
    low, high = max(-first, 0), max(last, 0)
    # Padded once and kept: several readers.
    x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * axis + [(low, high, 0), (0, 0, 0)]))
    y = jnp.zeros((), x.dtype)
    for k, w in enumerate(weights):
        copy = lax.slice_in_dim(x, low + first + k, low + first + k + n, axis=axis)
        part = jnp.expand_dims(copy, axis + 1) * _along(w, x, axis, x.ndim + 1)
        # Outputs that do not read this copy take nothing of it: zero times infinity is not nothing.
        reader = lax.broadcasted_iota(jnp.int32, part.shape, axis + 1)
        for i in np.flatnonzero((w == 0).all(axis=0)):
            part = jnp.where(reader == i, jnp.zeros((), x.dtype), part)
        y = y + part
    return y.reshape(*lead, m.output_size, *tail)


def _wide_reads(x: Array, axis: int, m: AxisMap) -> Array:
    """Maps with many taps: the dense product, or one gather and a sum where that matrix would be large."""
    if _is_product(m):
        matrix, lead, tail = jnp.asarray(m.dense(), x.dtype), x.shape[:axis], x.shape[axis + 1 :]
        known = not is_open(tail) and partition_of(jax.typeof(x)) is None
        if known and max(m.output_size, _LEAST_TAIL) <= math.prod(tail):
            each, batch = jnp.broadcast_to(matrix, (*lead, *matrix.shape)), tuple(range(axis))
            return lax.dot_general(each, x, (((axis + 1,), (axis,)), (batch, batch)), precision=lax.Precision.HIGHEST)
        y = lax.dot_general(x, matrix, (((axis,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
        return jnp.moveaxis(y, -1, axis)
    y = x.at[(*(slice(None),) * axis, m.taps)].get(mode="promise_in_bounds")
    return jnp.sum(_weighted(y, m.weights, axis), axis=axis + 1)


def _along(weights: np.ndarray, x: Array, axis: int, ndim: int, dtype=None) -> Array:
    """Weights (out,) or (out, T) placed along the axis for broadcasting."""
    shape = (1,) * axis + weights.shape + (1,) * (ndim - axis - weights.ndim)
    return jnp.asarray(weights, dtype or x.dtype).reshape(shape)
