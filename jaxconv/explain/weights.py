"""Weights as a model's initialisers draw them, without a program compiled for the shape of every kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import evaluate
from jaxconv.jaxprs.walk import called, label_of, type_of, walk


def planned(build: Callable[[Any], Any]) -> tuple[Any, Callable[[], Any]]:
    """The NNX module that `build` makes of an `nnx.Rngs`, as shapes; and what makes it with numbers.

    The initialisers are read as a jaxpr and evaluated by NumPy, whose generator stands in for JAX's: the distributions
    are the model's own, the numbers others.

    Example:
        >>> from flax import nnx
        >>> shapes, draw = planned(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
        >>> shapes.kernel.shape, float(abs(draw().kernel[...]).max()) > 0
        ((2, 3), True)
    """
    from flax import nnx

    class OneKey(nnx.RngStream):
        """Gives the same key always: nothing is drawn by it, and counting the calls would be traced, at length."""

        def __call__(self) -> Any:
            return self.key[...]

    graph: list[Any] = []

    def state() -> Any:
        rngs: Any = nnx.Rngs(0)
        rngs.default = OneKey(0, tag="default")
        definition, values = nnx.split(build(rngs))
        graph.append(definition)
        return values

    jaxpr, shapes = jax.make_jaxpr(state, return_shape=True)()

    def draw() -> Any:
        rng = np.random.default_rng(0)

        def step(eqn: JaxprEqn, values: list[Any]) -> Sequence[Any]:
            made = _random(eqn, values, rng)
            if made is not None:
                return [made]
            inner = called(eqn)
            return evaluate(eqn, values) if inner is None else walk(inner, values, step, lambda value: value)

        leaves = map(jnp.asarray, walk(jaxpr, [], step, lambda value: value))
        return nnx.merge(graph[0], jax.tree.unflatten(jax.tree.structure(shapes), leaves))

    return nnx.merge(graph[0], shapes), draw


def _random(eqn: JaxprEqn, values: Sequence[Any], rng: np.random.Generator) -> np.ndarray | None:
    """What an equation draws: one of jax.random's functions whole, of others the bits that they are made of."""
    out, name = type_of(eqn.outvars[0]), label_of(eqn).strip("_")
    if eqn.primitive.name == "random_bits":
        return rng.integers(2 ** (8 * out.dtype.itemsize), size=out.shape, dtype=out.dtype)
    if name not in ("normal", "truncated_normal") or out.dtype != np.float32:
        return None
    drawn = rng.standard_normal(out.shape, np.float32)
    if name == "truncated_normal":
        low, high = (float(v) for v in values[1:3])
        while (outside := (drawn < low) | (drawn > high)).any():
            drawn[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return drawn
