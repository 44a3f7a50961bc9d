"""An ONNX file as a JAX function of its weights and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.convert.onnx import initialisers, open_onnx
from jaxconv.convert.onnx_operators import OPERATORS, Node


def onnx_function(file: Any) -> tuple[Callable[..., Any], dict[str, jax.Array]]:
    """Read an ONNX file as a function.

    Convolutions, poolings and resizings are computed by `jaxconv.dialects.onnx`, everything else by jax.numpy. Shapes
    and what is computed from them are plain numbers while the function is traced: it takes any batch and size that the
    graph itself does, and runs under jit, grad, vmap, `jaxconv.accelerate` and the analysis.

    Args:
        file: path of an .onnx file, or an ``onnx.ModelProto``.

    Returns:
        (fn, params): ``fn(params, *inputs)`` gives the graph's output, or a tuple of several; inputs are in the graph's
        order and layout, which ``fn.inputs`` (name -> shape, None where any size is) tells, as ``fn.outputs`` the
        outputs' names. `params` are the floating-point weights by name, from initialisers and Constant nodes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or uses operators that are not known here; all of them are named.
        ModuleNotFoundError: onnx is not installed.

    Example:
        >>> from onnx import TensorProto, helper, numpy_helper
        >>> w = numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")
        >>> x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
        >>> graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [w])
        >>> fn, params = onnx_function(helper.make_model(graph))
        >>> fn(params, jnp.ones((1, 2, 8, 8))).shape, list(params)
        ((1, 4, 6, 6), ['w'])

    Source: the ONNX operator specifications.
    """
    model = open_onnx(file)
    shown = file if isinstance(file, (str, Path)) else "the model"
    # Operators of other domains are other operators, whatever their names.
    opset = {o.domain: o.version for o in model.opset_import}.get("", 1)
    graph = _Graph(model.graph, opset, shown)
    if unknown := sorted({name for name in graph.operators() if name not in OPERATORS}):
        raise ValueError(f"{shown} has operators that are not known here: {', '.join(unknown)}")
    return _Function(graph), {name: jnp.asarray(array) for name, array in graph.weights().items()}


class _Function:
    """`fn(params, *inputs)`, and what its inputs and outputs are called."""

    def __init__(self, graph: _Graph):
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        if len(inputs) != len(self.inputs):
            names = ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())
            raise ValueError(f"{len(inputs)} inputs were given; the graph has {len(self.inputs)}: {names}")
        found = self._graph.run({**dict(zip(self.inputs, map(_value, inputs), strict=True)), **params})
        return found[0] if len(found) == 1 else tuple(found)


def _value(x: Any) -> Any:
    """Inputs are traced values, but for whole numbers that are known, such as a sample rate."""
    if isinstance(x, (bool, int, np.integer)) or (isinstance(x, np.ndarray) and x.dtype.kind in "iub"):
        return np.asarray(x)
    return jnp.asarray(x)


class _Graph:
    """Nodes with their attributes read, and the constants; `If` holds graphs of its own."""

    def __init__(self, graph: Any, opset: int, where: Any):
        self.constants = initialisers(graph, where)
        self.nodes: list[Node] = []
        for proto in graph.node:
            node = self._node(proto, opset, where)
            if node.kind == "Constant":
                self.constants[node.outputs[0]] = node.constant()
            else:
                self.nodes.append(node)
        self.inputs = {v.name: _shape(v) for v in graph.input if v.name not in self.constants}
        self.outputs = [v.name for v in graph.output]

    def _node(self, proto: Any, opset: int, where: Any) -> Node:
        import onnx

        attributes = {}
        for a in proto.attribute:
            value = onnx.helper.get_attribute_value(a)
            if a.type == onnx.AttributeProto.GRAPH:
                value = _Graph(value, opset, where)
            elif a.type == onnx.AttributeProto.TENSOR:
                value = onnx.numpy_helper.to_array(value)
            elif isinstance(value, bytes):
                value = value.decode()
            elif a.type == onnx.AttributeProto.STRINGS:
                value = [v.decode() for v in value]
            attributes[a.name] = value
        kind = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        return Node(kind, list(proto.input), list(proto.output), attributes, opset)

    def _inner(self) -> Iterator[_Graph]:
        for node in self.nodes:
            yield from (a for a in node.attributes.values() if isinstance(a, _Graph))

    def operators(self) -> Iterator[str]:
        yield from (node.kind for node in self.nodes)
        for graph in self._inner():
            yield from graph.operators()

    def weights(self) -> dict[str, np.ndarray]:
        """Floating-point constants that some operator computes with; not those that say where, how far or how large."""
        numbers = {name for node in self.nodes for name in node.static_inputs()}
        used = {name for node in self.nodes for name in node.inputs}
        out = {
            name: a for name, a in self.constants.items()
            if a.dtype.kind == "f" and a.ndim and name in used and name not in numbers
        }  # fmt: skip
        for graph in self._inner():
            out |= graph.weights()
        return out

    def run(self, given: Mapping[str, Any]) -> list[Any]:
        values: dict[str, Any] = {"": None, **self.constants, **given}
        for node in self.nodes:
            try:
                found = OPERATORS[node.kind](node, values)
            except (ValueError, TypeError, IndexError) as error:
                where = f"{node.kind} that makes {node.outputs[0]!r}"
                if isinstance(error, TypeError) and "raced" not in str(error):
                    raise TypeError(f"{where}: {error}") from error
                raise ValueError(f"{where}: {error}") from error
            found = found if isinstance(found, (tuple, list)) else (found,)
            values.update(zip(node.outputs, found, strict=False))
        return [values[name] for name in self.outputs]


def _shape(info: Any) -> tuple[int | None, ...]:
    return tuple(d.dim_value or None for d in info.type.tensor_type.shape.dim)
