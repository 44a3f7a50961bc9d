"""Reading ONNX attributes: the flat list of pads, auto_pad, and which operator set knows which attribute."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxconv._checks import as_index
from jaxconv.dialects._common import array, ints

Pads = tuple[tuple[int, int], ...]

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
# The core's names of auto_pad for operators whose windows read the input.
FORWARD_RULES = {"SAME_UPPER": "SAME", "SAME_LOWER": "SAME_LOWER", "VALID": "VALID"}


def spatial_rank(name: str, x: Array) -> int:
    """Number of spatial axes of (batch, channels, *spatial).

    Raises:
        ValueError: where there is none.
    """
    if x.ndim < 3:
        raise ValueError(f"{name} takes (batch, channels, *spatial), got shape {x.shape}")
    return x.ndim - 2


def steps(value: Any, name: str, rank: int) -> tuple[int, ...]:
    """A positive integer for each spatial axis; None means 1 everywhere."""
    if value is None:
        return (1,) * rank
    listed(value, name)
    return ints(value, name, rank, minimum=1)


def listed(value: Any, name: str) -> None:
    """Refuse what is not a list.

    Raises:
        TypeError: a single number or a string, where ONNX has a list.
    """
    if isinstance(value, str) or not hasattr(value, "__len__"):
        raise TypeError(f"{name}={value!r} must be a list of integers")


def pad_pairs(value: Any, rank: int) -> Pads:
    """(begin, end) per axis from ONNX's [begin_1, ..., begin_r, end_1, ..., end_r]; None means none.

    Example:
        >>> pad_pairs([1, 2, 3, 4], 2)
        ((1, 3), (2, 4))
    """
    if value is None:
        return ((0, 0),) * rank
    listed(value, "pads")
    numbers = ints(value, "pads", 2 * rank, minimum=0)
    return tuple(zip(numbers[:rank], numbers[rank:], strict=True))


def check_auto_pad(auto_pad: Any, pads: Any) -> str:
    """The name of the padding rule.

    Raises:
        ValueError: another name, or numbers besides a rule that sets them.
    """
    if auto_pad not in AUTO_PADS:
        raise ValueError(f"auto_pad={auto_pad!r} is not one of {', '.join(AUTO_PADS)}")
    if auto_pad != "NOTSET" and pads is not None and any(pads):
        raise ValueError(f"auto_pad={auto_pad!r} and pads={pads!r} cannot be given together")
    return auto_pad


def forward_padding(auto_pad: Any, pads: Any, rank: int) -> str | Pads:
    """Padding of an operator whose windows read the input, as the core takes it."""
    rule = check_auto_pad(auto_pad, pads)
    return pad_pairs(pads, rank) if rule == "NOTSET" else FORWARD_RULES[rule]


def since(
    name: str, opset: Any, first: int, given: dict[str, tuple[Any, Any, int]], last: int | None = None
) -> int | None:
    """Check an operator and its attributes against an operator set.

    Args:
        name: the operator.
        opset: the operator set, or None for the latest that has the operator.
        first: the operator set that introduced the operator as it is read here.
        given: attribute name to (value, default, operator set that introduced it).
        last: the last operator set that has the operator.

    Returns:
        The operator set as an int, or None.

    Raises:
        ValueError: an operator or attribute that the set does not have.
    """
    if opset is None:
        return None
    number = as_index(opset, "opset")
    if number < first or (last is not None and number > last):
        until = f" to {last}" if last is not None else ""
        raise ValueError(
            f"{name} exists in operator sets {first}{until or ' and later'} (read here), got opset={number}"
        )
    for attribute, (value, default, introduced) in given.items():
        if number < introduced and value is not None and value != default:
            raise ValueError(
                f"{name} has {attribute} from operator set {introduced} on, got {attribute}={value!r} with "
                f"opset={number}"
            )
    return number


def convolution_operands(
    name: str, X: Any, W: Any, B: Any, kernel_shape: Any
) -> tuple[Array, Array, Array | None, int]:
    """The arrays of Conv and ConvTranspose, checked against each other and against `kernel_shape`.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: operands of different types, or bools.
    """
    x, w = array(X, "X"), array(W, "W")
    b = None if B is None else array(B, "B")
    rank = spatial_rank(name, x)
    if w.ndim != x.ndim:
        raise ValueError(f"{name}: X and W must have the same number of axes, got shapes {x.shape} and {w.shape}")
    types = {str(a.dtype) for a in (x, w, b) if a is not None}
    if len(types) > 1:
        raise TypeError(f"{name}: all operands must have the same type, got {', '.join(sorted(types))}")
    if x.dtype == jnp.bool_:
        raise TypeError(f"{name} is not defined for bool")
    if kernel_shape is not None:
        listed(kernel_shape, "kernel_shape")
        if tuple(ints(kernel_shape, "kernel_shape", rank)) != w.shape[2:]:
            raise ValueError(f"{name}: kernel_shape={kernel_shape!r} is not that of W {w.shape}")
    return x, w, b, rank


def check_groups(name: str, group: Any, x: Array, w: Array, weight_channels: int) -> int:
    """The number of groups.

    Raises:
        ValueError: channels that do not fit.
    """
    g = as_index(group, "group")
    if (
        g < 1
        or w.shape[0] % g
        or x.shape[1] != weight_channels * (g if weight_channels == w.shape[1] and name == "Conv" else 1)
    ):
        raise ValueError(f"{name}: X of shape {x.shape}, W of shape {w.shape} and group={group} do not fit together")
    return g


def check_bias(name: str, b: Array | None, channels: int) -> None:
    """Refuse a bias of another shape than (channels,)."""
    if b is not None and b.shape != (channels,):
        raise ValueError(f"{name}: B must have shape ({channels},), got {b.shape}")
