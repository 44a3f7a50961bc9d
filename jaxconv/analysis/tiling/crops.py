"""How an image is cut: alignment and halo of every axis, read off the function, or why it cannot be cut."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from ..graph.reader import NotUnderstood
from ..graph.sweep import alignments, widest
from ..graph.trace import Traced
from .moving import OTHER_STEPS, AtSizes, Change, changed_step, uneven_growth, with_size
from .statistics import KINDS

_ROUNDS = 6
# What images are padded to a multiple of, most common first.
_MULTIPLES = (2, 4, 8, 16, 32, 64, 128, 256, 6, 12, 24, 48, 96, 10, 20, 40, 80, 14, 28, 56)


class TilingRefused(ValueError):
    """The function cannot be computed tile by tile with the values of the whole image; the message says why."""


@dataclass(frozen=True)
class Plan:
    """How one axis is cut: crops of `crop` input pixels that start at multiples of `align`.

    Output q of a crop is exact where its nominal field lies inside of the crop, or reaches over a border that is also
    the image's: it is exact from `low` on (0 at the image's begin) and up to `high` (all at its end). A `circular` axis
    has no borders: its crops go around, from before the begin to beyond the end, and only their middles are kept.
    """

    size: int
    crop: int
    align: int
    out_size: int
    out_crop: int
    low: int
    high: int
    circular: bool = False

    def starts(self) -> list[int]:
        """Where the crops begin, in input pixels; before and beyond the image where it is circular."""
        if self.crop >= self.size:
            return [0]
        if self.circular:
            first = -(-self.low // self.shift(self.align)) * -self.align
            step = self.keep // self.align * self.align
            count = -(-(self.out_size - self.shift(first) - self.high) // self.shift(step))
            return [first + k * step for k in range(count + 1)]
        last = self.size - self.crop
        step = self.keep // self.align * self.align
        return [*range(0, last, step), last]

    def parts(self) -> list[tuple[int, int, int]]:
        """Per crop its start, and the first and last-plus-one output that no crop before it has."""
        found, done = [], 0
        for start in self.starts():
            shift, last = self.shift(start), self.exact(start)[1]
            found.append((start, done - shift, last))
            done = shift + last
        return found

    @property
    def keep(self) -> int:
        """Input pixels by which one crop may be ahead of the one before without a gap in what is exact."""
        return max((self.high - self.low) * self.align // max(self.shift(self.align), 1), 0)

    def shift(self, start: int) -> int:
        """The output position that a crop's first output has in the whole image."""
        return 0 if self.crop >= self.size else start * (self.out_size - self.out_crop) // (self.size - self.crop)

    def exact(self, start: int) -> tuple[int, int]:
        """First and last-plus-one output of the crop at `start` that has the whole image's value."""
        if self.circular:
            return max(self.low, -self.shift(start)), min(self.high, self.out_size - self.shift(start))
        first = 0 if start == 0 else self.low
        last = self.out_crop if start + self.crop >= self.size else self.high
        return first, last


def plan_of(
    fn, image, args, axes, tiles, sizes, advise: bool = True
) -> tuple[tuple[Plan, ...], tuple[int, ...], jax.ShapeDtypeStruct]:
    """Alignment from the steps of all nodes, the crop from the halo; both checked on the crop's own graph.

    Returns a plan per axis, the places of these axes in the result, and the whole result's shape and dtype.
    """
    at = AtSizes(fn, image, args, axes)
    results = at.results(sizes)
    if len(results) != 1:
        raise TilingRefused(
            f"the function has {len(results)} outputs; tile a function of each, such as lambda x: fn(x)[0]"
        )
    whole = results[0]
    try:
        first = _local(at, [min(n, 256) for n in sizes])
        aligns = alignments(first)
        quick = _crops_as(at, sizes, tiles, aligns, first)
        for _ in range(_ROUNDS):
            aligns, crops = (aligns, quick) if quick else _crops(at, sizes, tiles, aligns)
            quick = None
            changed = _changed(at, sizes, tiles, aligns, crops)
            if changed is None:
                break
            i, change = changed
            if change.period == aligns[i] or change.period >= sizes[i]:
                break
            aligns[i] = change.period
        if changed is not None:
            i, change = changed
            raise TilingRefused(_why_not_cut(at, sizes, crops, tiles, i, change) if advise else str(change))
        aligns, crops = _even_growth(at, sizes, tiles, aligns, crops)
        crops, circular = _around(at, sizes, tiles, aligns, crops)
    except NotUnderstood as problem:
        raise TilingRefused(f"halo and alignment cannot be derived: {problem}") from None
    traced = at.traced(crops)
    out_axes = traced.result_axes
    if len(out_axes) != len(axes):
        raise TilingRefused(f"the result has {len(out_axes)} spatial axes, the image {len(axes)}")
    plans = []
    for i, (n, crop, align) in enumerate(zip(sizes, crops, aligns, strict=True)):
        plans.append(_axis_plan(traced, i, n, crop, align, whole.shape[out_axes[i]], circular[i]))
    return tuple(plans), out_axes, whole


