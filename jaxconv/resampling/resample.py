"""Resizing, pixel shuffles, and windows as columns, for data (*batch, *spatial, channels) of any rank.

In a jaxpr each function is one jitted call named `resize`, `pixel_shuffle`, `pixel_unshuffle`, `unfold` or `fold`
(the `name` parameter of the `jit` equation).
"""

from collections.abc import Sequence
from math import floor, prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv._checks import is_open, is_sequence, per_axis, plain, refuse_open, refuse_rest
from jaxconv._compat import left_to_the_partitioner, mesh_divides, sharded_from
from jaxconv._eager import in_one_program
from jaxconv._hints import hinting
from jaxconv.resampling import columns, open_sizes
from jaxconv.resampling.axis_maps import resize_map
from jaxconv.resampling.axis_reads import apply_axis_maps
from jaxconv.resampling.windows import (
    AxisWindow,
    Ints,
    Padding,
    add_axis_taps,
    axis_taps,
    named,
    on_sharded_axes,
    pad_axis,
    resolve_windows,
    spatial_rank,
    spatial_sizes,
)

_METHODS = ("nearest", "nearest-exact", "linear", "cubic", "area")


@in_one_program("x")
@hinting
def resize(
    x: ArrayLike,
    size: Ints | None = None,
    *,
    scale: float | Sequence[float] | None = None,
    method: str = "linear",
    align_corners: bool = False,
    antialias: bool = False,
    cubic_coeff: float | None = None,
) -> Array:
    """Resize the spatial axes, each by its own small matrix.

    y = (A_1 x A_2 x ...) x with one (out, in) matrix an axis. Output o lies at (o + 1/2) n / m - 1/2 on the input's
    grid (n -> m samples), or with `align_corners` at o (n - 1) / (m - 1), and at 0 where m = 1; samples beyond the ends
    repeat the last one.

    Args:
      x: (*batch, *spatial, channels). Floats of less than 32 bits accumulate in float32. Integers of up to 16 bits,
        images say, are computed in float32 (of 32 bits, in jax's x64 mode, in float64), rounded (halves up, as Pillow
        and PyTorch do) and cut at the ends of their type's range; wider integers and bools go with the nearest methods
        only.
      size: output size, one for all spatial axes (every axis but the first and the last) or one per spatial axis.
      scale: output over input size instead; the output size is floor(n * scale), where a product within rounding
        of a whole number is that number (120 / 88 of 88 is 120), and the coordinates follow the scale as given, not
        the rounded size. Give the size to have it the other way.
      method: "nearest" (sample floor(o n / m)), "nearest-exact" (sample floor((o + 1/2) n / m)), "linear", "cubic",
        or "area" (mean over floor(o n / m) .. ceil((o + 1) n / m) - 1).
      align_corners: put the first and last output on the first and last input; for "linear" and "cubic".
      antialias: widen the kernel where the axis shrinks; for "linear" and "cubic". Weights beyond the ends are then
        dropped and the others scaled up.
      cubic_coeff: a of the cubic kernel; -0.75 by default, -0.5 with `antialias`.

    Returns:
      (*batch, *size, channels), of x's type. TPUs multiply by the matrices: there a NaN or an infinity spreads along
      the axes that are resized, as in jax.image; across batch and channels nothing spreads on any platform.

    Raises:
      ValueError, TypeError: where an argument is out of range; the message names it.

    >>> import jax.numpy as jnp
    >>> resize(jnp.asarray([0.0, 4.0]).reshape(1, 2, 1), 4).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    x = jnp.asarray(x)
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(_METHODS)}")
    if (align_corners or antialias) and method not in ("linear", "cubic"):
        flag = "align_corners" if align_corners else "antialias"
        raise ValueError(f"{flag}=True has a meaning for method 'linear' and 'cubic' only, not for {method!r}")
    if cubic_coeff is not None and method != "cubic":
        raise ValueError(f"cubic_coeff={cubic_coeff!r} goes with method='cubic', not with {method!r}")
    rounds = not method.startswith("nearest") and not jnp.issubdtype(x.dtype, jnp.inexact)
    if rounds and (x.dtype == jnp.bool_ or jnp.iinfo(x.dtype).bits > jnp.finfo(jnp.zeros((), float).dtype).bits // 2):
        raise TypeError(
            f"method={method!r} needs floating-point data or integers of at most 16 bits (32 with jax_enable_x64), got "
            f"{x.dtype}; the nearest methods take any type"
        )
    if (size is None) == (scale is None):
        raise ValueError(f"give either size or scale, got size={size!r} and scale={scale!r}")
    rank = spatial_rank(x.ndim, f"shape {x.shape}", size=size, scale=scale)
    inputs = x.shape[x.ndim - rank - 1 : -1]
    wanted = plain(size)
    if is_open((*inputs, *(wanted if isinstance(wanted, Sequence) else (wanted or 1,)))):
        return open_sizes.resize(x, size, _scales(scale, rank), method, align_corners, antialias, cubic_coeff)
    if min(inputs) < 1:
        raise ValueError(f"cannot resize an empty axis: shape {x.shape}")
    scales = _scales(scale, rank)
    if size is not None:
        outputs = per_axis(size, "size", rank, 1)
    else:
        outputs = tuple(_scaled(n, s) for n, s in zip(inputs, scales) if s is not None)
        if min(outputs) < 1:
            raise ValueError(f"scale={scale!r} leaves nothing of spatial sizes {inputs}")
    maps = tuple(
        resize_map(n, m, method, align_corners=align_corners, antialias=antialias, scale=s, cubic_coeff=cubic_coeff)
        for n, m, s in zip(inputs, outputs, scales)
    )
    if not rounds:
        return apply_axis_maps(x, maps)
    limits = jnp.iinfo(x.dtype)
    y = jnp.floor(apply_axis_maps(x.astype(jnp.float32 if limits.bits <= 16 else jnp.float64), maps) + 0.5)
    return jnp.clip(y, limits.min, limits.max).astype(x.dtype)


def _scaled(n: int, scale: float) -> int:
    """floor(n * scale), where a product that only rounding keeps below a whole number is that number."""
    exact = n * scale
    whole = round(exact)
    return whole if abs(exact - whole) <= 4 * np.finfo(float).eps * exact else floor(exact)


def _scales(scale: Any, rank: int) -> tuple[float | None, ...]:
    if scale is None:
        return (None,) * rank
    values = tuple(scale) if is_sequence(scale) else (scale,) * rank
    if any(isinstance(s, bool) or not isinstance(s, (int, float, np.number)) or not 0 < s < np.inf for s in values):
        raise ValueError(f"scale={scale!r} must be positive numbers")
    return tuple(float(s) for s in values)


# ---------------------------------------------------------------------------------------------------------- shuffles
@in_one_program("x")
@hinting
def pixel_shuffle(x: ArrayLike, factor: Ints, *, order: str = "CRD") -> Array:
    """Move channels into space: (*batch, *spatial, C * prod(r)) to (*batch, *(spatial * r), C).

    y[q * r + t, c] = x[q, c * prod(r) + flat(t)] with order "CRD" (channel first, Shi et al. 2016, eq. (4)), or
    x[q, flat(t) * C + c] with order "DCR" (depth to space).

    Args:
      x: (*batch, *spatial, C * prod(r)).
      factor: r, one for all spatial axes (every axis but the first and the last) or one per spatial axis.
      order: "CRD" or "DCR".

    Returns:
      (*batch, *(spatial * r), C).

    Raises:
      ValueError, TypeError: where the channels are not a multiple of prod(r), or an argument is out of range.

    >>> import jax.numpy as jnp
    >>> pixel_shuffle(jnp.arange(4).reshape(1, 2, 2), 2).ravel().tolist()
    [0, 1, 2, 3]
    """
    x = jnp.asarray(x)
    factors = _factors(x, factor, order)
    if x.shape[-1] % int(np.prod(factors)):
        raise ValueError(f"{x.shape[-1]} channels are not a multiple of {int(np.prod(factors))} (factor={factor!r})")
    return _pixel_shuffle(x, factors, order)


@in_one_program("x")
@hinting
def pixel_unshuffle(x: ArrayLike, factor: Ints, *, order: str = "CRD") -> Array:
    """Move space into channels: the inverse of `pixel_shuffle`.

    y[q, c * prod(r) + flat(t)] = x[q * r + t, c] with order "CRD", flat(t) * C + c with "DCR".

    Args:
      x: (*batch, *spatial, C), sizes multiples of r.
      factor: r, one for all spatial axes (every axis but the first and the last) or one per spatial axis.
      order: "CRD" or "DCR", as for `pixel_shuffle`.

    Returns:
      (*batch, *(spatial / r), C * prod(r)).

    Raises:
      ValueError, TypeError: where a size is not a multiple of its factor, or an argument is out of range.

    >>> import jax.numpy as jnp
    >>> pixel_unshuffle(jnp.arange(4).reshape(1, 4, 1), 2).shape
    (1, 2, 2)
    """
    x = jnp.asarray(x)
    factors = _factors(x, factor, order)
    sizes = x.shape[x.ndim - 1 - len(factors) : -1]
    refuse_rest(sizes, factors, f"spatial sizes {sizes} are not multiples of factor={factor!r}")
    return _pixel_unshuffle(x, factors, order)


def _factors(x: Array, factor: Ints, order: str) -> tuple[int, ...]:
    if order not in ("CRD", "DCR"):
        raise ValueError(f"order={order!r} is neither 'CRD' nor 'DCR'")
    return per_axis(factor, "factor", spatial_rank(x.ndim, f"shape {x.shape}", factor=factor), 1)


def _pixel_shuffle_impl(x: Array, factors: tuple[int, ...], order: str) -> Array:
    first, count = x.ndim - len(factors) - 1, int(np.prod(factors))
    sizes = (n * r for n, r in zip(x.shape[first:-1], factors))
    return _rearranged(_to_space, x, factors, order, (*x.shape[:first], *sizes, x.shape[-1] // count))


def _pixel_unshuffle_impl(x: Array, factors: tuple[int, ...], order: str) -> Array:
    first, count = x.ndim - len(factors) - 1, int(np.prod(factors))
    sizes = (n // r for n, r in zip(x.shape[first:-1], factors))
    return _rearranged(_to_channels, x, factors, order, (*x.shape[:first], *sizes, x.shape[-1] * count))


def _rearranged(rearrange, x: Array, factors: tuple[int, ...], order: str, shape: tuple[int, ...]) -> Array:
    # On Explicit meshes jax splits and joins a sharded axis only where it stays outermost and its parts fit the mesh.
    if mesh_divides(x, shape) and not (order == "DCR" and sharded_from(x, -1)):
        return rearrange(x, factors, order)
    return left_to_the_partitioner(lambda x: rearrange(x, factors, order), x)


def _to_space(x: Array, factors: tuple[int, ...], order: str) -> Array:
    rank = len(factors)
    b, c = x.ndim - rank - 1, x.shape[-1] // int(np.prod(factors))
    x = x.reshape(x.shape[:-1] + ((c, *factors) if order == "CRD" else (*factors, c)))
    first = b + rank + (order == "CRD")  # axis of the first factor
    channel = b + rank if order == "CRD" else x.ndim - 1
    pairs = [axis for a in range(rank) for axis in (b + a, first + a)]
    x = lax.transpose(x, (*range(b), *pairs, channel))
    for axis in range(b, b + rank):  # one pair at a time: a reshape that keeps explicit shardings
        x = x.reshape(x.shape[:axis] + (x.shape[axis] * x.shape[axis + 1],) + x.shape[axis + 2 :])
    return x


def _to_channels(x: Array, factors: tuple[int, ...], order: str) -> Array:
    rank = len(factors)
    b, c = x.ndim - rank - 1, x.shape[-1]
    for a in reversed(range(rank)):
        n, r = x.shape[b + a], factors[a]
        x = x.reshape(x.shape[: b + a] + (n // r, r) + x.shape[b + a + 1 :])
    space, inside = (tuple(b + 2 * a + i for a in range(rank)) for i in (0, 1))
    channel = (x.ndim - 1,)
    x = lax.transpose(x, (*range(b), *space, *((*channel, *inside) if order == "CRD" else (*inside, *channel))))
    return x.reshape(x.shape[: b + rank] + (c * int(np.prod(factors)),))


# ----------------------------------------------------------------------------------------------------------- windows
@in_one_program("x")
@hinting
def unfold(x: ArrayLike, window: Ints, *, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1) -> Array:
    """The window under every output position, laid out as channels.

    cols[q, flat(t) * C + c] = x[q * stride + t * dilation - low, c], zero in the pads, so that
    `unfold(x, k, ...) @ w.reshape(-1, w.shape[-1])` is `conv(x, w, ...)` for a kernel w of (*k, C, out).

    Args:
      x: (*batch, *spatial, C).
      window, stride, padding, dilation: as for `conv`; a scalar means every axis but the first and the last.

    Returns:
      (*batch, *output, prod(window) * C), of x's type.

    Raises:
      ValueError, TypeError: where an argument is out of range; the message names it.

    >>> import jax.numpy as jnp
    >>> unfold(jnp.arange(4).reshape(1, 4, 1), 2)[0].tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    x = jnp.asarray(x)
    if is_open(spatial_sizes(x.shape, window, stride, padding, dilation)):
        return open_sizes.unfold(x, window, stride, padding, dilation)
    return _unfold(x, resolve_windows(x.shape, window, stride, padding, dilation, crop=True))


