"""Exact tiled inference: a function of whole images in bounded memory, halo and alignment read off the function."""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.jaxprs.modules import as_function

from ..graph.reader import NotUnderstood
from ..graph.trace import spatial_axes_of
from .crops import Plan, TilingRefused, grows, plan_of
from .statistics import KINDS, Statistics

TILES = {1: 512, 2: 512, 3: 96}  # a tile's side where nobody chose one, by the number of spatial axes
# By how much, of the largest value, results of the same pixels may differ.
_SAME = 1e-3


def _crop(image: Any, axes: Sequence[int], corner: Sequence[int], plans: Sequence[Plan]) -> jax.Array:
    here: list[Any] = [slice(None)] * image.ndim
    if any(p.circular for p in plans):
        places = [np.arange(n) for n in image.shape]
        for axis, start, p in zip(axes, corner, plans, strict=True):
            places[axis] = (start + np.arange(p.crop)) % image.shape[axis]
        return jnp.asarray(image[np.ix_(*places)])
    for axis, start, p in zip(axes, corner, plans, strict=True):
        here[axis] = slice(start, start + p.crop)
    return jnp.asarray(image[tuple(here)])


class Passes:
    """The passes over an image that find its statistics; each tile adds the part that is its own."""

    def __init__(self, split: Statistics, cut: Sequence[tuple[tuple[Plan, ...], tuple[int, ...]]]):
        self.split, self.cut, self.jitted = split, cut, jax.jit(split)
        self.tiles = sum(math.prod(len(p.starts()) for p in plans) for plans, _ in cut)
        self._parts = [jax.jit(split.reduced(k), static_argnums=3) for k in range(len(cut))]

    def found(self, image: Any, args: Sequence[Any], axes: Sequence[int], report: Callable[[], None]) -> list[Any]:
        values: list[Any] = []
        for k, (one, (plans, out_axes)) in enumerate(zip(self.split.passes, self.cut, strict=True)):
            shape = self.split.shapes[len(values)]
            total = one.start((*shape.shape, len(one.paths)), shape.dtype)
            for tiles in itertools.product(*(p.parts() for p in plans)):
                crop = _crop(image, axes, [start for start, _, _ in tiles], plans)
                low, high = (np.asarray([t[i] for t in tiles]) for i in (1, 2))
                part = self._parts[k](crop, low, high, out_axes, values, *args)
                total = KINDS[one.kind](total, np.asarray(part))
                report()
            values += [np.asarray(total[..., i], shape.dtype) for i in range(len(one.paths))]
        return values


