"""A jaxpr with its convolutions replaced by faces, and everything else as it was.

The rewriting is surgery: an equation gives way to a few equations with the same inputs and outputs; the others, their
names, scopes, shardings and rules are not traced again. Jaxprs inside parameters (of jit, scan, while, cond, remat,
shard_map, custom rules, ...) are found by type, since parameter names change between jax versions, and rewritten in
place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.extend.core import JaxprEqn
from jax.typing import DTypeLike

from jaxconv import trilinear
from jaxconv._accelerate.equation import Equation
from jaxconv._accelerate.face import evaluate
from jaxconv._accelerate.fuse import fused, then_p
from jaxconv._accelerate.recognise import Assignment, assignments, refusal
from jaxconv._checks import is_open
from jaxconv.jaxprs.places import place_of, scope_of
from jaxconv.jaxprs.surgery import map_jaxprs, mesh_of, spliced, trace, with_eqns
from jaxconv.jaxprs.walk import AnyJaxpr, opened, type_of

_CONVOLUTION = "conv_general_dilated"
_FACES = {p.name: face for p, face in trilinear.FACES.items()}
# A kernel written for one accelerator is not ours to change.
_CLOSED_WORLDS = {"pallas_call", "xla_pallas_call", "mosaic_gpu_call", "triton_call"}


@dataclasses.dataclass(frozen=True)
class Recognition:
    """What became of one convolution.

    Attributes:
        path: the primitives around it, outermost first, and its named scopes or the user's line.
        shapes: shape of lhs, rhs and result.
        dtype: dtype of lhs.
        equation: the equation as read; None where it was a face already.
        assignment: the reading that was used, or None.
        reason: why it was left alone, or None.
    """

    path: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: DTypeLike
    equation: Equation | None
    assignment: Assignment | None
    reason: str | None


Rewritten = tuple[Any, list[Recognition]]


class Rewriter:
    """Rewrites jaxprs; remembers those it has seen, so that what is shared stays shared.

    Args:
        method: lowering asked of every face, "auto" for the cost model's.
        pick: chooses among the admissible assignments; default the first.
    """

    def __init__(self, method: str = "auto", pick: Callable[[Equation, list[Assignment]], Assignment] | None = None):
        self.method = method
        self.pick = pick
        self._seen: dict[int, tuple[AnyJaxpr, Rewritten]] = {}
        self._read: dict[Any, tuple[Any, Recognition]] = {}  # convolutions of the same types, by their parameters

    def __call__(self, jaxpr: AnyJaxpr) -> Rewritten:
        """The rewritten jaxpr (the same object if nothing changed) and what was found in it."""
        if id(jaxpr) not in self._seen:
            # The jaxpr is kept with the answer: its id must not be given to another one.
            self._seen[id(jaxpr)] = (jaxpr, self._rewrite(jaxpr))
        return self._seen[id(jaxpr)][1]

    def _rewrite(self, jaxpr: AnyJaxpr) -> Rewritten:
        eqns, found = [], []
        for eqn in jaxpr.eqns:
            new, rows = self._equation(eqn)
            eqns += new
            found += rows
        eqns = fused(eqns, opened(jaxpr).outvars)
        if all(a is b for a, b in zip(eqns, jaxpr.eqns)) and len(eqns) == len(jaxpr.eqns):
            return jaxpr, found
        return with_eqns(jaxpr, eqns), found

    def _equation(self, eqn: JaxprEqn) -> tuple[list[JaxprEqn], list[Recognition]]:
        name = eqn.primitive.name
        if name == _CONVOLUTION:
            return self._convolution(eqn)
        if name in _FACES:
            shapes = tuple(type_of(v).shape for v in (*eqn.invars, *eqn.outvars))
            reason = f"already the face {_FACES[name]}"
            return [eqn], [Recognition(_place(eqn), shapes, type_of(eqn.invars[0]).dtype, None, None, reason)]
        if eqn.primitive is then_p:
            return [eqn], [row for inner in opened(eqn.params["jaxpr"]).eqns for row in self._equation(inner)[1]]
        if name in _CLOSED_WORLDS:
            return [eqn], []
        found: list[Recognition] = []

        def visit(inner: Any) -> Any:
            new, rows = self(inner)
            found.extend(dataclasses.replace(row, path=(_label(eqn), *row.path)) for row in rows)
            return new

        params = {key: map_jaxprs(visit, value) for key, value in eqn.params.items()}
        if all(params[key] is eqn.params[key] for key in params):
            return [eqn], found
        return [eqn.replace(params=params)], found

    def _convolution(self, eqn: JaxprEqn) -> tuple[list[JaxprEqn], list[Recognition]]:
        types = tuple(type_of(v) for v in (*eqn.invars, *eqn.outvars))
        key = (types, *eqn.params.items())
        if key not in self._read:
            self._read[key] = self._reading(eqn.params, *types)
        traced, row = self._read[key]
        rows = [dataclasses.replace(row, path=_place(eqn))]
        return [eqn] if traced is None else list(spliced(traced, eqn)), rows

    def _reading(self, params: dict[str, Any], a: Any, b: Any, out: Any) -> tuple[Any, Recognition]:
        """The jaxpr of the face that computes an equation of these parameters and types, or None; what was found."""
        row = Recognition((), (a.shape, b.shape, out.shape), a.dtype, None, None, None)
        sizes = [t.shape[i] for t, spec in zip((a, b, out), params["dimension_numbers"], strict=True) for i in spec[2:]]
        if is_open(sizes):  # a geometry is plain integers
            return None, dataclasses.replace(row, reason="a spatial size is open until the program runs")
        equation = Equation.read(params, a, b, out)
        row = dataclasses.replace(row, equation=equation, reason=refusal(equation))
        if self.pick is None:
            choices = assignments(equation)
        else:
            found = list(assignments(equation))
            choices = iter([self.pick(equation, found)] if found else [])
        for assignment in choices:
            traced, refused = _traced(equation, assignment, self.method, a, b, out)
            if traced is not None:
                return traced, dataclasses.replace(row, assignment=assignment, reason=None)
            row = dataclasses.replace(row, reason=row.reason or refused)
        return None, row


def _traced(
    equation: Equation, assignment: Assignment, method: str, lhs: Any, rhs: Any, target: Any
) -> tuple[Any, str | None]:
    """The jaxpr that stands for an equation of these types, or None and the reason why there is none."""

    def compute(a, b):
        return evaluate(equation, assignment, a, b, like=target, method=method)

    try:
        traced = trace(compute, lhs, rhs)
    except (
        ValueError,
        TypeError,
    ) as error:  # shardings in types that a face cannot keep; jax's own errors are among these
        if mesh_of(lhs).empty:
            raise
        return None, f"its sharding: {str(error).splitlines()[0]}"
    (result,) = traced.outvars
    if traced.constvars or result.aval != target:
        return None, f"the face gives {result.aval}, the equation {target}"
    return traced, None


def _label(eqn: JaxprEqn) -> str:
    name = eqn.params.get("name")
    label = f"{eqn.primitive.name}({name})" if isinstance(name, str) else eqn.primitive.name
    return "/".join(filter(None, (scope_of(eqn), label)))


def _place(eqn: JaxprEqn) -> tuple[str, ...]:
    """Its named scopes, or the line of the user's program."""
    place = place_of(eqn)
    return (place,) if place else ()
