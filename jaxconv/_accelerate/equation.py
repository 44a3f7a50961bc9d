"""A `conv_general_dilated` equation as three tensors that meet on one line per axis.

lax's convolution of lhs A and rhs B to the result C sums over all coincidences

    b*u + lo = s*q + d*t        u on A (lhs_dilation b), t on B (rhs_dilation d), q on C (window_strides s)

Each pair of tensors shares one channel-like axis: A and C the batch, A and B the contracted features, B and C the
produced features. Which of the three is the image, the kernel or the result of a user's convolution is not in the
equation; that is what `jaxconv._accelerate.recognise` reads off.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jax import lax
from jax.typing import DTypeLike

from jaxconv.lattice import Relation

TENSORS = ("A", "B", "C")  # lhs, rhs, result


def pair(one: str, other: str) -> str:
    """The name of the axis that two tensors share: "AB", "AC" or "BC"."""
    return "".join(sorted((one, other)))


@dataclasses.dataclass(frozen=True)
class Equation:
    """The static content of one equation.

    Attributes:
        shapes: shape of A, B and C.
        axes: for each tensor, the dimension of every shared axis, such as ``{"AC": 0, "AB": 3}``.
        spatial: for each tensor, its spatial dimensions in order.
        spacings: for each tensor, its spacing per spatial axis; 1 where it has a single element.
        pads: (lo, hi) per spatial axis.
        groups: number of groups, whichever kind they are.
        carriers: for each tensor, the shared axis on which the group index rides (slowest within the axis).
        precision: as in lax.
        out_dtype: dtype of C.
    """

    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, dict[str, int]]
    spatial: dict[str, tuple[int, ...]]
    spacings: dict[str, tuple[int, ...]]
    pads: tuple[tuple[int, int], ...]
    groups: int
    carriers: dict[str, str]
    precision: lax.PrecisionLike
    out_dtype: DTypeLike

    @classmethod
    def read(cls, params: dict[str, Any], lhs: Any, rhs: Any, out: Any) -> Equation:
        """Read an equation from its parameters and the abstract values of its operands and result."""
        numbers = params["dimension_numbers"]
        specs = {"A": numbers.lhs_spec, "B": numbers.rhs_spec, "C": numbers.out_spec}
        shared = {"A": ("AC", "AB"), "B": ("BC", "AB"), "C": ("AC", "BC")}
        shapes = {"A": tuple(lhs.shape), "B": tuple(rhs.shape), "C": tuple(out.shape)}
        spatial = {t: tuple(specs[t][2:]) for t in TENSORS}
        raw = {"A": params["lhs_dilation"], "B": params["rhs_dilation"], "C": params["window_strides"]}
        spacings = {
            t: tuple(1 if shapes[t][dim] == 1 else step for dim, step in zip(spatial[t], raw[t], strict=True))
            for t in TENSORS
        }
        batch_groups = params["batch_group_count"]
        return cls(
            shapes=shapes,
            axes={t: dict(zip(shared[t], specs[t][:2], strict=True)) for t in TENSORS},
            spatial=spatial,
            spacings=spacings,
            pads=tuple((int(lo), int(hi)) for lo, hi in params["padding"]),
            groups=max(batch_groups, params["feature_group_count"]),
            carriers={"A": "AC" if batch_groups > 1 else "AB", "B": "BC", "C": "BC"},
            precision=params["precision"],
            out_dtype=out.dtype,
        )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.pads)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """The relation of each spatial axis: A as its input, B as its kernel, C as its output."""
        sizes = (self.size("A"), self.size("C"), self.size("B"))
        steps = (self.spacings["C"], self.spacings["B"], self.spacings["A"], (lo for lo, _ in self.pads))
        return tuple(Relation(*axis) for axis in zip(*sizes, *steps, strict=True))

    def size(self, tensor: str) -> tuple[int, ...]:
        """Spatial size of a tensor."""
        return tuple(self.shapes[tensor][dim] for dim in self.spatial[tensor])
