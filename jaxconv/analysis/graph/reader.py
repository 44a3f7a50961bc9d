"""Reads a jaxpr equation by equation and builds the graph of links; one rule a primitive, found by its name."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxconv.jaxprs.constants import Const, UnknownConstant, delayed, known
from jaxconv.jaxprs.places import line_of

from .nodes import Graph, Value

Anything = Value | Const
Rule = Callable[["Reader", Any, list[Anything]], list[Anything]]

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
    """Runs a jaxpr on values and constants."""

    def __init__(self, graph: Graph | None = None):
        self.graph = graph or Graph()
        self.wide_eqns: list[Any] = []  # those that read all spatial axes whole
        self._places: list[str] = []
        self._eqn: Any = None

    def run(self, jaxpr: Jaxpr, consts: Sequence[Anything], args: Sequence[Anything]) -> list[Anything]:
        env: dict[Any, Anything] = {}
        env.update(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Anything:
            return known(atom.val) if isinstance(atom, Literal) else env[atom]

        last_use = _last_uses(jaxpr)
        for number, eqn in enumerate(jaxpr.eqns):
            inputs = [read(v) for v in eqn.invars]
            if all(isinstance(v, Const) for v in inputs):
                outputs: Sequence[Anything] = delayed(eqn, inputs)  # type: ignore[arg-type]
            else:
                outputs = self._apply(eqn, inputs)
            env.update(zip(eqn.outvars, outputs, strict=True))
            for var in last_use.get(number, ()):
                env.pop(var, None)
        return [read(v) for v in jaxpr.outvars]

    def closed(self, jaxpr: ClosedJaxpr | Jaxpr, args: Sequence[Anything]) -> list[Anything]:
        if isinstance(jaxpr, ClosedJaxpr):
            return self.run(jaxpr.jaxpr, [known(c) for c in jaxpr.consts], args)
        return self.run(jaxpr, [], args)

    def inside(self, name: str, jaxpr: ClosedJaxpr | Jaxpr, args: Sequence[Anything]) -> list[Anything]:
        """The same one level further in: `name` is put before the places of what it holds."""
        self._places.append("/".join(p for p in (self.place_of(self._eqn, files=False), name) if p))
        before = self._eqn
        try:
            return self.closed(jaxpr, args)
        finally:
            self._places.pop()
            self._eqn = before

    def _apply(self, eqn: Any, inputs: list[Anything]) -> list[Anything]:
        self._eqn = eqn
        name = eqn.primitive.name
        handler = NAMED_CALLS.get(eqn.params.get("name", "")) if name in ("jit", "pjit") else None
        handler = handler or RULES.get(name)
        if handler is None:
            raise NotUnderstood(name, self.place, "it has no rule")
        try:
            outputs = handler(self, eqn, inputs)
            # What is empty depends on nothing (loops over halves and quarters make such slices).
            return [known(np.zeros(v.shape)) if isinstance(v, Value) and 0 in v.shape else v for v in outputs]
        except UnknownConstant as unknown:
            raise NotUnderstood(name, self.place, f"a number it needs is not known ({unknown})") from None
        finally:
            self._eqn = eqn

    def dependent(self, value: Anything) -> Value:
        """The operand, which the rule can only read if it depends on the input."""
        if not isinstance(value, Value):
            raise self.refuse("this operand does not depend on the input, another one does")
        return value

    def refuse(self, reason: str) -> NotUnderstood:
        return NotUnderstood(self._eqn.primitive.name, self.place, reason)

    @property
    def place(self) -> str:
        return self.place_of(self._eqn)

    def place_of(self, eqn: Any, files: bool = True) -> str:
        """The named scopes an equation stands in, or the user's line where there are none."""
        outer = self._places[-1] if self._places else ""
        scope = str(eqn.source_info.name_stack) if eqn is not None else ""
        named = "/".join(p for p in (outer, scope) if p)
        return named if named or not files or eqn is None else line_of(eqn)


def _last_uses(jaxpr: Jaxpr) -> dict[int, list[Any]]:
    """Which variables can be forgotten after which equation: the values of a deep network are many."""
    last: dict[Any, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        for var in eqn.invars:
            if not isinstance(var, Literal):
                last[var] = number
    for var in jaxpr.outvars:
        if not isinstance(var, Literal):
            last.pop(var, None)
    uses: dict[int, list[Any]] = {}
    for var, number in last.items():
        uses.setdefault(number, []).append(var)
    return uses
