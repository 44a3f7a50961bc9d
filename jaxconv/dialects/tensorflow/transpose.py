"""Transposed convolutions with the meaning of tf.nn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv import ops
from jaxconv._checks import as_index, is_open
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import ints, preferred, static
from jaxconv.dialects.tensorflow._layout import Layout, operands, windowed_sizes

Steps = int | Sequence[int]
Padding = str | Sequence[Sequence[int]]


def conv1d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Sequence[int],
    strides: Steps,
    padding: str = "SAME",
    data_format: str = "NWC",
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv1d_transpose: as [`conv2d_transpose`][jaxconv.dialects.tensorflow.conv2d_transpose] with one spatial
    axis.

    Example:
        >>> import jax.numpy as jnp
        >>> conv1d_transpose(jnp.ones((1, 4, 2)), jnp.ones((3, 5, 2)), [1, 7, 5], 2).shape
        (1, 7, 5)
    """
    layout = Layout.read(data_format, 1, any_rank=True)
    steps = layout.steps(strides, "strides"), layout.steps(dilations, "dilations")
    pads = layout.padding(padding, explicit=False)
    return _transpose("conv1d_transpose", layout, input, filters, output_shape, *steps, pads)


def conv2d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Sequence[int],
    strides: Steps,
    padding: Padding = "SAME",
    data_format: str = "NHWC",
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv2d_transpose: the transpose of conv2d that has `output_shape`.

    A size n is legal where conv2d maps it to the input's size i: ``i = ceil(n/s)`` for "SAME", ``i = ceil((n-K+1)/s)``
    for "VALID".

    Args:
        input: (batch, H, W, in), or (batch, in, H, W) with "NCHW".
        filters: (kH, kW, out // groups, in), the kernel of the convolution whose transpose this is.
        output_shape: the shape of the result in the order of `data_format`, or (H', W'); its channels over the filters'
            give the groups.
        strides: an int, or 1, 2 or 4 ints.
        padding: of that convolution: "SAME", "VALID", or (lo, hi) for every axis.
        data_format: "NHWC" or "NCHW".
        dilations: spacing of the taps, as `strides`.
        name: not used.

    Returns:
        An array of shape `output_shape`.

    Raises:
        ValueError: an output shape that could not have produced the input (the message names the legal sizes), and as
            `conv2d`.
        TypeError: as `conv2d`; an output shape that is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d_transpose(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 5, 2)), [1, 8, 7, 5], 2).shape
        (1, 8, 7, 5)

    Source: the TensorFlow documentation of tf.nn.conv2d_transpose.
    """
    layout = Layout.read(data_format, 2)
    steps = layout.steps(strides, "strides"), layout.steps(dilations, "dilations")
    pads = layout.padding(padding, explicit=True)
    return _transpose("conv2d_transpose", layout, input, filters, output_shape, *steps, pads)


def conv3d_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Sequence[int],
    strides: Steps,
    padding: str = "SAME",
    data_format: str = "NDHWC",
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv3d_transpose: as [`conv2d_transpose`][jaxconv.dialects.tensorflow.conv2d_transpose] with three spatial
    axes.

    Example:
        >>> import jax.numpy as jnp
        >>> conv3d_transpose(jnp.ones((1, 2, 2, 2, 2)), jnp.ones((3, 3, 3, 5, 2)), [1, 4, 4, 3, 5], 2).shape
        (1, 4, 4, 3, 5)
    """
    layout = Layout.read(data_format, 3)
    steps = layout.steps(strides, "strides"), layout.steps(dilations, "dilations")
    pads = layout.padding(padding, explicit=False)
    return _transpose("conv3d_transpose", layout, input, filters, output_shape, *steps, pads)


