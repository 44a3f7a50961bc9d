"""jax.lax.conv_transpose with lax's own rules, and the channel groups that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from jaxconv import ops
from jaxconv._checks import any_below, as_index, is_sequence
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, ints, preferred

Pads = tuple[tuple[int, int], ...]

_LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


@in_one_program("lhs", "rhs")
def conv_transpose(
    lhs: ArrayLike,
    rhs: ArrayLike,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    use_consistent_padding: bool = False,
    *,
    feature_group_count: int = 1,
) -> Array:
    """jax.lax.conv_transpose: a convolution of stride 1 over the input with strides - 1 zeros between its elements.

    Without `transpose_kernel` the kernel is not flipped: ``out[u, o] = sum over i, t of dilated[u + t*rhs_dilation -
    lo, i] * rhs[t, i, o]``. With (lo, hi) the pads of the dilated input and ``K = d*(k-1) + 1`` the output has
    ``(i-1)*s + 2 - K + lo + hi`` elements; "SAME" gives ``i*s`` with a total pad of ``K + s - 2``, "VALID" gives
    ``(i-1)*s + max(K, s)``.

    Args:
        lhs: input, in the layout of `dimension_numbers` (default: batch first, channels last).
        rhs: kernel, default (*kernel_size, in, out); with `transpose_kernel` (*kernel_size, out, in), flipped for use.
            With groups the axis named I holds in // groups, or with `transpose_kernel` out // groups: then `rhs` is the
            forward convolution's kernel.
        strides: s, one int per spatial axis.
        padding: "SAME", "VALID", or (lo, hi) per axis: pads of the dilated input, not of the forward convolution.
        rhs_dilation: spacing of the kernel's taps, one int per axis, default 1.
        dimension_numbers: as in `jax.lax.conv_general_dilated`.
        transpose_kernel: flip the kernel and exchange its channel axes.
        precision: as in lax.
        preferred_element_type: dtype of the result; integers keep their own type by default.
        use_consistent_padding: take numbers in `padding` as the forward convolution's: size ``(i-1)*s + K - lo - hi``.
        feature_group_count: channel groups, which lax's function does not have.

    Returns:
        The output in the layout of `dimension_numbers`.

    Raises:
        ValueError: layouts, channels, sizes and names that do not fit, and outputs of size 0 (lax returns these without
            a word).
        TypeError: operands of different types, numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), (2, 2), "SAME").shape
        (1, 8, 8, 5)

    Source: the JAX documentation of conv_transpose.
    """
    x, w = array(lhs, "lhs"), array(rhs, "rhs")
    if x.ndim != w.ndim or x.ndim < 2:
        raise ValueError(
            f"lhs and rhs must have the same number of axes, two at least, got shapes {x.shape} and {w.shape}"
        )
    if x.dtype != w.dtype:
        raise TypeError(f"lhs and rhs must have the same type, got {x.dtype} and {w.dtype}")
    rank = x.ndim - 2
    if rank == 0:
        return _without_space(
            x, w, strides, padding, dimension_numbers, transpose_kernel, precision, preferred_element_type
        )
    numbers = _numbers(x, w, dimension_numbers)
    x = jnp.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    w = jnp.transpose(w, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    kernel = forward_kernel(w, as_index(feature_group_count, "feature_group_count"), bool(transpose_kernel))
    stride = ints(strides, "strides", rank, minimum=1)
    dilation = (1,) * rank if rhs_dilation is None else ints(rhs_dilation, "rhs_dilation", rank, minimum=1)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(w.shape[:rank], dilation, strict=True))
    pads = dilated_pads(padding, extent, stride, bool(use_consistent_padding))
    size, forward = forward_of(x.shape[1:-1], extent, stride, pads, padding)
    y = ops.conv_transpose(
        x,
        kernel,
        stride=stride,
        padding=forward,
        dilation=dilation,
        groups=feature_group_count,
        output_size=size,
        precision=precision,
        preferred_element_type=preferred(x.dtype) if preferred_element_type is None else preferred_element_type,
    )
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(y, [order.index(axis) for axis in range(y.ndim)])


def _numbers(x: Array, w: Array, dimension_numbers: Any) -> lax.ConvDimensionNumbers:
    """The layout as axes, lax's own defaults where none is given."""
    rank = x.ndim - 2
    if dimension_numbers is None and rank not in _LAYOUTS:
        raise ValueError(f"{rank} spatial axes have no default layout, give dimension_numbers (lhs of shape {x.shape})")
    layout = _LAYOUTS[rank] if dimension_numbers is None else dimension_numbers
    try:
        return lax.conv_dimension_numbers(x.shape, w.shape, layout)
    except TypeError as e:
        raise ValueError(f"dimension_numbers={layout!r} does not fit shapes {x.shape} and {w.shape}: {e}") from None


