"""A convolution and what follows it as one equation: on CPUs it is one call, without a pass over the result.

The equation, a call of the primitive `conv_then`, holds the jaxpr of what it stands for, face first. Everything but
the compiled kernels takes it for that jaxpr: derivatives, mapping, other platforms, several devices and export.
"""

from __future__ import annotations

import functools
import heapq
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jaxconv import _compat, trilinear
from jaxconv._accelerate.following import Below, Following, Reader
from jaxconv.jaxprs.surgery import mesh_of, spliced, trace
from jaxconv.jaxprs.walk import bound, opened, type_of, walk
from jaxconv.lowering import Epilogue

# No network has more between two convolutions that one epilogue could be.
MOST_EQUATIONS = 16
_FACES = (trilinear.apply_p, trilinear.adjoint_p)

then_p = Primitive("conv_then")


def fused(eqns: Sequence[JaxprEqn], results: Sequence[Any]) -> list[JaxprEqn]:
    """Equations with each convolution and what follows it as one; `results` are read after the last of them."""
    uses: dict[Any, list[int]] = {}
    for number, eqn in enumerate(eqns):
        for v in eqn.invars:
            if not isinstance(v, Literal):
                uses.setdefault(v, []).append(number)
    wanted = {v for v in results if not isinstance(v, Literal)}
    makers = {eqn.outvars[0]: eqn for eqn in eqns if eqn.primitive.name == "broadcast_in_dim"}
    new: list[Any] = list(eqns)
    taken: set[int] = set()  # a sum of two convolutions follows one of them
    for number, eqn in enumerate(eqns):
        if eqn.primitive not in _FACES or not _fits(eqn):
            continue
        followers = _followers(eqns, number, uses, wanted, makers, taken)
        if followers:
            one = _as_one([eqn, *(eqns[k] for k in followers)], makers)
            for k in (number, *followers):
                new[k] = None
            new[followers[-1]] = list(one)
            taken.update(followers)
    return [inner for eqn in new if eqn is not None for inner in (eqn if isinstance(eqn, list) else [eqn])]


def _fits(face: JaxprEqn) -> bool:
    out = type_of(face.outvars[0])
    return jnp.issubdtype(out.dtype, jnp.floating) and all(isinstance(n, int) for n in out.shape) and mesh_of(out).empty


def _followers(
    eqns: Sequence[JaxprEqn],
    face: int,
    uses: dict[Any, list[int]],
    wanted: set[Any],
    makers: dict[Any, JaxprEqn],
    taken: set[int],
) -> list[int]:
    """The longest run of equations after a face that is one epilogue; only its last value is read elsewhere."""
    result = eqns[face].outvars[0]
    reader = Reader(type_of(result).shape, type_of(result).dtype, None)
    made: dict[Any, Any] = {result: Following(Epilogue())}
    read: list[int] = []  # the equations that were of the form, in order
    waiting, seen = list(uses.get(result, ())), {face, *taken}
    heapq.heapify(waiting)
    best: list[int] = []
    while waiting and len(read) < MOST_EQUATIONS:
        number = heapq.heappop(waiting)
        if number in seen:
            continue
        seen.add(number)
        eqn = eqns[number]
        operands = [_value(v, made, reader, makers) for v in eqn.invars]
        outs = [None] if eqn.effects else reader.step(eqn, operands)
        if len(outs) != 1 or not isinstance(outs[0], (Following, Below)):
            continue
        out = eqn.outvars[0]
        made[out] = outs[0]
        read.append(number)
        for use in uses.get(out, ()):
            heapq.heappush(waiting, use)
        if _ends(outs[0], out, result):
            chain = _ancestors(eqns, read, number)
            inside = {eqns[k].outvars[0] for k in chain} - {out} | {result}
            closed = all(set(uses.get(v, ())) <= set(chain) and v not in wanted for v in inside)
            best = chain if closed else best
    return best


def _ends(value: Any, out: Any, result: Any) -> bool:
    return isinstance(value, Following) and value.whole and type_of(out) == type_of(result)


def _value(v: Any, made: dict[Any, Any], reader: Reader, makers: dict[Any, JaxprEqn]) -> Any:
    if isinstance(v, Literal):
        return v.val
    if v in made or v not in makers:
        return made.get(v, type_of(v))
    return reader.step(makers[v], [type_of(x) for x in makers[v].invars])[0]


def _ancestors(eqns: Sequence[JaxprEqn], read: Sequence[int], last: int) -> list[int]:
    """Of the equations in `read`, those that `last` is made from, and itself."""
    needed, chain = {v for v in eqns[last].invars if not isinstance(v, Literal)}, [last]
    for number in reversed([k for k in read if k < last]):
        if eqns[number].outvars[0] in needed:
            chain.append(number)
            needed |= {v for v in eqns[number].invars if not isinstance(v, Literal)}
    return sorted(chain)


