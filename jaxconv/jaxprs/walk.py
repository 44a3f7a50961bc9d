"""Jaxprs read equation by equation: what a call runs, and one walk for everybody who reads with values of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

AnyJaxpr = Jaxpr | ClosedJaxpr
Atom = Var | Literal

# These run a jaxpr several times, not at all, on parts of their operands, or on one of several devices.
_NOT_CALLS = frozenset("cond custom_linear_solve reduce reduce_window scan shard_map while".split())


def opened(jaxpr: AnyJaxpr) -> Jaxpr:
    """The jaxpr without its constants; jax 0.12 has one class for open and closed jaxprs."""
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def consts_of(jaxpr: AnyJaxpr) -> Sequence[Any]:
    """The values of a jaxpr's `constvars`."""
    return getattr(jaxpr, "consts", ()) or ()


def jaxprs_in(value: Any) -> Iterator[AnyJaxpr]:
    """Every jaxpr in a parameter, in tuples, lists and dicts too."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        yield value
    elif isinstance(value, tuple | list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from jaxprs_in(inner)


def called(eqn: JaxprEqn) -> AnyJaxpr | None:
    """The jaxpr that a call runs once on its operands as they are (jit, remat, custom rules, ...); None if it is none.

    Calls are told by their one jaxpr-valued parameter, whose inputs and outputs are those of the equation, and not by
    name: the names of primitives and parameters change between versions of jax.
    """
    inside = [v for v in eqn.params.values() if isinstance(v, Jaxpr | ClosedJaxpr)]
    if len(inside) != 1 or eqn.primitive.name in _NOT_CALLS:
        return None
    inner = opened(inside[0])
    alike = _types(inner.invars) == _types(eqn.invars) and _types(inner.outvars) == _types(eqn.outvars)
    return inside[0] if alike else None


def _types(atoms: Sequence[Any]) -> list[tuple[type, Any]]:
    return [(type(v.aval), getattr(v.aval, "shape", None)) for v in atoms]


def type_of(atom: Atom) -> jax.core.ShapedArray:
    """Shape and dtype of what an equation reads or writes; nothing that is asked about here is a token."""
    return cast(jax.core.ShapedArray, atom.aval)


def label_of(eqn: JaxprEqn) -> str:
    """The name of the jitted function that an equation calls; empty for other equations."""
    name = eqn.params.get("name", "") if eqn.primitive.name in ("jit", "pjit") else ""
    return name if isinstance(name, str) else ""


def walk(
    jaxpr: AnyJaxpr,
    inputs: Sequence[Any],
    step: Callable[[JaxprEqn, list[Any]], Sequence[Any]],
    lift: Callable[[Any], Any],
) -> list[Any]:
    """The outputs of a jaxpr for inputs of any kind: `step(eqn, values)` gives the outputs of one equation.

    Args:
        jaxpr: open or closed.
        inputs: one value for each of its inputs.
        step: what an equation does with such values.
        lift: makes such a value of an array: of literals and of the jaxpr's constants.

    Returns:
        One value for each output.
    """
    inner = opened(jaxpr)
    env: dict[Any, Any] = {}
    env.update(zip(inner.constvars, map(lift, consts_of(jaxpr)), strict=True))
    env.update(zip(inner.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return lift(atom.val) if isinstance(atom, Literal) else env[atom]

    last_use = _last_uses(inner)
    for number, eqn in enumerate(inner.eqns):
        env.update(zip(eqn.outvars, step(eqn, [read(v) for v in eqn.invars]), strict=True))
        for var in last_use.get(number, ()):
            env.pop(var, None)
    return [read(v) for v in inner.outvars]


def _last_uses(jaxpr: Jaxpr) -> dict[int, list[Any]]:
    """Which variables can be forgotten after which equation: the values of a deep network are many."""
    last: dict[Any, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        last.update((v, number) for v in eqn.invars if not isinstance(v, Literal))
    uses: dict[int, list[Any]] = {}
    for var, number in last.items():
        if not any(var is v for v in jaxpr.outvars):
            uses.setdefault(number, []).append(var)
    return uses


def bound(eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
    """The outputs of an equation for arrays (or what jax traces)."""
    outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def scan_parts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many operands stay fixed and how many are carried; scanned ones lose an axis inside of the body.

    The parameters that say so have changed between versions of jax; the shapes have not.
    """
    body: Any = opened(eqn.params["jaxpr"])
    pairs = ((eqn.invars, body.invars), (eqn.outvars, body.outvars))
    ranks = [[(len(type_of(o).shape), len(type_of(i).shape)) for o, i in zip(*p, strict=True)] for p in pairs]
    scanned, carried = sum(o != i for o, i in ranks[0]), sum(o == i for o, i in ranks[1])
    return len(eqn.invars) - scanned - carried, carried
