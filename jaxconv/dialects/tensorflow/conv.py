"""Convolutions with the meaning of tf.nn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv import ops
from jaxconv._checks import any_below
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, ints, preferred
from jaxconv.dialects.tensorflow._layout import Layout, operands, windowed_sizes

Steps = int | Sequence[int]
Padding = str | Sequence[Sequence[int]]


def conv1d(
    input: ArrayLike,
    filters: ArrayLike,
    stride: Steps,
    padding: str,
    data_format: str = "NWC",
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv1d: as [`conv2d`][jaxconv.dialects.tensorflow.conv2d] with one spatial axis and without a list of pads.

    Example:
        >>> import jax.numpy as jnp
        >>> conv1d(jnp.ones((1, 8, 2)), jnp.ones((3, 2, 4)), 2, "SAME").shape
        (1, 4, 4)
    """
    layout = Layout.read(data_format, 1, any_rank=True)
    steps = layout.steps(stride, "stride"), layout.steps(dilations, "dilations")
    return _conv("conv1d", layout, input, filters, *steps, layout.padding(padding, explicit=False))


def conv2d(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Steps,
    padding: Padding,
    data_format: str = "NHWC",
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv2d.

    ``y[q, o] = sum over t, i of input[q*strides + t*dilations - lo, i] * filters[t, i, o]``

    Args:
        input: (*batch, H, W, in), or (*batch, in, H, W) with "NCHW"; at least one batch axis.
        filters: (kH, kW, in // groups, out): its third axis says how many groups there are.
        strides: an int, or 1, 2 or 4 ints (4: in the order of `data_format`).
        padding: "SAME" (extra zeros at the end), "VALID", or (lo, hi) for every axis in the order of `data_format`.
        data_format: "NHWC" or "NCHW".
        dilations: spacing of the taps, as `strides`.
        name: not used.

    Returns:
        (*batch, H', W', out) in the same layout. A size that comes out as 0 (by TensorFlow's rounding towards zero also
        where the input is a little too small), or no outputs, give an empty array.

    Raises:
        ValueError: sizes, channels, names and numbers of entries that do not fit.
        TypeError: operands of different types, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d(jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 4)), [1, 2, 2, 1], "SAME").shape
        (1, 4, 4, 4)

    Source: the TensorFlow documentation of tf.nn.conv2d.
    """
    layout = Layout.read(data_format, 2)
    steps = layout.steps(strides, "strides"), layout.steps(dilations, "dilations")
    return _conv("conv2d", layout, input, filters, *steps, layout.padding(padding, explicit=True))


def conv3d(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Sequence[int],
    padding: str,
    data_format: str = "NDHWC",
    dilations: Sequence[int] | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv3d: as [`conv2d`][jaxconv.dialects.tensorflow.conv2d] with three spatial axes; steps are lists of 5.

    Example:
        >>> import jax.numpy as jnp
        >>> conv3d(jnp.ones((1, 4, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 4)), [1, 2, 2, 2, 1], "SAME").shape
        (1, 2, 2, 2, 4)
    """
    layout = Layout.read(data_format, 3)
    steps = layout.steps(strides, "strides", lengths=(5,)), layout.steps(dilations, "dilations", lengths=(5,))
    return _conv("conv3d", layout, input, filters, *steps, layout.padding(padding, explicit=False))


