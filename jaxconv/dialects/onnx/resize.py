"""Resize and Upsample of the ONNX standard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxconv._checks import any_below, is_open, refuse_open
from jaxconv._eager import in_one_program
from jaxconv.dialects._common import array, flag, ints, static
from jaxconv.dialects.onnx import _attributes as at
from jaxconv.resampling import axis_maps, axis_reads, resample

_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_POLICIES = ("stretch", "not_larger", "not_smaller")


@in_one_program("X")
def Resize(
    X: ArrayLike,
    roi: ArrayLike | None = None,
    scales: ArrayLike | Sequence[float] | None = None,
    sizes: ArrayLike | Sequence[int] | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int | None = None,
) -> Array:
    """ONNX Resize: every axis by its own small matrix, at coordinates of seven kinds.

    "half_pixel": ``(o + 1/2)/scale - 1/2``; "half_pixel_symmetric": the same about the centre; "pytorch_half_pixel":
    -1/2 where the output has one element; "align_corners": ``o*(n-1)/(n*scale-1)``; "asymmetric": ``o/scale``;
    "tf_crop_and_resize": inside `roi`, and `extrapolation_value` outside of the input; "tf_half_pixel_for_nn" (operator
    sets 11 and 12): ``(o + 1/2)/scale``.

    Args:
        X: any array; all axes count, batch and channels too.
        roi: all starts, then all ends, in units of the input; only for "tf_crop_and_resize". In operator set 10 this
            place holds `scales`.
        scales: output over input size, one per axis (of `axes`); sizes round down. Empty counts as absent.
        sizes: output size instead.
        antialias: 1 to widen the filter where an axis shrinks; "linear" and "cubic" (operator set 18).
        axes: the axes that roi, scales and sizes speak of, default all (operator set 18).
        coordinate_transformation_mode: see above.
        cubic_coeff_a: a of the cubic kernel.
        exclude_outside: 1 to leave out samples beyond the border and scale the rest up; 0 repeats the border.
        extrapolation_value: for "tf_crop_and_resize".
        keep_aspect_ratio_policy: "stretch", or with `sizes` "not_larger" or "not_smaller" (operator set 18).
        mode: "nearest", "linear" or "cubic".
        nearest_mode: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil".
        opset: operator set, 10 at least; None is the latest.

    Returns:
        The resized array, of X's type; integers round to the nearest, halves to even, and saturate.

    Raises:
        ValueError: both or neither of scales and sizes, other numbers of entries, names that are not known (in
            `opset`), empty outputs.
        TypeError: sizes that are not integers, traced roi, scales or sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> Resize(jnp.asarray([[[0.0, 4.0]]]), None, [1.0, 1.0, 2.0], mode="linear").tolist()
        [[[0.0, 1.0, 3.0, 4.0]]]

    Source: the ONNX operator Resize, version 19.
    """
    number = at.since("Resize", opset, 10, {
        "antialias": (antialias, 0, 18), "axes": (axes, None, 18),
        "keep_aspect_ratio_policy": (keep_aspect_ratio_policy, "stretch", 18),
        "mode": (mode if mode == "cubic" else None, None, 11), "sizes": (sizes if sizes is None else "given", None, 11),
    })  # fmt: skip
    if number == 10:
        return _of_operator_set_10(X, roi, scales, mode)
    _check_names(mode, nearest_mode, coordinate_transformation_mode, keep_aspect_ratio_policy, number)
    if antialias and mode == "nearest":
        raise ValueError("Resize: antialias=1 has no meaning for mode='nearest'")
    x = array(X, "X")
    which = _axes(axes, x.ndim)
    inputs = [x.shape[a] for a in which]
    factors, outputs = _targets(inputs, _given(scales, "scales"), _given(sizes, "sizes"), keep_aspect_ratio_policy)
    regions = _regions(roi, len(which), coordinate_transformation_mode)
    rule = _Rule(
        mode, nearest_mode, coordinate_transformation_mode, cubic_coeff_a, flag(exclude_outside, "exclude_outside"),
        flag(antialias, "antialias"),
    )  # fmt: skip
    maps: list[axis_maps.AxisMap | None] = [None] * x.ndim
    outside: list[np.ndarray | None] = [None] * x.ndim
    for axis, n, m, factor, region in zip(which, inputs, outputs, factors, regions, strict=True):
        if m == n and math.isclose(factor, 1.0) and region in (None, (0.0, 1.0)):
            continue
        if is_open([n]):
            x = rule.open(x, axis, m, factor)
            continue
        coordinates = rule.coordinates(n, m, factor, region)
        if region is not None:
            outside[axis] = (coordinates < 0) | (coordinates > n - 1)
        maps[axis] = rule.axis_map(n, coordinates, factor)
    return _extrapolate(_apply(x, maps, mode), outside, extrapolation_value)


@in_one_program("X")
def Upsample(
    X: ArrayLike, scales: ArrayLike | Sequence[float], *, mode: str = "nearest", opset: int | None = None
) -> Array:
    """ONNX Upsample (operator sets 7 to 9, where scales is an attribute in 7): output o lies at ``o/scale``.

    Args:
        X: any array; all axes count.
        scales: output over input size, one per axis, at least 1; sizes round down.
        mode: "nearest" (sample ``floor(o/scale)``) or "linear".
        opset: operator set 7 to 9; None is 9, the last that has it.

    Returns:
        The resized array, of X's type.

    Raises:
        ValueError: another mode, scales that do not fit or shrink an axis.
        TypeError: traced scales.

    Example:
        >>> import jax.numpy as jnp
        >>> Upsample(jnp.asarray([[[1.0, 2.0]]]), [1.0, 1.0, 2.0]).tolist()
        [[[1.0, 1.0, 2.0, 2.0]]]

    Source: the ONNX operator Upsample, version 9.
    """
    at.since("Upsample", opset, 7, {}, last=9)
    if mode not in ("nearest", "linear"):
        raise ValueError(f"Upsample: mode={mode!r} is not 'nearest' or 'linear'")
    if any(s < 1 for s in _given(scales, "scales") or ()):
        raise ValueError(f"Upsample: scales={scales!r} must be at least 1 on every axis")
    return _downwards(X, scales, mode)


def _of_operator_set_10(X: Any, second: Any, third: Any, mode: str) -> Array:
    """The first Resize: X and scales, as Upsample but also to smaller sizes."""
    if second is not None and third is not None:
        raise ValueError("Resize of operator set 10 takes X and scales, got three inputs")
    if mode not in ("nearest", "linear"):
        raise ValueError(f"Resize: mode={mode!r} is not 'nearest' or 'linear' in operator set 10")
    return _downwards(X, second if third is None else third, mode)


def _downwards(X: Any, scales: Any, mode: str) -> Array:
    """Coordinates o/scale, rounded down: what all of the older operators did."""
    return Resize(X, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


class _Rule:
    """The attributes that make one axis's map."""

    def __init__(self, mode, nearest_mode, coordinates, cubic_coeff_a, exclude_outside, antialias):
        self.mode, self.nearest_mode, self.kind = mode, nearest_mode, coordinates
        self.cubic_coeff_a, self.exclude_outside, self.antialias = float(cubic_coeff_a), exclude_outside, antialias

    def coordinates(self, n: int, m: int, scale: float, region: tuple[float, float] | None) -> np.ndarray:
        """Where each output lies on the input's grid."""
        o = np.arange(m, dtype=np.float64)
        length = scale * n  # may be fractional where scales are given
        if self.kind == "align_corners":
            return np.zeros(m) if length == 1 else o * (n - 1) / (length - 1)
        if self.kind == "asymmetric":
            return o / scale
        if self.kind == "tf_half_pixel_for_nn":
            return (o + 0.5) / scale
        if self.kind == "tf_crop_and_resize":
            start, end = region or (0.0, 1.0)
            if length == 1:
                return np.full(m, (end - start) * (n - 1) / 2 + start * (n - 1))
            return o * (end - start) * (n - 1) / (length - 1) + start * (n - 1)
        if self.kind == "pytorch_half_pixel" and length == 1:
            return np.full(m, -0.5)
        half = (o + 0.5) / scale - 0.5
        return half + n / 2 * (1 - m / length) if self.kind == "half_pixel_symmetric" else half

    def open(self, x: Array, axis: int, m: Any, scale: float) -> Array:
        """x resized along an axis of open size, by a whole factor."""
        places, halves = ("half_pixel", "pytorch_half_pixel"), ("round_prefer_floor", "round_prefer_ceil")
        if self.mode == "nearest":
            fits = (self.kind, self.nearest_mode) == ("asymmetric", "floor")
            fits = fits or (self.kind in places and self.nearest_mode in halves)
        else:
            fits = self.kind in (*places, "align_corners") and not self.exclude_outside and not self.antialias
        if not fits:
            refuse_open(f"Resize with mode={self.mode!r} and coordinate_transformation_mode={self.kind!r}", x.shape)
        coefficient: dict[str, Any] = {"cubic_coeff": self.cubic_coeff_a} if self.mode == "cubic" else {}
        corners = self.kind == "align_corners"
        x = jnp.moveaxis(x, axis, -1)[..., None]
        x = resample.resize(x, (m,), method=self.mode, align_corners=corners, **coefficient)
        return jnp.moveaxis(x[..., 0], -1, axis)

    def axis_map(self, n: int, coordinates: np.ndarray, scale: float) -> axis_maps.AxisMap:
        """The linear map of an axis of n samples."""
        if self.mode == "nearest":
            rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {
                "round_prefer_floor": lambda x: np.ceil(x - 0.5),
                "round_prefer_ceil": lambda x: np.floor(x + 0.5),
                "floor": np.floor,
                "ceil": np.ceil,
            }
            return axis_maps.selection_map(n, rounding[self.nearest_mode](coordinates))
        return axis_maps.interpolation_map(
            n,
            coordinates,
            self.mode,
            cubic_coeff=self.cubic_coeff_a,
            widen=max(1 / scale, 1.0) if self.antialias else 1.0,
            outside="renormalise" if self.exclude_outside else "clamp",
        )