def dilated_pads(
    padding: str | Sequence[tuple[int, int]], extent: Sequence[int], stride: Sequence[int], consistent: bool
) -> Pads:
    """Pads of the dilated input, (lo, hi) per axis, by lax's rules.

    Args:
        padding: "SAME", "VALID" or (lo, hi) per axis.
        extent: K = d*(k-1) + 1 per axis.
        stride: s per axis.
        consistent: whether numbers are the forward convolution's.

    Returns:
        (lo, hi) per axis.

    Raises:
        ValueError: another name, another number of pairs.

    Example:
        >>> dilated_pads("SAME", (3,), (2,), False)
        ((2, 1),)
    """
    rank = len(extent)
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding={padding!r} is not 'SAME', 'VALID' or (lo, hi) per axis")
        rule = _same if padding == "SAME" else _valid
        return tuple(rule(k, s) for k, s in zip(extent, stride, strict=True))
    pairs: list[Any] | None = list(padding) if is_sequence(padding) else None
    if pairs is None or len(pairs) != rank or any(not is_sequence(p) or len(p) != 2 for p in pairs):
        raise ValueError(f"padding={padding!r} must be 'SAME', 'VALID' or {rank} pairs (lo, hi)")
    numbers = tuple((as_index(lo, "padding"), as_index(hi, "padding")) for lo, hi in pairs)
    if not consistent:
        return numbers
    return tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(extent, numbers, strict=True))


def _same(extent: int, stride: int) -> tuple[int, int]:
    total = extent + stride - 2
    low = extent - 1 if stride > extent - 1 else -(-total // 2)
    return low, total - low


def _valid(extent: int, stride: int) -> tuple[int, int]:
    return extent - 1, max(extent, stride) - 1


def forward_of(
    sizes: Sequence[int], extent: Sequence[int], stride: Sequence[int], pads: Pads, padding: Any
) -> tuple[tuple[int, ...], Pads]:
    """Output size, and the pads of the forward convolution that maps it back to `sizes`.

    Args:
        sizes: spatial size of the dilated convolution's input.
        extent: K = d*(k-1) + 1 per axis.
        stride: s per axis.
        pads: (lo, hi) per axis of the dilated input.
        padding: what the user gave, for the message.

    Returns:
        (output size, pads of the forward convolution).

    Raises:
        ValueError: an empty output.

    Example:
        >>> forward_of((4,), (3,), (2,), ((2, 1),), "SAME")
        ((8,), ((0, 1),))
    """
    columns = list(zip(sizes, extent, stride, pads, strict=True))
    size = tuple((i - 1) * s + 2 - k + lo + hi for i, k, s, (lo, hi) in columns)
    if any_below(size, 1):
        raise ValueError(
            f"padding={padding!r} gives an output of size {size}, which is empty: input {tuple(sizes)}, strides "
            f"{tuple(stride)}, "
            f"kernel extent {tuple(extent)}, pads of the dilated input {pads}"
        )
    forward = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(extent, pads, strict=True))
    return size, forward


def forward_kernel(w: Array, groups: int, transposed: bool) -> Array:
    """The kernel (*k, I, O) of lax as that of the forward convolution whose transpose is asked for.

    Args:
        w: kernel; (*k, in // groups, out), or where `transposed` (*k, out // groups, in).
        groups: number of channel groups.
        transposed: lax's `transpose_kernel`.

    Returns:
        (*k, out // groups, in).

    Raises:
        ValueError: channels that `groups` does not divide.

    Example:
        >>> import jax.numpy as jnp
        >>> forward_kernel(jnp.ones((3, 2, 6)), 2, False).shape
        (3, 3, 4)
    """
    if groups < 1 or w.shape[-1] % groups:
        raise ValueError(
            f"feature_group_count={groups} does not divide the {w.shape[-1]} channels of the kernel {w.shape}"
        )
    if transposed:
        return w
    *taps, per_group, out = w.shape
    w = jnp.flip(w, tuple(range(len(taps)))).reshape(*taps, per_group, groups, out // groups)
    return jnp.moveaxis(w, (-1, -2, -3), (-3, -2, -1)).reshape(*taps, out // groups, groups * per_group)


def _without_space(
    x, w, strides, padding, dimension_numbers, transpose_kernel, precision, preferred_element_type
) -> Array:
    """No spatial axis, ("NC", "IO", "NC"): one axis of size 1 is added and taken away."""
    if len(strides) or (dimension_numbers is not None and tuple(dimension_numbers) != ("NC", "IO", "NC")):
        raise ValueError(
            f"operands of 2 axes have no spatial axis: strides={strides!r}, dimension_numbers={dimension_numbers!r} "
            f"must be () and ('NC', 'IO', 'NC')"
        )
    y = conv_transpose(
        x[:, None], w[None], (1,), "VALID", None, None, transpose_kernel, precision, preferred_element_type
    )
    return y[:, 0]
