"""Sums and extremes over whole axes of an image, taken out of a function so that tiles can be handed their values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal
from jax.typing import DTypeLike

from jaxconv.jaxprs.walk import bound, called, consts_of, label_of, opened, type_of

from ..graph.reader import NAMED_CALLS, NotUnderstood
from .moving import AtSizes

KINDS = {"reduce_sum": np.add, "reduce_max": np.maximum, "reduce_min": np.minimum}
Path = tuple[int, ...]  # the number of an equation, after those of the calls that it stands in

_CONSTANT, _STATISTIC, _IMAGE, _LATER = range(4)  # what a value depends on; _LATER: a statistic of a later pass


class _Value(NamedTuple):
    value: Any
    origin: int
    whole: Any = None  # of a constant: what it is where the image is whole (counts of means)


@dataclass(frozen=True)
class Pass:
    """Reductions of one kind and shape that one pass over the image takes together; `axes` are those reduced."""

    kind: str
    paths: tuple[Path, ...]
    axes: tuple[int, ...]

    def start(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """The neutral element; sums over tiles are kept in float64."""
        if self.kind == "reduce_sum":
            return np.zeros(shape, np.float64 if np.issubdtype(dtype, np.inexact) else dtype)
        info: Any = jnp.finfo(dtype) if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype)
        lowest, highest = (-np.inf, np.inf) if jnp.issubdtype(dtype, jnp.inexact) else (info.min, info.max)
        return np.full(shape, lowest if self.kind == "reduce_max" else highest, dtype)


class Statistics:
    """A function without its reductions over whole axes of the image.

    `passes` lists them, those that others depend on first. Called as `run(x, found, *args)` with the values of the
    first of them, in order, it is the function; `operand(k)` is what pass k reduces, stacked along a new last axis.

    A mean divides by a count, which a crop has another number for: what follows from statistics and constants alone is
    computed by the equations of the whole image, everything else by those of the crop.
    """

    def __init__(self, fn: Callable[..., Any], image: Any, args: Sequence[Any], axes: Sequence[int]):
        self.at = AtSizes(fn, image, args, axes)
        self.sizes = tuple(image.shape[a] for a in axes)
        small = [min(n, 256) for n in self.sizes]
        self.large = jax.make_jaxpr(fn)(*self.at.arguments(self.sizes))
        traced = self.at.traced(small)
        self.marks = {
            path: (eqn.primitive.name, tuple(int(a) for a in eqn.params["axes"]))
            for path, eqn in _inlined(traced.jaxpr, self.large, ())
            if any(eqn is wide for wide in traced.wide_eqns) and eqn.primitive.name in KINDS
        }
        self.passes: list[Pass] = []
        given: dict[Path, Any] = {}
        arguments = self.at.arguments(small)
        while len(given) < len(self.marks):
            _, operands = jax.eval_shape(
                lambda x, known, *rest: self._run(x, known, rest), arguments[0], list(given.values()), *arguments[1:]
            )
            alike: dict[Any, list[Path]] = {}
            for path, operand in operands.items():
                alike.setdefault((*self.marks[path], operand.shape, str(operand.dtype)), []).append(path)
                given[path] = jax.ShapeDtypeStruct(
                    [n for a, n in enumerate(operand.shape) if a not in self.marks[path][1]], operand.dtype
                )
            self.passes += [Pass(key[0], tuple(paths), key[1]) for key, paths in alike.items()]
            order = [p for one in self.passes for p in one.paths]
            given = {p: given[p] for p in order}
        self.shapes = list(given.values())

    def __call__(self, x: Any, found: Sequence[Any], *args: Any) -> Any:
        return self._run(x, found, args)[0]

    def before(self, number: int) -> int:
        """How many values are found before a pass."""
        return sum(len(one.paths) for one in self.passes[:number])

    def reduced(self, number: int) -> Callable[..., jax.Array]:
        """Part of pass `number`: its reduction over the positions low .. high - 1 of the axes `at` of its operand."""
        one, operand = self.passes[number], self.operand(number)

        def part(x: Any, low: Any, high: Any, at: Sequence[int], found: Sequence[Any], *args: Any) -> jax.Array:
            value = operand(x, found, *args)
            inside = jnp.ones((1,) * value.ndim, bool)
            for i, a in enumerate(at):
                place = jax.lax.broadcasted_iota(jnp.int32, [n if b == a else 1 for b, n in enumerate(value.shape)], a)
                inside &= (place >= low[i]) & (place < high[i])
            neutral = jnp.asarray(one.start((), value.dtype), value.dtype)
            reduce: Any = {"reduce_sum": jnp.sum, "reduce_max": jnp.max, "reduce_min": jnp.min}[one.kind]
            return reduce(jnp.where(inside, value, neutral), axis=one.axes)

        return part

    def operand(self, number: int) -> Callable[..., jax.Array]:
        def stacked(x: Any, found: Sequence[Any], *args: Any) -> jax.Array:
            _, operands = self._run(x, found, args)
            return jnp.stack([operands[p] for p in self.passes[number].paths], axis=-1)

        return stacked

    def _run(self, x: Any, found: Sequence[Any], args: Sequence[Any]) -> tuple[Any, dict[Path, Any]]:
        """The function's result, and the operands of the reductions that depend on none but those found."""
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        closed, tree = jax.make_jaxpr(self.at.fn, return_shape=True)(shape, *args)
        paths = [p for one in self.passes for p in one.paths]
        run = _Run(self.marks, dict(zip(paths, found, strict=False)))
        leaves = [_Value(x, _IMAGE), *(_Value(leaf, _CONSTANT, leaf) for leaf in jax.tree.leaves(args))]
        results = run(closed, self.large, leaves, ())
        return jax.tree.unflatten(jax.tree.structure(tree), [r.value for r in results]), run.operands


