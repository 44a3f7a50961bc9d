"""What follows a convolution in a jaxpr, read as one epilogue: equations of one number each, put together.

A value that is made of a face's result v is kept as ``activation(scale * v + bias + residual)`` while that form holds:
biases, evaluated batch normalisation, sums with another array, and the activations of straight pieces (ReLU, leaky and
parametric ReLU, ReLU6) in the equations that jax.nn, Flax and Haiku write. Anything else ends the form, and so do the
transpositions that channels-first layers have there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.walk import called, type_of, walk
from jaxconv.lowering import Epilogue


@dataclasses.dataclass(frozen=True, eq=False)  # told apart by identity: a comparison is of one value, not of its like
class Following:
    """A value that is made of v; `product` says of which other such value it is a multiple, and by which vector."""

    epilogue: Epilogue
    product: tuple[Following, Any] | None = None
    whole: bool = True  # whether `epilogue` is all of it: a multiple of a residual sum is none

    @property
    def affine(self) -> bool:
        """Whether no activation has come yet."""
        e = self.epilogue
        return self.whole and e.slope is None and not e.rectified and e.most == math.inf


@dataclasses.dataclass(frozen=True)
class Below:
    """Whether a value is below zero, or at least zero."""

    of: Following
    true_below: bool


@dataclasses.dataclass(frozen=True)
class Spread:
    """One number a channel, or one for all, spread over the result's shape."""

    source: Any


class Symbol:
    """A vector of which only the fact that it is there counts."""

    def _itself(self, *_: Any) -> Symbol:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _itself


class Reader:
    """Reads equations on values of which some are made of a face's result.

    Args:
        shape: of the result.
        dtype: of the result.
        evaluate: gives the outputs of an equation on other values; None where these are types and nothing is computed.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, evaluate: Callable[[JaxprEqn, Sequence[Any]], Sequence[Any]] | None
    ):
        self.shape, self.dtype, self.evaluate = shape, jnp.dtype(dtype), evaluate

    def step(self, eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        """The outputs of an equation; None for those that are no longer of the form."""
        if not any(isinstance(v, (Following, Below)) or v is None for v in values):
            return self._other(eqn, values)
        inner = called(eqn)
        if inner is not None:
            return walk(inner, values, self.step, lambda constant: constant)
        if len(eqn.outvars) != 1 or any(v is None for v in values):
            return [None] * len(eqn.outvars)
        rule = _RULES.get(eqn.primitive.name)
        return [None if rule is None else rule(self, eqn, *values)]

    def _other(self, eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        if eqn.primitive.name == "broadcast_in_dim" and type_of(eqn.outvars[0]).shape == self.shape:
            axes, size = eqn.params["broadcast_dimensions"], np.shape(values[0])
            # A residual may have been spread too: only what differs by channels alone is a vector.
            if all(n == 1 or axis == len(self.shape) - 1 for axis, n in zip(axes, size, strict=True)):
                return [Spread(values[0])]
        if eqn.primitive.name == "convert_element_type" and _number(values[0]) is not None:  # jnp.clip's limits
            return [np.asarray(values[0]).astype(eqn.params["new_dtype"])]
        if self.evaluate is None:
            return [type_of(v) for v in eqn.outvars]
        return self.evaluate(eqn, [self.whole(v) for v in values])

    def whole(self, value: Any) -> Any:
        """A value as an equation reads it."""
        return jnp.broadcast_to(value.source, self.shape) if isinstance(value, Spread) else value

    def vector(self, value: Any) -> Any:
        """One number a channel, (channels,), of an operand that has these or one number; None where it has more."""
        channels = self.shape[-1]
        if isinstance(value, Spread):
            value = value.source
        elif (size := np.shape(value)) != () and (
            len(size) != len(self.shape) or any(n != 1 for n in size[:-1]) or size[-1] not in (1, channels)
        ):
            return None
        if self.evaluate is None:
            return Symbol()
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return jnp.broadcast_to(jnp.reshape(value, -1), (channels,)).astype(wide)

    def is_residual(self, value: Any) -> bool:
        """Whether a value is an array of the result's shape and dtype."""
        return np.shape(value) == self.shape and getattr(value, "dtype", None) == self.dtype


