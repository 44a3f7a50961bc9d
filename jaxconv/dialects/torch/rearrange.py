"""pixel_shuffle, pixel_unshuffle, unfold, fold and pad with the meaning of torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxconv import padding as padding_modes
from jaxconv._checks import as_index, is_open, refuse_open, refuse_rest
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, channels_first, channels_last, ints
from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import open_sizes
from jaxconv.resampling import resample

Ints = int | Sequence[int]


@in_one_program("input")
def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> Array:
    """torch.nn.functional.pixel_shuffle: (*batch, C*r*r, H, W) to (*batch, C, H*r, W*r).

    ``y[c, h*r + i, w*r + j] = input[c*r*r + i*r + j, h, w]``

    Args:
        input: (*batch, C*r*r, H, W).
        upscale_factor: r.

    Returns:
        (*batch, C, H*r, W*r).

    Raises:
        ValueError: fewer than three axes, a factor below 1, channels that r*r does not divide.
        TypeError: a factor that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> pixel_shuffle(jnp.arange(4).reshape(4, 1, 1), 2).tolist()
        [[[0, 1], [2, 3]]]

    Source: Shi et al. 2016 (arXiv:1609.05158), equation 4.
    """
    x, r = _shuffle_operands("pixel_shuffle", input, upscale_factor, "upscale_factor")
    if x.shape[-3] % (r * r):
        raise ValueError(
            f"pixel_shuffle: {x.shape[-3]} channels (input of shape {x.shape}) are not a multiple of {r}*{r}"
        )
    return channels_first(resample.pixel_shuffle(channels_last(x, 2), (r, r)), 2)


@in_one_program("input")
def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> Array:
    """torch.nn.functional.pixel_unshuffle: (*batch, C, H*r, W*r) to (*batch, C*r*r, H, W), the inverse of
    pixel_shuffle.

    ``y[c*r*r + i*r + j, h, w] = input[c, h*r + i, w*r + j]``

    Args:
        input: (*batch, C, H*r, W*r).
        downscale_factor: r.

    Returns:
        (*batch, C*r*r, H, W).

    Raises:
        ValueError: fewer than three axes, a factor below 1, sizes that r does not divide.
        TypeError: a factor that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> pixel_unshuffle(jnp.arange(4).reshape(1, 2, 2), 2).ravel().tolist()
        [0, 1, 2, 3]

    Source: the PyTorch documentation of PixelUnshuffle.
    """
    x, r = _shuffle_operands("pixel_unshuffle", input, downscale_factor, "downscale_factor")
    message = f"pixel_unshuffle: height and width of an input of shape {x.shape} must be multiples of {r}"
    refuse_rest(x.shape[-2:], (r, r), message)
    return channels_first(resample.pixel_unshuffle(channels_last(x, 2), (r, r)), 2)


@in_one_program("input")
def unfold(input: ArrayLike, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1) -> Array:
    """torch.nn.functional.unfold: the windows of an image as columns.

    ``y[c*kH*kW + flat(t), flat(q)] = input[c, q*stride + t*dilation - padding]``, zero in the pads.

    Args:
        input: (batch, C, H, W) or (C, H, W).
        kernel_size: an int or two.
        dilation: spacing of the taps.
        padding: zeros on both sides.
        stride: step between windows.

    Returns:
        (batch, C*kH*kW, L) or (C*kH*kW, L).

    Raises:
        ValueError: shapes, signs, or no window that fits.
        TypeError: numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> unfold(jnp.ones((1, 3, 4, 4)), 2, stride=2).shape
        (1, 12, 4)

    Source: the PyTorch documentation of Unfold.
    """
    x = array(input, "input")
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        raise ValueError(
            f"unfold takes (batch, C, H, W) or (C, H, W), only the batch may be empty, got shape {x.shape}"
        )
    window = _window(kernel_size, dilation, padding, stride)
    refuse_open("unfold, which flattens them,", x.shape[-2:])
    cols = resample.unfold(channels_last(x, 2), window["window"], **_rest(window))
    *batch, height, width, _ = cols.shape
    taps, channels = math.prod(window["window"]), x.shape[-3]
    cols = cols.reshape(*batch, height * width, taps, channels)
    return jnp.moveaxis(cols, -3, -1).swapaxes(-3, -2).reshape(*batch, channels * taps, height * width)


@in_one_program("input")
def fold(
    input: ArrayLike,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> Array:
    """torch.nn.functional.fold: columns added back to an image, the adjoint of unfold.

    ``x[c, u] = sum over q*stride + t*dilation - padding = u of input[c*kH*kW + flat(t), flat(q)]``

    Args:
        input: (batch, C*kH*kW, L) or (C*kH*kW, L).
        output_size: (H, W), or an int for both.
        kernel_size: an int or two.
        dilation: spacing of the taps.
        padding: zeros on both sides.
        stride: step between windows.

    Returns:
        (batch, C, H, W) or (C, H, W).

    Raises:
        ValueError: rows that kH*kW does not divide, another number of columns than the sizes give.
        TypeError: numbers that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> fold(jnp.ones((1, 4, 4)), 3, 2)[0, 0].tolist()
        [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]

    Source: the PyTorch documentation of Fold.
    """
    cols = array(input, "input")
    if cols.ndim not in (2, 3) or 0 in cols.shape[-2:]:
        raise ValueError(
            f"fold takes (batch, C*kH*kW, L) or (C*kH*kW, L), only the batch may be empty, got shape {cols.shape}"
        )
    size = ints(output_size, "output_size", 2, minimum=1)
    window = _window(kernel_size, dilation, padding, stride)
    taps = math.prod(window["window"])
    if cols.shape[-2] % taps:
        raise ValueError(
            f"fold: {cols.shape[-2]} rows of shape {cols.shape} are not a multiple of the {taps} taps of "
            f"kernel_size={kernel_size!r}"
        )
    g = ConvGeometry.resolve(
        input_size=size,
        kernel_size=window["window"],
        stride=window["stride"],
        padding=window["padding"],
        dilation=window["dilation"],
    )
    if cols.shape[-1] != math.prod(g.output_size):
        raise ValueError(
            f"fold: output_size={size}, kernel_size={window['window']}, stride={g.stride}, "
            f"padding={window['padding']}, dilation={g.dilation} has "
            f"{' * '.join(map(str, g.output_size))} = {math.prod(g.output_size)} windows, but the input of shape "
            f"{cols.shape} has {cols.shape[-1]}"
        )
    batch, rows = cols.shape[:-2], cols.shape[-2]
    cols = cols.reshape(*batch, rows // taps, taps, *g.output_size)
    cols = jnp.moveaxis(cols, (-4, -3), (-1, -2)).reshape(*batch, *g.output_size, rows)
    return channels_first(resample.fold(cols, size, window["window"], **_rest(window)), 2)


@in_one_program("input")
def pad(input: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """torch.nn.functional.pad.

    Args:
        input: an array; for the modes other than "constant" (batch, C, *spatial) or (C, *spatial).
        pad: (low, high) of the last axis, then of the one before, and so on. Negative numbers crop.
        mode: "constant" (any number of axes), "reflect", "replicate" or "circular" (all spatial axes, one to three of
            them).
        value: the constant, 0 by default.

    Returns:
        The padded array, of the input's type.

    Raises:
        ValueError: odd or too many numbers, a pad that reflects (>= size) or wraps (> size) more than once, an axis
            cropped to nothing (which "constant" and "circular" allow), a value with another mode.
        TypeError: `pad` that is not a sequence of integers.

    Example:
        >>> import jax.numpy as jnp
        >>> pad(jnp.asarray([[[1, 2, 3]]]), (1, 2), mode="reflect").tolist()
        [[[2, 1, 2, 3, 2, 1]]]

    Source: the PyTorch documentation of pad.
    """
    x = array(input, "input")
    pairs = _pairs(x, pad)
    if mode == "constant":
        if any(n + lo + hi < 0 or n + lo < 0 or n + hi < 0 for n, (lo, hi) in zip(x.shape, pairs, strict=True)):
            raise ValueError(f"pad={tuple(pad)!r} crops more than the input of shape {x.shape} has")
        constant = jnp.asarray(0 if value is None else value).astype(x.dtype)
        return lax.pad(x, constant, [(lo, hi, 0) for lo, hi in pairs])
    if mode not in ("reflect", "replicate", "circular"):
        raise ValueError(f"mode={mode!r} is not one of 'constant', 'reflect', 'replicate', 'circular'")
    if value not in (None, 0):
        raise ValueError(f"mode={mode!r} takes no value, got value={value!r}")
    rank = len(pad) // 2
    if rank not in (1, 2, 3) or x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"mode={mode!r} pads all spatial axes of (batch, C, *spatial) or (C, *spatial): {len(pad)} numbers need an "
            f"input of "
            f"{rank + 1} or {rank + 2} axes, at most 3 of them spatial, got shape {x.shape}"
        )
    return _pad_by_mode(x, rank, pairs[-rank:], mode)


# ---------------------------------------------------------------------- reading arguments


def _pad_by_mode(x: Array, rank: int, pairs: Sequence[tuple[int, int]], mode: str) -> Array:
    sizes = x.shape[-rank:]
    if is_open(sizes) and mode in open_sizes.NUMPY_MODES:
        return open_sizes.pad(x, pairs, mode, x.ndim - rank)
    refuse_open(f"mode={mode!r}", sizes)
    empty = 0 in x.shape[-rank:] or (mode != "circular" and 0 in x.shape[-rank - 1 :])
    limit = {"reflect": -1, "circular": 0}.get(mode)
    for n, (lo, hi) in zip(sizes, pairs, strict=True):
        if limit is not None and max(lo, hi) > n + limit:
            bound = "smaller than" if mode == "reflect" else "at most"
            raise ValueError(
                f"mode={mode!r}: pads ({lo}, {hi}) must be {bound} the size {n} of their axis (input of shape "
                f"{x.shape})"
            )
        if mode == "circular" and (n + lo < 0 or n + hi < 0 or max(lo, hi) > n + min(lo, hi, 0) > 0 > min(lo, hi)):
            raise ValueError(f"mode='circular': pads ({lo}, {hi}) crop and wrap more than the size {n} of their axis")
        if n + lo + hi < (0 if mode == "circular" else 1):
            raise ValueError(
                f"mode={mode!r}: pads ({lo}, {hi}) leave nothing of an axis of size {n} (input of shape {x.shape})"
            )
    if empty:
        raise ValueError(f"mode={mode!r}: only the batch may be empty, got an input of shape {x.shape}")
    if mode == "circular":  # crops come first: what wraps is the cropped input
        x = lax.pad(
            x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - rank) + [(min(lo, 0), min(hi, 0), 0) for lo, hi in pairs]
        )
        sizes, pairs = x.shape[-rank:], [(max(lo, 0), max(hi, 0)) for lo, hi in pairs]
        if 0 in sizes:  # nothing wraps
            wide = (n + lo + hi for n, (lo, hi) in zip(sizes, pairs, strict=True))
            return jnp.zeros((*x.shape[:-rank], *wide), x.dtype)
    g = ConvGeometry.resolve(input_size=sizes, kernel_size=(1,) * rank, padding=tuple(pairs), padding_mode=mode)
    return padding_modes.pad(x, g, x.ndim - rank)


def _pairs(x: Array, pad: Any) -> list[tuple[int, int]]:
    if not isinstance(pad, Sequence) or isinstance(pad, str):
        raise TypeError(f"pad={pad!r} must be a tuple of integers")
    numbers = [as_index(p, "pad") for p in pad]
    if len(numbers) % 2:
        raise ValueError(f"pad={tuple(pad)!r} must have an even number of entries")
    if len(numbers) > 2 * x.ndim:
        raise ValueError(
            f"pad={tuple(pad)!r} has {len(numbers)} entries for an input of {x.ndim} axes (shape {x.shape})"
        )
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]


def _window(kernel_size, dilation, padding, stride) -> dict[str, tuple[int, ...]]:
    return {
        "window": ints(kernel_size, "kernel_size", 2, minimum=1),
        "dilation": ints(dilation, "dilation", 2, minimum=1),
        "padding": ints(padding, "padding", 2, minimum=0),
        "stride": ints(stride, "stride", 2, minimum=1),
    }


def _rest(window: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {k: v for k, v in window.items() if k != "window"}


def _shuffle_operands(name: str, input, factor, argument: str) -> tuple[Array, int]:
    x, r = array(input, "input"), as_index(factor, argument)
    if x.ndim < 3:
        raise ValueError(f"{name} takes (*batch, channels, height, width), got shape {x.shape}")
    if r < 1:
        raise ValueError(f"{name}: {argument}={r} must be at least 1")
    return x, r
