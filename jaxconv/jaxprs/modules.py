"""Flax NNX modules as pure functions whose submodules' calls stand in scopes of their paths."""

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any

import jax

_BUILT_IN = (tuple, list, dict, str, int, float, bool, type(None))
# The paths of the modules that are being called by name, by identity, and those whose calls are open.
_NAMING: ContextVar[tuple[dict[int, tuple[str, ...]], list[tuple[str, ...]]] | None] = ContextVar(
    "naming", default=None
)


def nnx() -> Any:
    """flax.nnx where the program has already imported it, else None: then no object can be one of its modules."""
    return sys.modules.get("flax.nnx")


def is_module(value: Any) -> bool:
    """Whether a value is a flax NNX object or variable: something whose state a call may change."""
    if nnx() is None or type(value) in _BUILT_IN or isinstance(value, jax.Array):  # said without flax's own checks
        return False
    return isinstance(value, nnx().Pytree | nnx().Variable)


def as_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself; a Flax NNX module as a pure function of its input (its state is split off and put back)."""
    pure, state = with_state(fn, ())
    if not state:
        return pure
    # Variables made anew: those of the state belong to the trace around, and batch norm in training writes to them.
    return lambda *args: pure(*args, jax.tree.map(lambda leaf: leaf, state[0]))


def with_state(fn: Callable[..., Any], args: Sequence[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and its arguments; an NNX module's state becomes one more argument, so that shapes are enough."""
    if not callable(fn):
        raise TypeError(f"fn must be a function or a callable module, got {type(fn).__name__}")
    if nnx() is None or not isinstance(fn, nnx().Module):
        return fn, tuple(args)
    graphdef, state = nnx().split(fn)

    def pure(*inputs: Any) -> Any:
        *own, values = inputs
        return call_named(nnx().merge(graphdef, values), own)

    return pure, (*args, state)


def call_named(module: Any, args: Sequence[Any]) -> Any:
    """Call an NNX module so that what its submodules do is traced in scopes such as `encoder/0/conv`.

    Args:
        module: an NNX module that nobody else holds (fresh from `nnx.merge`): its parts change their class.
        args: its arguments.

    Returns:
        What the module returns.
    """
    paths = {}
    for path, part in nnx().iter_graph(module):
        if isinstance(part, nnx().Module) and id(part) not in paths:
            paths[id(part)] = tuple(str(p) for p in path)
            if callable(part):
                kind: Any = type(part)
                object.__setattr__(part, "__class__", _named(kind))
    token = _NAMING.set((paths, [()]))
    try:
        return module(*args)
    finally:
        _NAMING.reset(token)


@cache
def _named(kind: type) -> type:
    """A subclass whose call opens the scope of its object; one for each class, as NNX registers every subclass."""
    if getattr(kind, "_jaxconv_named", False):
        return kind

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        naming = _NAMING.get()
        path = naming[0].get(id(self)) if naming is not None else None
        if naming is None or path is None:
            return kind.__call__(self, *args, **kwargs)
        outer = naming[1][-1]
        # Relative to the open call: what belongs to another branch keeps its whole path.
        own = path[len(outer) :] if path[: len(outer)] == outer else path
        naming[1].append(path)
        try:
            if not own:
                return kind.__call__(self, *args, **kwargs)
            with jax.named_scope("/".join(own)):
                return kind.__call__(self, *args, **kwargs)
        finally:
            naming[1].pop()

    body = {"__call__": call, "_jaxconv_named": True, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind)(kind.__name__, (kind,), body)
