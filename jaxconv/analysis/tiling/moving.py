"""How a function changes with the size of its image: which steps stay, and which sizes grow in proportion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
from jax.extend.core import Literal

from jaxconv.jaxprs.walk import AnyJaxpr, jaxprs_in, label_of, opened

from ..graph.links import Link
from ..graph.nodes import Node
from ..graph.reader import NAMED_CALLS
from ..graph.sweep import ancestors, widest
from ..graph.trace import Traced, trace

OTHER_STEPS = "the image takes other steps than its crops"
Shapes = list[tuple[str, list[tuple[int, ...]]]]


class AtSizes:
    """A function of an image, looked at with the image at other sizes."""

    def __init__(self, fn: Any, image: Any, args: Sequence[Any], axes: Sequence[int]):
        self.fn, self.image, self.args, self.axes = fn, image, tuple(args), tuple(axes)
        self._traced: dict[tuple[int, ...], Traced] = {}
        self._jaxprs: dict[tuple[int, ...], Any] = {}
        self._equations: dict[tuple[int, ...], Shapes] = {}

    def arguments(self, sizes: Sequence[int]) -> tuple[Any, ...]:
        shape = list(self.image.shape)
        for a, n in zip(self.axes, sizes, strict=True):
            shape[a] = n
        return jax.ShapeDtypeStruct(tuple(shape), self.image.dtype), *self.args

    def traced(self, sizes: Sequence[int]) -> Traced:
        key = tuple(sizes)
        if key not in self._traced:
            self._traced[key] = trace(self.fn, self.arguments(key), self.axes, None)
        return self._traced[key]

    def results(self, sizes: Sequence[int]) -> list[jax.ShapeDtypeStruct]:
        """What the function returns at this size."""
        return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self._closed(sizes).out_avals]

    def equations(self, sizes: Sequence[int]) -> Shapes:
        """Every equation that the result needs at this size: its name and the shapes of its operands and results."""
        key = tuple(sizes)
        if key not in self._equations:
            closed = self._closed(key)
            self._equations[key] = list(_equations(closed, [True] * len(closed.jaxpr.outvars)))
        return self._equations[key]

    def _closed(self, sizes: Sequence[int]) -> Any:
        key = tuple(sizes)
        if key in self._traced:
            return self._traced[key].jaxpr
        if key not in self._jaxprs:
            self._jaxprs[key] = jax.make_jaxpr(self.fn)(*self.arguments(key))
        return self._jaxprs[key]


def _equations(jaxpr: AnyJaxpr, used: Sequence[bool]) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    jaxpr = opened(jaxpr)
    needed = {v for v, u in zip(jaxpr.outvars, used, strict=True) if u and not isinstance(v, Literal)}
    live: list[tuple[Any, list[bool]]] = []
    for eqn in reversed(jaxpr.eqns):
        wanted = [v in needed for v in eqn.outvars]
        if any(wanted):
            live.append((eqn, wanted))
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
    for eqn, wanted in reversed(live):
        yield eqn.primitive.name, [getattr(v.aval, "shape", ()) for v in (*eqn.invars, *eqn.outvars)]
        if label_of(eqn) in NAMED_CALLS:
            continue  # what is inside may be done in an order that depends on the sizes
        for inner in jaxprs_in(eqn.params):
            results = len(opened(inner).outvars)
            yield from _equations(inner, wanted if results == len(wanted) else [True] * results)


@dataclass(frozen=True)
class Change:
    """A value whose steps depend on the size of the image: it reads `n_in` positions as `n_out` at the image's size.

    `jump` is what a step of what it reads is worth in pixels; `kind` and `place` name it.
    """

    kind: str
    place: str
    n_in: int
    n_out: int
    jump: Fraction

    @property
    def period(self) -> int:
        """After how many pixels its positions fall on the same places again."""
        return abs((Fraction(self.n_in, self.n_out) * self.jump).numerator)

    @property
    def plain_period(self) -> int:
        """The same for the plain ratio that its sizes were probably rounded from."""
        return abs((Fraction(self.n_in, self.n_out).limit_denominator(12) * self.jump).numerator) or 1

    def __str__(self) -> str:
        if self.n_in == self.n_out:
            return f"{self.kind} at {self.place or 'top level'}"
        return f"{self.kind} of {self.n_in} to {self.n_out} positions at {self.place or 'top level'}"


def changed_step(at: AtSizes, crops: Sequence[int], i: int, longer: Sequence[int], size: int) -> Change | None:
    """The first value that has another step along axis i, of `size` pixels in the image, at `longer` than at `crops`.

    Steps are compared as a set: a resize takes its axes in an order that depends on their sizes.
    """
    here = at.traced(crops)
    jumps, there = _jumps(here, i), _jumps(at.traced(longer), i)
    kept = {j for found in there.values() for j in found}
    for node in ancestors(here.out, choices=True):
        if any(j and j not in kept for j in jumps.get(node.number, ())):
            return _described(at, crops, i, size, node, jumps)
    return None


def _jumps(traced: Traced, i: int) -> dict[int, list[Fraction | None]]:
    return widest(traced, traced.spatial_axes[i]).jumps


def with_size(sizes: Sequence[int], i: int, size: int) -> list[int]:
    """The sizes with another one on axis i."""
    return [size if j == i else n for j, n in enumerate(sizes)]


def _described(at: AtSizes, crops: Sequence[int], i: int, size: int, node: Node, jumps: Any) -> Change:
    """What a node reads and is, with the sizes of the whole image in place of the crop's."""
    for edge in node.edges:
        for jump, link in zip(jumps.get(edge.src.number, ()), edge.links, strict=False):
            if jump and link is not None and link.n_in != link.n_out:
                n_in, n_out = _whole_sizes(at, crops, i, size, link)
                kind = "resize" if node.primitive in ("gather", "dot_general") else node.primitive
                return Change(kind, node.place, n_in, n_out, jump)
    return Change(node.primitive, node.place, 1, 1, Fraction(size))


