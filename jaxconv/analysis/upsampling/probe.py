"""Runs a function on flat images and keeps what its layers put out: periodic patterns in it are the network's own."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.typing import DTypeLike

from jaxconv.jaxprs.modules import with_state
from jaxconv.jaxprs.places import place_of
from jaxconv.jaxprs.walk import AnyJaxpr, bound, called, label_of, type_of, walk
from jaxconv.lattice import Relation, of_lax

from ..field.cost import compiler_options, cost_of
from ..field.gradient import Pullback, numbers_for
from ..graph.links import groups

_KEPT = ("conv_general_dilated", "conv_apply", "conv_adjoint", "reshape", "broadcast_in_dim")
_LAYER_CALLS = ("max_pool", "avg_pool", "max_unpool", "max_pool_with_indices", "_resize", "resize")


@dataclass
class Record:
    """One layer's output on flat images: `phases` is (draws, *period, channels), the mean of every phase.

    `factor` is by how much the layer itself enlarges each axis.
    """

    primitive: str
    place: str
    eqn: JaxprEqn
    size: tuple[int, ...]
    period: tuple[int, ...]
    phases: np.ndarray
    factor: tuple[int, ...]
    dtype: DTypeLike = np.float32

    @property
    def unevenness(self) -> float:
        """Root mean square of what differs between phases, relative to what they share."""
        return phase_unevenness(self.phases)

    @property
    def own(self) -> float:
        """The unevenness that the layer itself makes, without what the layers above it brought along.

        A layer that enlarges by s makes a pattern of period s of an input that is the same everywhere. A pattern of
        period p in its input comes out with period s*p, and the mean over its p positions is what the layer would make
        of the input's mean.
        """
        phases = self.phases
        for axis, (n, s) in enumerate(zip(self.period, self.factor, strict=True), start=1):
            step = math.gcd(n, s)
            phases = phases.reshape(*phases.shape[:axis], n // step, step, *phases.shape[axis + 1 :]).mean(axis=axis)
        return phase_unevenness(phases)


def phase_unevenness(phases: np.ndarray) -> float:
    """sqrt(mean over draws and channels of the variance over phases / mean square of the mean over phases).

    NaN where an output is not finite.
    """
    values = np.asarray(phases, np.float64)
    if not np.isfinite(values).all():
        return math.nan
    axes = tuple(range(1, values.ndim - 1))
    mean = values.mean(axis=axes, keepdims=True)
    uneven, even = float(((values - mean) ** 2).mean()), float((mean**2).mean())
    if uneven <= 1e-12 * even:
        return 0.0
    return math.sqrt(uneven / even) if even > 0 else math.inf


def phase_pattern(phases: np.ndarray) -> float:
    """Root mean square of what differs between phases, in the output's own units."""
    values = np.asarray(phases, np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.sqrt(values.var(axis=tuple(range(1, values.ndim - 1))).mean()))


def image_spread(phases: np.ndarray) -> float:
    """Standard deviation from one image to the next of what the phases share, over all channels."""
    values = np.asarray(phases, np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.sqrt(values.mean(axis=tuple(range(1, values.ndim - 1))).var(axis=0).mean()))


def phase_means(array: np.ndarray, axes: Sequence[int], period: Sequence[int]) -> np.ndarray:
    """The mean of every phase over the middle of an array: batch axes first, the phases, then what is left."""
    return _folded(np.asarray(array)[_middle(np.shape(array), axes, period)], axes, period)


