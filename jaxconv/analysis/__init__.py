"""Explain a network from its JAX function: receptive field, gridding, rates, checkerboard, exact tiling, units."""

import importlib

_HOME = {
    "check_rates": "dilation.rates",
    "search_rates": "dilation.rates",
    "RateCheck": "dilation.rates",
    "receptive_field": "field.receptive",
    "ReceptiveField": "field.receptive",
    "GradientField": "field.gradient",
    "gridding": "dilation.gridding",
    "Gridding": "dilation.gridding",
    "tiled": "tiling.tiled",
    "Tiled": "tiling.tiled",
    "TilingRefused": "tiling.crops",
    "checkerboard": "upsampling.checkerboard",
    "Checkerboard": "upsampling.checkerboard",
    "effective_receptive_field": "field.effective",
    "EffectiveField": "field.effective",
    "visualise": "units.visualise",
    "Visualisation": "units.visualise",
    "with_relu_rule": "units.visualise",
    "strongest_patches": "units.patches",
    "Patch": "units.patches",
    "NotUnderstood": "graph.reader",
    "GlobalOp": "graph.nodes",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxconv.analysis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'jaxconv.analysis' has no attribute {name!r}")