def _local(at: AtSizes, sizes: Sequence[int]) -> Traced:
    """The function at this size, refused where it reads whole axes."""
    traced = at.traced(sizes)
    if traced.global_ops:
        listed = "; ".join(str(op) for op in traced.global_ops)
        passes = " (statistics=True takes these by passes of their own)" if _are_statistics(traced) else ""
        raise TilingRefused(f"the result depends on whole axes of the image, which no tile holds: {listed}{passes}")
    return traced


def _are_statistics(traced: Traced) -> bool:
    return all(op.primitive in KINDS and len(op.axes) == len(traced.spatial_axes) for op in traced.global_ops)


def _crops_as(at: AtSizes, sizes, tiles, aligns, first: Traced) -> list[int] | None:
    """The crops that `first`, which need not be congruent to the image, asks for, where the function is like it there.

    Every size that is looked at is one more trace of the function: mostly this one is enough.
    """
    crops = _needed(first, sizes, tiles, aligns)
    traced = _local(at, crops)
    fits = all(need <= crop for need, crop in zip(_needed(traced, sizes, tiles, aligns), crops, strict=True))
    return crops if fits and alignments(traced) == aligns else None


def _crops(at: AtSizes, sizes, tiles, aligns) -> tuple[list[int], list[int]]:
    """Alignment and crop per axis."""
    small = [min(n, _congruent(max(t, 64), n, a)) for n, a, t in zip(sizes, aligns, tiles, strict=True)]
    traced = _local(at, small)
    aligns, crops = alignments(traced), [1] * len(sizes)
    for _ in range(_ROUNDS):  # mirrored borders hide how far a field larger than the crop reaches
        needed = _needed(traced, sizes, tiles, aligns)
        if all(need <= crop for need, crop in zip(needed, crops, strict=True)):
            break
        crops = [max(need, crop) for need, crop in zip(needed, crops, strict=True)]
        traced = _local(at, crops)
    return aligns, crops


def _needed(traced: Traced, sizes, tiles, aligns) -> list[int]:
    """Crops that hold the tiles and the halo of the function as it was traced."""
    return [
        min(n, _congruent(t + _halo(traced, i) + 2 * a, n, a))
        for i, (n, t, a) in enumerate(zip(sizes, tiles, aligns, strict=True))
    ]


def _changed(at: AtSizes, sizes, tiles, aligns, crops) -> tuple[int, Change] | None:
    """An axis to be cut along which a value's steps are not the same in every crop, and that value."""
    cut = [i for i, (n, t) in enumerate(zip(sizes, tiles, strict=True)) if t < n]
    together = [crop + align * (i in cut) for i, (crop, align) in enumerate(zip(crops, aligns, strict=True))]
    for i in cut:
        # All axes at once first, which takes fewer traces.
        if changed_step(at, crops, i, together, sizes[i]) is not None:
            change = changed_step(at, crops, i, with_size(crops, i, together[i]), sizes[i])
            if change is not None:
                return i, change
    return None


