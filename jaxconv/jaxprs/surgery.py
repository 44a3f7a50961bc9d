"""Surgery on jaxprs: equations traced with the types of their place, spliced in, inside every nested jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.sharding import PartitionSpec

from jaxconv._compat import varying_axes
from jaxconv.jaxprs.walk import AnyJaxpr


def map_jaxprs(visit: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every jaxpr in it visited, inside tuples, lists and dicts too; the same object if none changed."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        return visit(value)
    if isinstance(value, tuple | list):
        items = [map_jaxprs(visit, v) for v in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        entries = {key: map_jaxprs(visit, v) for key, v in value.items()}
        return value if all(entries[key] is value[key] for key in value) else entries
    return value


def with_eqns(jaxpr: AnyJaxpr, eqns: list[JaxprEqn]) -> Any:
    """The jaxpr, open or closed, with other equations."""
    if isinstance(jaxpr, Jaxpr):  # jax 0.12 has one class for open and closed jaxprs
        return jaxpr.replace(eqns=eqns)
    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=eqns))


def spliced(traced: Any, eqn: JaxprEqn, operands: Sequence[Any] | None = None) -> Iterator[Any]:
    """The equations of a function traced on `operands` (all of them by default), with the variables of `eqn`.

    What is between them has variables of its own each time: one trace may stand for several equations.
    """
    env = {v: Var(v.aval) for inner in traced.eqns for v in inner.outvars}
    env |= dict(zip(traced.invars, eqn.invars if operands is None else operands, strict=True))
    env[traced.outvars[0]] = eqn.outvars[0]
    for inner in traced.eqns:
        yield inner.replace(
            invars=[v if isinstance(v, Literal) else env.get(v, v) for v in inner.invars],
            outvars=[env.get(v, v) for v in inner.outvars],
            source_info=eqn.source_info,
            ctx=eqn.ctx,
        )


# ---------------------------------------------------------------------- tracing with the types of the place


def trace(fn: Callable, *avals: Any) -> Any:
    """An open jaxpr of fn for operands of these abstract values, meshes and varying axes included."""
    mesh = next((m for m in map(mesh_of, avals) if not m.empty), None)
    if mesh is None:
        return jax.make_jaxpr(fn)(*avals).jaxpr
    varying = [varying_axes(aval) for aval in avals]
    if not any(varying):
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.make_jaxpr(fn)(*avals).jaxpr
    return _trace_manual(fn, avals, varying, mesh)


def _trace_manual(fn: Callable, avals: tuple[Any, ...], varying: list[frozenset[str]], mesh: Any) -> Any:
    """As `trace` inside `shard_map`: only there does jax keep track of the axes over which values vary."""
    manual = [n for n, t in zip(mesh.axis_names, mesh.axis_types, strict=True) if t == jax.sharding.AxisType.Manual]
    outer = mesh.update_axis_types(dict.fromkeys(manual, jax.sharding.AxisType.Auto))
    specs, whole = [], []
    for aval, axes in zip(avals, varying, strict=True):
        names = tuple(n for n in mesh.axis_names if n in axes)
        factor = math.prod(mesh.shape[n] for n in names)
        specs.append(PartitionSpec(names) if names else PartitionSpec())
        whole.append(jax.ShapeDtypeStruct((aval.shape[0] * factor, *aval.shape[1:]), aval.dtype))
    out = PartitionSpec(tuple(n for n in mesh.axis_names if any(n in axes for axes in varying)))
    mapped = jax.shard_map(fn, mesh=outer, in_specs=tuple(specs), out_specs=out, axis_names=set(manual))
    with jax.sharding.use_abstract_mesh(outer):
        (eqn,) = jax.make_jaxpr(mapped)(*whole).jaxpr.eqns
    return next(v for v in eqn.params.values() if isinstance(v, Jaxpr | ClosedJaxpr))


def mesh_of(aval: Any) -> Any:
    """The mesh in an abstract value's type; empty without one."""
    return aval.sharding.mesh
