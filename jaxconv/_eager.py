"""Calls outside of any trace, each as one compiled program.

What checks, promotes and lays out costs several times the computation of a small layer, and so does every operation
that is dispatched by itself. `jax.jit` remembers all of it by the operands' types, jax's settings and the arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import _compat

F = TypeVar("F", bound=Callable[..., Any])

_TOLD_APART = {int, str, tuple, list, type(None)}  # entries of settings that equal no other of these


def in_one_program(*operands: str) -> Callable[[F], F]:
    """A function of arrays, run as one compiled program where nothing is being traced.

    Inside of `jax.jit`, `jax.grad`, `jax.vmap` or any other trace, and for arguments that a program cannot be
    remembered by, the function itself is called; so it is for an error, which is then its own.

    Args:
        operands: names of the parameters that take arrays, or None. All others are settings, of which the program is
            made: the function may not look at the numbers in an operand.
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters
        positional = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
        program = jax.jit(function, static_argnames=[name for name in parameters if name not in operands])

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if _compat.nothing_is_traced():
                try:
                    given = {
                        name: _operand(value) if name in operands else _setting(value)
                        for name, value in chain(zip(positional, args), kwargs.items())
                    }
                    if len(given) == len(args) + len(kwargs):
                        return program(**given)
                except Exception:  # what is wrong the function says, without jax's remarks about its own frames
                    pass
            return function(*args, **kwargs)

        return called  # type: ignore[return-value]

    return decorate


def _operand(value: Any) -> Any:
    if value is None or isinstance(value, jax.Array):
        return value
    if type(value) is np.ndarray:
        return jnp.asarray(value)
    raise TypeError("a program takes arrays")


class _Floats(tuple):
    """Floats, told from the integers that they may equal by the type that they come in."""


def _setting(value: Any) -> Any:
    """`value` to be compared by; jax tells 1 from True, which is refused, but not (1, 1) from (True, True)."""
    if type(value) not in (tuple, list):
        hash(value)
        return value
    kinds = set(map(type, value))
    if kinds == {float}:
        return _Floats(value)
    if not kinds <= _TOLD_APART:
        raise TypeError("may equal another setting that means something else")
    return tuple(map(_entry, value))


def _entry(value: Any) -> Any:
    found = _setting(value)
    if isinstance(found, _Floats):
        raise TypeError("jax compares the types of settings, and not those of their entries")
    return found
