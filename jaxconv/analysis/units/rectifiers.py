"""ReLUs in a jaxpr, in whatever form they are written, and their exchange for ReLUs with another backward rule.

The rewriting is surgery on equations, so jit, scan, cond, remat and everything else around them stay as they are. What
is read off besides: the max pools, whose adjoint already puts a value back to its switch, and the other
nonlinearities, which keep their exact derivative.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxconv.jaxprs.constants import Const, delayed, known
from jaxconv.jaxprs.places import place_of
from jaxconv.jaxprs.surgery import map_jaxprs, spliced, trace, with_eqns
from jaxconv.jaxprs.walk import AnyJaxpr, called, jaxprs_in, label_of, opened, type_of, walk

from .relu_facts import Dependent, Fact, Nonlinearities, Place, bent, inner_facts, is_zero, live_equations, scalar

RULES = ("exact", "deconvnet", "guided")

# jitted helpers that are one nonlinearity each; the comparisons inside of them are not ReLUs of the network.
_NAMED = frozenset(
    "celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu log_sigmoid log_softmax logaddexp mish selu "
    "sigmoid silu soft_sign softmax softplus sparse_plus sparse_sigmoid squareplus swish".split()
)
_POOLS = frozenset(("max_pool", "max_pool_with_indices"))
_COMPARISONS = frozenset(("gt", "ge", "lt", "le"))
_POINTWISE = frozenset("abs clamp erf exp expm1 log log1p logistic tanh".split())

# What stands in an equation's place, and what is known of its outputs.
_Read = tuple[list[JaxprEqn], list[Fact]]


# ------------------------------------------------------------------------------------------------------ the three rules
@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def relu(x: jax.Array, rule: str, upper: float | None) -> jax.Array:
    """max(x, 0), or min(max(x, 0), upper), with the backward rule "deconvnet" or "guided"."""
    y = jnp.maximum(x, jnp.zeros((), x.dtype))
    return y if upper is None else jnp.minimum(y, jnp.asarray(upper, x.dtype))


def _forward(x, rule, upper):
    # What lies above the upper bound has no derivative under either rule: only the lower bend is a rectifier.
    below = None if upper is None else x < upper
    return relu(x, rule, upper), (x > 0 if rule == "guided" else None, below)


def _backward(rule, upper, saved, signal):
    passes = jnp.maximum(signal, jnp.zeros((), signal.dtype))
    for mask in saved:
        if mask is not None:
            passes = jnp.where(mask, passes, jnp.zeros((), signal.dtype))
    return (passes,)


relu.defvjp(_forward, _backward)


# -------------------------------------------------------------------------------------------------------- the rewriting
class Rectifiers:
    """Rewrites the ReLUs of a jaxpr to a rule, and notes what it finds; with rule "exact" it only looks."""

    def __init__(self, rule: str):
        self.rule = rule
        self.found = Nonlinearities()
        self._scopes: list[tuple[str, str]] = []  # named scopes and the user's line, of the equations around
        self._times = 1

    def __call__(self, closed: ClosedJaxpr, dependent: Sequence[bool], values: Sequence[Any]) -> ClosedJaxpr:
        """The jaxpr with other ReLUs. `dependent`: which inputs are followed; `values`: the numbers of the others."""
        facts: list[Fact] = [
            Dependent() if follows else Const(var.aval) if value is None else known(value)
            for var, follows, value in zip(closed.jaxpr.invars, dependent, values, strict=True)
        ]
        return self._closed(closed, facts)[0]

    def _closed(self, jaxpr: AnyJaxpr, facts: Sequence[Fact]) -> tuple[Any, list[Fact]]:
        before = opened(jaxpr).eqns
        live = live_equations(opened(jaxpr))
        eqns: list[JaxprEqn] = []

        def step(eqn: JaxprEqn, inputs: list[Fact]) -> list[Fact]:
            new, outputs = [eqn], list[Fact](Dependent() for _ in eqn.outvars)
            if all(isinstance(f, Const) for f in inputs):
                outputs = list[Fact](delayed(eqn, inputs))  # type: ignore[arg-type]
            elif id(eqn) in live or eqn.primitive.name in _COMPARISONS:
                new, outputs = self._equation(eqn, inputs)
            eqns.extend(new)
            return outputs

        outputs = walk(jaxpr, facts, step, known)
        same = len(eqns) == len(before) and all(a is b for a, b in zip(eqns, before, strict=True))
        return jaxpr if same else with_eqns(jaxpr, eqns), outputs

    def _equation(self, eqn: JaxprEqn, inputs: list[Fact]) -> _Read:
        name, label = eqn.primitive.name, label_of(eqn)
        fresh: list[Fact] = [Dependent() for _ in eqn.outvars]
        if name.startswith(("custom_jvp_call", "custom_vjp_call")):
            return self._custom(eqn, inputs)
        if any(jaxprs_in(eqn.params)):
            if label in _POOLS:
                return self._note("pools", eqn, label, [eqn], fresh)
            if label in _NAMED:
                return self._note("kept", eqn, label, [eqn], fresh)
            return self._nested(eqn, inputs)
        if name in ("reduce_window_max", "reduce_max") and type_of(eqn.outvars[0]).dtype != bool:
            return self._note("pools", eqn, name, [eqn], fresh)
        bend = bent(name, inputs)
        if bend is not None and jnp.issubdtype(type_of(eqn.outvars[0]).dtype, jnp.floating):
            slot, upper = bend
            source = inputs[slot]
            assert isinstance(source, Dependent)
            new = self._replaced(eqn, slot, upper)
            return self._note("relus", eqn, "ReLU", new, [Dependent(relu_of=source, upper=upper)])
        return self._other(eqn, inputs, fresh)

    def _other(self, eqn: JaxprEqn, inputs: list[Fact], fresh: list[Fact]) -> _Read:
        name = eqn.primitive.name
        if name in _COMPARISONS:
            for this, other, flipped in ((0, 1, False), (1, 0, True)):
                source = inputs[this]
                if isinstance(source, Dependent) and is_zero(inputs[other]):
                    return [eqn], [Dependent(mask_of=source, positive=(name[0] == "g") != flipped)]
        if name == "convert_element_type":
            (source,) = inputs
            if isinstance(source, Dependent) and source.mask_of is not None:
                return [eqn], [source]
        if name == "min":
            for this, other in ((0, 1), (1, 0)):
                source, bound = inputs[this], scalar(inputs[other])
                if isinstance(source, Dependent) and source.relu_of and source.upper is None and bound:
                    return [eqn], [Dependent(relu_of=source.relu_of, upper=bound)]
        if name in ("max", "min") and any(abs(scalar(f) or 0.0) == float("inf") for f in inputs):
            return [eqn], fresh  # the neutral element of a reduction
        signed = name == "select_n" and isinstance(inputs[0], Dependent) and inputs[0].mask_of is not None
        mixed = name in ("max", "min") and all(isinstance(f, Dependent) for f in inputs)
        if name in _POINTWISE or signed or mixed or name in ("max", "min"):
            known_name = "select on the sign" if signed else f"{name} of two values" if mixed else name
            return self._note("kept", eqn, known_name, [eqn], fresh)
        return [eqn], fresh

    def _custom(self, eqn: JaxprEqn, inputs: list[Fact]) -> _Read:
        """A function with a derivative of its own: exchanged where all of it is one ReLU, else left as it is."""
        fresh: list[Fact] = [Dependent() for _ in eqn.outvars]
        inner = called(eqn)
        if inner is None:
            return self._note("kept", eqn, eqn.primitive.name, [eqn], fresh)
        label = str(getattr(opened(inner).debug_info, "func_src_info", None) or eqn.primitive.name).split(" at ")[0]
        look = Rectifiers("exact")
        results = look._closed(inner, inputs)[1]
        result = results[0] if len(results) == 1 else None
        if isinstance(result, Dependent) and result.relu_of is not None:
            slot = next((i for i, f in enumerate(inputs) if f is result.relu_of), None)
            if slot is not None:
                return self._note("relus", eqn, "ReLU", self._replaced(eqn, slot, result.upper), [result])
        if look.found.relus or look.found.kept:
            return self._note("kept", eqn, f"{label} (its own derivative)", [eqn], fresh)
        self.found.pools += [Place(p.name, self._place(eqn), p.times * self._times) for p in look.found.pools]
        return [eqn], fresh

    def _nested(self, eqn: JaxprEqn, inputs: list[Fact]) -> _Read:
        name, params = eqn.primitive.name, eqn.params
        turns = int(params["length"]) if name == "scan" else 1
        direct = not ({"length", "branches", "body_jaxpr"} & params.keys())
        results: list[Fact] = []

        def visit(inner: Any) -> Any:
            avals = [v.aval for v in opened(inner).invars]
            facts = inner_facts(eqn, inputs, avals)
            new, outputs = self._closed(inner, facts)
            if direct and len(outputs) == len(eqn.outvars) and not results:
                results.extend(outputs)
            return new

        self._scopes.append((place_of(eqn, self._scopes[-1][0] if self._scopes else "", files=False), self._place(eqn)))
        self._times *= turns
        try:
            changed = {key: value if key == "cond_jaxpr" else map_jaxprs(visit, value) for key, value in params.items()}
        finally:
            self._scopes.pop()
            self._times //= turns
        facts = results or [Dependent() for _ in eqn.outvars]
        if all(changed[key] is params[key] for key in params):
            return [eqn], facts
        return [eqn.replace(params=changed)], facts

    def _replaced(self, eqn: JaxprEqn, slot: int, upper: float | None) -> list[JaxprEqn]:
        if self.rule == "exact":
            return [eqn]

        operand = eqn.invars[slot]  # alone: a zero that varies between devices cannot be traced by itself
        return list(spliced(trace(lambda x: relu(x, self.rule, upper), operand.aval), eqn, [operand]))

    def _note(self, kind: str, eqn: JaxprEqn, name: str, new: list[JaxprEqn], facts: list[Fact]) -> _Read:
        getattr(self.found, kind).append(Place(name, self._place(eqn), self._times))
        return new, facts

    def _place(self, eqn: JaxprEqn) -> str:
        scopes, line = self._scopes[-1] if self._scopes else ("", "")
        return place_of(eqn, scopes) or line


def rewritten(fn: Callable[..., Any], args: Sequence[Any], rule: str) -> tuple[ClosedJaxpr, Any, Nonlinearities]:
    """The jaxpr of fn at these arguments with its ReLUs under a rule, the tree of its result, and what was found."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    leaves = jax.tree.leaves(args)
    first = len(jax.tree.leaves(args[0]))
    values = [None if isinstance(v, jax.ShapeDtypeStruct) else v for v in leaves]
    change = Rectifiers(rule)
    new = change(closed, [i < first for i in range(len(leaves))], values)
    return new, jax.tree.structure(shape), change.found
