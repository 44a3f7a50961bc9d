"""Weights that a file holds in parts: weight and spectral normalisation, brought together as PyTorch does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# How PyTorch names the parts of a tensor called NAME: with hooks, and as parametrizations.
_FORMS = (
    ("weight", "{}_g", "{}_v"),
    ("weight", "parametrizations.{}.original0", "parametrizations.{}.original1"),
    ("spectral", "{}_orig", "{}_u", "{}_v"),
    ("spectral", "parametrizations.{}.original", "parametrizations.{}.0._u", "parametrizations.{}.0._v"),
)

# What the part of the weight's own shape ends in.
PARTS = ("weight_v", "weight_orig", "weight.original0", "weight.original1", "weight.original")


def join_normalised(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors with each weight that is stored in parts in the place of its parts.

    Weight normalisation is ``w = g v / ||v||`` with the norm over the axes along which g has size 1, spectral
    normalisation ``w = W / (u' W v)`` with W as a matrix.

    Args:
        arrays: name -> array.

    Raises:
        ValueError: parts whose shapes do not fit; the message names them.

    >>> parts = {"conv.weight_g": np.array([[2.0]]), "conv.weight_v": np.array([[3.0, 4.0]])}
    >>> {name: array.round(1).tolist() for name, array in join_normalised(parts).items()}
    {'conv.weight': [[1.2, 1.6]]}

    Source: Salimans and Kingma 2016 (arXiv:1602.07868), equation 2; Miyato et al. 2018 (arXiv:1802.05957), equation 8.
    """
    joined: dict[str, Any] = {}
    whole: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for name in arrays:
        layer, target, kind, parts = parts_of(name, arrays)
        whole |= {part: (layer + target, kind, parts) for part in parts}
    for name, array in arrays.items():
        target, kind, parts = whole.get(name, (name, "", ()))
        if not parts:
            joined[name] = array
        elif target not in joined:
            join = _weight_normalised if kind == "weight" else _spectral
            joined[target] = join(target, *(np.asarray(arrays[part]) for part in parts))
    return joined


def parts_of(name: str, arrays: Mapping[str, Any]) -> tuple[str, str, str, tuple[str, ...]]:
    """(what stands before, name, "weight" or "spectral", names of all parts) of the weight whose first part is `name`;
    empty where it is no such part."""
    for kind, *forms in _FORMS:
        before, _, after = forms[0].partition("{}")
        start = name.rfind(before) if before else name.rfind(".") + 1
        if start < 0 or not name.endswith(after):
            continue
        layer, target = name[:start], name[start + len(before) : len(name) - len(after)]
        parts = tuple(layer + form.format(target) for form in forms)
        if target and "." not in target and all(part in arrays for part in parts):
            return layer, target, kind, parts
    return "", "", "", ()


def _weight_normalised(name: str, g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """``g v / ||v||``; the norm is taken over the axes along which g has size 1, which are not always the last ones."""
    if g.ndim and (g.ndim != v.ndim or any(n not in (1, m) for n, m in zip(g.shape, v.shape))):
        raise ValueError(f"{name}: a weight norm of shape {g.shape} does not fit its direction {v.shape}")
    axes = tuple(axis for axis in range(v.ndim) if not g.ndim or g.shape[axis] == 1)
    wide = v.astype(np.float64)
    return (g * wide / np.sqrt((wide**2).sum(axes, keepdims=True))).astype(v.dtype)


def _spectral(name: str, weight: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    best, sigma = -1.0, 0.0
    # Axis of the results: 1 in transposed convolutions. Of equal sizes, u ~ W v tells.
    for axis in (0, 1) if weight.ndim > 1 else ():
        matrix = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
        if matrix.shape != (u.size, v.size):
            continue
        image = matrix @ v.astype(np.float64)
        alike = float(u @ image / max(float(np.linalg.norm(image) * np.linalg.norm(u)), 1e-30))
        if alike > best:
            best, sigma = alike, float(u @ image)
    if not sigma:
        raise ValueError(
            f"{name}: spectral vectors of shapes {u.shape}, {v.shape} do not fit a weight of {weight.shape}"
        )
    return (weight / sigma).astype(weight.dtype)
