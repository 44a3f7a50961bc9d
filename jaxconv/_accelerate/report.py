"""What became of each convolution of a function, as a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
from jax.typing import DTypeLike

from jaxconv import lowering
from jaxconv._accelerate.face import Layout
from jaxconv._accelerate.recognise import Assignment, assignments
from jaxconv._accelerate.rewrite import Recognition
from jaxconv.geometry import ConvGeometry


@dataclasses.dataclass(frozen=True)
class Row:
    """One convolution.

    Attributes:
        path: the calls around it and its named scopes (of an NNX module, the layer's path) or the line that calls it,
            outermost first, joined by "/".
        shapes: shape of lhs, rhs and result of the equation.
        dtype: dtype of its operands.
        face: "apply", "adjoint" or "kernel", or None where it was left alone.
        roles: slots of (lhs, rhs, result), such as "xwy"; None where it was left alone.
        geometry: the geometry of the convolution it is a face of, or None.
        lowering: name of the lowering that serves it on this platform, or None.
        reason: why it was left alone, or None.
        admissible: every reading of the equation that gives the same values, the one used first in order of preference.
    """

    path: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: DTypeLike
    face: str | None
    roles: str | None
    geometry: ConvGeometry | None
    lowering: str | None
    reason: str | None
    admissible: tuple[Assignment, ...]

    @classmethod
    def of(cls, found: Recognition, platform: str) -> Row:
        """The row of one convolution."""
        a = found.assignment
        common = ("/".join(found.path), found.shapes, np.dtype(found.dtype))
        choices = tuple(assignments(found.equation)) if found.equation is not None else ()
        if a is None or found.equation is None:
            return cls(*common, None, None, None, None, found.reason, choices)
        return cls(*common, a.face, a.roles, a.geometry, lowering.choose(_call(found, a, platform)), None, choices)

    def __str__(self) -> str:
        shapes = "{} * {} -> {}".format(*("x".join(map(str, shape)) for shape in self.shapes))
        if self.face is None:
            what = f"left alone: {self.reason}"
        else:
            what = f"{self.face} ({self.lowering}) {_describe(self.geometry)}"
        return f"{self.path or '.':<40} {str(self.dtype):<9} {shapes:<44} {what}"


@dataclasses.dataclass(frozen=True)
class Report:
    """Every convolution in a function's jaxpr and what `accelerate` makes of it; print it for a table.

    Attributes:
        rows: one `Row` per convolution, in program order. A loop's body counts once.
        platform: the platform for which lowerings are named.
    """

    rows: tuple[Row, ...]
    platform: str

    @property
    def faces(self) -> tuple[Row, ...]:
        """The rows of equations that became a face."""
        return tuple(row for row in self.rows if row.face is not None)

    @property
    def left_alone(self) -> tuple[Row, ...]:
        """The rows of equations that stay as they are."""
        return tuple(row for row in self.rows if row.face is None)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        counts = Counter(row.face for row in self.faces)
        faces = ", ".join(f"{n} {face}" for face, n in sorted(counts.items())) or "none"
        head = f"{len(self.rows)} convolutions on {self.platform}: {faces}; {len(self.left_alone)} left alone"
        return "\n".join((head, *map(str, self.rows)))


def report_of(found: list[Recognition]) -> Report:
    """The report on what was found, for the default platform."""
    platform = jax.default_backend()
    platform = "cuda" if platform == "gpu" else platform
    return Report(tuple(Row.of(f, platform) for f in found), platform)


def _call(found: Recognition, a: Assignment, platform: str) -> lowering.Call:
    equation = found.equation
    assert equation is not None  # only what was read has an assignment
    x = Layout.of(equation, a, a.x).face_shape
    y = Layout.of(equation, a, a.y).face_shape
    return lowering.Call(
        face=a.face,
        geometry=a.geometry,
        batch=x[0],
        channels_in=x[-1],
        channels_out=y[-1],
        dtype=np.dtype(found.dtype),
        out_dtype=np.dtype(equation.out_dtype),
        precision=equation.precision,
        platform=platform,
        runs_here=True,
    )


def _describe(g: ConvGeometry | None) -> str:
    if g is None:
        return ""
    parts = [f"{_axes(g.input_size)} -> {_axes(g.output_size)}", f"k{_axes(g.kernel_size)}"]
    if set(g.stride) != {1}:
        parts.append(f"s{_axes(g.stride)}")
    if set(g.dilation) != {1}:
        parts.append(f"d{_axes(g.dilation)}")
    parts.append(
        f"pads {', '.join(f'({lo}, {hi})' for lo, hi in g.pads)}" if len(set(g.pads)) > 1 else f"pads {g.pads[0]}"
    )
    if g.groups > 1:
        parts.append(f"groups {g.groups}")
    return " ".join(parts)


def _axes(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 and len(values) > 1 else "x".join(map(str, values))
