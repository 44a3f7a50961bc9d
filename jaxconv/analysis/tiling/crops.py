"""How an image is cut: alignment and halo of every axis, read off the function, or why it cannot be cut."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..graph.reader import NotUnderstood
from ..graph.sweep import Bounds, alignments
from ..graph.trace import Traced
from .moving import AtSizes, Change, changed_step, uneven_growth, with_size
from .statistics import KINDS

_ROUNDS = 6


class TilingRefused(ValueError):
    """The function cannot be computed tile by tile with the values of the whole image; the message says why."""


@dataclass(frozen=True)
class Plan:
    """How one axis is cut: crops of `crop` input pixels that start at multiples of `align`.

    Output q of a crop is exact where its nominal field lies inside of the crop, or reaches over a border that is also
    the image's: it is exact from `low` on (0 at the image's begin) and up to `high` (all at its end).
    """

    size: int
    crop: int
    align: int
    out_size: int
    out_crop: int
    low: int
    high: int

    def starts(self) -> list[int]:
        """Where the crops begin, in input pixels."""
        if self.crop >= self.size:
            return [0]
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
        first = 0 if start == 0 else self.low
        last = self.out_crop if start + self.crop >= self.size else self.high
        return first, last


def plan_of(fn, image, args, axes, tiles, sizes, advise: bool = True) -> tuple[tuple[Plan, ...], tuple[int, ...]]:
    """Alignment from the steps of all nodes, the crop from the halo; both checked on the crop's own graph."""
    at = AtSizes(fn, image, args, axes)
    whole = jax.eval_shape(fn, *at.arguments(sizes))
    if len(jax.tree.leaves(whole)) != 1:
        found = len(jax.tree.leaves(whole))
        raise TilingRefused(f"the function has {found} outputs; tile a function of each, such as lambda x: fn(x)[0]")
    try:
        aligns = alignments(_local(at, [min(n, 256) for n in sizes]))
        for _ in range(_ROUNDS):
            aligns, crops = _crops(at, sizes, tiles, aligns)
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
        _refuse_growth(at, sizes, tiles, aligns, crops)
    except NotUnderstood as problem:
        raise TilingRefused(f"halo and alignment cannot be derived: {problem}") from None
    traced = at.traced(crops)
    out_axes = _whole_axes(whole, traced, axes)
    plans = []
    for i, (n, crop, align) in enumerate(zip(sizes, crops, aligns, strict=True)):
        plans.append(_axis_plan(traced, i, n, crop, align, whole.shape[out_axes[i]]))
    return tuple(plans), out_axes


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


def _crops(at: AtSizes, sizes, tiles, aligns) -> tuple[list[int], list[int]]:
    """Alignment and crop per axis."""
    small = [min(n, _congruent(max(t, 64), n, a)) for n, a, t in zip(sizes, aligns, tiles, strict=True)]
    first = traced = _local(at, small)
    aligns, crops = alignments(first), [1] * len(sizes)
    for _ in range(_ROUNDS):  # mirrored borders hide how far a field larger than the crop reaches
        needed = [
            min(n, _congruent(t + _halo(traced, i) + 2 * a, n, a))
            for i, (n, t, a) in enumerate(zip(sizes, tiles, aligns, strict=True))
        ]
        if all(need <= crop for need, crop in zip(needed, crops, strict=True)):
            break
        crops = [max(need, crop) for need, crop in zip(needed, crops, strict=True)]
        traced = _local(at, crops)
    return aligns, crops


def _changed(at: AtSizes, sizes, tiles, aligns, crops) -> tuple[int, Change] | None:
    """An axis to be cut along which a value's steps are not the same in every crop, and that value."""
    for i, (n, t) in enumerate(zip(sizes, tiles, strict=True)):
        change = changed_step(at, crops, i, aligns[i], n) if t < n else None
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


def _refuse_growth(at: AtSizes, sizes, tiles, aligns, crops) -> None:
    """Refuse axes where what a tile reads grows with the image, and values that grow out of step with it."""
    for i, (n, t, a, crop) in enumerate(zip(sizes, tiles, aligns, crops, strict=True)):
        if crop < n:
            uneven = uneven_growth(at, crops, i, a, n)
            if uneven:
                raise TilingRefused(f"axis {at.axes[i]} cannot be cut, the function does not move with it: {uneven}")
        elif t < n and not _bounded(at, crops, i, t, a):
            raise TilingRefused(
                f"axis {at.axes[i]} of {n} pixels cannot be cut into tiles of {t}: what the result reads of it grows "
                "with the image (circular borders, a flip, a shift by a share of it), so every tile would be all of it"
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
    swept = Bounds(traced.source, traced.out, traced.spatial_axes[i], True, choices=True)
    low, high = swept.low[traced.out.number], swept.high[traced.out.number]
    shape = [1] * low.ndim
    shape[i] = traced.output_size[i]
    at = np.arange(shape[i]).reshape(shape) * (traced.input_size[i] / traced.output_size[i])
    seen = np.isfinite(low)
    return int(np.where(seen, at - low, 0).max()) + int(np.where(seen, high - at, 0).max()) + 2


def _whole_axes(whole: Any, traced: Traced, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The places of the result's spatial axes, one for each of the image's."""
    if len(traced.result_axes) != len(axes):
        raise TilingRefused(f"the result has {len(traced.result_axes)} spatial axes, the image {len(axes)}")
    return traced.result_axes


def _axis_plan(traced: Traced, i: int, size: int, crop: int, align: int, out_size: int) -> Plan:
    out_crop = traced.output_size[i]
    if crop >= size:
        return Plan(size, size, align, out_size, out_size, 0, out_size)
    swept = Bounds(traced.source, traced.out, traced.spatial_axes[i], True, choices=True)
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
    low, high = np.minimum(low, _moved(low, period, align)), np.maximum(high, _moved(high, period, align))
    bad_low, bad_high = np.nonzero(low < 0)[0], np.nonzero(high > crop - 1)[0]
    first = int(bad_low.max()) + 1 if len(bad_low) else 0
    last = int(bad_high.min()) if len(bad_high) else out_crop
    plan = Plan(size, crop, align, out_size, out_crop, first, last)
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
