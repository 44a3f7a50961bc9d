"""One equation on one face: operands into the face's layout, the face, its result back into the equation's layout.

Faces take x (batch, *n, I), w (*k, I/groups, O) and y (batch, *m, O). An equation may hold its axes in any order, and
its group index on another axis of a tensor than the face wants it on; both are put right by one transposition per
tensor, between two reshapes where the group index moves. A transposition that changes nothing is not written.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array, lax

from jaxconv import trilinear
from jaxconv._accelerate.equation import Equation, pair
from jaxconv._accelerate.recognise import Assignment


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor of an equation is brought into a face's layout and back.

    Attributes:
        shape: the tensor's shape in the equation.
        order: its dimensions in the order in which the face wants them.
        flip: positions, in the face's order, along which it is reversed.
        groups: number of groups if the group index has to move, else 1.
        source: dimension (in the equation) on which the group index rides.
        target: dimension (in the equation) on which the face wants it.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    flip: tuple[int, ...]
    groups: int
    source: int
    target: int

    @classmethod
    def of(cls, equation: Equation, assignment: Assignment, tensor: str) -> Layout:
        """The layout change of one tensor under an assignment."""
        role = assignment.role(tensor)
        inputs, outputs = pair(assignment.x, assignment.w), pair(assignment.w, assignment.y)
        batch = pair(assignment.x, assignment.y)
        axes, space = equation.axes[tensor], equation.spatial[tensor]
        target = inputs if role == "x" else outputs
        if role == "w":
            order, first = (*space, axes[inputs], axes[outputs]), 0
        else:
            order, first = (axes[batch], *space, axes[target]), 1
        flipped = enumerate(space, first) if assignment.flipped == tensor else ()
        moves = equation.groups > 1 and equation.carriers[tensor] != target
        return cls(
            shape=equation.shapes[tensor],
            order=order,
            flip=tuple(position for position, dim in flipped if equation.shapes[tensor][dim] > 1),
            groups=equation.groups if moves else 1,
            source=axes[equation.carriers[tensor]],
            target=axes[target],
        )

    def into(self, a: Array) -> Array:
        """The equation's tensor in the face's layout."""
        if self.groups > 1:
            split = _split(self.shape, self.source, self.groups)
            order = self._order_with_group()
            wide = lax.transpose(lax.reshape(a, split), order)
            a = lax.reshape(wide, self.face_shape)
        elif self.order != tuple(range(a.ndim)):
            a = lax.transpose(a, self.order)
        return lax.rev(a, self.flip) if self.flip else a

    def back(self, a: Array) -> Array:
        """The face's result in the equation's layout."""
        if self.flip:
            a = lax.rev(a, self.flip)
        if self.groups > 1:
            order = self._order_with_group()
            split = _split(self.shape, self.source, self.groups)
            wide = lax.reshape(a, tuple(split[dim] for dim in order))
            return lax.reshape(lax.transpose(wide, _inverse(order)), self.shape)
        if self.order != tuple(range(a.ndim)):
            a = lax.transpose(a, _inverse(self.order))
        return a

    @property
    def face_shape(self) -> tuple[int, ...]:
        """The tensor's shape in the face's layout."""
        per = {self.source: self.shape[self.source] // self.groups, self.target: self.shape[self.target] * self.groups}
        sizes = per if self.groups > 1 else {}
        return tuple(sizes.get(dim, self.shape[dim]) for dim in self.order)

    def _order_with_group(self) -> tuple[int, ...]:
        """The face's order once `source` is split into (group, rest): the group goes in front of `target`."""
        shifted = {dim: dim + (dim >= self.source) for dim in self.order}
        order: list[int] = []
        for dim in self.order:
            order += [self.source, shifted[dim]] if dim == self.target else [shifted[dim]]
        return tuple(order)


def evaluate(
    equation: Equation, assignment: Assignment, a: Array, b: Array, *, like: Any, method: str = "auto"
) -> Array:
    """The equation's result, computed by the face that `assignment` reads it as; its type is that of `like`."""
    tensors = {t: Layout.of(equation, assignment, t).into(v) for t, v in (("A", a), ("B", b))}
    slots = {assignment.role(t): v for t, v in tensors.items()}
    params = {"out_dtype": equation.out_dtype, "precision": equation.precision, "method": method}
    face = getattr(trilinear, assignment.face)
    first, second = {"apply": ("x", "w"), "adjoint": ("y", "w"), "kernel": ("x", "y")}[assignment.face]
    out = face(slots[first], slots[second], assignment.geometry, **params)
    out = Layout.of(equation, assignment, "C").back(out)
    sharding = getattr(like, "sharding", None)
    if sharding is not None and not sharding.mesh.empty and jax.typeof(out).sharding != sharding:
        out = jax.sharding.reshard(out, sharding)
    return out


def _split(shape: tuple[int, ...], dim: int, groups: int) -> tuple[int, ...]:
    return (*shape[:dim], groups, shape[dim] // groups, *shape[dim + 1 :])


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))
