"""conv1d/2d/3d and conv_transpose1d/2d/3d with the meaning of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxconv import ops
from jaxconv._checks import any_below, as_index
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, channels_first, channels_last, ints, preferred
from jaxconv.geometry import ConvGeometry

Ints = int | Sequence[int]


def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Array:
    """torch.nn.functional.conv1d: as [`conv2d`][jaxconv.dialects.torch.conv2d] with one spatial axis.

    Example:
        >>> import jax.numpy as jnp
        >>> conv1d(jnp.ones((1, 2, 8)), jnp.ones((4, 2, 3)), stride=2, padding=1).shape
        (1, 4, 4)
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Array:
    """torch.nn.functional.conv2d.

    ``y[o, q] = bias[o] + sum over i, t of input[i, q*stride + t*dilation - padding] * weight[o, i, t]``

    Args:
        input: (batch, in, H, W), or (in, H, W) without a batch.
        weight: (out, in // groups, kH, kW).
        bias: (out,) or None.
        stride: an int, or one int per spatial axis (a tuple of one stands for all).
        padding: zeros on both sides, an int or one int per axis, or "valid", or "same" (needs stride 1; the odd zero
            comes last).
        dilation: spacing of the kernel's taps.
        groups: number of channel groups.

    Returns:
        (batch, out, H', W') of the input's type; integers are summed in their own type.

    Raises:
        ValueError: whatever PyTorch refuses by a RuntimeError: sizes, channels, signs, "same" with a stride.
        TypeError: operands of different types, bools, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d(jnp.ones((1, 2, 8, 8)), jnp.ones((4, 2, 3, 3)), padding="same", dilation=2).shape
        (1, 4, 8, 8)

    Source: the PyTorch documentation of Conv2d.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Array:
    """torch.nn.functional.conv3d: as [`conv2d`][jaxconv.dialects.torch.conv2d] with three spatial axes.

    Example:
        >>> import jax.numpy as jnp
        >>> conv3d(jnp.ones((1, 2, 4, 4, 4)), jnp.ones((3, 2, 3, 3, 3))).shape
        (1, 3, 2, 2, 2)
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Array:
    """torch.nn.functional.conv_transpose1d: as [`conv_transpose2d`][jaxconv.dialects.torch.conv_transpose2d] with one
    spatial axis.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose1d(jnp.ones((1, 2, 4)), jnp.ones((2, 3, 3)), stride=2, padding=1, output_padding=1).shape
        (1, 3, 8)
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Array:
    """torch.nn.functional.conv_transpose2d.

    The output has ``n = (i - 1)*stride - 2*padding + dilation*(k - 1) + 1 + output_padding`` elements an axis.

    Args:
        input: (batch, in, H, W), or (in, H, W) without a batch.
        weight: (in, out // groups, kH, kW).
        bias: (out,) or None.
        stride: an int, or one int per spatial axis.
        padding: padding of the convolution whose transpose this is.
        output_padding: elements added at the end, smaller than the stride or the dilation. Beyond the stride it adds
            positions that no input element reaches unless the dilation does.
        groups: number of channel groups.
        dilation: spacing of the kernel's taps.

    Returns:
        (batch, out, H', W').

    Raises:
        ValueError: sizes, channels and signs that PyTorch refuses.
        TypeError: operands of different types, bools, numbers that are not integers, a padding by name.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose2d(jnp.ones((1, 2, 4, 4)), jnp.ones((2, 3, 4, 4)), stride=2, padding=1).shape
        (1, 3, 8, 8)

    Source: the PyTorch documentation of ConvTranspose2d.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Array:
    """torch.nn.functional.conv_transpose3d: as [`conv_transpose2d`][jaxconv.dialects.torch.conv_transpose2d] with three
    spatial axes.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose3d(jnp.ones((2, 2, 2, 2)), jnp.ones((2, 3, 2, 2, 2)), stride=2).shape
        (3, 4, 4, 4)
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


# ---------------------------------------------------------------------- one rule for every rank


@in_one_program("input", "weight", "bias")
def _conv(rank: int, input, weight, bias, stride, padding, dilation, groups) -> Array:
    x, w, b = _operands(rank, f"conv{rank}d", input, weight, bias)
    stride = ints(stride, "stride", rank, minimum=1, expand_one=True)
    dilation = ints(dilation, "dilation", rank, minimum=1, expand_one=True)
    _check_groups(w, 0, groups)
    if x.shape[-rank - 1] != w.shape[1] * groups:
        raise ValueError(
            f"input of shape {x.shape} has {x.shape[-rank - 1]} channels, but weight of shape {w.shape} with "
            f"groups={groups} takes {w.shape[1] * groups}"
        )
    _check_bias(b, w.shape[0], w)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding={padding!r} is not 'same', 'valid', an integer or {rank} integers")
        if padding == "same" and max(stride) > 1:
            raise ValueError(f"padding='same' is not supported for strided convolutions, got stride={stride}")
        pads: Any = padding.upper()
    else:
        pads = ints(padding, "padding", rank, minimum=0, expand_one=True)
    w = _kernel(w)
    if x.shape[-rank - 1] == 0:
        y = _without_channels(rank, x, w, stride, pads, dilation)
    else:
        x = channels_last(x, rank)
        y = ops.conv(
            x,
            w,
            stride=stride,
            padding=pads,
            dilation=dilation,
            groups=groups,
            preferred_element_type=preferred(x.dtype),
        )
    return channels_first(y if b is None else y + b, rank)


def _without_channels(rank: int, x: Array, w: Array, stride, pads, dilation) -> Array:
    """PyTorch convolves an input of no channels to zeros."""
    g = ConvGeometry.resolve(
        input_size=x.shape[-rank:], kernel_size=w.shape[:rank], stride=stride, padding=pads, dilation=dilation
    )
    return jnp.zeros((*x.shape[: -rank - 1], *g.output_size, w.shape[-1]), x.dtype)


@in_one_program("input", "weight", "bias")
def _conv_transpose(rank: int, input, weight, bias, stride, padding, output_padding, groups, dilation) -> Array:
    y, w, b = _operands(rank, f"conv_transpose{rank}d", input, weight, bias)
    stride = ints(stride, "stride", rank, minimum=1, expand_one=True)
    padding = ints(padding, "padding", rank, minimum=0, expand_one=True)
    extra = ints(output_padding, "output_padding", rank, minimum=0, expand_one=True)
    dilation = ints(dilation, "dilation", rank, minimum=1, expand_one=True)
    _check_groups(w, 0, groups)
    if y.shape[-rank - 1] != w.shape[0]:
        raise ValueError(
            f"input of shape {y.shape} has {y.shape[-rank - 1]} channels, but weight of shape {w.shape} (in, out // "
            f"groups, ...) takes {w.shape[0]}"
        )
    _check_bias(b, w.shape[1] * groups, w)
    if any(e >= s and e >= d for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(
            f"output_padding={extra} must be smaller than either stride={stride} or dilation={dilation} on every axis"
        )
    size = transpose_size(y.shape[-rank:], w.shape[2:], stride, padding, extra, dilation)
    y = channels_last(y, rank)
    # Output padding of a stride or more belongs to the transpose of a larger input that ends in zeros.
    longer = [e // s for e, s in zip(extra, stride, strict=True)]
    if any(longer):
        y = jnp.pad(y, [(0, 0)] * (y.ndim - rank - 1) + [(0, n) for n in longer] + [(0, 0)])
    x = ops.conv_transpose(
        y,
        _kernel(w),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        output_size=size,
        preferred_element_type=preferred(y.dtype),
    )
    return channels_first(x if b is None else x + b, rank)


def transpose_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Output size of PyTorch's transposed convolution, ``(i-1)*s - 2*p + d*(k-1) + 1 + op`` per axis.

    Raises:
        ValueError: where an axis would be empty.

    Example:
        >>> transpose_size((4,), (3,), (2,), (1,), (1,), (1,))
        (8,)
    """
    columns = zip(input_size, kernel_size, stride, padding, output_padding, dilation, strict=True)
    size = tuple((i - 1) * s - 2 * p + d * (k - 1) + 1 + op for i, k, s, p, op, d in columns)
    if any_below(size, 1):
        raise ValueError(
            f"input size {tuple(input_size)} with kernel {tuple(kernel_size)}, stride={tuple(stride)}, "
            f"padding={tuple(padding)}, "
            f"output_padding={tuple(output_padding)}, dilation={tuple(dilation)} gives an output of size {size}, which "
            f"is empty"
        )
    return size


def _kernel(w: Array) -> Array:
    """(out, in/g, *k) or (in, out/g, *k) to the core's (*k, in/g, out), with no flip."""
    return jnp.transpose(w, (*range(2, w.ndim), 1, 0))


def _operands(rank: int, name: str, input, weight, bias) -> tuple[Array, Array, Array | None]:
    x, w = array(input, "input"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    if w.ndim != rank + 2:
        raise ValueError(f"{name} takes a weight of {rank + 2} axes, got shape {w.shape}")
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{name} takes an input of {rank + 1} axes (unbatched) or {rank + 2} axes (batched), got shape {x.shape}"
        )
    types = {"input": x.dtype, "weight": w.dtype} | ({} if b is None else {"bias": b.dtype})
    if len(set(types.values())) > 1:
        given = ", ".join(f"{k} {v}" for k, v in types.items())
        raise TypeError(f"{name}: all operands must have the same type, got {given}")
    if x.dtype == jnp.bool_:
        raise TypeError(f"{name} is not defined for bool")
    if 0 in x.shape[-rank:]:
        raise ValueError(f"{name}: only the batch and the channels may be empty, got an input of shape {x.shape}")
    return x, w, b


def _check_groups(w: Array, axis: int, groups: Any) -> None:
    groups = as_index(groups, "groups")
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")
    if w.shape[axis] < groups or w.shape[axis] % groups:
        raise ValueError(f"weight of shape {w.shape}: axis {axis} must be a multiple of groups={groups}")


def _check_bias(b: Array | None, channels: int, w: Array) -> None:
    if b is not None and b.shape != (channels,):
        raise ValueError(f"bias must have shape ({channels},) for weight of shape {w.shape}, got {b.shape}")
