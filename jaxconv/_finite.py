"""Fast forms that multiply by zeros: a result that is not finite is made again, slowly and without them."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax


def made_again_where_not_finite(out: Array, turns: int, turn: Callable[[Array, Array], Array]) -> Array:
    """``out``; where not all of it is finite, what ``turn(i, out)`` makes of it for ``i = 0 .. turns - 1``.

    A loop that has no turns where all is finite: unlike the branches of a condition, it leaves a sharded batch where it
    is.

    Example:
        >>> made_again_where_not_finite(jnp.array([1.0, jnp.nan]), 1, lambda i, out: jnp.zeros(2)).tolist()
        [0.0, 0.0]
    """
    return lax.fori_loop(0, jnp.where(jnp.isfinite(out).all(), 0, turns), turn, out)
