"""Reading integers from users: each refusal names the value that was given."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import export


def as_index(value: Any, name: str) -> int:
    """`value` as a plain int; floats, booleans, strings and traced values are refused by name."""
    if isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer, got {type(value).__name__}") from None


def is_sequence(value: Any) -> bool:
    """Whether `value` holds one entry per axis: a tuple, a list or an array of at least one dimension."""
    return isinstance(value, Sequence) and not isinstance(value, str) or getattr(value, "ndim", 0) > 0


def plain(value: Any) -> Any:
    """Arrays of at least one dimension as lists; whatever else as it is."""
    return np.asarray(value).tolist() if getattr(value, "ndim", 0) > 0 else value


def per_axis(value: int | Sequence[int], name: str, rank: int, minimum: int = 1) -> tuple[int, ...]:
    """One integer per axis from an int or a sequence of `rank` ints, each at least `minimum`.

    Example:
        >>> per_axis(2, "stride", 3)
        (2, 2, 2)
    """
    if type(value) is int and value >= minimum:  # what most calls say, looked at no further
        return (value,) * rank
    given = plain(value)
    if is_sequence(given):
        if len(given) != rank:
            raise ValueError(f"{name}={given!r} has {len(given)} entries, but there are {rank} spatial axes")
        out = tuple(as_index(v, name) for v in given)
    else:
        out = (as_index(given, name),) * rank
    if any(v < minimum for v in out):
        raise ValueError(f"{name}={given!r} must be at least {minimum} on every axis")
    return out


def sizes_tuple(value: int | Sequence[int], name: str, rank: int) -> tuple[int, ...]:
    """Sizes, at least 1 each, one per axis."""
    return per_axis(value, name, rank, minimum=1)


def is_open(sizes: Sequence[Any]) -> bool:
    """Whether one of the sizes is a symbol (`jax.export.symbolic_shape`) rather than a number."""
    return any(not isinstance(n, int) and export.is_symbolic_dim(n) for n in sizes)


def refuse_open(name: str, sizes: Sequence[Any]) -> None:
    """Say that `name` serves no open size, if there is one among `sizes`."""
    if is_open(sizes):
        raise ValueError(f"{name} needs spatial sizes that are numbers, not symbols: got {tuple(map(str, sizes))}")


def any_below(sizes: Sequence[Any], least: int) -> bool:
    """Whether one of the sizes is known to be smaller than `least`; symbols are taken to be large enough."""
    return any(n < least for n in sizes if not is_open([n]))


def refuse_rest(sizes: Sequence[Any], factors: Sequence[int], message: str) -> None:
    """Raise ValueError(message) where a size is not, or is not known to be, a multiple of its factor."""
    left = [n for n, r in zip(sizes, factors, strict=True) if n % r != 0]
    if is_open(left):
        message += f"; an open size has to show that it is: symbolic_shape('{max(factors)}*n, ...')"
    if left:
        raise ValueError(message)


def stand_ins(sizes: Sequence[Any], number: int) -> tuple[int, ...]:
    """The sizes with `number` for symbols."""
    return tuple(number if is_open([n]) else n for n in sizes)