@in_one_program("cols")
@hinting
def fold(
    cols: ArrayLike, output_size: Ints, window: Ints, *, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1
) -> Array:
    """The adjoint of `unfold`: every column entry added to the position it was read from.

    x[u, c] = sum over all q * stride + t * dilation - low = u of cols[q, flat(t) * C + c].

    Args:
      cols: (*batch, *spatial, prod(window) * C), spatial sizes as `unfold` gives them for `output_size`.
      output_size: sizes of the result's spatial axes.
      window, stride, padding, dilation: as for `unfold`.

    Returns:
      (*batch, *output_size, C), of cols' type; float16 and bfloat16 accumulate in float32.

    Raises:
      ValueError, TypeError: where sizes do not fit together, or an argument is out of range.

    >>> import jax.numpy as jnp
    >>> fold(jnp.ones((1, 3, 2)), 4, 2).ravel().tolist()
    [1.0, 2.0, 2.0, 1.0]
    """
    cols = jnp.asarray(cols)
    rank = spatial_rank(cols.ndim, f"shape {cols.shape}", output_size=output_size, window=window, stride=stride)
    refuse_open("fold", cols.shape[cols.ndim - rank - 1 : -1])
    sizes = per_axis(output_size, "output_size", rank, 1)
    windows = resolve_windows((*sizes, 1), window, stride, padding, dilation, crop=True, rank=rank)
    expected, given = tuple(w.n_out for w in windows), cols.shape[cols.ndim - rank - 1 : -1]
    if expected != given:
        raise ValueError(
            f"output_size={output_size!r} with window={window!r}, stride={stride!r}, padding={padding!r}, "
            f"dilation={dilation!r} has {expected} windows, but cols has {given}"
        )
    taps = _count(windows)
    if cols.shape[-1] % taps:
        raise ValueError(f"{cols.shape[-1]} channels are not a multiple of the {taps} taps of window={window!r}")
    return _fold(cols, windows)


