"""Read checkpoint files: names and arrays, never code."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.convert.onnx import read_onnx

# Where training scripts put the weights in what they save.
_NESTED = ("state_dict", "model_state_dict", "model")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        tensors: name -> array.
        ordered: whether their order is the order of definition; safetensors files are sorted.
        path: the file.
    """

    tensors: dict[str, np.ndarray]
    ordered: bool
    path: Path


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a PyTorch state_dict, a safetensors file, an ONNX model's initialisers or a NumPy archive.

    Args:
        path: .safetensors, .onnx, .npz, or anything that ``torch.load`` reads (PyTorch is needed only for these).
            PyTorch files are read with ``weights_only=True`` on the CPU: no code from the file is run. A state_dict
            inside a larger dict, under "state_dict", "model_state_dict" or "model", is found.

    Returns:
        The names and arrays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, holds other things than tensors, or would need code to be run.
        ModuleNotFoundError: a PyTorch file and no PyTorch; a .safetensors file and no safetensors.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "layer.npz"
        ...     np.savez(path, **{"conv.weight": np.ones((8, 3, 5, 5))})
        ...     read_checkpoint(path).tensors["conv.weight"].shape
        (8, 3, 5, 5)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return Checkpoint(_read_safetensors(path), False, path)
    if path.suffix == ".onnx":
        return Checkpoint(read_onnx(path), True, path)
    if path.suffix == ".npz":
        return Checkpoint(_read_npz(path), True, path)
    return Checkpoint(_read_torch(path), True, path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: np.load leaves a broken archive open.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a NumPy archive: {error}") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} is read as a PyTorch file, which needs PyTorch (pip install torch); "
            "a .safetensors or .npz file of the same tensors needs none"
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, pickle's own among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a PyTorch file of plain tensors: {reason}") from None
    found = _state_dict(content)
    if found is None:
        kinds = (
            sorted({type(v).__name__ for v in content.values()})
            if isinstance(content, dict)
            else type(content).__name__
        )
        raise ValueError(f"{path} holds no state_dict (name -> tensor), but {kinds}")
    return {name: _numpy(value) for name, value in found.items()}


def _state_dict(content: Any) -> dict[str, Any] | None:
    if not isinstance(content, dict):
        return None
    if content and all(hasattr(value, "detach") for value in content.values()):
        return content
    return next((_state_dict(content[key]) for key in _NESTED if isinstance(content.get(key), dict)), None)


def _numpy(value: Any) -> np.ndarray:
    value = value.detach().cpu()
    # NumPy has no bfloat16; float32 holds each of its values.
    return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
