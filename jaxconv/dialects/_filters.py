"""Interpolation kernels that only the dialects know, as axis maps of the core.

Every resampling of every framework is one small linear map an axis; the core applies it
([`apply_axis_maps`][jaxconv.resampling.axis_reads.apply_axis_maps]). Here are the rows of these maps for filters and
source coordinates of any kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxconv.resampling.axis_maps import AxisMap

Kernel = Callable[[np.ndarray], np.ndarray]


def box(t: np.ndarray) -> np.ndarray:
    """1 on [-1/2, 1/2): reach 1/2."""
    return np.where((t >= -0.5) & (t < 0.5), 1.0, 0.0)


def triangle(t: np.ndarray) -> np.ndarray:
    """max(1 - |t|, 0): reach 1."""
    return np.maximum(1 - np.abs(t), 0)


def cubic(a: float) -> Kernel:
    """Keys' cubic kernel with coefficient a: reach 2. Source: Keys 1981, eq. (15)."""

    def kernel(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return kernel


def mitchell(t: np.ndarray) -> np.ndarray:
    """The cubic of Mitchell and Netravali with B = C = 1/3: reach 2. Source: Mitchell and Netravali 1988, eq. (8)."""
    t = np.abs(t)
    near = (7 * t / 6 - 2) * t * t + 8 / 9
    far = ((2 - 7 * t / 18) * t - 10 / 3) * t + 16 / 9
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def lanczos(radius: float) -> Kernel:
    """sinc(t) sinc(t / radius) inside the radius: reach `radius`. Source: Duchon 1979."""

    def kernel(t: np.ndarray) -> np.ndarray:
        return np.where(np.abs(t) < radius, np.sinc(t) * np.sinc(t / radius), 0.0)

    return kernel


def gaussian(radius: float, sigma: float) -> Kernel:
    """exp(-t^2 / (2 sigma^2)) inside the radius: reach `radius`."""

    def kernel(t: np.ndarray) -> np.ndarray:
        return np.where(np.abs(t) < radius, np.exp(-(t**2) / (2 * sigma**2)), 0.0)

    return kernel


def filter_map(
    input_size: int, coordinates: np.ndarray, kernel: Kernel, reach: float, *, widen: float = 1.0
) -> AxisMap:
    """Rows ``kernel((j - x_o) / widen)`` over the input's samples j, scaled to sum to one.

    Args:
        input_size: n.
        coordinates: x, where each output lies on the input's grid (sample j at coordinate j).
        kernel: the filter.
        reach: |t| beyond which the filter is zero.
        widen: factor by which the filter is widened.

    Returns:
        The map; samples beyond the ends do not take part.

    Example:
        >>> filter_map(2, np.array([-0.25, 0.25, 0.75, 1.25]), triangle, 1).dense().tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    x = np.asarray(coordinates, np.float64)
    first = np.floor(x - reach * widen).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(2 * reach * widen)) + 2)
    inside = (taps >= 0) & (taps < input_size)
    weights = np.where(inside, kernel((taps - x[:, None]) / widen), 0.0)
    total = weights.sum(axis=1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    return AxisMap(input_size, np.clip(taps, 0, input_size - 1), weights)
