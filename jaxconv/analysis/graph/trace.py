"""From a function and its arguments to a graph of links."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const, known
from jaxconv.jaxprs.modules import with_state
from jaxconv.jaxprs.walk import AnyJaxpr

from . import rules  # noqa: F401 - registers the rules
from .nodes import Axis, GlobalOp, Graph, Layer, Node, Value, uniform
from .reader import Reader
from .sweep import Bounds, ancestors


@dataclass
class Traced:
    """The graph of a function: where it begins and ends, and which axes are spatial.

    `out` has only the output's spatial axes, `out_axes` numbers them; `result_axes` are their places in the output.
    `wide_eqns` are the equations of `jaxpr` that read all spatial axes whole; `bounds` keeps what `sweep.widest` found.
    """

    graph: Graph
    source: Node
    out: Node
    spatial_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    result_axes: tuple[int, ...]
    jaxpr: AnyJaxpr | None = None
    wide_eqns: tuple[JaxprEqn, ...] = ()
    bounds: dict[int, Bounds] = field(default_factory=dict)

    @property
    def input_size(self) -> tuple[int, ...]:
        return tuple(self.source.axes[a].size for a in self.spatial_axes)

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(self.out.axes[a].size for a in self.out_axes)

    @property
    def global_ops(self) -> tuple[GlobalOp, ...]:
        edges = [e for n in ancestors(self.out, through_global=True, choices=True) for e in n.edges]
        return tuple(dict.fromkeys(e.global_op for e in edges if e.global_op is not None))

    def layers(self) -> list[tuple[Node, Layer]]:
        """The nodes that are layers with a window (convolutions, pooling, resizing), in order."""
        return [(n, n.layer) for n in ancestors(self.out, through_global=True) if n.layer is not None]


def spatial_axes_of(array: Any, spatial_axes: Sequence[int] | None) -> tuple[int, ...]:
    """The spatial axes of the first argument, ascending: all but the first and the last, or the ones named."""
    if not hasattr(array, "shape"):
        raise TypeError(f"the first argument must be an array or a ShapeDtypeStruct, got {type(array).__name__}")
    rank = len(array.shape)
    if spatial_axes is None:
        if rank < 3:
            raise ValueError(
                f"the first argument has shape {tuple(array.shape)}: without spatial_axes all axes but the first and "
                "the last are spatial, so it needs three or more"
            )
        return tuple(range(1, rank - 1))
    axes = tuple(int(a) + rank if a < 0 else int(a) for a in spatial_axes)
    if len(set(axes)) != len(axes) or any(not 0 <= a < rank for a in axes) or not axes:
        raise ValueError(f"spatial_axes={tuple(spatial_axes)} are not distinct axes of shape {tuple(array.shape)}")
    return tuple(sorted(axes))


def _argument(leaf: Any, aval: Any) -> Const:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return Const(aval)
    return known(leaf)


def trace(
    fn: Callable[..., Any], args: Sequence[Any], spatial_axes: Sequence[int] | None, output: int | None
) -> Traced:
    """Trace fn and build its graph."""
    if not args:
        raise TypeError("give the function's arguments, the image (or its ShapeDtypeStruct) first")
    axes = spatial_axes_of(args[0], spatial_axes)
    fn, args = with_state(fn, args)
    closed = jax.make_jaxpr(fn)(*args)
    leaves = jax.tree.leaves(args)
    reader = Reader()
    shape = args[0].shape
    source = reader.graph.node(
        [Axis(n, "s") if a in axes else uniform(n) for a, n in enumerate(shape)], [], "input", ""
    )
    rest = [_argument(x, v.aval) for x, v in zip(leaves[1:], closed.jaxpr.invars[1:], strict=True)]
    outputs = reader.run(closed, [reader.graph.value(source), *rest])
    chosen = _chosen(outputs, output)
    if not isinstance(chosen, Value):
        raise ValueError("the output does not depend on the first argument")
    out_axes = _out_axes(chosen, len(shape), axes)
    gone = [a for a in range(len(chosen.axes)) if a not in out_axes]
    if any(chosen.axes[a].count > 1 for a in gone):
        reader.graph.notes.append("channels of the output see different things; counts are summed over them")
    chosen = reader.graph.dropped(chosen, gone, "output")
    chosen = reader.graph.counted(chosen, range(len(chosen.axes)))
    out = reader.graph.materialize(chosen)
    places = tuple(range(len(out_axes))), tuple(sorted(out_axes))
    return Traced(reader.graph, source, out, axes, *places, closed, tuple(reader.wide_eqns))


def _chosen(outputs: Sequence[Any], output: int | None) -> Any:
    if output is None and len(outputs) == 1:
        return outputs[0]
    if output is None or not -len(outputs) <= output < len(outputs):
        shapes = [o.shape for o in outputs]
        raise ValueError(
            f"the function has {len(outputs)} outputs, of shapes {shapes}; choose one with output=, got {output}"
        )
    return outputs[output]


def _out_axes(out: Value, rank: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The spatial axes of the output: those that carry the role, or the input's where the ranks agree."""
    carried = tuple(a for a, x in enumerate(out.axes) if x.spatial)
    if len(out.axes) == rank and all(a in axes for a in carried):
        return axes
    return carried


def spatial_index(index: int | Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """A spatial index of an output, counted from its begin."""
    given = (index,) if isinstance(index, (int, np.integer)) else tuple(index)
    if len(given) != len(sizes):
        raise ValueError(f"index {index!r} has {len(given)} entries, the output has spatial size {tuple(sizes)}")
    if any(not -n <= i < n for i, n in zip(given, sizes, strict=True)):
        raise ValueError(f"index {index!r} is outside of the output's spatial size {tuple(sizes)}")
    return tuple(int(i) % n for i, n in zip(given, sizes, strict=True))


def one_hot(traced: Traced, index: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """A seed for a sweep: ones on every class of the output at one spatial index, and where that block starts."""
    return np.ones((1,) * len(traced.out.axes)), tuple(index)
