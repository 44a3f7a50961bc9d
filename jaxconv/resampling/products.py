"""How the linear maps of `jaxconv.resampling.axis_maps` are applied on TPUs: products with their matrices, as jax.image
does everywhere.

A matrix unit has the arithmetic to spare, and reads that are not whole tiles are what is slow there. Half-precision
data is multiplied in its own type and added in float32, and rounded after each axis; weights that are no numbers of
that type are split in two that are, so that no weight is rounded. Along an axis that is mapped by a product every
output depends on every input, by zero weights too: a NaN or an infinity spreads along that axis, as in jax.image. Axes
that are longer than those of images are read as elsewhere.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxconv.resampling.axis_maps import AxisMap


def apply(x: Array, todo: Sequence[tuple[int, AxisMap]]) -> Array:
    """Apply the maps, each to its axis, counted from the front."""
    for axis, m in todo:
        x = _select(x, axis, m) if m.is_selection else _product(x, axis, m)
    return x


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _select(x: Array, axis: int, m: AxisMap) -> Array:
    """Copies are read; only their gradient adds up."""
    return x.at[(*(slice(None),) * axis, m.taps[:, 0])].get(mode="promise_in_bounds")


@_select.defjvp
def _select_jvp(axis, m, primals, tangents):
    return _select(primals[0], axis, m), _product(tangents[0], axis, m)


def _product(x: Array, axis: int, m: AxisMap) -> Array:
    exact = m.dense()
    parts = [exact.astype(x.dtype)]
    if jnp.finfo(x.dtype).bits < 32 and (rest := exact - parts[0].astype(np.float64)).any():
        parts.append(rest.astype(x.dtype))
    dtype = x.dtype if len(parts) == 1 else jnp.float32
    numbers = (((axis,), (1,)), ((), ()))
    terms = [
        lax.dot_general(x, part, numbers, precision=lax.Precision.HIGHEST, preferred_element_type=dtype)
        for part in parts
    ]
    return jnp.moveaxis(sum(terms[1:], terms[0]).astype(x.dtype), -1, axis)