class Tiled:
    """A function of whole images that computes tile by tile; made by `tiled`."""

    def __init__(self, fn, tile, spatial_axes, verify, progress, statistics):
        self._fn, self._tile, self._spatial_axes = as_function(fn), tile, spatial_axes
        self._verify, self._progress, self._statistics = verify, progress, statistics
        self._plans: dict[Any, tuple[Any, ...]] = {}
        self._passes: dict[Any, Passes] = {}

    @cached_property
    def _jitted(self) -> Callable[..., jax.Array]:
        return jax.jit(self._fn)

    def __call__(self, image: Any, *args: Any, out: Any = None) -> Any:
        """The function of the whole image.

        Args:
            image: an array (numpy, jax or numpy.memmap); only crops of it are read.
            args: further arguments (weights); whole for every tile.
            out: an array to fill (numpy.memmap too); made where it is not given.

        Returns:
            `out`, or a new numpy array.

        Raises:
            TilingRefused: where the values of the whole image cannot be had tile by tile.
            ValueError: where `out` has another shape than the result.
        """
        plans, axes, out_axes, result = self.plan(image, *args)
        if out is None:
            out = np.empty(result.shape, result.dtype)
        if tuple(out.shape) != result.shape:
            raise ValueError(f"out has shape {tuple(out.shape)}, the result has shape {result.shape}")
        corners = list(itertools.product(*(p.starts() for p in plans)))
        passes = self._passes.get(_key(image))
        report = _reporter(self._progress, len(corners) + (passes.tiles if passes else 0))
        run, found = (passes.jitted, (passes.found(image, args, axes, report),)) if passes else (self._jitted, ())
        for corner in corners:
            part = np.asarray(run(_crop(image, axes, corner, plans), *found, *args))
            there, keep = [slice(None)] * part.ndim, [slice(None)] * part.ndim
            for axis, start, p in zip(out_axes, corner, plans, strict=True):
                first, last = p.exact(start)
                keep[axis] = slice(first, last)
                there[axis] = slice(p.shift(start) + first, p.shift(start) + last)
            out[tuple(there)] = part[tuple(keep)]
            report()
        return out

    def plan(self, image: Any, *args: Any) -> tuple[tuple[Plan, ...], tuple[int, ...], tuple[int, ...], Any]:
        """How an image of this shape is cut: a `Plan` per spatial axis, the axes, and the result's shape and dtype."""
        if not hasattr(image, "shape") or not hasattr(image, "dtype"):
            raise TypeError(f"the image must be an array, got {type(image).__name__}")
        axes = spatial_axes_of(image, self._spatial_axes)
        key = _key(image)
        if key not in self._plans:
            sizes = tuple(image.shape[a] for a in axes)
            tiles, fn = self._tiles(len(axes)), self._fn
            more: tuple[Any, ...] = ()
            if self._statistics:
                try:
                    split = Statistics(fn, image, args, axes)
                except NotUnderstood as problem:
                    raise TilingRefused(f"its statistics cannot be taken out: {problem}") from None
                if split.passes:
                    fn, more = split, (split.shapes,)
            plans, out_axes, result = plan_of(fn, image, (*more, *args), axes, tiles, sizes)
            if more:
                cut = [
                    plan_of(split.operand(k), image, (split.shapes[: split.before(k)], *args), axes, tiles, sizes)[:2]
                    for k in range(len(split.passes))
                ]
                self._passes[key] = Passes(split, cut)
            around = any(p.circular for p in plans)
            if self._verify is not None and (self._verify or around) and any(p.crop < p.size for p in plans):
                if around and not more:
                    self._check_around(image, args, axes, out_axes, plans)
                check = self._check_passes if more else self._check
                check(image, args, axes, out_axes, plans)
            self._plans[key] = plans, axes, out_axes, result
        return self._plans[key]

    def _tiles(self, rank: int) -> tuple[int, ...]:
        tile = (self._tile,) * rank if isinstance(self._tile, (int, np.integer)) else tuple(self._tile)
        if len(tile) != rank or any(isinstance(t, bool) or int(t) != t or t < 1 for t in tile):
            raise ValueError(f"tile={self._tile!r} must be a positive size in pixels, or one per spatial axis ({rank})")
        return tuple(int(t) for t in tile)

    def _check_passes(self, image, args, axes, out_axes, plans: Sequence[Plan]) -> None:
        """Compare the whole of a small image of random pixels with its tiles: counts of means show only there."""
        noise = _noise(image, axes, plans)
        tiles = Tiled(self._fn, self._tile, self._spatial_axes, None, False, True)(noise, *args)
        _refuse_difference(np.asarray(self._jitted(jnp.asarray(noise), *args)), tiles, "an image and its tiles")

    def _check(self, image, args, axes, out_axes, plans: Sequence[Plan]) -> None:
        """Compare two crops that overlap where both claim to be exact, on random pixels.

        Weights that depend on the position (coordinates, an align-corners resize) do not show in what is read, but
        here.
        """
        noise = _noise(image, axes, plans)
        shifts = [_shift(p) for p in plans]
        corners = [0] * len(plans), shifts
        first, second = (np.asarray(self._jitted(_crop(noise, axes, corner, plans), *args)) for corner in corners)
        left, right = [slice(None)] * first.ndim, [slice(None)] * first.ndim
        for axis, p, shift in zip(out_axes, plans, shifts, strict=True):
            moved = p.shift(shift) if shift else 0
            low, high = (p.low, p.high) if shift else (0, p.out_crop)
            left[axis], right[axis] = slice(low + moved, high), slice(low, high - moved)
        _refuse_difference(first[tuple(left)], second[tuple(right)], "two overlapping tiles")

    def _check_around(self, image, args, axes, out_axes, plans: Sequence[Plan]) -> None:
        """Turn random pixels of a circular axis by one alignment: the result has to turn with them."""
        shape = [min(p.crop, p.size) for p in plans]
        noise = _noise(image, axes, plans)[tuple(_ranges(image.ndim, axes, shape))]
        first = np.asarray(self._jitted(jnp.asarray(noise), *args))
        for i, p in enumerate(plans):
            if p.circular:
                turned = np.asarray(self._jitted(jnp.asarray(np.roll(noise, p.align, axes[i])), *args))
                if _difference(np.roll(first, p.shift(p.align), out_axes[i]), turned) > _SAME:
                    raise TilingRefused(grows(axes[i], p.size, self._tiles(len(axes))[i]))


def _ranges(ndim: int, axes: Sequence[int], sizes: Sequence[int]) -> list[slice]:
    here = [slice(None)] * ndim
    for axis, n in zip(axes, sizes, strict=True):
        here[axis] = slice(n)
    return here


