"""Which lowering serves a call: a pure function of face, geometry, channels, dtype and platform."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax import Array

from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import window

FACES = ("apply", "adjoint", "kernel")
METHODS = {"window": window}


@dataclasses.dataclass(frozen=True)
class Call:
    """Everything static about one evaluation of a face.

    Attributes:
        face: "apply" (x, w) -> y, "adjoint" (y, w) -> x or "kernel" (x, y) -> w.
        geometry: the convolution's geometry; padding mode "zeros".
        batch: number of batch elements.
        channels_in: I, channels of the convolution's input.
        channels_out: O, channels of its output.
        dtype: dtype of the operands.
        out_dtype: dtype of the result.
        precision: as in lax.
        platform: "cpu", "cuda", "rocm", "tpu" or None where it is not known.
    """

    face: str
    geometry: ConvGeometry
    batch: int
    channels_in: int
    channels_out: int
    dtype: Any
    out_dtype: Any
    precision: Any = None
    platform: str | None = None


def serves(method: str, face: str, geometry: ConvGeometry, channels_in: int, channels_out: int) -> bool:
    """Whether the named lowering can compute this face of this geometry at all."""
    return hasattr(METHODS[method], face)


def choose(call: Call) -> str:
    """Name of the lowering that serves `call` best."""
    return "window"


def run(method: str, call: Call, a: Array, b: Array) -> Array:
    """Evaluate one face with the named lowering; "auto" asks [`choose`][jaxconv.lowering.choose]."""
    name = choose(call) if method == "auto" else method
    return getattr(METHODS[name], call.face)(a, b, call)
