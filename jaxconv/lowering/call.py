"""Everything static about one evaluation of a face: what a lowering is given beside its two arrays."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxconv.geometry import ConvGeometry

# Platforms whose matrix units add half-precision products in float32, whatever type the result has.
ACCELERATORS = ("cuda", "rocm", "tpu")
# The slots of the form that the two operands of a face fill, and the open one.
SLOTS = {"apply": ("x", "w", "y"), "adjoint": ("y", "w", "x"), "kernel": ("x", "y", "w")}


# What the choice takes a batch for whose size is known only when an exported program runs.
OPEN_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """What follows a convolution: ``activation(scale * v + bias + residual)`` of its result v.

    Attributes:
        scale: (channels,); None for 1.
        bias: (channels,); None for 0.
        residual: an array of the result's shape; None for 0.
        slope: (channels,), what numbers below zero are multiplied by.
        rectified: whether numbers below zero become zero.
        most: what larger numbers become.
    """

    scale: Any = None
    bias: Any = None
    residual: Any = None
    slope: Any = None
    rectified: bool = False
    most: float = math.inf


@dataclasses.dataclass(frozen=True)
class Call:
    """Everything static about one evaluation of a face.

    Attributes:
        face: "apply" (x, w) -> y, "adjoint" (y, w) -> x or "kernel" (x, y) -> w.
        geometry: the convolution's geometry; padding mode "zeros".
        batch: number of batch elements, which only the choice looks at; where an exported program leaves it open, 8.
        channels_in: I, channels of the convolution's input.
        channels_out: O, channels of its output.
        dtype: dtype of the operands.
        out_dtype: dtype of the result.
        precision: as in lax.
        platform: "cpu", "cuda", "rocm", "tpu" or None where it is not known.
        runs_here: whether the program runs in this process, on one device: only then may it call compiled code.
        chip: what jax calls the TPU, such as "TPU v6 lite", where the program is for one of them; None elsewhere.
    """

    face: str
    geometry: ConvGeometry
    batch: int
    channels_in: int
    channels_out: int
    dtype: DTypeLike
    out_dtype: DTypeLike
    precision: lax.PrecisionLike = None
    platform: str | None = None
    runs_here: bool = False
    chip: str | None = None

    @classmethod
    def of(cls, face: str, geometry: ConvGeometry, a: Any, b: Any, **others: Any) -> Call:
        """The call of `face` on two operands, of which only shape and dtype are looked at."""
        shapes = dict(zip(SLOTS[face], (a.shape, b.shape), strict=False))
        data = shapes["x"] if "x" in shapes else shapes["y"]
        batch = math.prod(data[: -geometry.rank - 1])
        return cls(
            face,
            geometry,
            batch=batch if isinstance(batch, int) else OPEN_BATCH,
            channels_in=shapes["x"][-1] if "x" in shapes else shapes["w"][-2] * geometry.groups,
            channels_out=shapes["y"][-1] if "y" in shapes else shapes["w"][-1],
            dtype=a.dtype,
            **others,
        )

    @property
    def accumulator(self) -> DTypeLike:
        """The dtype to sum in: float32 at least for half precision, so that sums are not rounded as they grow."""
        if jnp.issubdtype(self.out_dtype, jnp.floating) and jnp.finfo(self.out_dtype).bits < 32:
            return jnp.dtype(jnp.float32)
        return self.out_dtype

    @property
    def product_dtype(self) -> DTypeLike:
        """The dtype to ask of one convolution or matrix product whose value is the result.

        Accelerators add half-precision products in float32 and round once at the end, if they are asked for the
        operands' own type. Asked for float32, XLA's GPU backend widens both operands first: cuDNN then runs in float32,
        adjoints are not recognised and activations no longer fuse. CPUs, and platforms nobody measured, are asked for
        the type to sum in. What is still added to other products is summed in
        [`accumulator`][jaxconv.lowering.Call.accumulator] everywhere.
        """
        if self.platform in ACCELERATORS and self.dtype == self.out_dtype:
            return self.out_dtype
        return self.accumulator

    @property
    def depthwise(self) -> bool:
        """One input channel a group."""
        return 1 < self.geometry.groups == self.channels_in
