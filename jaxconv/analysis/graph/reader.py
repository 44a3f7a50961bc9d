"""Reads a jaxpr equation by equation and builds the graph of links; one rule a primitive, found by its name."""

from collections.abc import Callable, Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const, UnknownConstant, delayed, known
from jaxconv.jaxprs.places import place_of
from jaxconv.jaxprs.walk import AnyJaxpr, called, label_of, walk

from .nodes import Graph, Value

Anything = Value | Const
Rule = Callable[["Reader", JaxprEqn, list[Anything]], list[Anything]]

RULES: dict[str, Rule] = {}
NAMED_CALLS: dict[str, Rule] = {}


class NotUnderstood(ValueError):
    """A primitive that the analysis has no exact rule for, named with its place in the network."""

    def __init__(self, primitive: str, place: str, reason: str):
        self.primitive, self.place = primitive, place
        super().__init__(
            f"the analysis does not understand {primitive!r} at {place or 'top level'}: {reason}. "
            "method='gradient' measures a mask without it."
        )


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for primitives of these names."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class Reader:
    """Runs a jaxpr on values and constants.

    Attributes:
        graph: the graph that the rules add to.
        eqn: the equation that is being read; None before the first.
        wide_eqns: equations that read all spatial axes whole.
        in_map: whether the equations are those of a linear map along an axis (a resize): what a constant weight of zero
            meets is then not read, while in a network's layers a zero may be a parameter that is still to be learned.
    """

    def __init__(self, eqn: JaxprEqn | None = None):
        self.graph = Graph()
        self.eqn = eqn
        self.wide_eqns: list[JaxprEqn] = []
        self.in_map = False
        self._places: list[str] = []

    def run(self, jaxpr: AnyJaxpr, args: Sequence[Anything]) -> list[Anything]:
        """The outputs of a jaxpr."""
        return walk(jaxpr, args, self._step, known)

    def _step(self, eqn: JaxprEqn, inputs: list[Anything]) -> Sequence[Anything]:
        if all(isinstance(v, Const) for v in inputs):
            return delayed(eqn, inputs)  # type: ignore[arg-type]
        return self._apply(eqn, inputs)

    def inside(self, name: str, jaxpr: AnyJaxpr, args: Sequence[Anything]) -> list[Anything]:
        """The same one level further in: `name` is put before the places of what it holds."""
        outer = place_of(self.eqn, self._places[-1] if self._places else "", files=False)
        self._places.append("/".join(p for p in (outer, name) if p))
        before = self.eqn
        try:
            return self.run(jaxpr, args)
        finally:
            self._places.pop()
            self.eqn = before

    def _apply(self, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
        self.eqn = eqn
        name = eqn.primitive.name
        handler, inner = NAMED_CALLS.get(label_of(eqn)) or RULES.get(name), called(eqn)
        try:
            if handler is not None:
                outputs = handler(self, eqn, inputs)
            elif inner is not None:
                outputs = self.inside("", inner, inputs)
            else:
                raise NotUnderstood(name, self.place, "it has no rule")
            # An empty array depends on nothing; loops over halves and quarters make such slices.
            return [known(np.zeros(v.shape)) if isinstance(v, Value) and 0 in v.shape else v for v in outputs]
        except UnknownConstant as unknown:
            raise NotUnderstood(name, self.place, f"a number it needs is not known ({unknown})") from None
        finally:
            self.eqn = eqn

    def dependent(self, value: Anything) -> Value:
        """The operand, which the rule can only read if it depends on the input."""
        if not isinstance(value, Value):
            raise self.refuse("this operand does not depend on the input, another one does")
        return value

    def refuse(self, reason: str) -> NotUnderstood:
        return NotUnderstood(self.primitive, self.place, reason)

    @property
    def primitive(self) -> str:
        """The name of what is being read."""
        return "" if self.eqn is None else self.eqn.primitive.name

    @property
    def place(self) -> str:
        """Where the equation that is being read stands."""
        return place_of(self.eqn, self._places[-1] if self._places else "")
