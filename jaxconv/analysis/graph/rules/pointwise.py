"""Rules for what acts on each position by itself: element-wise work, broadcasting, reductions, and calls."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.walk import type_of

from ..links import Link, from_pattern, take
from ..nodes import Axis, Edge, GlobalOp, Value, merge_classes, uniform
from ..reader import NAMED_CALLS, Anything, Reader, rule

POINTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
convert_element_type copy copy_p cos cosh device_put digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt
igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul mulhi name ne neg
nextafter not or polygamma population_count pow pcast pvary real reduce_precision regularized_incomplete_beta rem round
rsqrt select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
stop_gradient sub tan tanh xor zeta mul_add mesh_cast reshard bitcast_convert_type optimization_barrier
""".split()


_WIDEST_TABLE = 4096  # of a link that has as many taps as positions


def values_of(inputs: list[Anything]) -> list[Value]:
    """Those of the operands that depend on the input."""
    return [v for v in inputs if isinstance(v, Value)]


@rule(*POINTWISE)
def _pointwise(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    if eqn.primitive.name in ("optimization_barrier", "device_put"):
        return inputs
    shape = type_of(eqn.outvars[0]).shape
    values = [stretched(reader, v, shape) for v in values_of(inputs)]
    if reader.in_map and eqn.primitive.name == "mul" and len(values) == 1:
        (weights,) = (v for v in inputs if not isinstance(v, Value))
        return [weighted(reader, values[0], weights.array() != 0)]
    return [reader.graph.pointwise(values, reader.place)]


def weighted(reader: Reader, value: Value, weights: np.ndarray) -> Value:
    """The value where weights are not zero, and nothing where they are, if that is a choice of positions an axis."""
    if weights.ndim != len(value.shape) or weights.all():
        return value
    others = [tuple(b for b in range(weights.ndim) if b != a) for a in range(weights.ndim)]
    used = [weights.any(axis=rest) for rest in others]
    if np.count_nonzero(weights) != math.prod(int(np.count_nonzero(u)) for u in used):
        return value
    axes, links = list(value.axes), {}
    for a, u in enumerate(used):
        if u.all():
            continue
        if value.axes[a].spatial:
            value = reader.graph.counted(value, (a,), reader.place)
        old = value.axes[a]
        positions = np.where(u, old.positions, -1)
        classes, first = (None, np.arange(old.size)) if old.spatial else merge_classes(positions[:, None])
        axes[a] = Axis(old.size, old.role, classes, soft=old.soft)
        links[a] = take(positions[first], old.count, Fraction(1))
    return reader.graph.linked(value, links, axes, "mul", reader.place)


def stretched(reader: Reader, value: Value, shape: tuple[int, ...]) -> Value:
    """An operand brought to the result's shape: scalars and axes of length one are broadcast."""
    if value.shape == shape:
        return value
    if value.shape == ():
        return reader.graph.remap(value, [uniform(n) for n in shape], [])
    if len(value.shape) != len(shape) or any(m not in (1, n) for m, n in zip(value.shape, shape, strict=True)):
        raise reader.refuse(f"operands of shapes {value.shape} and {shape} are not element-wise")
    axes = [x if x.size == n else uniform(n, x.role) for x, n in zip(value.axes, shape, strict=True)]
    return reader.graph.remap(value, axes, range(len(axes)))


@rule("broadcast_in_dim")
def _broadcast(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    shape, where = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    axes = [uniform(n) for n in shape]
    for a, target in enumerate(where):
        old = value.axes[a]
        # One position spread over many keeps its role: a 1x1 map stretched over an image has an image's axes.
        axes[target] = old if old.size == shape[target] else uniform(shape[target], old.role)
    return [reader.graph.remap(value, axes, where)]


@rule("transpose")
def _transpose(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    permutation = eqn.params["permutation"]
    return [transposed(reader, value, permutation)]


def transposed(reader: Reader, value: Value, permutation: Sequence[int]) -> Value:
    """Axis a of the result is axis permutation[a] of the value."""
    where = [tuple(permutation).index(a) for a in range(len(permutation))]
    return reader.graph.remap(value, [value.axes[p] for p in permutation], where)


@rule("squeeze")
def _squeeze(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    return [squeezed(reader, reader.dependent(inputs[0]), eqn.params["dimensions"])]


def squeezed(reader: Reader, value: Value, gone: Sequence[int]) -> Value:
    """The value without some of its axes of length one."""
    kept = [a for a in range(len(value.axes)) if a not in gone]
    where = [kept.index(a) if a in kept else None for a in range(len(value.axes))]
    return reader.graph.remap(value, [value.axes[a] for a in kept], where)


@rule("expand_dims")
def _expand(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    shape, new = type_of(eqn.outvars[0]).shape, set(eqn.params["dimensions"])
    kept = [a for a in range(len(shape)) if a not in new]
    axes = [uniform(1) if a in new else value.axes[kept.index(a)] for a in range(len(shape))]
    return [reader.graph.remap(value, axes, kept)]


REDUCTIONS = """
reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin
""".split()


@rule(*REDUCTIONS)
def _reduce(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    return [reduced(reader, value, tuple(int(a) for a in eqn.params["axes"]))]


@rule("reduce")
def _reduce_any(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    axes = tuple(eqn.params["dimensions"])
    half = len(inputs) // 2
    one = reader.graph.pointwise(values_of(inputs[:half]), reader.place)
    return [reduced(reader, one, axes)] * len(eqn.outvars)


def reduced(reader: Reader, value: Value, axes: tuple[int, ...]) -> Value:
    """A reduction is pointwise over the axes that are not spatial; over spatial ones it is global."""
    return reader.graph.dropped(value, axes, reader.place, global_over(reader, value, axes))


def global_over(reader: Reader, value: Value, axes: tuple[int, ...]) -> GlobalOp | None:
    """The record of a global operation, where one of the axes is spatial, longer than one and really read."""
    read = {t for e in value.edges for t in e.to if t is not None}
    wide = tuple(a for a in axes if value.axes[a].spatial and value.axes[a].size > 1 and a in read)
    if not wide:
        return None
    if reader.eqn is not None and all(a in axes for a, x in enumerate(value.axes) if x.spatial and x.size > 1):
        reader.wide_eqns.append(reader.eqn)
    return GlobalOp(reader.primitive, reader.place, wide)


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _cumulative(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, axis = reader.dependent(inputs[0]), eqn.params["axis"]
    record, size = global_over(reader, value, (axis,)), value.shape[axis]
    if value.axes[axis].count == 1 and record is None:
        return [value]
    if size > _WIDEST_TABLE:
        return [_spread_over(reader, value, axis, type_of(eqn.outvars[0]).shape)]
    # It reads the axis from its begin (or end) up to each position; of channels, each class once.
    value = reader.graph.counted(value, (axis,) if value.axes[axis].spatial else (), reader.place)
    node = reader.graph.materialize(value, reader.place)
    old = node.axes[axis]
    before = np.tri(size, dtype=np.int64).T if eqn.params.get("reverse") else np.tri(size, dtype=np.int64)
    met = (before @ np.eye(old.count, dtype=np.int64)[old.positions]) > 0
    axes = list(node.axes)
    links: list[Link | None] = [None] * len(axes)
    if not old.spatial:
        classes, first = merge_classes(met)
        axes[axis], met = Axis(size, "c", classes, soft=old.soft), met[first]
    links[axis] = from_pattern(met, Fraction(1))
    edge = Edge(node, tuple(links), tuple(range(len(axes))), None, record)
    return [reader.graph.value(reader.graph.node(axes, [edge], eqn.primitive.name, reader.place))]


@rule("sort", "top_k", "approx_top_k")
def _sort(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    one = reader.graph.pointwise(values_of(inputs), reader.place)
    named = [eqn.params[key] for key in ("dimension", "reduction_dimension", "axis") if key in eqn.params]
    axis = (named[0] if named else -1) % len(one.axes)
    return [_spread_over(reader, one, axis, type_of(v).shape) for v in eqn.outvars]


def _spread_over(reader: Reader, value: Value, axis: int, shape: tuple[int, ...]) -> Value:
    """Every position of the axis may read every position of it."""
    record = global_over(reader, value, (axis,))
    reduced_value = reader.graph.dropped(value, (axis,), reader.place, record)
    kept = [a for a in range(len(value.axes)) if a != axis]
    axes = list(value.axes)
    axes[axis] = uniform(shape[axis], value.axes[axis].role)
    return reader.graph.remap(reduced_value, axes, kept)


@rule("fft")
def _fft(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    shape = type_of(eqn.outvars[0]).shape
    for axis in range(len(shape) - len(eqn.params["fft_lengths"]), len(shape)):
        value = _spread_over(reader, value, axis, shape)
    return [value]


@rule("rev")
def _rev(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value = reader.dependent(inputs[0])
    counted = reader.graph.counted(value, [a for a in eqn.params["dimensions"] if value.axes[a].spatial], reader.place)
    axes, links = list(counted.axes), {}
    for a in eqn.params["dimensions"]:
        old = counted.axes[a]
        if old.spatial:
            links[a] = take(np.arange(old.size)[::-1], old.size, Fraction(-1))
            axes[a] = Axis(old.size, "s")
        else:
            axes[a] = Axis(old.size, "c", old.positions[::-1])
    if not links:
        return [reader.graph.remap(counted, axes, range(len(axes)))]
    return [reader.graph.linked(counted, links, axes, "rev", reader.place)]


def _search_call(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """The place of each value in a constant table depends on that value alone.

    Newer versions of jax have a primitive for the search, without a jaxpr to look into.
    """
    table, *rest = inputs
    if isinstance(table, Value) or len(rest) != 1 or rest[0].shape != type_of(eqn.outvars[0]).shape:
        return reader.inside("", eqn.params["jaxpr"], inputs)
    return [rest[0]]


NAMED_CALLS["searchsorted"] = _search_call
