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
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path} needs the onnx package (pip install onnx)") from None
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's own error types
        raise ValueError(f"{path} cannot be read as ONNX: {error}") from None
    weights = {}
    for tensor in graph.initializer:
        try:
            weights[tensor.name] = numpy_helper.to_array(tensor)
        except Exception as error:  # types that onnx does not know, bytes that do not fill the shape
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path}: initialiser {tensor.name} of data type {tensor.data_type} cannot be read ({reason})"
            ) from None
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
    name = (
        prefix
        if last in ("weight", "kernel") and prefix
        else (node.name or f"{node.op_type}_{number}").replace("/", ".").strip(".")
    )
    # A weight that two nodes share would otherwise overwrite itself under one name; it is the same array.
    return name if f"{name}.weight" not in taken or prefix else f"{name}_{number}"


def _as_torch(node: Any, role: str, array: np.ndarray) -> np.ndarray:
    if role != "weight":
        return array.reshape(-1)
    if node.op_type == "PRelu":
        return array.reshape(-1)  # (C, 1, 1), to broadcast over the spatial axes
    if node.op_type == "MatMul":
        return array.T if array.ndim == 2 else array
    if node.op_type == "Gemm":
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        return array if flags.get("transB") else array.T
    return array