def _why_not_cut(at: AtSizes, sizes, crops, tiles, i: int, change: Change) -> str:
    """The reason in the image's own sizes, and the nearest size that can be cut."""
    why = (
        f"axis {at.axes[i]} of {sizes[i]} pixels cannot be cut into tiles of {tiles[i]}: the {change} takes its scale "
        "from the size of the image, and no shorter crop has the same. "
    )
    scale = "A resize by a given scale, as in jaxconv.resize(x, scale=1.5), is cut at any size."
    for step in dict.fromkeys((change.plain_period, 2, 4, 8, 16, 32)):
        longer = -(-sizes[i] // step) * step
        if longer == sizes[i]:
            continue
        with contextlib.suppress(TilingRefused):
            # The other axes as they are in a crop: only this one is asked about.
            others, small = (with_size(x, i, y) for x, y in ((crops, longer), (crops, tiles[i])))
            plan_of(at.fn, at.image, at.args, at.axes, small, others, advise=False)
            return f"{why}Pad the axis to {longer} pixels (a multiple of {step}). {scale}"
    return why + scale


def _even_growth(at: AtSizes, sizes, tiles, aligns, crops) -> tuple[list[int], list[int]]:
    """Alignments and crops by which every value grows in proportion: paddings to a multiple do by that multiple only.

    Refused where there is none.
    """
    aligns, crops = list(aligns), list(crops)
    cut = [i for i, n in enumerate(sizes) if crops[i] < n]
    if len(cut) > 1 and _even(at, sizes, crops, aligns, cut):
        return aligns, crops
    for i in cut:
        n = sizes[i]
        uneven = _uneven(at, crops, i, aligns[i], n)
        if not uneven:
            continue
        for period in dict.fromkeys(math.lcm(aligns[i], m) for m in _MULTIPLES):
            tried = with_size(crops, i, _congruent(crops[i] + 2 * (period - aligns[i]), n, period))
            longer = with_size(tried, i, tried[i] + period)
            if not _uneven(at, tried, i, period, n) and changed_step(at, tried, i, longer, n) is None:
                aligns[i], crops = period, with_size(tried, i, min(tried[i], n))
                break
        else:
            if uneven != OTHER_STEPS:
                raise TilingRefused(f"axis {at.axes[i]} cannot be cut, the function does not move with it: {uneven}")
    return aligns, crops


def _even(at: AtSizes, sizes: Sequence[int], crops: Sequence[int], aligns: Sequence[int], cut: Sequence[int]) -> bool:
    """Whether every value grows in proportion where all axes grow at once, which takes fewer traces."""
    shifts = [align * (i in cut) for i, align in enumerate(aligns)]
    near = [(n - crop) // align for n, crop, align in zip(sizes, crops, aligns, strict=True)]
    far = [max(_far(aligns[i]) for i in cut)] * len(sizes)
    return not any(uneven_growth(at, crops, shifts, steps) for steps in (near, far))


def _uneven(at: AtSizes, crops: Sequence[int], i: int, period: int, size: int) -> str | None:
    """A value that does not grow in proportion, to the image or far beyond: a few steps may look even by chance."""
    shifts = with_size([0] * len(crops), i, period)
    near = [(size - crops[i]) // period] * len(crops)
    far = [_far(period)] * len(crops)
    return (uneven_growth(at, crops, shifts, near) if size > crops[i] else None) or uneven_growth(
        at, crops, shifts, far
    )


def _far(period: int) -> int:
    return max(8, 2048 // period)


def _around(at: AtSizes, sizes, tiles, aligns, crops) -> tuple[list[int], list[bool]]:
    """Crops of axes along which what a tile reads grows with the image: around it, where its middle does not grow.

    That the function goes around indeed, `tiled` tries on random pixels.
    """
    crops, circular = list(crops), [False] * len(sizes)
    for i, (n, t, a) in enumerate(zip(sizes, tiles, aligns, strict=True)):
        if t >= n or crops[i] < n or _bounded(at, crops, i, t, a):
            continue
        crop, halo = -(-min(t + 2 * a, n) // a) * a, 0
        for _ in range(_ROUNDS):
            halo = _middle_halo(at.traced(with_size(crops, i, crop)), i)
            need = -(-(t + halo + 2 * a) // a) * a
            if need <= crop:
                break
            crop = need
        tried = with_size(crops, i, crop)
        longer, shifts = with_size(tried, i, crop + a), with_size([0] * len(crops), i, a)
        if (
            n % a
            or crop >= n
            or need > crop
            or changed_step(at, tried, i, longer, n)
            or uneven_growth(at, tried, shifts, [(n - crop) // a] * len(crops))
        ):
            raise TilingRefused(grows(at.axes[i], n, t))
        crops, circular[i] = tried, True
    return crops, circular


def grows(axis: int, size: int, tile: int) -> str:
    """Why an axis cannot be cut whose tiles would be as long as the image."""
    return (
        f"axis {axis} of {size} pixels cannot be cut into tiles of {tile}: what the result reads of it grows with the "
        "image (a flip, a shift by a share of it, circular borders that only some layers have or whose size strides "
        "do not divide), so every tile would be all of it"
    )


def _bounded(at: AtSizes, crops: Sequence[int], i: int, tile: int, align: int) -> bool:
    """Whether a crop as long as the image is as long as it has to be, and a longer image would be cut."""

    def halo(size: int) -> int:
        return _halo(at.traced(with_size(crops, i, size)), i)

    if halo(crops[i] + align) <= halo(crops[i]):
        return True
    # A field larger than this image looks as if it grew: an image much longer tells the two apart.
    longer = _congruent(max(8 * crops[i], 2048), crops[i], align)
    return tile + halo(longer) + 3 * align < longer


def _congruent(least: int, size: int, align: int) -> int:
    """The smallest crop of at least `least` pixels that leaves a whole number of steps of the image."""
    return least + (size - least) % align


def _halo(traced: Traced, i: int) -> int:
    """How far, to both sides together, the outputs reach beyond the input pixels that they stand for."""
    before, after = _reach(traced, i)
    return int(before.max()) + int(after.max()) + 2


def _middle_halo(traced: Traced, i: int) -> int:
    """The same of the outputs in the middle, which borders that go around do not change."""
    middle = slice(traced.output_size[i] // 3, -(-2 * traced.output_size[i] // 3))
    before, after = (np.take(x, range(*middle.indices(x.shape[i])), i) for x in _reach(traced, i))
    return int(before.max()) + int(after.max()) + 2


def _reach(traced: Traced, i: int) -> tuple[np.ndarray, np.ndarray]:
    swept = widest(traced, traced.spatial_axes[i])
    low, high = swept.low[traced.out.number], swept.high[traced.out.number]
    shape = [1] * low.ndim
    shape[i] = traced.output_size[i]
    at = np.arange(shape[i]).reshape(shape) * (traced.input_size[i] / traced.output_size[i])
    seen = np.isfinite(low)
    return np.where(seen, at - low, 0), np.where(seen, high - at, 0)


def _axis_plan(traced: Traced, i: int, size: int, crop: int, align: int, out_size: int, circular: bool) -> Plan:
    out_crop = traced.output_size[i]
    if crop >= size:
        return Plan(size, size, align, out_size, out_size, 0, out_size)
    swept = widest(traced, traced.spatial_axes[i])
    low, high = swept.low[traced.out.number], swept.high[traced.out.number]
    low, high = (np.moveaxis(x, i, 0).reshape(x.shape[i], -1) for x in (low, high))
    low, high = low.min(axis=1), np.where(np.isfinite(high), high, -np.inf).max(axis=1)
    moved = size - crop
    period, uneven = divmod((out_size - out_crop) * align, moved)
    if uneven or period < 1 or len(low) != out_crop:
        raise TilingRefused(
            f"on axis {traced.spatial_axes[i]} {moved} more input pixels give {out_size - out_crop} more outputs: the "
            "function does not move with its input"
        )
    # Mirrored and repeated borders read pixels that are there: what an output in the middle sees, moved to each place,
    # says where a border is met.
    around = _moved(low, period, align), _moved(high, period, align)
    low, high = around if circular else (np.minimum(low, around[0]), np.maximum(high, around[1]))
    bad_low, bad_high = np.nonzero(low < 0)[0], np.nonzero(high > crop - 1)[0]
    first = int(bad_low.max()) + 1 if len(bad_low) else 0
    last = int(bad_high.min()) if len(bad_high) else out_crop
    plan = Plan(size, crop, align, out_size, out_crop, first, last, circular)
    if plan.keep < align:
        raise TilingRefused(f"no output of a {crop}-pixel crop on axis {traced.spatial_axes[i]} is free of its borders")
    return plan


def _moved(line: np.ndarray, period: int, align: int) -> np.ndarray:
    """The bounds in the middle carried to every output: `period` outputs further they are `align` pixels further."""
    place = np.arange(len(line))
    middle = len(line) // 2
    model = middle + (place - middle) % period
    model = np.where(model < len(line), model, model - period)
    return line[model] + (place - model) // period * align
