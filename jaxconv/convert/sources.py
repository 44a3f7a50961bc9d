"""Read checkpoint files: names and arrays, never code."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv._extras import need
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
    readers = {".safetensors": _read_safetensors, ".onnx": read_onnx, ".npz": _read_npz}
    return Checkpoint(readers.get(path.suffix, _read_torch)(path), path.suffix != ".safetensors", path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    need(f"reading {path}", "safetensors")
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            kinds = {name: str(file.get_slice(name).get_dtype()) for name in names}
            foreign = [f"{name} ({kind})" for name, kind in kinds.items() if kind.startswith(("F8", "F4", "F6"))]
            if foreign:
                listed = ", ".join(foreign[:4]) + (", ..." if len(foreign) > 4 else "")
                raise ValueError(f"it holds numbers of 8 bits or fewer, whose scale is not known here: {listed}")
            return {name: file.get_tensor(name) for name in names}
    except Exception as error:  # the reader's own errors, and those of formats that NumPy has not
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} cannot be read as safetensors: {reason}") from None


# An archive may claim to unpack to anything: trained weights hardly shrink when they are packed.
_MOST_UNPACKED = 256 << 20  # bytes that are unpacked in any case
_MOST_RATIO = 20


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(_MOST_UNPACKED, _MOST_RATIO * path.stat().st_size):
            raise ValueError(f"its {path.stat().st_size >> 20} MiB unpack to {unpacked >> 20} MiB, which no weights do")
        # Opened here: np.load leaves a broken archive open.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            content = dict(file)
        if strangers := [name for name, value in content.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"it holds what is no array: {strangers[0]}")
    except Exception as error:  # zlib's and struct's own errors, MemoryError of a lying header, and many more
        raise ValueError(f"{path} cannot be read as a NumPy archive: {str(error) or type(error).__name__}") from None
    bad = [f"{name} ({array.dtype})" for name, array in content.items() if array.dtype.kind not in "fiub"]
    if bad:
        raise ValueError(f"{path} holds other things than real numbers: {', '.join(bad[:4])}")
    return content


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
        held = content.values() if isinstance(content, dict) else [content]
        kinds = ", ".join(sorted({type(value).__name__ for value in held}))
        raise ValueError(f"{path} holds no state_dict (name -> tensor), but {kinds}")
    try:
        return {name: torch_values(name, value) for name, value in found.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _state_dict(content: Any, depth: int = 8) -> dict[str, Any] | None:
    """The state_dict inside; dicts may hold themselves, so the search has an end."""
    if not isinstance(content, dict) or not depth:
        return None
    if content and all(hasattr(value, "detach") for value in content.values()):
        return content
    inner = (content[key] for key in _NESTED if isinstance(content.get(key), dict))
    return next((found for value in inner if (found := _state_dict(value, depth - 1)) is not None), None)


def torch_values(name: str, value: Any) -> np.ndarray:
    """A PyTorch tensor's values as an array.

    Raises:
        ValueError: it has no plain values (sparse, quantised, without storage); the message names it.
    """
    if not isinstance(name, str):
        raise ValueError(f"tensors are placed by names, and {name!r} is {type(name).__name__}")
    kinds = {
        "quantised": value.is_quantized, "without values (meta)": value.is_meta, "nested": value.is_nested,
        "sparse": str(value.layout) != "torch.strided", "complex": value.is_complex(),
    }  # fmt: skip
    if found := [kind for kind, is_so in kinds.items() if is_so]:
        raise ValueError(f"{name} is {found[0]}; store it as a plain tensor of real numbers")
    value = value.detach().cpu()
    try:
        # NumPy has no bfloat16; float32 holds each of its values.
        return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} of type {value.dtype} cannot be read: {str(error).splitlines()[0]}") from None
