"""Rules for sliding windows: convolutions of every kind, reduce_window, and the library's pooling calls."""

import math
from fractions import Fraction

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const
from jaxconv.jaxprs.walk import AnyJaxpr, type_of
from jaxconv.lattice import Relation, of_lax

from ..links import Link, from_pattern, window
from ..nodes import Axis, Edge, Layer, Value, merge_classes, uniform
from ..reader import NAMED_CALLS, Anything, Reader, rule


# -------------------------------------------------------------------------------------------------- windows on one axis
def _counts_positions(axis: Axis) -> bool:
    """Whether a window along this axis counts positions: on a spatial axis, and on one whose positions all differ."""
    return axis.spatial or (axis.size > 1 and axis.classes is None)


def slide(axis: Axis, link: Link) -> tuple[Axis, Link | None]:
    """An axis seen through a window: positions count one by one if each has a class of its own, else classes once."""
    if _counts_positions(axis):
        return Axis(link.n_out, axis.role), link
    touched = link.push(np.eye(axis.count, dtype=np.int64)[axis.positions], 0) > 0
    classes, first = merge_classes(touched)
    pattern = touched[first]
    identity = len(pattern) == axis.count and np.array_equal(pattern, np.eye(axis.count, dtype=bool))
    return Axis(link.n_out, "c", classes), None if identity else from_pattern(pattern, Fraction(1))


