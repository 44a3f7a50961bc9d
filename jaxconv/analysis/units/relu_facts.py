"""What the search for ReLUs knows of a value: is it constant, and which numbers; is it the sign of another value."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxconv.jaxprs.constants import Const, UnknownConstant
from jaxconv.jaxprs.walk import AnyJaxpr, scan_parts


@dataclass(frozen=True)
class Place:
    """One kind of layer at one place of a network: `times` counts the turns of the loops around it."""

    name: str
    place: str
    times: int = 1

    def __str__(self) -> str:
        return f"{self.name} at {self.place or 'top level'}" + (f" x {self.times}" if self.times > 1 else "")


@dataclass
class Nonlinearities:
    """What stands in a function: ReLUs, max pools, and other nonlinearities (`kept`: their derivative is exact)."""

    relus: list[Place] = field(default_factory=list)
    pools: list[Place] = field(default_factory=list)
    kept: list[Place] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Dependent:
    """A value that depends on the input, told apart by identity; `mask_of` x: the comparison of x with zero."""

    mask_of: "Dependent | None" = None
    positive: bool = True
    relu_of: "Dependent | None" = None
    upper: float | None = None


Fact = Dependent | Const


def bent(name: str, inputs: Sequence[Fact]) -> tuple[int, float | None] | None:
    """Which operand an equation is the ReLU of, and its upper bound; None where it is none."""
    if name == "max":
        for this, other in ((0, 1), (1, 0)):
            if isinstance(inputs[this], Dependent) and is_zero(inputs[other]):
                return this, None
    if name == "clamp" and isinstance(inputs[1], Dependent) and is_zero(inputs[0]):
        upper = scalar(inputs[2])
        return (1, upper) if upper is not None and upper > 0 else None
    if name == "select_n" and len(inputs) == 3:
        sign = inputs[0]
        if isinstance(sign, Dependent) and sign.mask_of is not None:
            kept, other = (2, 1) if sign.positive else (1, 2)
            if inputs[kept] is sign.mask_of and is_zero(inputs[other]):
                return kept, None
    if name == "mul":
        for this, other in ((0, 1), (1, 0)):
            mask = inputs[other]
            if isinstance(mask, Dependent) and mask.positive and mask.mask_of is inputs[this]:
                return this, None
    return None


def inner_facts(eqn: JaxprEqn, inputs: Sequence[Fact], avals: Sequence[Any]) -> list[Fact]:
    """What is known of the inputs of a jaxpr inside an equation."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        inputs = inputs[1:]
    if name == "while":
        inputs = inputs[params["cond_nconsts"] :]
    carried = range(0)
    if name == "scan":
        fixed, count = scan_parts(eqn)
        carried = range(fixed, fixed + count)
    if name == "while":
        carried = range(params["body_nconsts"], len(avals))
    if len(inputs) != len(avals):
        return [Dependent() for _ in avals]
    facts: list[Fact] = []
    for i, (fact, aval) in enumerate(zip(inputs, avals, strict=True)):
        if i in carried:  # a constant may become dependent after the first turn
            facts.append(Dependent())
        elif name == "scan" and i >= carried.stop:  # one slice of what is scanned over
            facts.append(Const(aval) if isinstance(fact, Const) else Dependent())
        else:
            facts.append(fact)
    return facts


def _number(fact: Fact) -> np.ndarray | None:
    """The numbers of a constant, where there are any (weights under jit or given as shapes have none)."""
    if not isinstance(fact, Const):
        return None
    try:
        return None if isinstance(fact.value, jax.core.Tracer) else np.asarray(fact.value)
    except UnknownConstant:
        return None


def is_zero(fact: Fact) -> bool:
    """Whether a value is constant and known to be zero everywhere."""
    number = _number(fact)
    return number is not None and number.size > 0 and not number.any()


def scalar(fact: Fact) -> float | None:
    """The one number that a constant holds everywhere, or None."""
    number = _number(fact)
    if number is None or number.size == 0 or (number != number.flat[0]).any():
        return None
    return float(number.flat[0])


# Through these no derivative flows.
_CUTS = frozenset(("stop_gradient", "gt", "ge", "lt", "le", "eq", "ne", "sign", "floor", "ceil", "round", "argmax"))


def live_equations(jaxpr: AnyJaxpr) -> set[int]:
    """The equations, by identity, through which a derivative of some output flows."""
    live = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    found = set()
    for eqn in reversed(jaxpr.eqns):
        if eqn.primitive.name not in _CUTS and any(v in live for v in eqn.outvars):
            found.add(id(eqn))
            live.update(v for v in eqn.invars if not isinstance(v, Literal))
    return found
