"""Explain a network from its JAX function: receptive field, gridding, rates, checkerboard, exact tiling, units."""

import importlib

_HOME = {
    "check_rates": "rates",
    "search_rates": "rates",
    "RateCheck": "rates",
    "receptive_field": "field",
    "ReceptiveField": "field",
    "GradientField": "gradient",
    "gridding": "holes",
    "Gridding": "holes",
    "tiled": "tiling",
    "Tiled": "tiling",
    "TilingRefused": "crops",
    "checkerboard": "overlap",
    "Checkerboard": "overlap",
    "effective_receptive_field": "erf",
    "EffectiveField": "erf",
    "visualise": "backprojection",
    "Visualisation": "backprojection",
    "with_relu_rule": "backprojection",
    "strongest_patches": "patches",
    "Patch": "patches",
    "NotUnderstood": "interpret",
    "GlobalOp": "graph",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxconv.analysis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'jaxconv.analysis' has no attribute {name!r}")
