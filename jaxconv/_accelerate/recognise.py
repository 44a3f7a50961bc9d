"""Which face of the trilinear form an equation is: every admissible reading, best first.

With ``b*u + lo = s*q + d*t`` and u on A, t on B, q on C (see `jaxconv._accelerate.equation`), any of the three
tensors may play the image x as long as its spacing is 1 on every axis, since a face sums over ``u + lo = s*q + d*t``.
A stands alone on its side of the equation. If A is not x, the tensor that is neither A nor x changes sides by being
reversed ([`recast`][jaxconv.lattice.Relation.recast] is that arithmetic).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from jaxconv._accelerate.equation import Equation
from jaxconv.geometry import ConvGeometry

# Where the reading is a free choice: the rhs is the kernel lax speaks of, and nothing is reversed where A is the image.
_KERNEL_ORDER = "BCA"
_IMAGE_ORDER = "ACB"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One reading of an equation.

    Attributes:
        x: the tensor that plays the image: "A" (lhs), "B" (rhs) or "C" (result).
        w: the tensor that plays the kernel.
        y: the tensor that plays the convolution's result.
        flipped: the tensor that has to be reversed along its spatial axes, or None.
        geometry: the geometry of the convolution under this reading.
    """

    x: str
    w: str
    y: str
    flipped: str | None
    geometry: ConvGeometry

    @property
    def face(self) -> str:
        """Which slot the equation leaves open: "apply" (y), "adjoint" (x) or "kernel" (w)."""
        return {"y": "apply", "x": "adjoint", "w": "kernel"}[self.role("C")]

    def role(self, tensor: str) -> str:
        """The slot ("x", "w" or "y") that tensor "A", "B" or "C" fills."""
        return {self.x: "x", self.w: "w", self.y: "y"}[tensor]

    @property
    def roles(self) -> str:
        """The slots of (lhs, rhs, result) as three letters, such as "xwy" for a plain convolution."""
        return "".join(self.role(t) for t in "ABC")


def assignments(equation: Equation) -> Iterator[Assignment]:
    """All admissible readings of an equation (at most six), the one to use first.

    The kernel is the spatially smallest tensor that can be one; on a tie it is the rhs, then the result. Readings of
    four times the least multiply-adds and more come last: where the kernel of a strided adjoint is larger than its
    image, the image as a dilated kernel would be multiplied by all the zeros that a stride skips.
    """
    if refusal(equation) is not None:
        return
    found = []
    for x in _IMAGE_ORDER:
        if any(step != 1 for step in equation.spacings[x]):
            continue
        for w in _KERNEL_ORDER:
            if w != x:
                (y,) = set("ABC") - {x, w}
                found.append((x, w, y))
    least = min(_multiply_adds(equation, *reading) for reading in found)
    found.sort(key=lambda r: (_multiply_adds(equation, *r) >= 4 * least, *_preference(equation, *r)))
    for reading in found:
        yield _assignment(equation, *reading)


def refusal(equation: Equation) -> str | None:
    """Why an equation is no face of the trilinear form, or None."""
    if equation.rank == 0:
        return "no spatial axis: a matrix product"
    empty = [shape for shape in equation.shapes.values() if 0 in shape]
    if empty:
        return f"an empty array of shape {empty[0]}"
    if all(any(step != 1 for step in steps) for steps in equation.spacings.values()):
        lhs, rhs, out = (equation.spacings[t] for t in "ABC")
        return f"no tensor has unit spacing on all axes (lhs_dilation {lhs}, rhs_dilation {rhs}, window_strides {out})"
    return None


def _preference(equation: Equation, x: str, w: str, y: str) -> tuple[int, int, int]:
    return math.prod(equation.size(w)), _KERNEL_ORDER.index(w), _IMAGE_ORDER.index(x)


def _multiply_adds(equation: Equation, x: str, w: str, y: str) -> int:
    """Those of one batch element and pair of channels, whose numbers all readings share."""
    if x == "C":  # an adjoint: of a kernel's taps only every s-th meets a position
        taps = zip(equation.size(w), equation.spacings[y], strict=True)
        return math.prod(equation.size(x)) * math.prod(-(-k // s) for k, s in taps)
    return math.prod(equation.size(y)) * math.prod(equation.size(w))


def _assignment(equation: Equation, x: str, w: str, y: str) -> Assignment:
    flipped = None if x == "A" else next(t for t in "ABC" if t not in ("A", x))
    slot = {"A": "x", "B": "w", "C": "y"}
    relations = [relation.recast(slot[x], slot[w], slot[y]) for relation in equation.relations]
    pads = []
    for relation, (_, hi) in zip(relations, equation.pads, strict=True):
        # `stride` high pads give the same result: the equation's own, or one equal to lo, as libraries have fast
        # paths for symmetric pads.
        wanted, least = hi if (x, w) == ("A", "B") else relation.low, relation.least_high
        pads.append((relation.low, wanted if least <= wanted < least + relation.stride else least))
    geometry = ConvGeometry.resolve(
        input_size=equation.size(x),
        kernel_size=equation.size(w),
        stride=equation.spacings[y],
        dilation=equation.spacings[w],
        padding=tuple(pads),
        groups=equation.groups,
    )
    if geometry.output_size != equation.size(y):
        raise RuntimeError(f"{equation} read as {x}, {w}, {y} gives {geometry}: please report this equation")
    return Assignment(x, w, y, flipped, geometry)
