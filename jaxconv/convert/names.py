"""Names of tensors in published files, as the networks here call them; and weight norm folded into weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxconv.convert.layers import walk
from jaxconv.convert.norms import weight_normalised

Names = tuple[tuple[str, Any], ...]

_VGG = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_VGG_NAMES = [f"conv{stage}_{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
_DOUBLE = (("0", "0.conv"), ("1", "0.norm"), ("3", "1.conv"), ("4", "1.norm"))

# Kind of model -> the ways in which its published files name it: (pattern, replacement) in turn.
NAMES: dict[str, tuple[Names, ...]] = {
    "Segmentation": (
        # torchvision's DeepLabV3 and FCN
        (
            (r"^backbone\.", "encoder."), (r"^classifier\.0\.", "decoder.aspp."), (r"^classifier\.([12])\.",
             lambda m: f"decoder.conv.{int(m[1]) - 1}."), (r"^classifier\.4\.", "decoder.head."),
        ),
        # segmentation_models_pytorch
        ((r"^segmentation_head\.0\.", "decoder.head."),),
    ),
    # pytorch-fcn
    "FCN": (tuple((rf"^{name}\.", f"encoder.features.{i}.") for name, i in zip(_VGG_NAMES, _VGG, strict=True)),),
    # Pytorch-UNet
    "UNet": (
        (
            *((rf"^inc\.double_conv\.{a}\.", f"encoder.0.{b}.") for a, b in _DOUBLE),
            *((rf"^down(\d)\.maxpool_conv\.1\.double_conv\.{a}\.", rf"encoder.\1.{b}.") for a, b in _DOUBLE),
            *(
                (rf"^up(\d)\.conv\.double_conv\.{a}\.", lambda m, b=b: f"decoder.{int(m[1]) - 1}.{b}.")
                for a, b in _DOUBLE
            ),
            (r"^up(\d)\.up\.", lambda m: f"ups.{int(m[1]) - 1}."), (r"^outc\.conv\.", "head."),
        ),
    ),
}  # fmt: skip
# Parts that only training needs.
_AUXILIARY = ("aux_classifier.",)
_WEIGHT_NORM = {
    ".weight_g": (".weight_g", ".weight_v"),
    ".parametrizations.weight.original0": (
        ".parametrizations.weight.original0", ".parametrizations.weight.original1",
    ),
}  # fmt: skip


def arrange(model: nnx.Module, tensors: Mapping[str, Any], convention: str = "torch") -> dict[str, Any]:
    """The tensors under the names of the model, where the file has one of the known ways of naming it.

    Args:
        model: a network.
        tensors: name -> array, as in the file.
        convention: "torch" or "keras"; only PyTorch's names are known.

    Returns:
        name -> array in the same order: auxiliary heads left out, weight norm (g, v) multiplied out unless the model
        keeps it.

    Example:
        >>> import numpy as np
        >>> from jaxconv.nn import Conv
        >>> layer = nnx.eval_shape(lambda: Conv(2, 1, (3,), use_bias=False, rngs=nnx.Rngs(0)))
        >>> v, g = np.ones((1, 2, 3)), np.full((1, 1, 1), 6.0)
        >>> {k: a.shape for k, a in arrange(layer, {"x.weight_g": g, "x.weight_v": v}).items()}
        {'x.weight': (1, 2, 3)}
    """
    if convention != "torch":
        return dict(tensors)
    tensors = {name: a for name, a in tensors.items() if not name.startswith(_AUXILIARY)}
    paths = {_canonical(layer.path) for layer in walk(model)}
    tensors = _without_weight_norm(tensors, paths)
    return max(
        (_renamed(tensors, names) for names in ((), *NAMES.get(type(model).__name__, ()))),
        key=lambda new: sum(_canonical(name.rpartition(".")[0]) in paths for name in new),
    )


def _renamed(tensors: Mapping[str, Any], names: Names) -> dict[str, Any]:
    def new(name: str) -> str:
        for pattern, replacement in names:
            name, count = re.subn(pattern, replacement, name)
            if count:
                return name
        return name

    return {new(name.removeprefix("module.")): array for name, array in tensors.items()}


def _canonical(path: str) -> str:
    return ".".join(part for part in path.split(".") if part != "layers")


def _without_weight_norm(tensors: Mapping[str, Any], paths: set[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, array in tensors.items():
        ending = next((e for e in _WEIGHT_NORM if name.endswith(e)), None)
        if ending is None:
            if not any(name.endswith(v) and name[: -len(v)] + g in tensors for g, v in _WEIGHT_NORM.values()):
                out[_inside(name, paths, tensors)] = array
            continue
        prefix = name[: -len(ending)]
        g, v = (np.asarray(tensors[prefix + end]) for end in _WEIGHT_NORM[ending])
        if f"{prefix}.layer" in paths:
            out[f"{prefix}.layer.weight"], out[f"{prefix}.scale"] = v, g.reshape(-1)
        else:
            out[f"{prefix}.weight"] = weight_normalised(f"{prefix}.weight", g, v)
    return out


def _inside(name: str, paths: set[str], tensors: Mapping[str, Any]) -> str:
    """The bias of a layer that the model keeps under weight norm."""
    prefix, _, short = name.rpartition(".")
    held = f"{prefix}.layer" in paths and any(prefix + end in tensors for end in _WEIGHT_NORM)
    return f"{prefix}.layer.{short}" if held else name