def conv_transpose(
    input: ArrayLike,
    filters: ArrayLike,
    output_shape: Sequence[int],
    strides: Steps,
    padding: Padding = "SAME",
    data_format: str | None = None,
    dilations: Steps | None = None,
    name: str | None = None,
) -> Array:
    """tf.nn.conv_transpose: conv1d_transpose, conv2d_transpose or conv3d_transpose by the length of `output_shape`.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose(jnp.ones((1, 4, 2)), jnp.ones((3, 5, 2)), [1, 8, 5], 2).shape
        (1, 8, 5)
    """
    shape = _shape(output_shape)
    if len(shape) not in (3, 4, 5):
        raise ValueError(f"output_shape={shape} must have 3, 4 or 5 entries")
    layout = Layout.read(data_format, len(shape) - 2)
    steps = layout.steps(strides, "strides"), layout.steps(dilations, "dilations")
    pads = layout.padding(padding, explicit=layout.rank == 2)
    return _transpose("conv_transpose", layout, input, filters, shape, *steps, pads)


def atrous_conv2d_transpose(
    value: ArrayLike,
    filters: ArrayLike,
    output_shape: Sequence[int],
    rate: int,
    padding: str,
    name: str | None = None,
) -> Array:
    """tf.nn.atrous_conv2d_transpose: the transpose of atrous_conv2d, NHWC.

    Example:
        >>> import jax.numpy as jnp
        >>> atrous_conv2d_transpose(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 5, 2)), [1, 8, 8, 5], 2, "VALID").shape
        (1, 8, 8, 5)
    """
    layout = Layout(2, True)
    shape, dilation = _shape(output_shape), ints(rate, "rate", 2, minimum=1)
    if len(shape) != 4:
        raise ValueError(f"output_shape={shape} must have 4 entries")
    pads = layout.padding(padding, explicit=False)
    return _transpose("atrous_conv2d_transpose", layout, value, filters, shape, (1, 1), dilation, pads)


# ---------------------------------------------------------------------- one rule for every rank


@in_one_program("input", "filters")
def _transpose(name: str, layout: Layout, input, filters, output_shape, strides, dilations, padding) -> Array:
    y, w = operands(name, layout, input, filters, batch_axes=1)
    shape, rank = _shape(output_shape), layout.rank
    if len(shape) == 2 and rank == 2:
        size, channels = shape, w.shape[-2]
    elif len(shape) == rank + 2:
        size, channels = layout.spatial(shape), shape[layout.channel_axis]
        if shape[0] != y.shape[0]:
            raise ValueError(
                f"{name}: output_shape={shape} has a batch of {shape[0]}, the input of shape {y.shape} has {y.shape[0]}"
            )
    else:
        raise ValueError(f"{name}: output_shape={shape} must have {rank + 2} entries")
    if w.shape[-2] < 1 or channels < 1 or channels % w.shape[-2]:
        raise ValueError(
            f"{name}: {channels} output channels (output_shape={shape}) are not a multiple of the filters' "
            f"{w.shape[-2]} ({w.shape})"
        )
    if y.shape[layout.channel_axis] != w.shape[-1]:
        raise ValueError(
            f"{name}: the input of shape {y.shape} has {y.shape[layout.channel_axis]} channels, filters {w.shape} "
            f"(*kernel, out, in) take {w.shape[-1]}"
        )
    y = layout.to_core(y)
    if 0 in y.shape[1:-1] and y.shape[1:-1] == windowed_sizes(size, w.shape[:rank], strides, dilations, padding):
        return layout.from_core(jnp.zeros((y.shape[0], *size, channels), y.dtype))  # as TensorFlow: nothing to add up
    x = ops.conv_transpose(
        y,
        w,
        stride=strides,
        padding=padding,
        dilation=dilations,
        groups=channels // w.shape[-2],
        output_size=size,
        preferred_element_type=preferred(y.dtype),
    )
    return layout.from_core(x)


def _shape(output_shape: Any) -> tuple[int, ...]:
    if isinstance(output_shape, (str, bytes)) or not hasattr(output_shape, "__len__"):
        raise TypeError(f"output_shape={output_shape!r} must be a list of integers")
    if hasattr(output_shape, "dtype"):
        output_shape = static(output_shape, "output_shape").tolist()
    return tuple(n if is_open([n]) else as_index(n, "output_shape") for n in output_shape)
