"""MaxPool, AveragePool and MaxUnpool of the ONNX standard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import refuse_open
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, channels_first, channels_last, concrete, flag, ints, static
from jaxconv.dialects.onnx import _attributes as at
from jaxconv.resampling import pooling
from jaxconv.resampling.windows import index_dtype


@in_one_program("X")
def MaxPool(
    X: ArrayLike,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    return_indices: bool = False,
    opset: int | None = None,
) -> Array | tuple[Array, Array]:
    """ONNX MaxPool; `return_indices` asks for the second output.

    Args:
        X: (batch, channels, *spatial), any number of spatial axes, real.
        kernel_shape: window, one size per spatial axis.
        auto_pad: "NOTSET", "SAME_UPPER", "SAME_LOWER" or "VALID".
        ceil_mode: 1 for an incomplete last window, if it starts inside the input or its first pad.
        dilations: one per spatial axis, default 1 (operator set 10).
        pads: all begins, then all ends.
        storage_order: 1 counts the indices' spatial part column by column (operator set 8).
        strides: one per spatial axis, default 1 (not the window).
        return_indices: whether to return Indices too.
        opset: operator set; None is the latest.

    Returns:
        Y (batch, channels, *output), or (Y, Indices): flat positions in the whole of X, batch and channels included;
        the integer type is int64 where jax has 64-bit types.

    Raises:
        ValueError: shapes, names and numbers that do not fit, more positions than the indices' type counts.
        TypeError: numbers that are not integers, complex data.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = MaxPool(jnp.arange(8.0).reshape(1, 2, 4), kernel_shape=[2], strides=[2], return_indices=True)
        >>> i.tolist()
        [[[1, 3], [5, 7]]]

    Source: the ONNX operator MaxPool, version 22.
    """
    at.since(
        "MaxPool",
        opset,
        1,
        {"dilations": (dilations, None, 10), "ceil_mode": (ceil_mode, 0, 10), "storage_order": (storage_order, 0, 8)},
    )
    x, rank, window = _windowed("MaxPool", X, kernel_shape)
    column_first = flag(storage_order, "storage_order")
    out: Any = pooling.max_pool(
        channels_last(x, rank),
        window,
        stride=at.steps(strides, "strides", rank),
        padding=at.forward_padding(auto_pad, pads, rank),
        dilation=at.steps(dilations, "dilations", rank),
        ceil_mode=flag(ceil_mode, "ceil_mode") and auto_pad == "NOTSET",
        return_indices=return_indices,
    )
    if not return_indices:
        return channels_first(out, rank)
    y, flat = (channels_first(a, rank) for a in out)
    return y, _whole_indices(flat, x.shape, column_first)


def _whole_indices(flat: Array, shape: tuple[int, ...], column_first: bool) -> Array:
    """Positions in the spatial axes of one channel to positions in the whole tensor."""
    batch, channels, *sizes = shape
    index_dtype(shape)  # refuses what it cannot count
    flat = flat.astype(jax.dtypes.canonicalize_dtype(jnp.int64))
    if column_first:
        rest, flat, place = flat, jnp.zeros_like(flat), math.prod(sizes)
        for n in reversed(sizes):  # the last axis weighs most
            place //= n
            flat = flat + rest % n * place
            rest = rest // n
    plane = jnp.arange(batch * channels, dtype=flat.dtype).reshape(batch, channels, *(1,) * len(sizes))
    return flat + plane * math.prod(sizes)


@in_one_program("X")
def AveragePool(
    X: ArrayLike,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    opset: int | None = None,
) -> Array:
    """ONNX AveragePool.

    Args:
        X: (batch, channels, *spatial), any number of spatial axes.
        kernel_shape: window, one size per spatial axis.
        auto_pad: "NOTSET", "SAME_UPPER", "SAME_LOWER" or "VALID".
        ceil_mode: 1 for an incomplete last window (operator set 10).
        count_include_pad: 1 to count pads in the mean, 0 by default (operator set 7).
        dilations: one per spatial axis, default 1 (operator set 19).
        pads: all begins, then all ends.
        strides: one per spatial axis, default 1.
        opset: operator set; None is the latest.

    Returns:
        (batch, channels, *output).

    Raises:
        ValueError: shapes, names and numbers that do not fit.
        TypeError: numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> AveragePool(jnp.arange(4.0).reshape(1, 1, 4), kernel_shape=[2], pads=[1, 0]).ravel().tolist()
        [0.0, 0.5, 1.5, 2.5]

    Source: the ONNX operator AveragePool, version 22.
    """
    at.since(
        "AveragePool",
        opset,
        1,
        {
            "dilations": (dilations, None, 19),
            "ceil_mode": (ceil_mode, 0, 10),
            "count_include_pad": (count_include_pad, 0, 7),
        },
    )
    x, rank, window = _windowed("AveragePool", X, kernel_shape)
    y = pooling.avg_pool(
        channels_last(x, rank),
        window,
        stride=at.steps(strides, "strides", rank),
        padding=at.forward_padding(auto_pad, pads, rank),
        dilation=at.steps(dilations, "dilations", rank),
        ceil_mode=flag(ceil_mode, "ceil_mode") and auto_pad == "NOTSET",
        count_include_pad=flag(count_include_pad, "count_include_pad"),
    )
    return channels_first(y, rank)


def MaxUnpool(
    X: ArrayLike,
    I: ArrayLike,  # noqa: E741 - ONNX's name
    output_shape: ArrayLike | Sequence[int] | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    opset: int | None = None,
) -> Array:
    """ONNX MaxUnpool: values back to the positions that MaxPool took them from, zero elsewhere.

    The inferred size is ``(i - 1)*strides + kernel_shape - begin - end`` per axis, and I counts positions in a tensor
    of that size. A larger `output_shape` adds zeros at the end. Of equal indices the last in row-major order wins.

    Args:
        X: (batch, channels, *spatial).
        I: integers of X's shape, flat positions in the whole output, batch and channels included.
        output_shape: the whole shape of the result, or None.
        kernel_shape: of the pooling that is undone.
        pads: of that pooling, all begins, then all ends.
        strides: of that pooling, default 1.
        opset: operator set, 9 at least; None is the latest.

    Returns:
        (batch, channels, *size).

    Raises:
        ValueError: shapes that do not fit, an index beyond the output (seen only where I is not traced).
        TypeError: indices that are not integers, an output shape that is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> MaxUnpool(jnp.ones((1, 1, 2)), jnp.asarray([[[1, 2]]]), kernel_shape=[2], strides=[2]).ravel().tolist()
        [0.0, 1.0, 1.0, 0.0]

    Source: the ONNX operator MaxUnpool, version 22.
    """
    at.since("MaxUnpool", opset, 9, {})
    x, rank, window = _windowed("MaxUnpool", X, kernel_shape)
    indices = array(I, "I")
    if indices.shape != x.shape:
        raise ValueError(f"MaxUnpool: I must have the shape of X {x.shape}, got {indices.shape}")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"MaxUnpool: I must hold integers, got {indices.dtype}")
    stride, pairs = at.steps(strides, "strides", rank), at.pad_pairs(pads, rank)
    refuse_open("MaxUnpool", x.shape)
    size = tuple(
        (i - 1) * s + k - lo - hi for i, s, k, (lo, hi) in zip(x.shape[2:], stride, window, pairs, strict=True)
    )
    if min(size) < 1:
        raise ValueError(
            f"MaxUnpool: X of shape {x.shape} with kernel_shape={window}, strides={stride}, pads={pads} gives size "
            f"{size}"
        )
    inferred = (*x.shape[:2], *size)
    shape = inferred if output_shape is None else _unpooled_shape(output_shape, inferred)
    count, values = math.prod(inferred), concrete(indices)
    if values is not None and values.size and (values.min() < 0 or values.max() >= count):
        raise ValueError(
            f"MaxUnpool: I reaches from {values.min()} to {values.max()}, outside of the {count} positions of "
            f"{inferred}"
        )
    # An index may name any position of the whole tensor: one spatial axis that holds it all.
    y = pooling.max_unpool(x.reshape(1, -1, 1), indices.reshape(1, -1, 1), (count,)).reshape(inferred)
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, n - m, 0) for n, m in zip(shape, inferred, strict=True)])


def _unpooled_shape(output_shape: Any, inferred: tuple[int, ...]) -> tuple[int, ...]:
    shape = ints(tuple(static(output_shape, "output_shape").tolist()), "output_shape", len(inferred))
    if shape[:2] != inferred[:2] or any(n < m for n, m in zip(shape, inferred, strict=True)):
        raise ValueError(
            f"MaxUnpool: output_shape={shape} must be at least {inferred}, with the same batch and channels"
        )
    return shape


def _windowed(name: str, X: Any, kernel_shape: Any) -> tuple[Array, int, tuple[int, ...]]:
    x = array(X, "X")
    rank = at.spatial_rank(name, x)
    at.listed(kernel_shape, "kernel_shape")
    return x, rank, ints(kernel_shape, "kernel_shape", rank, minimum=1)
