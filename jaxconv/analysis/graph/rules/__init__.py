"""The rules of the primitives: importing this registers them all."""

from . import control, dot, index, pointwise, shape, window

__all__ = ["control", "dot", "index", "pointwise", "shape", "window"]