def _unfold_impl(x: Array, windows: tuple[AxisWindow, ...]) -> Array:
    if _are_blocks(windows):
        for w in windows:
            x = pad_axis(x, w.axis % x.ndim, w.low, w.n_out * w.stride - w.n_in - w.low, 0)
        return _to_channels(x, tuple(w.stride for w in windows), "DCR")
    if _count(windows) > columns.MANY:
        return columns.take(x, windows)
    parts = [x]
    for w in windows:
        parts = [t for p in parts for t in axis_taps(p, w.axis, w.offsets, w.stride, w.low, w.n_out, 0)]
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _count(windows: tuple[AxisWindow, ...]) -> int:
    """Number of taps."""
    return prod(w.taps for w in windows)


def _are_blocks(windows: tuple[AxisWindow, ...]) -> bool:
    """Whether no two windows read the same position, and none skips any: columns are then a change of view."""
    return all(w.taps == w.stride and tuple(w.offsets) == tuple(range(w.taps)) for w in windows)


def _fold_impl(cols: Array, windows: tuple[AxisWindow, ...]) -> Array:
    if _are_blocks(windows):
        x = _to_space(cols, tuple(w.stride for w in windows), "DCR")
        for w in windows:
            x = pad_axis(x, w.axis % x.ndim, -w.low, w.n_in + w.low - w.n_out * w.stride, 0)
        return x
    taps, dtype = _count(windows), cols.dtype
    if dtype in (jnp.float16, jnp.bfloat16):
        cols = cols.astype(jnp.float32)
    if taps > columns.MANY:
        return columns.add(cols, windows).astype(dtype)
    parts = lax.split(cols, (cols.shape[-1] // taps,) * taps, cols.ndim - 1)
    for w in reversed(windows):
        groups = [parts[i : i + w.taps] for i in range(0, len(parts), w.taps)]
        parts = [add_axis_taps(group, w.axis, w.offsets, w.stride, w.low, w.n_in) for group in groups]
    return parts[0].astype(dtype)


_pixel_shuffle = named(_pixel_shuffle_impl, "pixel_shuffle", (1, 2))
_pixel_unshuffle = named(_pixel_unshuffle_impl, "pixel_unshuffle", (1, 2))
_unfold = named(on_sharded_axes(_unfold_impl), "unfold", (1,))
_fold = named(on_sharded_axes(_fold_impl), "fold", (1,))
