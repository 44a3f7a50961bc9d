"""What the dialects share: reading arrays and static integers, and moving channels to the axis where the core has
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jaxconv._checks import as_index
from jaxconv._hints import refuse_sparse


def array(value: Any, name: str) -> Array:
    """`value` as a jax array; lists and numbers are refused by name."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    refuse_sparse(value, name)
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


def ints(value: Any, name: str, count: int, *, minimum: int | None = None, expand_one: bool = False) -> tuple[int, ...]:
    """`count` integers from an int or a sequence of them; a sequence of one stands for all where `expand_one` is
    set."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}={value!r} must be an integer or {count} integers")
    if getattr(value, "ndim", 0) == 1:
        value = tuple(static(value, name).tolist())
    if not isinstance(value, Sequence):
        out = (as_index(value, name),) * count
    else:
        out = tuple(as_index(v, name) for v in value)
        if expand_one and len(out) == 1:
            out *= count
        if len(out) != count:
            raise ValueError(f"{name}={value!r} has {len(out)} entries, {count} are needed")
    if minimum is not None and any(v < minimum for v in out):
        raise ValueError(f"{name}={value!r} must be at least {minimum} on every axis")
    return out


def flag(value: Any, name: str) -> bool:
    """A bool, or the integers 0 and 1."""
    if isinstance(value, (bool, np.bool_)) or value in (0, 1):
        return bool(value)
    raise TypeError(f"{name}={value!r} must be True or False")


def boolean(value: Any, name: str) -> bool:
    """A bool and nothing else, as where PyTorch checks the types of its arguments."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}={value!r} must be True or False")


def static(value: Any, name: str) -> np.ndarray:
    """The numbers of an array argument that decides a shape, as NumPy; traced values are refused by name."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        raise TypeError(
            f"{name} decides the shape of the result, so it must be known while tracing, but it is a traced value: "
            f"pass it as a NumPy array, "
            "a tuple, or a static argument of jit"
        ) from None


def concrete(value: Any) -> np.ndarray | None:
    """The numbers of an array, or None where it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def standardised(x: Array, axes: Sequence[int], eps: float) -> Array:
    """x less its mean over the axes, by the root of the variance plus eps."""
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + eps)


def channels_last(x: Array, rank: int) -> Array:
    """(*batch, channels, *spatial) to (*batch, *spatial, channels)."""
    return jnp.moveaxis(x, -rank - 1, -1)


def channels_first(x: Array, rank: int) -> Array:
    """(*batch, *spatial, channels) to (*batch, channels, *spatial)."""
    return jnp.moveaxis(x, -1, -rank - 1)


def preferred(dtype: DTypeLike) -> DTypeLike | None:
    """The result type to ask the core for: integers stay what they are, as in the frameworks; None leaves it to the
    core."""
    return dtype if jnp.issubdtype(dtype, jnp.integer) else None


def shown(x: Array) -> str:
    """Shape of an array for a message."""
    return f"shape {tuple(x.shape)}"