def convolution(
    input: ArrayLike,
    filters: ArrayLike,
    strides: Steps | None = None,
    padding: str = "VALID",
    data_format: str | None = None,
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.convolution: one to three spatial axes, as many as the filters have; strides or dilations, not both.

    Args:
        input: (*batch, *spatial, in), or (*batch, in, *spatial).
        filters: (*kernel_size, in // groups, out).
        strides: an int or one int per spatial axis, default 1.
        padding: "SAME" or "VALID".
        data_format: such as "NHWC" or "NCHW"; default channels last.
        dilations: as `strides`.
        name: not used.

    Returns:
        (*batch, *output_size, out) in the same layout.

    Raises:
        ValueError: as `conv2d`, and strides above 1 together with dilations above 1.
        TypeError: as `conv2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> convolution(jnp.ones((1, 8, 2)), jnp.ones((3, 2, 4)), dilations=2).shape
        (1, 4, 4)

    Source: the TensorFlow documentation of tf.nn.convolution.
    """
    rank = _rank("convolution", filters)
    layout = Layout.read(data_format, rank)
    strides, dilations = layout.steps(strides, "strides"), layout.steps(dilations, "dilations")
    if max(strides) > 1 and max(dilations) > 1:
        raise ValueError(
            f"convolution takes strides={strides} or dilations={dilations} above 1, not both; conv2d takes both"
        )
    return _conv("convolution", layout, input, filters, strides, dilations, layout.padding(padding, explicit=False))


def atrous_conv2d(value: ArrayLike, filters: ArrayLike, rate: int, padding: str, name: str | None = None) -> Array:
    """tf.nn.atrous_conv2d: conv2d with stride 1 and `rate` as the dilation of both axes, NHWC.

    Example:
        >>> import jax.numpy as jnp
        >>> atrous_conv2d(jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 4)), 2, "VALID").shape
        (1, 4, 4, 4)
    """
    layout = Layout(2, True)
    dilation = ints(rate, "rate", 2, minimum=1)
    return _conv("atrous_conv2d", layout, value, filters, (1, 1), dilation, layout.padding(padding, explicit=False))


@in_one_program("input", "filter")
def depthwise_conv2d(
    input: ArrayLike,
    filter: ArrayLike,
    strides: Sequence[int],
    padding: Padding,
    data_format: str | None = None,
    dilations: Sequence[int] | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.depthwise_conv2d: every channel on its own, each giving `multiplier` outputs.

    ``y[q, c*multiplier + m] = sum over t of input[q*strides + t*dilations - lo, c] * filter[t, c, m]``

    Args:
        input: (batch, H, W, C), or (batch, C, H, W) with "NCHW".
        filter: (kH, kW, C, multiplier).
        strides: 4 ints in the order of `data_format`.
        padding: "SAME", "VALID", or (lo, hi) for every axis.
        data_format: "NHWC" (default) or "NCHW".
        dilations: 2 ints, or None; above 1 they need strides of 1.
        name: not used.

    Returns:
        (batch, H', W', C * multiplier) in the same layout.

    Raises:
        ValueError: as `conv2d`.
        TypeError: as `conv2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> depthwise_conv2d(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 2)), [1, 1, 1, 1], "SAME").shape
        (1, 8, 8, 6)

    Source: the TensorFlow documentation of tf.nn.depthwise_conv2d.
    """
    layout = Layout.read(data_format, 2)
    w = array(filter, "filter")
    if w.ndim != 4:
        raise ValueError(f"depthwise_conv2d takes a filter (kH, kW, channels, multiplier), got shape {w.shape}")
    x = array(input, "input")
    if x.ndim == 4 and x.shape[layout.channel_axis] != w.shape[2]:
        raise ValueError(f"depthwise_conv2d: input of shape {x.shape} and filter of shape {w.shape} differ in channels")
    steps = layout.steps(strides, "strides", lengths=(4,)), layout.steps(dilations, "dilations", lengths=(2,))
    if max(steps[0]) > 1 and max(steps[1]) > 1:
        raise ValueError(f"depthwise_conv2d takes strides={strides} or dilations={dilations} above 1, not both")
    w = w.reshape(*w.shape[:2], 1, w.shape[2] * w.shape[3])
    return _conv("depthwise_conv2d", layout, x, w, *steps, layout.padding(padding, explicit=True))


# ---------------------------------------------------------------------- one rule for every rank


@in_one_program("input", "filters")
def _conv(name: str, layout: Layout, input, filters, strides, dilations, padding) -> Array:
    x, w = operands(name, layout, input, filters, batch_axes=None)
    channels = x.shape[-layout.rank - 1 + layout.channel_axis - 1]
    if w.shape[-2] < 1 or channels % w.shape[-2]:
        raise ValueError(
            f"{name}: {channels} input channels (shape {x.shape}) are not a multiple of the filters' {w.shape[-2]} "
            f"({w.shape})"
        )
    groups = channels // w.shape[-2]
    if groups < 1 or w.shape[-1] % groups:
        raise ValueError(
            f"{name}: filters of shape {w.shape} on {channels} channels mean {groups} groups, which must divide "
            f"{w.shape[-1]}"
        )
    x = layout.to_core(x)
    size = windowed_sizes(x.shape[-layout.rank - 1 : -1], w.shape[: layout.rank], strides, dilations, padding)
    # TensorFlow gives an empty array.
    if 0 in (*size, w.shape[-1]) and not any_below(size, 0) and 0 not in w.shape[:-1]:
        return layout.from_core(jnp.zeros((*x.shape[: -layout.rank - 1], *size, w.shape[-1]), x.dtype))
    y = ops.conv(
        x,
        w,
        stride=strides,
        padding=padding,
        dilation=dilations,
        groups=groups,
        preferred_element_type=preferred(x.dtype),
    )
    return layout.from_core(y)


def _rank(name: str, filters: Any) -> int:
    w = array(filters, "filters")
    if w.ndim not in (3, 4, 5):
        raise ValueError(f"{name} takes filters of 3 to 5 axes (*kernel_size, in // groups, out), got shape {w.shape}")
    return w.ndim - 2
