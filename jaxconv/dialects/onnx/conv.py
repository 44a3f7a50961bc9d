"""Conv and ConvTranspose of the ONNX standard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv import ops
from jaxconv._checks import any_below
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import channels_first, channels_last, ints, preferred
from jaxconv.dialects.onnx import _attributes as at


@in_one_program("X", "W", "B")
def Conv(
    X: ArrayLike,
    W: ArrayLike,
    B: ArrayLike | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    opset: int | None = None,
) -> Array:
    """ONNX Conv.

    ``Y[o, q] = B[o] + sum over i, t of X[i, q*strides + t*dilations - begin] * W[o, i, t]``

    Args:
        X: (batch, in, *spatial), any number of spatial axes.
        W: (out, in // group, *kernel_shape).
        B: (out,) or None.
        auto_pad: "NOTSET" (use `pads`), "SAME_UPPER" (the odd zero at the end), "SAME_LOWER" (at the beginning) or
            "VALID".
        dilations: one per spatial axis, default 1.
        group: number of channel groups.
        kernel_shape: checked against W.
        pads: all begins, then all ends.
        strides: one per spatial axis, default 1.
        opset: operator set; None is the latest.

    Returns:
        (batch, out, *output_size).

    Raises:
        ValueError: shapes, names and numbers that do not fit.
        TypeError: operands of different types, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> Conv(jnp.ones((1, 2, 8, 8)), jnp.ones((4, 2, 3, 3)), auto_pad="SAME_UPPER", strides=[2, 2]).shape
        (1, 4, 4, 4)

    Source: the ONNX operator Conv, version 22.
    """
    at.since("Conv", opset, 1, {})
    x, w, b, rank = at.convolution_operands("Conv", X, W, B, kernel_shape)
    g = at.check_groups("Conv", group, x, w, w.shape[1])
    at.check_bias("Conv", b, w.shape[0])
    y = ops.conv(
        channels_last(x, rank),
        _kernel(w),
        stride=at.steps(strides, "strides", rank),
        padding=at.forward_padding(auto_pad, pads, rank),
        dilation=at.steps(dilations, "dilations", rank),
        groups=g,
        preferred_element_type=preferred(x.dtype),
    )
    return channels_first(y if b is None else y + b, rank)


@in_one_program("X", "W", "B")
def ConvTranspose(
    X: ArrayLike,
    W: ArrayLike,
    B: ArrayLike | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    opset: int | None = None,
) -> Array:
    """ONNX ConvTranspose.

    With ``full = strides*(i-1) + output_padding + dilations*(k-1) + 1`` the output has ``n = full - begin - end``
    elements an axis. Where n is given, by `output_shape` or as ``i*strides`` by a SAME rule, the pads follow: begin is
    ``floor((full - n)/2)`` for "SAME_UPPER" and the other half for everything else.

    Args:
        X: (batch, in, *spatial), any number of spatial axes.
        W: (in, out // group, *kernel_shape).
        B: (out,) or None.
        auto_pad: "NOTSET", "SAME_UPPER", "SAME_LOWER" or "VALID".
        dilations: one per spatial axis, default 1.
        group: number of channel groups.
        kernel_shape: checked against W.
        output_padding: elements added at the end, one per spatial axis.
        output_shape: spatial size of the result; then `pads` are ignored.
        pads: all begins, then all ends.
        strides: one per spatial axis, default 1.
        opset: operator set; None is the latest.

    Returns:
        (batch, out, *n).

    Raises:
        ValueError: shapes, names and numbers that do not fit, an empty output.
        TypeError: operands of different types, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> ConvTranspose(jnp.ones((1, 2, 4)), jnp.ones((2, 3, 3)), strides=[2], output_shape=[8]).shape
        (1, 3, 8)

    Source: the ONNX operator ConvTranspose, version 22.
    """
    at.since("ConvTranspose", opset, 1, {})
    x, w, b, rank = at.convolution_operands("ConvTranspose", X, W, B, kernel_shape)
    g = at.check_groups("ConvTranspose", group, x, w, w.shape[0])
    at.check_bias("ConvTranspose", b, w.shape[1] * g)
    stride, dilation = at.steps(strides, "strides", rank), at.steps(dilations, "dilations", rank)
    extra = (0,) * rank if output_padding is None else ints(output_padding, "output_padding", rank, minimum=0)
    natural = tuple(
        s * (i - 1) + d * (k - 1) + 1 for i, k, s, d in zip(x.shape[2:], w.shape[2:], stride, dilation, strict=True)
    )
    full = tuple(n + e for n, e in zip(natural, extra, strict=True))
    begin, size = _begin_and_size(auto_pad, pads, output_shape, x.shape[2:], stride, full)
    # The forward convolution's high pads are whatever maps the output back to the input; only the begin places the
    # values.
    forward = tuple((lo, k - n - lo) for lo, k, n in zip(begin, natural, size, strict=True))
    y = ops.conv_transpose(
        channels_last(x, rank),
        _kernel(w),
        stride=stride,
        padding=forward,
        dilation=dilation,
        groups=g,
        output_size=size,
        preferred_element_type=preferred(x.dtype),
    )
    return channels_first(y if b is None else y + b, rank)


def _begin_and_size(
    auto_pad: str, pads: Any, output_shape: Any, sizes: Sequence[int], stride: Sequence[int], full: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = len(sizes)
    if output_shape is not None:
        at.listed(output_shape, "output_shape")
        size = ints(output_shape, "output_shape", rank, minimum=1)
        rule = at.check_auto_pad(auto_pad, None)
    else:
        rule = at.check_auto_pad(auto_pad, pads)
        if not rule.startswith("SAME"):
            pairs = at.pad_pairs(pads, rank)
            size = tuple(f - lo - hi for f, (lo, hi) in zip(full, pairs, strict=True))
            if any_below(size, 1):
                raise ValueError(
                    f"ConvTranspose: pads={pads!r} take away more than the full size {tuple(full)}, giving {size}"
                )
            return tuple(lo for lo, _ in pairs), size
        size = tuple(i * s for i, s in zip(sizes, stride, strict=True))
    total = tuple(f - n for f, n in zip(full, size, strict=True))
    return tuple(t // 2 if rule == "SAME_UPPER" else t - t // 2 for t in total), size


def _kernel(w: Array) -> Array:
    return jnp.transpose(w, (*range(2, w.ndim), 1, 0))
