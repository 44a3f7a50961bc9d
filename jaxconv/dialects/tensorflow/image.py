"""tf.image.resize: half-pixel resizing with TensorFlow's filters and their behaviour at the border."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxconv._checks import any_below, is_open, refuse_open
from jaxconv._eager import in_one_program
from jaxconv.dialects import _filters
from jaxconv.dialects._common import array, boolean, ints, static
from jaxconv.resampling import axis_maps, axis_reads, resample

_FILTERS: dict[str, tuple[_filters.Kernel, float]] = {
    "bilinear": (_filters.triangle, 1),
    "bicubic": (_filters.cubic(-0.5), 2),
    "lanczos3": (_filters.lanczos(3), 3),
    "lanczos5": (_filters.lanczos(5), 5),
    "gaussian": (_filters.gaussian(1.5, 0.5), 1.5),
    "mitchellcubic": (_filters.mitchell, 2),
}
_METHODS = (*_FILTERS, "nearest", "area")


@in_one_program("images")
def image_resize(
    images: ArrayLike,
    size: Sequence[int],
    method: str = "bilinear",
    preserve_aspect_ratio: bool = False,
    antialias: bool = False,
    name: str | None = None,
) -> Array:
    """tf.image.resize.

    Output o of n -> m samples lies at ``(o + 1/2) * n/m - 1/2`` on the input's grid. "nearest" takes sample ``floor((o
    + 1/2) * n/m)``, "area" the mean over ``[o*n/m, (o+1)*n/m)`` with fractions; "bilinear" repeats the border, the
    other filters leave out what lies beyond it and scale the rest up. "bicubic" rounds its offsets to 1/1024 as
    TensorFlow's table does (not with `antialias`).

    Args:
        images: (batch, H, W, C) or (H, W, C).
        size: (new H, new W).
        method: "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian" or "mitchellcubic".
        preserve_aspect_ratio: take the largest size within `size` that keeps the ratio.
        antialias: widen the filter where an axis shrinks; without meaning for "nearest" and "area".
        name: not used.

    Returns:
        The resized images: of the input's type for "nearest" and for float64, else float32 (TensorFlow rounds float64
            to float32, too).

    Raises:
        ValueError: a shape, size or method that does not fit.
        TypeError: sizes that are not integers, traced sizes, complex images, an `antialias` that is no bool.

    Example:
        >>> import jax.numpy as jnp
        >>> image_resize(jnp.asarray([0.0, 4.0]).reshape(1, 2, 1), (1, 4)).ravel().tolist()
        [0.0, 1.0, 3.0, 4.0]

    Source: the TensorFlow documentation of tf.image.resize.
    """
    x = array(images, "images")
    if x.ndim not in (3, 4):
        raise ValueError(f"images must be (batch, H, W, channels) or (H, W, channels), got shape {x.shape}")
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, _METHODS))}")
    inputs, outputs = x.shape[-3:-1], _size(size)
    if 0 in x.shape[-3:]:
        raise ValueError(f"cannot resize an empty image of shape {x.shape}")
    if preserve_aspect_ratio and not is_open((*inputs, *outputs)):
        outputs = _within(inputs, outputs)
    if any_below(outputs, 1):
        raise ValueError(
            f"size={size!r} must be at least 1 on both axes (images of shape {x.shape} would get size {outputs})"
        )
    antialias = boolean(antialias, "antialias")
    if is_open((*inputs, *outputs)):
        names = {"bilinear": "linear", "nearest": "nearest-exact"}
        if method not in names or preserve_aspect_ratio:
            what = "preserve_aspect_ratio=True" if preserve_aspect_ratio else f"method={method!r}"
            refuse_open(f"image_resize with {what}", (*inputs, *outputs))
        x = x if method == "nearest" or x.dtype == jnp.float64 else x.astype(jnp.float32)
        return resample.resize(x, outputs, method=names[method], antialias=antialias and method == "bilinear")
    maps = [_axis_map(n, m, method, antialias) for n, m in zip(inputs, outputs, strict=True)]
    if method != "nearest":
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"method={method!r} is not defined for {x.dtype}")
        x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    return axis_reads.apply_axis_maps(x, maps)


@lru_cache(maxsize=1024)
def _axis_map(n: int, m: int, method: str, antialias: bool) -> axis_maps.AxisMap:
    if method == "nearest":
        ratio = np.float32(n) / np.float32(m)
        return axis_maps.selection_map(n, np.floor((np.arange(m, dtype=np.float32) + np.float32(0.5)) * ratio))
    if method == "area":
        return _area_map(n, m)
    kernel, reach = _FILTERS[method]
    centres = (2 * np.arange(m) + 1) * n / (2 * m) - 0.5
    if antialias:
        return _filters.filter_map(n, centres, kernel, reach, widen=max(n / m, 1.0))
    if method == "bilinear":
        return axis_maps.interpolation_map(n, centres, "linear")
    if method == "bicubic":
        # The filter comes from a table of 1024 offsets, the position from single precision.
        ratio = np.float32(n) / np.float32(m)
        single = (np.arange(m, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
        whole = np.floor(single)
        centres = whole + np.rint((single - whole) * np.float32(1024)).astype(np.float64) / 1024
        return axis_maps.interpolation_map(n, centres, "cubic", cubic_coeff=-0.5, outside="renormalise")
    return _filters.filter_map(n, centres, kernel, reach)


def _area_map(n: int, m: int) -> axis_maps.AxisMap:
    """Mean over [o*n/m, (o+1)*n/m), each sample j covering [j, j+1)."""
    o = np.arange(m)
    begin = o * n // m
    taps = begin[:, None] + np.arange(-(-n // m) + 1)
    low, high = o[:, None] * n, (o[:, None] + 1) * n  # in units of 1/m
    cover = np.minimum(high, (taps + 1) * m) - np.maximum(low, taps * m)
    return axis_maps.AxisMap(n, np.clip(taps, 0, n - 1), np.maximum(cover, 0) / n)


def _within(inputs: Sequence[int], outputs: Sequence[int]) -> tuple[int, ...]:
    factor = min(np.float32(m) / np.float32(n) for n, m in zip(inputs, outputs, strict=True))
    return tuple(int(np.rint(factor * np.float32(n))) for n in inputs)


def _size(size: Any) -> tuple[int, ...]:
    if hasattr(size, "dtype"):
        size = static(size, "size").tolist()
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"size={size!r} must be (new height, new width)")
    return tuple(size) if is_open(size) else ints(size, "size", 2)
