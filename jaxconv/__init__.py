"""jaxconv: exact, fast and explainable transposed and atrous convolution for JAX."""

import importlib

_HOME = {
    "conv": "ops", "conv_transpose": "ops", "conv_kernel": "ops", "ConvGeometry": "geometry", "conv_matrix": "matrix",
    "ConvOperator": "operator", "resize": "resample", "pixel_shuffle": "resample", "pixel_unshuffle": "resample",
    "unfold": "resample", "fold": "resample", "max_pool": "pooling", "avg_pool": "pooling", "max_unpool": "pooling",
}  # fmt: skip
_SUBPACKAGES = {"analysis", "convert", "dialects", "figures", "initializers", "models", "nn", "train"}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxconv.{_HOME[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jaxconv.{name}")
    raise AttributeError(f"module 'jaxconv' has no attribute {name!r}")