def _key(image: Any) -> Any:
    return tuple(image.shape), str(image.dtype)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference, of the largest value; of integers the share that differs."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    scale = max(float(np.abs(a).max(initial=0, where=np.isfinite(a))), 1e-30)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # the logarithm of noise, for one
    worst = float(np.abs(np.subtract(a, b, where=~same, out=np.zeros_like(a))).max(initial=0)) / scale
    integers = not np.issubdtype(first.dtype, np.floating)
    return float((a != b).mean()) if integers else worst


def _refuse_difference(first: np.ndarray, second: np.ndarray, what: str) -> None:
    wrong = _difference(first, second)
    if not wrong <= _SAME:
        raise TilingRefused(
            f"{what} of random pixels differ (by {wrong:.2g} of the largest value): the function uses something that "
            "depends on the position in the image or on its size, such as coordinates or a resize with aligned corners "
            "(from n to m pixels it can be cut where n - 1 and m - 1 have a plain ratio, as from n to 2n - 1)"
        )


def _shift(plan: Plan) -> int:
    """From one crop to another that overlaps it most; none along an axis that is not cut."""
    return plan.align if plan.crop < plan.size else 0


def _noise(image: Any, axes: Sequence[int], plans: Sequence[Plan]) -> np.ndarray:
    """Random pixels of an image that holds two such crops."""
    rng, dtype, shape = np.random.default_rng(0), image.dtype, list(image.shape)
    for axis, p in zip(axes, plans, strict=True):
        shape[axis] = p.crop + _shift(p)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -255), min(info.max, 255), shape, endpoint=True).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _reporter(progress: Any, total: int) -> Callable[[], None]:
    """Where progress goes after each tile: nowhere, to a function of (done, total), or to one line of the terminal."""
    count = itertools.count(1)
    if not progress:
        return lambda: None
    if callable(progress):
        return lambda: progress(next(count), total)

    def show() -> None:
        done = next(count)
        bar = "#" * (30 * done // total)
        sys.stderr.write(f"\r[{bar:<30}] {done}/{total} tiles" + ("\n" if done == total else ""))
        sys.stderr.flush()

    return show


def tiled(
    fn: Callable[..., Any],
    tile: int | Sequence[int],
    *,
    spatial_axes: Sequence[int] | None = None,
    verify: bool = True,
    progress: bool | Callable[[int, int], None] = False,
    statistics: bool = False,
) -> Tiled:
    """A function of whole images, equal to fn, that computes crop by crop in bounded memory.

    Each crop is the tile and a halo, both read off the function: crops begin at multiples of the alignment (the
    smallest shift that moves every value of the network by whole positions) and are as long as the image modulo it, so
    that paddings fall as they do in the image; of each crop those outputs are kept whose nominal field does not reach
    over a border that the image does not have. Where paddings depend on the size (to a multiple of 32, and cropped
    after), crops are as long as the image modulo that multiple; where borders are circular, crops go around the image.

    Args:
        fn: a function of an image (*batch, *spatial, channels), or a module; further arguments are passed on.
        tile: pixels of the input per tile without its halo, for all spatial axes or one per axis.
        spatial_axes: spatial axes of the image; all but the first and the last by default.
        verify: compare two overlapping crops of random pixels before the first use, which finds what no reading of
            shapes can: weights that depend on the position.
        progress: True for a line in the terminal, or a function of (tiles done, tiles in all).
        statistics: also serve sums, means and extremes over all spatial axes (norms over space, global pooling), by
            passes over the image of their own: as many as there are that depend on each other, and one more.

    Returns:
        A function `(image, *args, out=None)`. `image` and `out` may be `numpy.memmap`s.

    Raises:
        TilingRefused: on the call, where the result depends on whole axes (sorting, attention; without `statistics`
            norms over space and global pooling), does not move with the input, is not understood, or needs crops that
            grow with the image: a resize whose scale follows from the size of an axis (301 to 451, or with aligned
            corners from n to 2n; by a given scale, or from n to 2n - 1, it is cut), a flip, circular borders in some
            layers only.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> kernel = jnp.ones((3, 3, 1, 1))
    >>> def net(x):
    ...     return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    >>> image = np.arange(1.0 * 50 * 41, dtype=np.float32).reshape(1, 50, 41, 1)
    >>> bool((tiled(net, 16)(image) == net(image)).all())
    True
    """
    as_function(fn)
    return Tiled(fn, tile, spatial_axes, verify, progress, statistics)