# ---------------------------------------------------------------------- rules, by primitive


def _of(following: Following, **changes: Any) -> Following:
    return Following(dataclasses.replace(following.epilogue, **changes))


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a + b


def _sides(a: Any, b: Any) -> tuple[Any, Any]:
    """The one operand that is made of v, and the other, in any order; (None, None) where both are."""
    v, other = (a, b) if isinstance(a, Following) else (b, a)
    alone = isinstance(v, Following) and not isinstance(other, (Following, Below))
    return (v, other) if alone else (None, None)


def _add(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
    v, other = _sides(a, b)
    if v is None or not v.affine:
        return None
    if (vector := reader.vector(other)) is not None:
        return _of(v, bias=_plus(v.epilogue.bias, vector))
    if v.epilogue.residual is None and reader.is_residual(other):
        return _of(v, residual=other)
    return None


def _sub(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
    if isinstance(a, Following) and a.affine and (vector := reader.vector(b)) is not None:
        return _of(a, bias=_plus(a.epilogue.bias, -vector))
    return None


def _times(v: Any, vector: Any) -> Any:
    if not (isinstance(v, Following) and v.affine):
        return None
    e = v.epilogue
    scaled = dataclasses.replace(
        e,
        scale=vector if e.scale is None else e.scale * vector,
        bias=None if e.bias is None else e.bias * vector,
    )
    return Following(scaled, product=(v, vector), whole=e.residual is None)


def _mul(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
    v, other = _sides(a, b)
    vector = None if v is None else reader.vector(other)
    return None if vector is None else _times(v, vector)


def _div(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
    vector = None if isinstance(b, (Following, Below)) else reader.vector(b)
    return None if vector is None else _times(a, 1 / vector)


def _neg(reader: Reader, eqn: JaxprEqn, a: Any) -> Any:
    return _times(a, reader.vector(-1.0))


def _convert(reader: Reader, eqn: JaxprEqn, a: Any) -> Any:
    """To the result's own format, or to the one in which half precision is computed: another one rounds otherwise."""
    dtype = type_of(eqn.outvars[0]).dtype
    fits = dtype in (reader.dtype, jnp.promote_types(reader.dtype, jnp.float32))
    return a if fits and isinstance(a, Following) else None


def _number(value: Any) -> float | None:
    """A number that is known before the program runs."""
    known = isinstance(value, (int, float, np.generic, np.ndarray)) and np.size(value) == 1
    return float(np.reshape(value, ())) if known else None


def _max(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
    v, other = _sides(a, b)
    return _of(v, rectified=True) if v is not None and v.affine and _number(other) == 0 else None


def _min(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
    v, other = _sides(a, b)
    most = None if v is None or not v.whole else _number(other)
    return None if most is None else _of(v, most=min(most, v.epilogue.most))


def _clamp(reader: Reader, eqn: JaxprEqn, low: Any, v: Any, high: Any) -> Any:
    rectified = _max(reader, eqn, v, low)
    return None if rectified is None else _min(reader, eqn, rectified, high)


def _compared(true_below: bool) -> Callable[..., Any]:
    def rule(reader: Reader, eqn: JaxprEqn, a: Any, b: Any) -> Any:
        fits = isinstance(a, Following) and _number(b) == 0
        return Below(a, true_below) if fits else None

    return rule


def _select(reader: Reader, eqn: JaxprEqn, which: Any, *cases: Any) -> Any:
    if not isinstance(which, Below) or len(cases) != 2:
        return None
    below, above = (cases[1], cases[0]) if which.true_below else (cases[0], cases[1])
    fits = above is which.of and which.of.affine and isinstance(below, Following) and below.product is not None
    if not fits or below.product[0] is not which.of:
        return None
    return _of(which.of, slope=below.product[1])


_RULES: dict[str, Callable[..., Any]] = {
    "add": _add, "add_any": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "convert_element_type": _convert,
    "copy": lambda reader, eqn, a: a, "max": _max, "min": _min, "clamp": _clamp, "select_n": _select,
    "ge": _compared(False), "gt": _compared(False), "lt": _compared(True), "le": _compared(True),
}  # fmt: skip
