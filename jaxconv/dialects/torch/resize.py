"""interpolate and its older names with the meaning of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxconv._checks import is_open, refuse_open
from jaxconv._eager import in_one_program
from jaxconv.dialects import _filters
from jaxconv.dialects._common import array, boolean, channels_first, channels_last, ints
from jaxconv.resampling import axis_maps, axis_reads, resample

Size = int | Sequence[int]
Scale = float | Sequence[float]

_RANK = {"linear": 1, "bilinear": 2, "bicubic": 2, "lanczos": 2, "trilinear": 3}
_NO_CORNERS = ("nearest", "nearest-exact", "area")


@in_one_program("input")
def interpolate(
    input: ArrayLike,
    size: Size | None = None,
    scale_factor: Scale | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Array:
    """torch.nn.functional.interpolate.

    Output o of n -> m samples lies at ``(o + 1/2) * r - 1/2`` on the input's grid, ``r = n/m``, or ``1/scale_factor``
    where a scale was given and `recompute_scale_factor` is not set, or with `align_corners` at ``o * (n-1)/(m-1)``.
    "nearest" takes sample ``floor(o * r)``, "nearest-exact" ``floor((o + 1/2) * r)``, both in the arithmetic of
    PyTorch's CPU kernels (double for float64, single otherwise). As there, a scale is passed over on an axis of
    unchanged size by the linear modes, and on one of unchanged or doubled size by "nearest" on two axes whose output
    sizes add up to 128 at most.

    Args:
        input: (batch, channels, *spatial) with one to three spatial axes.
        size: output size, an int or one int per axis.
        scale_factor: output over input size instead, a number or one per axis; sizes round down.
        mode: "nearest", "nearest-exact", "area", "linear" (1-D), "bilinear", "bicubic", "lanczos" (2-D) or "trilinear"
            (3-D).
        align_corners: for the last five but "lanczos".
        recompute_scale_factor: let the coordinates follow the rounded size instead of the scale.
        antialias: widen the filter where an axis shrinks; "bilinear", "bicubic", and required by "lanczos".

    Returns:
        (batch, channels, *size) of the input's type; uint8 rounds to the nearest integer.

    Raises:
        ValueError: combinations, modes, ranks and sizes that PyTorch refuses; modes that open sizes cannot have.
        TypeError: sizes that are not integers, types that the mode cannot take.

    Example:
        >>> import jax.numpy as jnp
        >>> interpolate(jnp.asarray([[[0.0, 4.0]]]), scale_factor=2, mode="linear").tolist()
        [[[0.0, 1.0, 3.0, 4.0]]]

    Source: the PyTorch documentation of interpolate; antialiasing follows Pillow.
    """
    x = array(input, "input")
    rank = _check_mode(x, mode, align_corners, antialias)
    sizes = x.shape[2:]
    if is_open((*sizes, *(size if isinstance(size, Sequence) else (size,)))):
        return _open(x, size, scale_factor, mode, bool(align_corners), recompute_scale_factor, antialias)
    outputs, scales = _output_size(sizes, size, scale_factor, mode, recompute_scale_factor)
    if 0 in x.shape[1:] or min(outputs) < 1:
        raise ValueError(
            f"channels and sizes must be at least 1, got an input of shape {x.shape} and an output of spatial size "
            f"{outputs}"
        )
    scales = tuple(None if _by_size(n, m, mode, outputs) else s for n, m, s in zip(sizes, outputs, scales, strict=True))
    single = x.dtype != jnp.float64
    maps = [
        axis_map(n, m, mode, s, bool(align_corners), antialias, single)
        for n, m, s in zip(sizes, outputs, scales, strict=True)
    ]
    return channels_first(_apply(channels_last(x, rank), maps, mode), rank)


def _open(x: Array, size, scale_factor, mode, align_corners, recompute, antialias) -> Array:
    """`interpolate` where an exported program leaves a size open; positions are not rounded as PyTorch rounds them."""
    if mode == "lanczos" or (antialias and align_corners):
        refuse_open(f"interpolate with mode={mode!r}, antialias and align_corners={align_corners}", x.shape[2:])
    method = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    given = dict(method=method, align_corners=align_corners, antialias=antialias)
    if recompute and scale_factor is not None and any(s % 1 for s in np.ravel(scale_factor)):
        refuse_open(f"recompute_scale_factor=True with scale_factor={scale_factor}", x.shape[2:])
    rank, scale = x.ndim - 2, scale_factor if size is None else None
    return channels_first(resample.resize(channels_last(x, rank), size, scale=scale, **given), rank)


def upsample(
    input: ArrayLike,
    size: Size | None = None,
    scale_factor: Scale | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Array:
    """torch.nn.functional.upsample, the former name of [`interpolate`][jaxconv.dialects.torch.interpolate].

    Example:
        >>> import jax.numpy as jnp
        >>> upsample(jnp.ones((1, 1, 2, 2)), scale_factor=2).shape
        (1, 1, 4, 4)
    """
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: ArrayLike, size: Size | None = None, scale_factor: Scale | None = None) -> Array:
    """torch.nn.functional.upsample_nearest: [`interpolate`][jaxconv.dialects.torch.interpolate] with mode "nearest".

    Example:
        >>> import jax.numpy as jnp
        >>> upsample_nearest(jnp.asarray([[[1.0, 2.0]]]), scale_factor=2).tolist()
        [[[1.0, 1.0, 2.0, 2.0]]]
    """
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(input: ArrayLike, size: Size | None = None, scale_factor: Scale | None = None) -> Array:
    """torch.nn.functional.upsample_bilinear: "bilinear" with align_corners=True.

    Example:
        >>> import jax.numpy as jnp
        >>> upsample_bilinear(jnp.asarray([[[[0.0, 3.0]]]]), size=(1, 4)).round(4).tolist()
        [[[[0.0, 1.0, 2.0, 3.0]]]]
    """
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


@lru_cache(maxsize=1024)
def axis_map(
    n: int, m: int, mode: str, scale: float | None, align_corners: bool, antialias: bool, single: bool
) -> axis_maps.AxisMap:
    """The linear map of one axis, n -> m samples.

    Args:
        n: input size.
        m: output size.
        mode: as for `interpolate`.
        scale: output over input size where it sets the coordinates, else None.
        align_corners: as for `interpolate`.
        antialias: as for `interpolate`.
        single: whether positions are computed in single precision.

    Returns:
        The map.

    Example:
        >>> axis_map(2, 4, "nearest", None, False, False, True).dense().argmax(1).tolist()
        [0, 0, 1, 1]
    """
    if mode.startswith("nearest"):
        return axis_maps.selection_map(n, _nearest_positions(n, m, mode, scale, single))
    if mode == "area":
        return axis_maps.area_map(n, m)
    method = "cubic" if mode == "bicubic" else "linear"
    if not antialias:
        return axis_maps.resize_map(n, m, method, align_corners=align_corners, scale=None if align_corners else scale)
    if n == m:  # PyTorch's antialiasing kernels pass over an axis that keeps its size, whatever the scale
        return axis_maps.selection_map(n, np.arange(n))
    ratio = ((n - 1) / (m - 1) if m > 1 else 0.0) if align_corners else (n / m if scale is None else 1 / scale)
    # With align_corners PyTorch changes the ratio only; outputs still lie at half-pixel positions of it.
    centres = (np.arange(m) + 0.5) * ratio - 0.5
    kernel, reach = {
        "bilinear": (_filters.triangle, 1),
        "bicubic": (_filters.cubic(-0.5), 2),
        "lanczos": (_filters.lanczos(3), 3),
    }[mode]
    return _filters.filter_map(n, centres, kernel, reach, widen=max(ratio, 1.0))


def _by_size(n: int, m: int, mode: str, outputs: Sequence[int]) -> bool:
    """Whether PyTorch's CPU kernels place the samples of an axis n -> m by its sizes although a scale was given: the
    linear modes copy an axis that keeps its size; "nearest" on two axes repeats exactly where an axis keeps or doubles
    its size, but only in the kernel for small outputs."""
    if mode == "nearest":
        return len(outputs) == 2 and sum(outputs) <= 128 and m in (n, 2 * n)
    return mode in ("linear", "bilinear", "trilinear") and m == n


def _nearest_positions(n: int, m: int, mode: str, scale: float | None, single: bool) -> np.ndarray:
    """floor(o * r), rounded on the way as PyTorch's CPU kernels round: r in the data's precision, the product in single
    before floor."""
    ratio: Any = n / m if scale is None else 1 / scale
    out = np.arange(m)
    if single:
        ratio = np.float32(np.float32(n) / np.float32(m)) if scale is None else np.float32(ratio)
        if mode == "nearest":
            return np.floor(out.astype(np.float32) * ratio)
    product = (out + (0.5 if mode == "nearest-exact" else 0.0)) * np.float64(ratio)
    return np.floor(product.astype(np.float32))


def _apply(x: Array, maps: list[axis_maps.AxisMap], mode: str) -> Array:
    if mode.startswith("nearest") or jnp.issubdtype(x.dtype, jnp.floating):
        return axis_reads.apply_axis_maps(x, maps)
    # uint8 images: the width first, rounded and clipped to bytes, then the height, as PyTorch's integer kernels do it.
    for axis in reversed(range(len(maps))):
        one = [m if a == axis else None for a, m in enumerate(maps)]
        y = axis_reads.apply_axis_maps(x.astype(jnp.float32), one)
        x = jnp.clip(jnp.floor(y + 0.5), 0, 255).astype(x.dtype)
    return x


def _check_mode(x: Array, mode: str, align_corners: bool | None, antialias: bool) -> int:
    if mode not in (*_RANK, *_NO_CORNERS):
        raise ValueError(f"mode={mode!r} is not one of {', '.join((*_NO_CORNERS, *_RANK))}")
    rank = x.ndim - 2
    if rank not in (1, 2, 3):
        raise ValueError(
            f"interpolate takes (batch, channels, *spatial) with one to three spatial axes, got shape {x.shape}"
        )
    if mode in _RANK and rank != _RANK[mode]:
        raise ValueError(f"mode={mode!r} needs an input of {_RANK[mode] + 2} axes, got shape {x.shape}")
    if mode in _NO_CORNERS and align_corners is not None:
        raise ValueError(
            f"align_corners={align_corners} goes with linear, bilinear, bicubic and trilinear, not with mode={mode!r}"
        )
    if align_corners is not None:
        boolean(align_corners, "align_corners")
    if antialias and not (mode in ("bilinear", "bicubic", "lanczos") and rank == 2):
        raise ValueError(
            f"antialias=True goes with bilinear, bicubic and lanczos on 4 axes, not with mode={mode!r} on shape "
            f"{x.shape}"
        )
    if mode == "lanczos" and (align_corners or not antialias):
        raise ValueError(
            f"mode='lanczos' needs antialias=True and align_corners=False, got {antialias} and {align_corners}"
        )
    if x.dtype == jnp.bool_:
        raise TypeError("interpolate is not defined for bool")
    real = jnp.issubdtype(x.dtype, jnp.floating)
    if not real and not mode.startswith("nearest") and not (x.dtype == jnp.uint8 and rank == 2 and mode != "area"):
        raise TypeError(f"mode={mode!r} on {rank} spatial axes is not defined for {x.dtype}")
    return rank


def _output_size(
    sizes: Sequence[int], size: Any, scale_factor: Any, mode: str, recompute: bool | None
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    rank = len(sizes)
    if (size is None) == (scale_factor is None):
        raise ValueError(f"give either size or scale_factor, got size={size!r} and scale_factor={scale_factor!r}")
    if size is not None:
        if recompute:
            raise ValueError(f"recompute_scale_factor=True has no meaning with size={size!r}")
        return ints(size, "size", rank), (None,) * rank
    factors = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,) * rank
    if len(factors) != rank:
        raise ValueError(f"scale_factor={scale_factor!r} has {len(factors)} entries for spatial sizes {tuple(sizes)}")
    if any(isinstance(f, (str, bytes)) for f in factors):
        raise TypeError(f"scale_factor={scale_factor!r} must be a number or one per spatial axis")
    numbers = tuple(float(f) for f in factors)
    if not all(np.isfinite(numbers)):
        raise ValueError(f"scale_factor={scale_factor!r} must be finite")
    outputs = tuple(int(n * f) for n, f in zip(sizes, numbers, strict=True))
    return outputs, (None,) * rank if recompute or mode == "area" else numbers
