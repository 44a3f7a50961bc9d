"""Names of tensors in published files, as the networks here call them; and weight norm folded into weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxconv.convert.layers import walk
from jaxconv.convert.matching import canonical
from jaxconv.convert.norms import join_normalised, parts_of

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


def arrange(model: nnx.Module, tensors: Mapping[str, Any], convention: str = "torch") -> dict[str, Any]:
    """The tensors under the names of the model, where the file has one of the known ways of naming it.

    Args:
        model: a network.
        tensors: name -> array, as in the file.
        convention: "torch" or "keras"; only PyTorch's names are known.

    Returns:
        name -> array in the same order: auxiliary heads left out, what is stored in parts joined (see
        `load_tensors`) but for weight norm (g, v) that the model keeps.

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
    tensors = {name.removeprefix("module."): a for name, a in tensors.items()}
    tensors = {name: a for name, a in tensors.items() if not name.startswith(_AUXILIARY)}
    paths = {canonical(layer.path) for layer in walk(model)}
    tensors = join_normalised(_under_weight_norm(tensors, paths))
    return max(
        ({_renamed(n, names): a for n, a in tensors.items()} for names in ((), *NAMES.get(type(model).__name__, ()))),
        key=lambda new: sum(canonical(name.rpartition(".")[0]) in paths for name in new),
    )


def _renamed(name: str, names: Names) -> str:
    for pattern, replacement in names:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


def _under_weight_norm(tensors: Mapping[str, Any], paths: set[str]) -> dict[str, Any]:
    """The tensors with those of a layer that the model keeps under `WeightNorm` as that calls them."""
    new: dict[str, str] = {}
    for name in tensors:
        layer, target, kind, parts = parts_of(name, tensors)
        if kind == "weight" and target == "weight" and f"{layer}layer" in paths:
            held = (f"{layer}scale", f"{layer}layer.weight", f"{layer}layer.bias")
            new |= zip((*parts, f"{layer}bias"), held, strict=True)
    out = {new.get(name, name): array for name, array in tensors.items()}
    # A length is (out, 1, ...) there and (out,) here.
    return out | {scale: np.asarray(out[scale]).reshape(-1) for scale in new.values() if scale.endswith("scale")}
