"""What a function costs, counted on its jaxpr: how long it is, how much it computes, how much it writes."""

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.walk import AnyJaxpr, jaxprs_in, opened, type_of

BUDGET = 4e10  # multiply-adds: one gradient of 25e9 takes 1.5 seconds of two CPU cores


@dataclass(frozen=True)
class Cost:
    """Equations, multiply-adds of the convolutions, and elements of all equations' results."""

    equations: int = 0
    multiply_adds: int = 0
    elements: int = 0

    @property
    def affordable(self) -> int:
        """How many gradients `explain` takes of it: 12, or of a large network what is done in a few seconds."""
        return min(max(int(BUDGET / max(self.multiply_adds, 1)), 2), 12)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.equations + other.equations,
            self.multiply_adds + other.multiply_adds,
            self.elements + other.elements,
        )


def cost_of(jaxpr: AnyJaxpr) -> Cost:
    """The cost of one run; loops count once.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> x, w = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
        >>> cost_of(jax.make_jaxpr(lambda x: jc.conv(x, w, stride=2, padding=1))(x)).multiply_adds == 4 * 4 * w.size
        True
    """
    total = Cost()
    for eqn in opened(jaxpr).eqns:
        inner = [cost_of(j) for value in eqn.params.values() for j in jaxprs_in(value)]
        total += sum(inner, Cost()) if inner else Cost(1, _multiply_adds(eqn), _size(eqn.outvars))
    return total


def compiler_options(cost: Cost, runs: int) -> dict[str, Any] | None:
    """How to compile a program that runs a few times: plainly, where optimising it takes longer than it saves.

    On two CPU cores optimising costs 2 to 3 ms an equation, and saves 2 to 4 ns an element and run (ENet, VGG-16).
    """
    if jax.default_backend() != "cpu" or runs * cost.elements > 1_000_000 * cost.equations:
        return None
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def _size(variables: Any) -> int:
    return sum(math.prod(getattr(v.aval, "shape", ())) for v in variables)


def _multiply_adds(eqn: JaxprEqn) -> int:
    """Each element of the kernel meets each position of the coarser side, of every example."""
    if eqn.primitive.name not in ("conv_general_dilated", "conv_apply", "conv_adjoint"):
        return 0
    given, kernel, made = (type_of(v).shape for v in (*eqn.invars[:2], eqn.outvars[0]))
    numbers = eqn.params.get("dimension_numbers")
    sides = (numbers.lhs_spec[2:], numbers.out_spec[2:]) if numbers is not None else (range(1, len(given) - 1),) * 2
    batch = given[numbers.lhs_spec[0] if numbers is not None else 0]
    positions = (math.prod(shape[a] for a in axes) for shape, axes in zip((given, made), sides, strict=True))
    return batch * min(positions) * math.prod(kernel)
