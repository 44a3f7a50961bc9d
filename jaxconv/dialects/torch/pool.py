"""Max-pooling and average pooling with the meaning of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv._checks import as_index
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, boolean, channels_first, channels_last, ints
from jaxconv.resampling import pooling

Ints = int | Sequence[int]


def max_pool1d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """torch.nn.functional.max_pool1d: as [`max_pool2d`][jaxconv.dialects.torch.max_pool2d] with one spatial axis.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool1d(jnp.arange(6.0).reshape(1, 1, 6), 2).ravel().tolist()
        [1.0, 3.0, 5.0]
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """torch.nn.functional.max_pool2d.

    ``y[c, q] = max over t of input[c, q*stride + t*dilation - padding]``; pads never win, NaN always does.

    Args:
        input: (batch, channels, H, W) or (channels, H, W), real.
        kernel_size: an int, or one int per spatial axis.
        stride: the kernel size by default (None or an empty tuple).
        padding: at most half of the kernel.
        dilation: spacing of the window's taps.
        ceil_mode: also an incomplete last window, if it starts inside the input or its first pad.
        return_indices: also where each maximum stands.

    Returns:
        (batch, channels, H', W'), or this and the int32 indices: flat positions in the (H, W) plane of the input, first
        maximum first.

    Raises:
        ValueError: sizes and signs that PyTorch refuses.
        TypeError: bools, complex numbers, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = max_pool2d(jnp.arange(16.0).reshape(1, 1, 4, 4), 2, return_indices=True)
        >>> i.ravel().tolist()
        [5, 7, 13, 15]

    Source: the PyTorch documentation of MaxPool2d.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """torch.nn.functional.max_pool3d: as [`max_pool2d`][jaxconv.dialects.torch.max_pool2d] with three spatial axes.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool3d(jnp.ones((1, 2, 4, 4, 4)), 2).shape
        (1, 2, 2, 2, 2)
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """torch.nn.functional.avg_pool1d: as [`avg_pool2d`][jaxconv.dialects.torch.avg_pool2d] with one spatial axis and no
    `divisor_override`.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool1d(jnp.arange(6.0).reshape(1, 1, 6), 2).ravel().tolist()
        [0.5, 2.5, 4.5]
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """torch.nn.functional.avg_pool2d.

    ``y[c, q] = (1 / N) * sum over t of input[c, q*stride + t - padding]``

    Args:
        input: (batch, channels, H, W) or (channels, H, W).
        kernel_size: an int, or one int per spatial axis.
        stride: the kernel size by default (None or an empty tuple).
        padding: at most half of the kernel.
        ceil_mode: also an incomplete last window, if it starts inside the input or its first pad.
        count_include_pad: whether N counts pads. What `ceil_mode` reaches beyond them never counts.
        divisor_override: a number in place of N.

    Returns:
        (batch, channels, H', W') of the input's type; integers divide towards zero.

    Raises:
        ValueError: sizes and signs that PyTorch refuses, a divisor of 0.
        TypeError: bools, complex numbers, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool2d(jnp.ones((1, 1, 4, 4)), 2, padding=1).ravel().tolist()[:3]
        [0.25, 0.5, 0.25]

    Source: the PyTorch documentation of AvgPool2d.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: ArrayLike,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """torch.nn.functional.avg_pool3d: as [`avg_pool2d`][jaxconv.dialects.torch.avg_pool2d] with three spatial axes.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool3d(jnp.ones((2, 4, 4, 4)), 2).shape
        (2, 2, 2, 2)
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# ---------------------------------------------------------------------- one rule for every rank


@in_one_program("input")
def _max_pool(rank: int, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    name = f"max_pool{rank}d"
    x = _data(rank, name, input)
    window, stride, padding = _window(rank, kernel_size, stride, padding)
    dilation = ints(dilation, "dilation", rank, minimum=1, expand_one=True)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"{name} needs real numbers, got {x.dtype}")
    out: Any = pooling.max_pool(
        channels_last(x, rank),
        window,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=boolean(ceil_mode, "ceil_mode"),
        return_indices=bool(return_indices),
    )
    if return_indices:
        return channels_first(out[0], rank), channels_first(out[1], rank)
    return channels_first(out, rank)


@in_one_program("input")
def _avg_pool(rank: int, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override) -> Array:
    name = f"avg_pool{rank}d"
    x = _data(rank, name, input)
    window, stride, padding = _window(rank, kernel_size, stride, padding)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"{name} needs real numbers, got {x.dtype}")
    if divisor_override is not None:
        divisor_override = as_index(divisor_override, "divisor_override")
        if divisor_override == 0:
            raise ValueError("divisor_override=0 must not be zero")
    y = pooling.avg_pool(
        channels_last(x, rank),
        window,
        stride=stride,
        padding=padding,
        ceil_mode=boolean(ceil_mode, "ceil_mode"),
        count_include_pad=boolean(count_include_pad, "count_include_pad"),
        divisor=divisor_override,
    )
    return channels_first(y, rank)


def _data(rank: int, name: str, input) -> Array:
    x = array(input, "input")
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{name} takes an input of {rank + 1} axes (unbatched) or {rank + 2} axes (batched), got shape {x.shape}"
        )
    if 0 in x.shape[-rank - 1 :]:
        raise ValueError(f"{name}: only the batch may be empty, got an input of shape {x.shape}")
    return x


def _window(rank: int, kernel_size, stride, padding) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    window = ints(kernel_size, "kernel_size", rank, minimum=1, expand_one=True)
    stride = window if _absent(stride) else ints(stride, "stride", rank, minimum=1, expand_one=True)
    padding = ints(padding, "padding", rank, minimum=0, expand_one=True)
    if any(2 * p > k for p, k in zip(padding, window, strict=True)):
        raise ValueError(f"padding={padding} must be at most half of kernel_size={window}")
    return window, stride, padding


def _absent(stride: Any) -> bool:
    return stride is None or (isinstance(stride, Sequence) and not isinstance(stride, str) and len(stride) == 0)