def _middle(shape: Sequence[int], axes: Sequence[int], period: Sequence[int]) -> tuple[slice, ...]:
    """The whole periods in the middle half of an array, as an index.

    >>> _middle((1, 16, 3), (1,), (2,))
    (slice(None, None, None), slice(4, 12, None), slice(None, None, None))
    """
    index = [slice(None)] * len(shape)
    for axis, p in zip(axes, period, strict=False):
        whole = max(shape[axis] // 2 // p, 1) * p
        start = (shape[axis] - whole) // 2 // p * p
        index[axis] = slice(start, start + whole)
    return tuple(index)


def _folded(array: Any, axes: Sequence[int], period: Sequence[int]) -> np.ndarray:
    """The mean over whole periods, in double precision."""
    array = np.moveaxis(np.asarray(array, np.float64), axes, range(len(axes)))
    for i, p in enumerate(period):
        array = np.moveaxis(array, i, 0)
        array = np.moveaxis(array.reshape(-1, p, *array.shape[1:]).mean(axis=0), 0, i)
    return array


def probe(
    fn: Callable[..., Any],
    args: Sequence[Any],
    axes: Sequence[int],
    output: int | None,
    images: Sequence[np.ndarray],
    seed: int,
    places: Sequence[int],
    known: Sequence[tuple[int, int, int | None]] | None = None,
    jaxpr: AnyJaxpr | None = None,
) -> list[Record]:
    """The records of every layer and of the output (last), on flat images; `places` are the output's spatial axes.

    The weights that are not given are drawn with `seed`. `known` are the periods that the graph states; where there is
    none they follow from the sizes, which is right where borders are padded. `jaxpr` is the function's, where somebody
    has traced it.

    Raises:
        ValueError: where the output has other spatial axes than the image.
    """
    fn, args = with_state(fn, args)
    closed = jax.make_jaxpr(fn)(*args) if jaxpr is None else jaxpr
    _, *rest = numbers_for(args, seed)
    sites: list[tuple[str, str, Any]] = []

    def layers(image: Any, rest: Any) -> list[Any]:
        sites.clear()
        recorder = _Recorder(sites)
        outputs = recorder.run(closed, [(leaf, n == 0) for n, leaf in enumerate(jax.tree.leaves([image, *rest]))])
        return [*recorder.kept, outputs[output or 0][0]]

    planned: list[tuple[int, Sequence[int], Record]] = []

    @partial(jax.jit, compiler_options=compiler_options(cost_of(closed), len(images)))
    def run(image: Any, rest: Any) -> list[Any]:
        # Only the middle leaves the program: all layers' whole outputs are many times the weights.
        kept = layers(image, rest)
        planned[:] = _planned(sites, kept, args[0].shape, axes, places, known)
        return [kept[n][_middle(kept[n].shape, where, record.period)] for n, where, record in planned]

    folded = []
    for image in images:
        arrays = run(image, rest)
        folded.append([_folded(x, where, record.period) for x, (_, where, record) in zip(arrays, planned, strict=True)])
    for phases, (*_, record) in zip(zip(*folded, strict=True), planned, strict=True):
        stacked = np.stack(phases)
        record.phases = stacked.reshape(stacked.shape[: 1 + len(axes)] + (-1,))
    return [record for *_, record in planned]


def _planned(
    sites: Sequence[tuple[str, str, Any]],
    shapes: Sequence[Any],
    image: Sequence[int],
    axes: Sequence[int],
    places: Sequence[int],
    known: Sequence[tuple[int, int, int | None]] | None,
) -> Iterator[tuple[int, Sequence[int], Record]]:
    """Which outputs are images: their numbers, spatial axes, and records whose phases are still to be measured."""
    coarsest = [image[a] for a in axes]
    before: tuple[int, ...] | None = None
    for number, (primitive, place, eqn) in enumerate([*sites, ("output", "output", None)]):
        shape, last = shapes[number].shape, primitive == "output"
        if last and len(places) != len(axes):
            raise ValueError(
                f"the output of shape {shape} has {len(places)} of the image's {len(axes)} spatial axes: a "
                "checkerboard is looked for on an output that is an image"
            )
        if len(shape) != len(image) and not last:
            continue
        where = places if last else axes
        size = tuple(shape[a] for a in where)
        coarsest = [_coarser(a, b) for a, b in zip(coarsest, size, strict=True)]
        period = tuple(phases_between(n, c) for n, c in zip(size, coarsest, strict=True))
        if known is not None:
            stated = ((own if last else common) for _, common, own in known)
            fits = zip(size, stated, period, strict=True)
            period = tuple(s if s is not None and (last or 2 * s <= n) and s <= n else p for n, s, p in fits)
        if primitive in ("reshape", "broadcast_in_dim") and (size == before or all(n == 1 for n in size)):
            continue  # channels regrouped, biases, statistics: not an upsampling
        before = size
        record = Record(primitive, place, eqn, size, period, _NONE, _factors(eqn, axes), shapes[number].dtype)
        yield number, where, record


_NONE = np.zeros((0,))


def _coarser(known: int, size: int) -> int:
    """The smaller grid; one position is none: it is a bias, a mean over the image, or the seed of a generator."""
    return size if known <= 1 else known if size <= 1 else min(known, size)


def phases_between(fine: int, coarse: int) -> int:
    """How many positions of a fine grid one step of a coarse grid is worth, where both cover the same image."""
    return max(round(fine / coarse), 1) if coarse > 1 else 1


def _factors(eqn: JaxprEqn, axes: Sequence[int]) -> tuple[int, ...]:
    """By how much a layer enlarges each spatial axis of its input; 1 where it does not."""
    found = relations(eqn)
    if found or eqn is None:
        lattice = tuple(r.base // math.gcd(r.base, r.stride) for r in found)
        return lattice if len(lattice) == len(axes) else (1,) * len(axes)
    new = type_of(eqn.outvars[0]).shape
    if eqn.primitive.name == "reshape":
        # A shuffle or a repetition ends in a reshape that puts an axis of subpixels behind its axis of pixels.
        old, factor = type_of(eqn.invars[0]).shape, dict.fromkeys(axes, 1)
        for left, right in groups(old, new):
            moving = [a for a in right if a in factor and new[a] > 1]
            large = [old[i] for i in left if old[i] > 1]
            if len(moving) == 1 and len(large) > 1:
                factor[moving[0]] = math.prod(large[1:])
        return tuple(factor[a] for a in axes)
    alike = [type_of(v).shape for v in eqn.invars if len(getattr(v.aval, "shape", ())) == len(new)]
    if not alike:
        return (1,) * len(axes)
    old = max(alike, key=math.prod)
    return tuple(max(round(new[a] / max(old[a], 1)), 1) for a in axes)


def gradient_phases(
    pullback: Pullback, axes: Sequence[int], period: Sequence[int], images: Sequence[np.ndarray], seed: int
) -> np.ndarray | None:
    """The mean gradient at every phase of the input, for cotangents that are the same everywhere; None for integers."""
    image, shape = pullback.args[0], pullback.result
    if len(shape.shape) != len(image.shape) or not pullback.differentiable:
        return None
    _, *rest = numbers_for(pullback.args, seed)
    rng = np.random.default_rng(seed + 1)
    flat = tuple(1 if a in axes else n for a, n in enumerate(shape.shape))
    cotangents = [rng.standard_normal(flat).astype(shape.dtype) for _ in images]
    folded = [phase_means(pullback(x, rest, c), axes, period) for x, c in zip(images, cotangents, strict=True)]
    phases = np.stack(folded)
    return phases.reshape(phases.shape[: 1 + len(axes)] + (-1,))


class _Recorder:
    """Runs a jaxpr under a trace and keeps the outputs of layers, calls opened.

    Along with the values goes whether they depend on the image: kernels and biases are no layers' outputs.
    """

    def __init__(self, sites: list[tuple[str, str, Any]]):
        self.sites = sites
        self.kept: list[Any] = []

    def run(self, jaxpr: AnyJaxpr, inputs: Sequence[tuple[Any, bool]]) -> list[tuple[Any, bool]]:
        return walk(jaxpr, inputs, self._step, lambda value: (value, False))

    def _step(self, eqn: JaxprEqn, inputs: list[tuple[Any, bool]]) -> list[tuple[Any, bool]]:
        name, call, inner = eqn.primitive.name, label_of(eqn), called(eqn)
        if inner is not None and call not in _LAYER_CALLS:
            return self.run(inner, inputs)
        if inner is not None:
            outer, self.sites, self.kept = (self.sites, self.kept), [], []  # what is inside is not in image layout
            outputs = self.run(inner, inputs)
            self.sites, self.kept = outer
            self._keep(call, eqn, outputs[0][0])
            return outputs
        seen = any(depends for _, depends in inputs)
        values = bound(eqn, [value for value, _ in inputs])
        if seen and (name in _KEPT or name.startswith("reduce_window")):
            self._keep(name, eqn, values[0])
        return [(value, seen) for value in values]

    def _keep(self, name: str, eqn: JaxprEqn, output: Any) -> None:
        if jnp.issubdtype(output.dtype, jnp.floating):
            self.sites.append((name, place_of(eqn), eqn))
            self.kept.append(output)


def relations(eqn: JaxprEqn) -> tuple[Relation, ...]:
    """The sliding relation of a convolution on each of its axes; empty for other equations."""
    p, name = eqn.params if eqn is not None else {}, eqn.primitive.name if eqn is not None else ""
    if name == "conv_general_dilated":
        return of_lax(p, type_of(eqn.invars[0]).shape, type_of(eqn.invars[1]).shape, type_of(eqn.outvars[0]).shape)
    if name == "conv_apply":
        return p["geometry"].axes
    return tuple(r.transposed() for r in p["geometry"].axes) if name == "conv_adjoint" else ()
