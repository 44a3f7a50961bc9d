"""Values that do not depend on the input: evaluated only where a rule needs their numbers (resize weights, indices)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal


class UnknownConstant(ValueError):
    """A number was needed of which only the shape is known."""


class Const:
    """A value that does not depend on the input: a number, or how to compute it."""

    __slots__ = ("_make", "_value", "dtype", "shape")

    def __init__(self, aval: Any, make: Callable[[], Any] | None = None, value: Any = None):
        self.shape, self.dtype = tuple(getattr(aval, "shape", ())), getattr(aval, "dtype", None)
        self._make, self._value = make, value

    @property
    def value(self) -> Any:
        if self._value is None:
            if self._make is None:
                raise UnknownConstant("its numbers are not known: only a shape was given")
            self._value = self._make()
            self._make = None
        return self._value

    def array(self) -> np.ndarray:
        return np.asarray(self.value)


def known(value: Any) -> Const:
    """A constant whose numbers are there."""
    return Const(value if hasattr(value, "shape") else np.asarray(value), value=value)


def delayed(eqn: Any, inputs: Sequence[Const]) -> list[Const]:
    """The outputs of an equation whose inputs are all constant."""
    memo: list[Any] = []

    def outputs() -> Sequence[Any]:
        if not memo:
            memo.append(_evaluate(eqn, [c.value for c in inputs]))
        return memo[0]

    def output(i: int) -> Any:
        return outputs()[i]

    return [Const(v.aval, partial(output, i)) for i, v in enumerate(eqn.outvars)]


def _evaluate(eqn: Any, values: list[Any]) -> Sequence[Any]:
    quick = _NUMPY.get(eqn.primitive.name)
    if quick is not None and all(_plain(v) for v in values) and all(_plain_aval(v.aval) for v in eqn.outvars):
        aval = eqn.outvars[0].aval
        return [np.asarray(quick(eqn.params, *map(np.asarray, values))).astype(aval.dtype).reshape(aval.shape)]
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if isinstance(inner, ClosedJaxpr) and len(inner.jaxpr.invars) == len(values):
            return _run(inner, values)
    outputs = eqn.primitive.bind(*values, **eqn.params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _run(inner: ClosedJaxpr, values: list[Any]) -> list[Any]:
    """A jitted helper (`where`, `clip`, ...) equation by equation: compiling each would cost more than all the rest."""
    jaxpr = inner.jaxpr
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, inner.consts, strict=True))
    env.update(zip(jaxpr.invars, values, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _evaluate(eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _plain_aval(aval: Any) -> bool:
    return getattr(aval, "dtype", None) is not None and _numpy_dtype(aval.dtype)


def _plain(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, int, float, bool, jax.Array)) and (
        not hasattr(value, "dtype") or _numpy_dtype(value.dtype)
    )


def _numpy_dtype(dtype: Any) -> bool:
    try:
        return np.dtype(dtype).kind in "biufc"
    except TypeError:
        return False


def _broadcast(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for size, axis in zip(x.shape, params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _iota(params: dict[str, Any]) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    return np.broadcast_to(np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)


def _select(params: dict[str, Any], which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    which = np.broadcast_to(which, cases[0].shape)
    return (
        np.choose(which.astype(int), cases)
        if len(cases) <= 32
        else np.take_along_axis(np.stack(cases), which[None], 0)[0]
    )


def _quiet(operation: Callable[..., Any]) -> Callable[..., Any]:
    def run(params: dict[str, Any], *values: np.ndarray) -> Any:
        with np.errstate(all="ignore"):
            return operation(*values)

    return run


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":
        quotient = np.abs(a) // np.maximum(np.abs(b), 1)
        return np.where((a < 0) != (b < 0), -quotient, quotient)
    return a / b


# The primitives that index arithmetic and resize weights are made of; anything else is bound as it stands.
_NUMPY: dict[str, Callable[..., Any]] = {
    "add": _quiet(np.add),
    "sub": _quiet(np.subtract),
    "mul": _quiet(np.multiply),
    "div": _quiet(_divide),
    "max": _quiet(np.maximum),
    "min": _quiet(np.minimum),
    "neg": _quiet(np.negative),
    "abs": _quiet(np.abs),
    "sign": _quiet(np.sign),
    "floor": _quiet(np.floor),
    "ceil": _quiet(np.ceil),
    "sqrt": _quiet(np.sqrt),
    "exp": _quiet(np.exp),
    "log": _quiet(np.log),
    "rem": _quiet(np.fmod),
    "lt": _quiet(np.less),
    "le": _quiet(np.less_equal),
    "gt": _quiet(np.greater),
    "ge": _quiet(np.greater_equal),
    "eq": _quiet(np.equal),
    "ne": _quiet(np.not_equal),
    "not": _quiet(np.invert),
    "and": _quiet(np.bitwise_and),
    "or": _quiet(np.bitwise_or),
    "select_n": _select,
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "broadcast_in_dim": _broadcast,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: x,
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "iota": _iota,
    "concatenate": lambda params, *xs: np.concatenate(xs, axis=params["dimension"]),
    "reduce_sum": lambda params, x: x.sum(axis=tuple(params["axes"])),
    "reduce_max": lambda params, x: x.max(axis=tuple(params["axes"])),
    "reduce_min": lambda params, x: x.min(axis=tuple(params["axes"])),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "copy": lambda params, x: x,
    "stop_gradient": lambda params, x: x,
}