def _as_one(chain: list[JaxprEqn], makers: dict[Any, JaxprEqn]) -> Iterator[JaxprEqn]:
    """The equation of `conv_then` that stands for a face and its followers."""
    own = {eqn.outvars[0] for eqn in chain}
    # Its spreads are copied into it, so that what is spread is seen to be a vector.
    read = dict.fromkeys(v for eqn in chain for v in eqn.invars if not isinstance(v, Literal) and v not in own)
    eqns = [*(makers[v] for v in read if v in makers), *chain]
    own |= {v for v in read if v in makers}
    operands = list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal) and v not in own))

    def run(*values: Any) -> Any:
        env = dict(zip(operands, values, strict=True))
        for eqn in eqns:
            env[eqn.outvars[0]] = bound(eqn, [v.val if isinstance(v, Literal) else env[v] for v in eqn.invars])[0]
        return env[chain[-1].outvars[0]]

    avals = [v.aval for v in operands]
    jaxpr = jax.make_jaxpr(run)(*avals)
    return spliced(trace(functools.partial(bind, jaxpr=jaxpr), *avals), chain[-1], operands)


# ---------------------------------------------------------------------- the primitive


def bind(*operands: Any, jaxpr: Any) -> Any:
    """What `jaxpr`, a face and what follows it, makes of its operands."""
    if (jet := sys.modules.get("jax.experimental.jet")) is not None and then_p not in jet.jet_rules:
        jet.jet_rules[then_p] = lambda primals, series, jaxpr: jet.jet(_function(jaxpr), primals, series)
    return then_p.bind(*operands, jaxpr=jaxpr)


def _function(jaxpr: Any) -> Any:
    function = jaxpr_as_fun(jaxpr)
    return lambda *operands: function(*operands)[0]


def _impl(*operands: Any, jaxpr: Any) -> Any:
    with jax.disable_jit(False):
        return _compiled(jaxpr)(*operands)


@functools.lru_cache(maxsize=1024)
def _compiled(jaxpr: Any) -> Any:
    def run(*operands: Any) -> Any:
        if _compat.nothing_is_traced():  # jax_debug_nans: jax calls it once more to find what made a NaN
            return _function(jaxpr)(*operands)
        return then_p.bind(*operands, jaxpr=jaxpr)

    return jax.jit(run)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: Any) -> tuple[Any, Any]:
    moving = [k for k, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_moving(*some: Any) -> Any:
        operands = list(primals)
        for k, value in zip(moving, some, strict=True):
            operands[k] = value
        return _function(jaxpr)(*operands)

    return jax.jvp(of_moving, tuple(primals[k] for k in moving), tuple(tangents[k] for k in moving))


def _batch(operands: Sequence[Any], dims: Sequence[Any], *, jaxpr: Any) -> tuple[Any, int]:
    return jax.vmap(_function(jaxpr), in_axes=tuple(dims))(*operands), 0


def _transpose(cotangent: Any, *operands: Any, jaxpr: Any) -> list[Any]:
    linear = [k for k, value in enumerate(operands) if ad.is_undefined_primal(value)]

    def of_linear(*some: Any) -> Any:
        given = list(operands)
        for k, value in zip(linear, some, strict=True):
            given[k] = value
        return _function(jaxpr)(*given)

    avals = [operands[k].aval for k in linear]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    found = iter(jax.linear_transpose(of_linear, *shapes)(cotangent))
    return [next(found) if k in linear else None for k in range(len(operands))]


def _lowering_rule(platform: str | None) -> Any:
    def rule(ctx: Any, *operands: Any, jaxpr: Any) -> Any:
        here = platform == "cpu" and _compat.runs_here_on_one_device(ctx)
        evaluate = functools.partial(_in_one_call, jaxpr) if here else _function(jaxpr)
        return _compat.lower_untyped(evaluate, ctx, *operands)

    return rule


def _in_one_call(jaxpr: Any, *operands: Any) -> Any:
    """By a kernel with an epilogue; by the equations one by one where the kernels do not serve the face."""
    face = next((eqn for eqn in opened(jaxpr).eqns if eqn.primitive in _FACES), None)
    if face is None:  # somebody has rewritten it
        return _function(jaxpr)(*operands)
    out = type_of(face.outvars[0])
    reader = Reader(out.shape, out.dtype, bound)
    given: list[Any] = []

    def step(eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        if eqn.primitive not in _FACES:
            return reader.step(eqn, values)
        given.extend(map(reader.whole, values))
        return [Following(Epilogue())]

    (last,) = walk(jaxpr, operands, step, lambda constant: constant)
    done = trilinear.evaluate_then(face.primitive, last.epilogue, *given, **face.params)
    return _function(jaxpr)(*operands) if done is None else done


then_p.def_impl(_impl)
then_p.def_abstract_eval(lambda *operands, jaxpr: opened(jaxpr).outvars[0].aval)
ad.primitive_jvps[then_p] = _jvp
ad.primitive_transposes[then_p] = _transpose
batching.primitive_batchers[then_p] = _batch
mlir.register_lowering(then_p, _lowering_rule(None))
for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(then_p, _lowering_rule(_platform), platform=_platform)