def _apply(x: Array, maps: list[axis_maps.AxisMap | None], mode: str) -> Array:
    if all(m is None for m in maps):
        return x
    exact = mode == "nearest" or jnp.issubdtype(x.dtype, jnp.inexact)
    y = axis_reads.apply_axis_maps((x if exact else x.astype(jnp.float32))[..., None], maps)[..., 0]
    if exact:
        return y
    if x.dtype == jnp.bool_:
        raise TypeError(f"Resize: mode={mode!r} is not defined for bool")
    info = jnp.iinfo(x.dtype)
    return jnp.clip(jnp.round(y), info.min, info.max).astype(x.dtype)


def _extrapolate(y: Array, outside: Sequence[np.ndarray | None], value: float) -> Array:
    for axis, mask in enumerate(outside):
        if mask is not None and mask.any():
            shape = [1] * y.ndim
            shape[axis] = -1
            y = jnp.where(mask.reshape(shape), jnp.asarray(value).astype(y.dtype), y)
    return y


def _check_names(mode: Any, nearest_mode: Any, coordinates: Any, policy: Any, opset: int | None) -> None:
    choices = {
        "mode": (mode, ("nearest", "linear", "cubic")),
        "nearest_mode": (nearest_mode, _NEAREST),
        "coordinate_transformation_mode": (coordinates, _COORDINATES),
        "keep_aspect_ratio_policy": (policy, _POLICIES),
    }
    for name, (value, legal) in choices.items():
        if value not in legal:
            raise ValueError(f"Resize: {name}={value!r} is not one of {', '.join(legal)}")
    if coordinates == "tf_half_pixel_for_nn" and (opset is None or opset > 12):
        raise ValueError(
            "Resize: coordinate_transformation_mode='tf_half_pixel_for_nn' exists in operator sets 11 and 12 only"
        )
    if coordinates == "half_pixel_symmetric" and opset is not None and opset < 19:
        raise ValueError(
            f"Resize: coordinate_transformation_mode='half_pixel_symmetric' came with operator set 19, got "
            f"opset={opset}"
        )


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(ndim))
    at.listed(axes, "axes")
    out = tuple(a + ndim if a < 0 else a for a in ints(axes, "axes", len(axes)))
    if len(set(out)) != len(out) or any(not 0 <= a < ndim for a in out):
        raise ValueError(f"Resize: axes={axes!r} must be different axes of an array of {ndim} axes")
    return out


