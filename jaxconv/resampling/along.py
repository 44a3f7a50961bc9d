"""A linear map along one axis as a primitive whose transpose is the transposed map, applied as any other map is.

What resizes and means differentiate to. The transpose that JAX finds for the operations of a map multiplies by the
zeros of its matrix; here it is said instead, so that gradients, too, can look after what is not finite.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxconv import _compat


class Map(Protocol):
    """What is known of a map: static, compared by content, hashable."""

    @property
    def output_size(self) -> int: ...
    @property
    def transpose(self) -> "Map": ...


map_p = Primitive("axis_map")


def apply(x: Array, axis: int, m: Any, apply_map: Callable[[Array, int, Any], Array]) -> Array:
    """`apply_map(x, axis, m)`, linear in x, for m and all its derivatives; the axis counts from the front."""
    return map_p.bind(x, axis=axis, m=m, apply_map=apply_map)


def _evaluate(x: Array, *, axis: int, m: Map, apply_map: Callable) -> Array:
    return apply_map(x, axis, m)


def _abstract(x, *, axis: int, m: Map, **_):
    return _compat.with_type(
        x, (*x.shape[:axis], m.output_size, *x.shape[axis + 1 :]), x.dtype, _compat.partition_of(x)
    )


def _transpose(ct, _, *, m: Map, **params):
    return [map_p.bind(ct, m=m.transpose, **params)]


def _batch(args, dims, *, axis: int, **params):
    (d,) = dims
    return map_p.bind(*args, axis=axis + (d <= axis), **params), d


map_p.def_impl(_evaluate)
map_p.def_abstract_eval(_abstract)
ad.deflinear2(map_p, _transpose)
batching.primitive_batchers[map_p] = _batch
mlir.register_lowering(map_p, lambda ctx, x, **params: _compat.lower_untyped(partial(_evaluate, **params), ctx, x))
