"""A jaxpr with its convolutions replaced by faces, and everything else as it was.

The rewriting is surgery: an equation gives way to a few equations with the same inputs and outputs; the others, their
names, scopes, shardings and rules are not traced again. Jaxprs inside parameters (of jit, scan, while, cond, remat,
shard_map, custom rules, ...) are found by type, since parameter names change between jax versions, and rewritten in
place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import PartitionSpec

from jaxconv import trilinear
from jaxconv._accelerate.equation import Equation
from jaxconv._accelerate.face import evaluate
from jaxconv._accelerate.recognise import Assignment, assignments, refusal

_CONVOLUTION = "conv_general_dilated"
_FACES = {p.name: face for p, face in trilinear.FACES.items()}
# A kernel written for one accelerator is not ours to change.
_CLOSED_WORLDS = {"pallas_call", "xla_pallas_call", "mosaic_gpu_call", "triton_call"}


@dataclasses.dataclass(frozen=True)
class Found:
    """What became of one convolution.

    Attributes:
        path: the primitives around it, outermost first, and its named scope.
        shapes: shape of lhs, rhs and result.
        dtype: dtype of lhs.
        equation: the equation as read; None where it was a face already.
        assignment: the reading that was used, or None.
        reason: why it was left alone, or None.
    """

    path: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any
    equation: Equation | None
    assignment: Assignment | None
    reason: str | None


Rewritten = tuple[Any, list[Found]]


class Rewriter:
    """Rewrites jaxprs; remembers those it has seen, so that what is shared stays shared.

    Args:
        method: lowering asked of every face, "auto" for the cost model's.
        pick: chooses among the admissible assignments; default the first.
    """

    def __init__(self, method: str = "auto", pick: Callable[[Equation, list[Assignment]], Assignment] | None = None):
        self.method = method
        self.pick = pick
        self._seen: dict[int, tuple[Any, Rewritten]] = {}

    def __call__(self, jaxpr: Any) -> Rewritten:
        """The rewritten jaxpr (the same object if nothing changed) and what was found in it."""
        if id(jaxpr) not in self._seen:
            # The jaxpr is kept with the answer: its id must not be given to another one.
            self._seen[id(jaxpr)] = (jaxpr, self._rewrite(jaxpr))
        return self._seen[id(jaxpr)][1]

    def _rewrite(self, jaxpr: Any) -> Rewritten:
        eqns, found = [], []
        for eqn in jaxpr.eqns:
            new, rows = self._equation(eqn)
            eqns += new
            found += rows
        if all(a is b for a, b in zip(eqns, jaxpr.eqns)) and len(eqns) == len(jaxpr.eqns):
            return jaxpr, found
        return _with_eqns(jaxpr, eqns), found

    def _equation(self, eqn: Any) -> tuple[list[Any], list[Found]]:
        name = eqn.primitive.name
        if name == _CONVOLUTION:
            return self._convolution(eqn)
        if name in _FACES:
            shapes = tuple(v.aval.shape for v in (*eqn.invars, *eqn.outvars))
            reason = f"already the face {_FACES[name]}"
            return [eqn], [Found(_scope(eqn), shapes, eqn.invars[0].aval.dtype, None, None, reason)]
        if name in _CLOSED_WORLDS:
            return [eqn], []
        found: list[Found] = []

        def visit(inner: Any) -> Any:
            new, rows = self(inner)
            found.extend(dataclasses.replace(row, path=(_label(eqn), *row.path)) for row in rows)
            return new

        params = {key: _map_jaxprs(visit, value) for key, value in eqn.params.items()}
        if all(params[key] is eqn.params[key] for key in params):
            return [eqn], found
        return [eqn.replace(params=params)], found

    def _convolution(self, eqn: Any) -> tuple[list[Any], list[Found]]:
        a, b, out = (v.aval for v in (*eqn.invars, *eqn.outvars))
        equation = Equation.read(eqn.params, a, b, out)
        row = Found(_scope(eqn), (a.shape, b.shape, out.shape), a.dtype, equation, None, refusal(equation))
        choices = assignments(equation)
        if self.pick is not None and choices:
            choices = [self.pick(equation, choices)]
        for assignment in choices:
            new, reason = _replacement(eqn, equation, assignment, self.method)
            if new is not None:
                return new, [dataclasses.replace(row, assignment=assignment, reason=None)]
            row = dataclasses.replace(row, reason=row.reason or reason)
        return [eqn], [row]


def _replacement(
    eqn: Any, equation: Equation, assignment: Assignment, method: str
) -> tuple[list[Any] | None, str | None]:
    """The equations that stand for `eqn`, or None and the reason why there are none."""
    target = eqn.outvars[0].aval

    def compute(a, b):
        return evaluate(equation, assignment, a, b, like=target, method=method)

    try:
        traced = _trace(compute, *(v.aval for v in eqn.invars))
    except (
        ValueError,
        TypeError,
    ) as error:  # shardings in types that a face cannot keep; jax's own errors are among these
        if _mesh_of(eqn.invars[0].aval).empty:
            raise
        return None, f"its sharding: {str(error).splitlines()[0]}"
    (result,) = traced.outvars
    if traced.constvars or result.aval != target:
        return None, f"the face gives {result.aval}, the equation {target}"
    return list(_spliced(traced, eqn)), None


def _spliced(traced: Any, eqn: Any) -> Iterator[Any]:
    """The equations of a traced function with the variables of the equation that it stands for."""
    env = dict(zip(traced.invars, eqn.invars, strict=True))
    env[traced.outvars[0]] = eqn.outvars[0]
    for inner in traced.eqns:
        yield inner.replace(
            invars=[v if isinstance(v, Literal) else env.get(v, v) for v in inner.invars],
            outvars=[env.get(v, v) for v in inner.outvars],
            source_info=eqn.source_info,
            ctx=eqn.ctx,
        )


# ---------------------------------------------------------------------- tracing with the types of the place


def _trace(fn: Callable, *avals: Any) -> Any:
    """An open jaxpr of fn for operands of these abstract values, meshes and varying axes included."""
    mesh = next((m for m in map(_mesh_of, avals) if not m.empty), None)
    if mesh is None:
        return jax.make_jaxpr(fn)(*avals).jaxpr
    varying = [_varying_axes(aval) for aval in avals]
    if not any(varying):
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.make_jaxpr(fn)(*avals).jaxpr
    return _trace_manual(fn, avals, varying, mesh)


def _trace_manual(fn: Callable, avals: tuple[Any, ...], varying: list[frozenset[str]], mesh: Any) -> Any:
    """As `_trace` inside `shard_map`: only there does jax keep track of the axes over which values vary."""
    manual = [n for n, t in zip(mesh.axis_names, mesh.axis_types, strict=True) if t == jax.sharding.AxisType.Manual]
    types = tuple(jax.sharding.AxisType.Auto if t == jax.sharding.AxisType.Manual else t for t in mesh.axis_types)
    outer = jax.sharding.AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=types)
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


def _varying_axes(aval: Any) -> frozenset[str]:
    manual = getattr(aval, "manual_axis_type", None)  # as `_compat.varying_axes`, which reads it off values
    return frozenset(getattr(manual, "varying", None) or getattr(aval, "vma", None) or ())


def _mesh_of(aval: Any) -> Any:
    return aval.sharding.mesh


# ---------------------------------------------------------------------- jaxprs in parameters


def _map_jaxprs(visit: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every jaxpr in it visited, inside tuples, lists and dicts too; the same object if none changed."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        return visit(value)
    if isinstance(value, tuple | list):
        items = [_map_jaxprs(visit, v) for v in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        entries = {key: _map_jaxprs(visit, v) for key, v in value.items()}
        return value if all(entries[key] is value[key] for key in value) else entries
    return value


def _with_eqns(jaxpr: Any, eqns: list[Any]) -> Any:
    if isinstance(jaxpr, Jaxpr):  # jax 0.12 has one class for open and closed jaxprs
        return jaxpr.replace(eqns=eqns)
    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=eqns))


def _label(eqn: Any) -> str:
    name = eqn.params.get("name")
    label = f"{eqn.primitive.name}({name})" if isinstance(name, str) else eqn.primitive.name
    return "/".join((*_scope(eqn), label))


def _scope(eqn: Any) -> tuple[str, ...]:
    scope = str(getattr(eqn.source_info, "name_stack", ""))
    return (scope,) if scope else ()