def grouped_channels(axis: Axis, groups: int, features: int) -> tuple[Axis, Link]:
    """Channels that read the classes of their group, each once."""
    members = axis.positions.reshape(groups, -1)
    touched = np.zeros((groups, axis.count), bool)
    touched[np.arange(groups)[:, None], members] = True
    classes, first = merge_classes(touched)
    made = Axis(features, "c", np.repeat(classes, features // groups), soft=axis.soft)
    return made, from_pattern(touched[first], Fraction(1))


def contracted(reader: Reader, value: Value, axis: int, new: Axis) -> Value:
    """Channels summed: every distinct source is read once per class of its own; all of the new ones see the same."""
    kept = [a for a in range(len(value.axes)) if a != axis]
    summed = reader.graph.dropped(value, (axis,), reader.place)
    return reader.graph.remap(summed, [new if a == axis else x for a, x in enumerate(value.axes)], kept)


def windowed(reader: Reader, value: Value, links: dict[int, Link], primitive: str, layer: Layer | None = None) -> Value:
    """A layer that slides windows over the given axes."""
    spatial = [a for a in links if value.axes[a].spatial]
    value = reader.graph.settled(value, reader.place)
    value = reader.graph.counted(value, spatial, reader.place)
    axes, used = list(value.axes), {}
    for a, link in links.items():
        axes[a], made = slide(value.axes[a], link)
        if made is not None:
            used[a] = made
    return reader.graph.linked(value, used, axes, primitive, reader.place, layer)


# ------------------------------------------------------------------------------------------------------- convolutions
@rule("conv_general_dilated")
def _conv(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, kernel = inputs
    p, out_shape = eqn.params, type_of(eqn.outvars[0]).shape
    if not isinstance(value, Value) or isinstance(kernel, Value):
        raise reader.refuse("its kernel depends on the input")
    if p["batch_group_count"] != 1:
        raise reader.refuse("batch_group_count is not 1")
    lhs, rhs, out = p["dimension_numbers"]
    relations = of_lax(p, value.shape, kernel.shape, out_shape)
    links = {a: window(r) for a, r in zip(lhs[2:], relations, strict=True)}
    order = [lhs.index(b) for b in range(len(lhs))]  # input axis -> its place in (batch, feature, *spatial)
    seen = _convolved(reader, value, lhs[1], links, p["feature_group_count"], out_shape[out[1]], relations)
    where = [out[order[a]] for a in range(len(lhs))]
    axes = [seen.axes[where.index(b)] for b in range(len(out))]
    return [reader.graph.remap(seen, axes, where)]


def _convolved(
    reader, value: Value, feature: int, links: dict[int, Link], groups: int, features: int, relations
) -> Value:
    value = reader.graph.settled(value, reader.place) if groups > 1 else value
    value = reader.graph.counted(value, [a for a in links if value.axes[a].spatial], reader.place)
    channels = value.axes[feature]
    if channels.spatial and channels.size > 1:
        raise reader.refuse(f"it contracts axis {feature}, which is spatial")
    used: dict[int, Link] = {}
    if groups == 1:
        value = contracted(reader, value, feature, uniform(features))
        axes = list(value.axes)
    else:
        axes = list(value.axes)
        axes[feature], used[feature] = grouped_channels(channels, groups, features)
    for a, link in links.items():
        axes[a], made = slide(value.axes[a], link)
        if made is not None:
            used[a] = made
    kind = "conv_transpose" if any(r.base > 1 for r in relations) else "conv"
    return reader.graph.linked(value, used, axes, kind, reader.place, Layer(kind, tuple(relations)))


@rule("conv_apply", "conv_adjoint")
def _face(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    value, kernel = inputs
    g, shape = eqn.params["geometry"], type_of(eqn.outvars[0]).shape
    if not isinstance(value, Value) or isinstance(kernel, Value):
        raise reader.refuse("its kernel depends on the input")
    rank = g.rank
    apply = eqn.primitive.name == "conv_apply"
    own = [r if apply else r.transposed() for r in g.axes]
    links = {len(shape) - rank - 1 + a: window(r) for a, r in enumerate(own)}
    return [_convolved(reader, value, len(shape) - 1, links, g.groups, shape[-1], own)]


@rule("conv_kernel")
def _kernel_gradient(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    raise reader.refuse("a kernel's gradient reads all positions at once")


# ------------------------------------------------------------------------------------------------------ reduce_window
REDUCE_WINDOW = "reduce_window reduce_window_sum reduce_window_max reduce_window_min cumulative_window".split()


@rule(*REDUCE_WINDOW)
def _reduce_window(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    p, shape = eqn.params, type_of(eqn.outvars[0]).shape
    values = [v for v in inputs if isinstance(v, Value) and v.shape != ()]
    if any(isinstance(v, Value) and v.shape == () for v in inputs):
        raise reader.refuse("its initial value depends on the input")
    value = reader.graph.pointwise(values, reader.place)
    rank = len(shape)
    relations, links = [], {}
    for a in range(rank):
        r = Relation(
            n_in=value.shape[a],
            n_out=shape[a],
            taps=p["window_dimensions"][a],
            stride=p["window_strides"][a],
            dilation=(p.get("window_dilation") or (1,) * rank)[a],
            base=(p.get("base_dilation") or (1,) * rank)[a],
            low=p["padding"][a][0],
        )
        if r != Relation(value.shape[a], value.shape[a], 1):
            relations.append(r)
            links[a] = window(r)
    seen = windowed(reader, value, links, eqn.primitive.name, Layer("pool", tuple(relations)))
    return [seen] * len(eqn.outvars)


@rule("select_and_scatter_add")
def _select_and_scatter(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """The gradient of a max-pooling: a value goes to some position of its window."""
    value, operand = inputs[:2]
    if not isinstance(value, Value):
        raise reader.refuse("only which position is the largest depends on the input")
    p = eqn.params
    links: dict[int, Link] = {}
    made: list[Relation] = []
    for a, (k, s, (low, _)) in enumerate(zip(p["window_dimensions"], p["window_strides"], p["padding"], strict=True)):
        r = Relation(n_in=operand.shape[a], n_out=value.shape[a], taps=k, stride=s, low=low)
        if r != Relation(value.shape[a], value.shape[a], 1):
            made.append(r.transposed())
            links[a] = window(made[-1])
    seen = windowed(reader, value, links, "select_and_scatter_add", Layer("unpool", tuple(made)))
    if isinstance(operand, Value):
        pooled = windowed(
            reader, operand, {a: window(r.transposed()) for a, r in zip(links, made, strict=True)}, "choice"
        )
        _choose(reader, seen, pooled, links)
    return [seen]


def _choose(reader: Reader, seen: Value, choice: Value, links: dict[int, Link]) -> None:
    """Note what a scatter's positions were chosen by, through the same links as its values."""
    node, target = reader.graph.materialize(choice, reader.place), seen.edges[0].src
    ways = tuple(
        links[a] if a in links else _same_places(old, new)
        for a, (old, new) in enumerate(zip(node.axes, target.axes, strict=True))
    )
    target.edges.append(Edge(node, ways, tuple(range(len(node.axes))), choice=True))


def _same_places(old: Axis, new: Axis) -> Link | None:
    """Each class of the new axis reads the old classes at its own positions."""
    if old.same(new):
        return None
    met = np.zeros((new.count, old.count), bool)
    met[new.positions, old.positions] = True
    return from_pattern(met, Fraction(1))


# --------------------------------------------------------------------- the library's pooling, as jitted calls by name
def separable_window(reader: Reader, eqn: JaxprEqn, value: Value) -> dict[int, Relation] | None:
    """The window that a pooling call slides along each axis, found from what is inside of it; None where several
    outputs read a whole axis.

    The inside is read on its own as a graph, once for each axis, along which alone positions are told apart: the bounds
    of what an output reads, and the spacing of the taps at one output in the middle, are the window.
    """
    found = {}
    for a, (axis, n, m) in enumerate(zip(value.axes, value.shape, type_of(eqn.outvars[0]).shape, strict=True)):
        if n > 1 and (m != n or not _flat(axis)):
            along = _window_along(reader, eqn, value, a)
            if along is None:
                return None
            if along != Relation(n, n, 1):
                found[a] = along
    return found


def _window_along(reader: Reader, eqn: JaxprEqn, value: Value, a: int) -> Relation | None:
    from ..sweep import bounds, counts_at

    inner, size, n_out = Reader(reader.eqn), value.shape[a], type_of(eqn.outvars[0]).shape[a]
    axes = [Axis(n, "s") if b == a else uniform(n) for b, n in enumerate(value.shape)]
    source = inner.graph.node(axes, [], "input", "")
    array = np.broadcast_to(np.float32(0), value.shape)
    args: list[Anything] = [inner.graph.value(source), *[Const(array) for _ in eqn.invars[1:]]]
    outputs = inner.run(eqn.params["jaxpr"], args)
    out = inner.graph.materialize(next(v for v in outputs if isinstance(v, Value)))
    middle = tuple(int(x.positions[x.size // 2]) for x in out.axes)  # of the classes of each axis
    others = tuple(slice(None) if b == a else n for b, n in enumerate(middle))
    low, high = (np.broadcast_to(x, out.shape)[others] for x in bounds(inner.graph, source, out, a, nominal=False))
    if not np.isfinite(low).any():  # one product with the whole axis
        return None if n_out > 1 else Relation(size, 1, size)
    block, starts = counts_at(source, out, middle)
    taps = np.nonzero(block.sum(axis=tuple(b for b in range(block.ndim) if b != a)))[0] + starts[a]
    return _fit(size, n_out, low, high, taps)


def _flat(axis: Axis) -> bool:
    """An axis that no window needs to be followed on: batch or channels."""
    return not axis.spatial and axis.count < axis.size


def _fit(n_in: int, n_out: int, low: np.ndarray, high: np.ndarray, taps: np.ndarray) -> Relation:
    """The sliding window whose cut reads run from low[q] to high[q], with taps spaced as the given ones are."""
    dilation = math.gcd(*np.diff(taps).tolist()) if len(taps) > 1 else 1
    real = np.isfinite(low)
    q = np.nonzero(real)[0]
    low, high = low[real].astype(int), high[real].astype(int)
    size = max(int((high - low).max()) // dilation + 1, len(taps))
    full = np.nonzero((high - low) // dilation + 1 == size)[0]
    stride = 1
    if len(full) > 1:
        stride = int((low[full[1]] - low[full[0]]) // (q[full[1]] - q[full[0]]))
    elif n_out > 1:
        stride = max(int(np.max(np.abs(np.diff(high)), initial=1)), int(np.max(np.abs(np.diff(low)), initial=1)), 1)
    shift = stride * int(q[full[0]]) - int(low[full[0]])
    return Relation(n_in=n_in, n_out=n_out, taps=size, stride=max(stride, 1), dilation=dilation, low=shift)


def _pool_call(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    results = 2 if eqn.params["name"] == "max_pool_with_indices" else 1
    if len(inputs) != 1 or len(eqn.outvars) != results:  # a part of its derivative, which carries the same name
        return reader.inside(str(eqn.params["name"]), eqn.params["jaxpr"], inputs)
    value = reader.dependent(inputs[0])
    found = separable_window(reader, eqn, value)
    if found is None:
        return reader.inside(str(eqn.params["name"]), eqn.params["jaxpr"], inputs)
    layer = Layer("pool", tuple(found.values()), windows=found)
    seen = windowed(reader, value, {a: window(r) for a, r in found.items()}, eqn.params["name"], layer)
    return [seen] * len(eqn.outvars)


def _unpool_call(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """A value goes to some position of the window that its index was taken from: the pooling's link, transposed."""
    if len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
        return reader.inside(str(eqn.params["name"]), eqn.params["jaxpr"], inputs)
    value, indices = inputs
    if not isinstance(value, Value):
        raise reader.refuse("only its indices depend on the input")
    windows = _pool_windows(indices)
    if windows is None:
        raise reader.refuse("its indices do not come from a max_pool in this function")
    relations = {a: r.transposed() for a, r in windows.items()}
    shape = type_of(eqn.outvars[0]).shape
    if any(r.n_in != value.shape[a] or r.n_out != shape[a] for a, r in relations.items()):
        raise reader.refuse(f"its indices come from a pooling of another size than {value.shape} -> {shape}")
    links = {a: window(r) for a, r in relations.items()}
    seen = windowed(reader, value, links, "max_unpool", Layer("unpool", tuple(relations.values())))
    assert isinstance(indices, Value)  # they come from a pooling of the input
    _choose(reader, seen, indices, links)
    return [seen]


def _pool_windows(indices: Anything) -> dict[int, Relation] | None:
    if not isinstance(indices, Value):
        return None
    layers = [e.src.layer for e in indices.edges if not any(e.links)]
    return next((layer.windows for layer in layers if layer is not None and layer.windows is not None), None)


def _resize_call(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """What is inside tells what a resize reads; around it stands one layer, not one product for every axis."""
    before = len(reader.graph.nodes)
    outputs = _inside_map(reader, eqn.params["jaxpr"], inputs)
    if len(outputs) != 1 or not isinstance(outputs[0], Value) or not isinstance(inputs[0], Value):
        return outputs
    value, old = outputs[0], inputs[0]
    changed = [a for a, x in enumerate(value.axes) if x.spatial and x.size != old.shape[a]]
    if len(value.shape) != len(old.shape) or not changed:
        return outputs
    for node in reader.graph.nodes[before:]:
        if node.layer is not None and node.layer.kind == "resize":
            node.layer = None
    steps = [
        Fraction(old.shape[a], x.size) if a in changed else Fraction(1) for a, x in enumerate(value.axes) if x.spatial
    ]
    layer = Layer("resize", steps=tuple(steps))
    inner = reader.graph.materialize(value, reader.place)
    key = ("resize", inner.number)
    edge = Edge(inner, (None,) * len(inner.axes), tuple(range(len(inner.axes))))
    node = reader.graph.memo(key, lambda: reader.graph.node(inner.axes, [edge], "resize", reader.place, layer))
    return [reader.graph.value(node)]


@rule("axis_map")
def _axis_map(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """What the derivative of a resize or a mean is applied as."""
    axis, m, apply_map = (eqn.params[name] for name in ("axis", "m", "apply_map"))
    x = type_of(eqn.invars[0])
    made = jax.make_jaxpr(lambda x: apply_map(x, axis, m))(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return _inside_map(reader, made, inputs)


def _inside_map(reader: Reader, jaxpr: AnyJaxpr, inputs: list[Anything]) -> list[Anything]:
    """The outputs of a jaxpr whose equations are those of a linear map along an axis."""
    outer, reader.in_map = reader.in_map, True
    outputs = reader.inside("", jaxpr, inputs)
    reader.in_map = outer
    return outputs


def _finite_or_read_call(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """The same numbers twice, by a product and tap by tap: the product tells what they read."""
    return inputs[:1]


NAMED_CALLS["finite_or_read"] = _finite_or_read_call
NAMED_CALLS["resize"] = NAMED_CALLS["_resize"] = _resize_call
NAMED_CALLS["max_unpool"] = _unpool_call
for _name in ("max_pool", "max_pool_with_indices", "avg_pool"):
    NAMED_CALLS[_name] = _pool_call
