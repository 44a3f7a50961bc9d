"""Rules for control flow: everything is read in place; loops of known length are read turn by turn."""

from functools import partial
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxconv.jaxprs.constants import Const, known
from jaxconv.jaxprs.walk import opened, scan_parts

from ..nodes import Axis, Value, uniform
from ..reader import Anything, Reader, rule
from .pointwise import stretched, values_of
from .shape import at_position, joined

_TURNS = 10_000


@rule("cond")
def _cond(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    which, *operands = inputs
    branches = eqn.params["branches"]
    platforms = eqn.params.get("branches_platforms")
    if platforms is not None:
        # One form a platform, of one meaning: the one that is for all others says what is read.
        other = next((i for i, names in enumerate(platforms) if names is None), 0)
        return reader.inside(f"branch {other}", branches[other], operands)
    if isinstance(which, Const):
        try:
            chosen = int(np.clip(int(which.array()), 0, len(branches) - 1))
        except ValueError:
            chosen = None
        if chosen is not None:
            return reader.inside(f"branch {chosen}", branches[chosen], operands)
    taken = [reader.inside(f"branch {i}", b, operands) for i, b in enumerate(branches)]
    return [_either(reader, outputs, which) for outputs in zip(*taken, strict=True)]


def _either(reader: Reader, outputs: tuple[Anything, ...], which: Anything) -> Anything:
    """What depends on the branch taken: the sources of all branches and of the choice, each once."""
    values = values_of(list(outputs))
    values += [stretched(reader, v, outputs[0].shape) for v in values_of([which])]
    return reader.graph.pointwise(values, reader.place) if values else outputs[0]


@rule("scan")
def _scan(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    p = eqn.params
    length, fixed, carried = p["length"], *scan_parts(eqn)
    if length > _TURNS:
        raise reader.refuse(f"{length} turns are too many to follow")
    consts, carry, stacked = inputs[:fixed], list(inputs[fixed : fixed + carried]), inputs[fixed + carried :]
    free = all(isinstance(v, Const) or (not v.axes[0].spatial and v.axes[0].count == 1) for v in stacked)
    if carried == 0 and free and length > 0:
        once = reader.inside("turns", p["jaxpr"], [*consts, *(_row(reader, v, 0) for v in stacked)])
        return [_repeated(reader, v, length, aval.aval) for v, aval in zip(once, eqn.outvars, strict=True)]
    rows: list[list[Anything]] = []
    turns = range(length - 1, -1, -1) if p["reverse"] else range(length)
    for turn in turns:
        now = [_row(reader, v, turn) for v in stacked]
        outputs = reader.inside(f"turn {turn}", p["jaxpr"], [*consts, *carry, *now])
        carry = outputs[:carried]
        rows.append(outputs[carried:])
    if p["reverse"]:
        rows.reverse()
    spatial = any(isinstance(v, Value) and v.axes[0].spatial for v in stacked)
    avals = [v.aval for v in eqn.outvars[carried:]]
    return [*carry, *(_stack(reader, [row[i] for row in rows], aval, spatial) for i, aval in enumerate(avals))]


def _repeated(reader: Reader, row: Anything, length: int, aval: Any) -> Anything:
    """The stack of turns that all read alike, as over a batch."""
    if isinstance(row, Const):
        return Const(aval)
    axes = [uniform(length), *row.axes]
    return reader.graph.remap(row, axes, range(1, len(axes)))


def _row(reader: Reader, value: Anything, turn: int) -> Anything:
    if isinstance(value, Const):
        return Const(_Shape(value.shape[1:], value.dtype), lambda: value.value[turn])
    return at_position(reader, value, 0, turn)


def _lifted(row: Const) -> np.ndarray:
    return np.asarray(row.value)[None]


class _Shape:
    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = tuple(shape), dtype


def _stack(reader: Reader, rows: list[Anything], aval: Any, spatial: bool) -> Anything:
    if not values_of(rows):
        return Const(aval, lambda: np.stack([np.asarray(r.value) for r in rows]))  # type: ignore[union-attr]
    lifted: list[Anything] = []
    for row in rows:
        if isinstance(row, Value):
            axes = [Axis(1, "s" if spatial else "c"), *row.axes]
            row = reader.graph.remap(row, axes, range(1, len(axes)))
        else:
            row = Const(_Shape((1, *row.shape), row.dtype), partial(_lifted, row))
        lifted.append(row)
    return joined(reader, lifted, 0, channels=False) if len(lifted) > 1 else lifted[0]


@rule("shard_map")
def _shard_map(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    """One device's share stands for all of them, where nothing is split but what all see alike, such as a batch."""
    inner = opened(eqn.params["jaxpr"])
    shares = [_resized(reader, v, var.aval) for v, var in zip(inputs, inner.invars, strict=True)]
    outputs = reader.inside("", inner, shares)
    return [_resized(reader, v, var.aval) for v, var in zip(outputs, eqn.outvars, strict=True)]


def _resized(reader: Reader, value: Anything, aval: Any) -> Anything:
    if value.shape == aval.shape:
        return value
    if isinstance(value, Const):
        return Const(aval)
    for axis, size in zip(value.axes, aval.shape, strict=True):
        if axis.size != size and (axis.spatial or axis.count > 1):
            raise reader.refuse(f"it splits a spatial axis of {axis.size} positions between devices")
    axes = [a if a.size == n else uniform(n, a.role) for a, n in zip(value.axes, aval.shape, strict=True)]
    return reader.graph.remap(value, axes, range(len(axes)))


@rule("while")
def _while(reader: Reader, eqn: JaxprEqn, inputs: list[Anything]) -> list[Anything]:
    p = eqn.params
    a, b = p["cond_nconsts"], p["body_nconsts"]
    test_consts, body_consts, carry = inputs[:a], inputs[a : a + b], list(inputs[a + b :])
    for turn in range(_TURNS):
        (again,) = reader.inside("test", p["cond_jaxpr"], [*test_consts, *carry])
        if isinstance(again, Value):
            raise reader.refuse("its number of turns depends on the data")
        if not bool(again.array()):
            return carry
        carry = reader.inside(f"turn {turn}", p["body_jaxpr"], [*body_consts, *carry])
        # Counters are evaluated turn by turn: a chain of delayed values would grow with the number of turns.
        carry = [known(v.value) if isinstance(v, Const) and v.shape == () else v for v in carry]
    raise reader.refuse(f"more than {_TURNS} turns")