def _whole_sizes(at: AtSizes, crops: Sequence[int], i: int, size: int, link: Link) -> tuple[int, int]:
    """What a link's sizes in the crop are where axis i is whole."""
    for (_, small), (_, large) in zip(at.equations(crops), at.equations(with_size(crops, i, size)), strict=False):
        pairs = [list(zip(s, n, strict=False)) for s, n in zip(small, large, strict=False)]
        before = [n for shape in pairs[:-1] for m, n in shape if m == link.n_in]
        after = [n for m, n in pairs[-1] if m == link.n_out]
        if before and after:
            return max(before), max(after)
    return link.n_in, link.n_out


def uneven_growth(at: AtSizes, crops: Sequence[int], shifts: Sequence[int], steps: Sequence[int]) -> str | None:
    """A value whose size does not grow in proportion from the crops, by `steps` times `shifts`; None where all do.

    `OTHER_STEPS` where that cannot be told: loops over parts of the image, or a padding that only some sizes have.
    """
    sizes = [list(crops), [n + s for n, s in zip(crops, shifts, strict=True)]]
    sizes.append([n + k * s for n, s, k in zip(crops, shifts, steps, strict=True)])
    shapes = [at.equations(s) for s in sizes]
    if len({tuple(name for name, _ in found) for found in shapes}) != 1:
        return OTHER_STEPS
    factors = {k for k, shift in zip(steps, shifts, strict=True) if shift}
    for (name, small), (_, next_), (_, whole) in zip(*shapes, strict=True):
        for a, b, c in zip(small, next_, whole, strict=False):
            if any(z - x not in {k * (y - x) for k in factors} for x, y, z in zip(a, b, c, strict=False)):
                here, there, far = (
                    " by ".join(str(n) for n, shift in zip(s, shifts, strict=True) if shift) for s in sizes
                )
                return f"{name} has shapes {a}, {b}, {c} at {here}, {there} and {far} pixels"
    return None
