"""Figures and animations, drawn from the user's own operators and networks (needs matplotlib; GIFs need Pillow)."""

import importlib

_HOME = {
    "animate": "animation",
    "deconvolution": "inverse",
    "effective_receptive_field": "fields",
    "fan": "matrix",
    "gridding": "counts",
    "layers": "layerwise",
    "matrix_pair": "matrix",
    "norm_convergence": "spectrum",
    "overlap": "upsampling",
    "patches": "units",
    "receptive_field": "fields",
    "spectrum_plot": "spectrum",
    "transpose_recipe": "recipe",
    "usage_counts": "counts",
    "visualisation": "units",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - names load on first use, so that importing the package costs nothing


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxconv.figures.{_HOME[name]}"), name)
    raise AttributeError(f"module 'jaxconv.figures' has no attribute {name!r}")