def _given(value: Any, name: str) -> list | None:
    """Numbers of an optional input; an empty array stands for an absent one, as in operator set 11."""
    if value is None:
        return None
    numbers = static(value, name)
    if numbers.ndim != 1:
        raise ValueError(f"Resize: {name} must be a list, got shape {numbers.shape}")
    return numbers.tolist() or None


def _targets(
    inputs: Sequence[int], scales: list | None, sizes: list | None, policy: str
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    if (scales is None) == (sizes is None):
        raise ValueError(f"Resize: give either scales or sizes, got scales={scales} and sizes={sizes}")
    if len(scales or sizes or ()) != len(inputs):
        raise ValueError(f"Resize: {len(scales or sizes or ())} entries in scales or sizes for {len(inputs)} axes")
    if any_below(inputs, 1):
        raise ValueError(f"Resize: cannot resize empty axes, got sizes {tuple(inputs)}")
    if scales is not None:
        if any(not s > 0 for s in scales):
            raise ValueError(f"Resize: scales={scales} must be positive")
        factors = tuple(float(s) for s in scales)
        outputs = tuple(_scaled(n, s) for n, s in zip(inputs, factors, strict=True))
    else:
        refuse_open("Resize by sizes, unless axes= leaves out the open ones,", inputs)
        outputs = ints(sizes, "sizes", len(inputs))
        factors = tuple(m / n for n, m in zip(inputs, outputs, strict=True))
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = (factor,) * len(inputs)
            outputs = tuple(int(factor * n + 0.5) for n in inputs)
    if any_below(outputs, 1):
        raise ValueError(
            f"Resize: sizes {tuple(inputs)} become {outputs}, which is empty (scales={scales}, sizes={sizes})"
        )
    return factors, outputs


def _scaled(n: Any, scale: float) -> Any:
    """floor(n * scale); of an open size, a whole multiple."""
    if is_open([n]) and scale % 1:
        refuse_open(f"Resize by scale {scale}", [n])
    return n * int(scale) if is_open([n]) else int(n * scale)


def _regions(roi: Any, count: int, kind: str) -> list[tuple[float, float] | None]:
    if kind != "tf_crop_and_resize":
        return [None] * count
    numbers = _given(roi, "roi")
    if numbers is None or len(numbers) != 2 * count:
        raise ValueError(f"Resize: 'tf_crop_and_resize' needs a roi of {2 * count} numbers, got {numbers}")
    return [(float(a), float(b)) for a, b in zip(numbers[:count], numbers[count:], strict=True)]