class _Run:
    """Evaluates a crop's jaxpr beside that of the whole image."""

    def __init__(self, marks: Any, found: dict[Path, Any]):
        self.marks, self.found, self.operands = marks, found, dict[Path, Any]()

    def __call__(self, small: Any, large: Any, inputs: Sequence[_Value], path: Path) -> list[_Value]:
        env: dict[Any, _Value] = {}
        for var, value, whole in zip(opened(small).constvars, consts_of(small), consts_of(large), strict=True):
            env[var] = _Value(value, _CONSTANT, whole)
        env.update(zip(opened(small).invars, inputs, strict=True))

        def read(atom: Any, big: Any) -> _Value:
            if isinstance(atom, Literal):
                return _Value(atom.val, _CONSTANT, big.val if isinstance(big, Literal) else None)
            return env[atom]

        for number, (eqn, big) in enumerate(_paired(small, large)):
            values = [read(a, b) for a, b in zip(eqn.invars, big.invars, strict=True)]
            env.update(zip(eqn.outvars, self._equation(eqn, big, values, (*path, number)), strict=True))
        return [read(a, b) for a, b in zip(opened(small).outvars, opened(large).outvars, strict=True)]

    def _equation(self, eqn: JaxprEqn, big: Any, values: list[_Value], path: Path) -> list[_Value]:
        if path in self.found:
            return [_Value(jnp.asarray(self.found[path], type_of(eqn.outvars[0]).dtype), _STATISTIC)]
        origin = max((v.origin for v in values), default=_CONSTANT)
        if path in self.marks:
            if origin != _LATER:
                self.operands[path] = values[0].value
            return [_Value(jnp.zeros(type_of(eqn.outvars[0]).shape, type_of(eqn.outvars[0]).dtype), _LATER)]
        inner = _called(eqn)
        if inner is not None:
            return self(inner, _called(big), values, path)
        own = [v.value for v in values]
        alike = [type_of(v).shape for v in (*eqn.invars, *eqn.outvars)] == [
            v.aval.shape for v in (*big.invars, *big.outvars)
        ]
        whole = [v.whole if v.origin == _CONSTANT else v.value for v in values]
        known = alike and not any(w is None for w in whole)
        if origin == _STATISTIC and known:
            return [_Value(o, origin) for o in bound(big, whole)]
        outputs = bound(eqn, own)
        if origin != _CONSTANT:
            return [_Value(o, origin) for o in outputs]
        counts = bound(big, whole) if known else [None] * len(outputs)
        return [_Value(o, origin, w) for o, w in zip(outputs, counts, strict=True)]


def _called(eqn: JaxprEqn) -> Any:
    """The jaxpr of a call that is read equation by equation; those that the analysis knows by name stay calls."""
    return None if label_of(eqn) in NAMED_CALLS else called(eqn)


def _inlined(small: Any, large: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    for number, (eqn, big) in enumerate(_paired(small, large)):
        yield (*path, number), eqn
        inner = _called(eqn)
        if inner is not None:
            yield from _inlined(inner, _called(big), (*path, number))


def _paired(small: Any, large: Any) -> list[tuple[Any, Any]]:
    """The equations of a crop's jaxpr, each with its own of the whole image's."""
    pairs = list(zip(opened(small).eqns, opened(large).eqns, strict=False))
    same = all(a.primitive is b.primitive for a, b in pairs)
    if not same or len(opened(small).eqns) != len(opened(large).eqns):
        raise NotUnderstood("jaxpr", "", "its equations are others where the image has another size")
    return pairs
