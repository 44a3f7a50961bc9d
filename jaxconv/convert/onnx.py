"""Weights out of an ONNX file: its initialisers, named and laid out as PyTorch would, in the order of the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# Operator -> the tensor names of PyTorch's layer for its inputs from the second on.
_INPUTS = {
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "MatMul": ("weight",),
    "PRelu": ("weight",),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("weight", "bias"),
    "LayerNormalization": ("weight", "bias"),
}


def open_onnx(file: Any) -> Any:
    """The ``onnx.ModelProto`` of a path, or the one that is given; errors as `onnx_function` says them."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{file} needs the onnx package (pip install onnx)") from None
    if not isinstance(file, (str, Path)):
        return file
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} is not a file")
    try:
        return onnx.load(str(file))
    except Exception as error:  # protobuf's own error types
        raise ValueError(f"{file} cannot be read as ONNX: {error}") from None


def initialisers(graph: Any, where: Any) -> dict[str, np.ndarray]:
    """The graph's initialisers by name; what cannot be read is a ValueError."""
    from onnx import numpy_helper

    weights = {}
    for tensor in graph.initializer:
        try:
            weights[tensor.name] = numpy_helper.to_array(tensor)
        except Exception as error:  # types that onnx does not know, bytes that do not fill the shape
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{where}: initialiser {tensor.name} of data type {tensor.data_type} cannot be read ({reason})"
            ) from None
    return weights


def read_onnx(path: str | Path) -> dict[str, np.ndarray]:
    """Read the weights of an ONNX model; its graph is only used to tell what each weight belongs to.

    Args:
        path: .onnx file (needs the onnx package).

    Returns:
        name -> array, in the order in which the nodes use them: "conv1.weight", "conv1.bias". Names come from the
        initialisers where they end like PyTorch's parameters, else from the node.

    Raises:
        ValueError: the file cannot be read.
        ModuleNotFoundError: onnx is not installed.
    """
    graph = open_onnx(path).graph
    weights = initialisers(graph, path)
    out: dict[str, np.ndarray] = {}
    for number, node in enumerate(graph.node):
        roles = _INPUTS.get(node.op_type, ())
        found = {role: name for role, name in zip(roles, node.input[1:], strict=False) if name in weights}
        if "weight" not in found:
            continue
        layer = _layer_name(node, found["weight"], number, out)
        for role, name in found.items():
            out[f"{layer}.{role}"] = _as_torch(node, role, weights[name])
    return out


def _layer_name(node: Any, weight: str, number: int, taken: dict[str, np.ndarray]) -> str:
    prefix, _, last = weight.rpartition(".")
    own = (node.name or f"{node.op_type}_{number}").replace("/", ".").strip(".")
    name = prefix if last in ("weight", "kernel") and prefix else own
    # A weight that two nodes share would otherwise overwrite itself under one name; it is the same array.
    return name if f"{name}.weight" not in taken or prefix else f"{name}_{number}"


def _as_torch(node: Any, role: str, array: np.ndarray) -> np.ndarray:
    if role != "weight" or node.op_type == "PRelu":  # a slope is (C, 1, 1), to broadcast over the spatial axes
        return array.reshape(-1)
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    turned = node.op_type == "MatMul" and array.ndim == 2 or node.op_type == "Gemm" and not flags.get("transB")
    return array.T if turned else array
