"""What of a call is traced and what stays as it is: arrays, and the state of flax NNX modules among the arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxconv.jaxprs.modules import is_module, nnx


class Static:
    """A value that is part of a signature: equal to another one of the same type and value."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        if isinstance(self.value, float | complex):
            return repr(self.value) == repr(other.value)  # tells -0.0 from 0.0, and finds nan again
        return bool(self.value is other.value or self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self.value), repr(self.value) if isinstance(self.value, float | complex) else self.value))


@dataclasses.dataclass(frozen=True)
class Signature:
    """All that is static about a call.

    Attributes:
        tree: structure of (owner, args, kwargs), modules and arrays as leaves.
        leaves: for each leaf a `Static`, or None for an array or a module.
        modules: positions of modules among the leaves.
        graph: the modules' graph definition, or None without modules.
        state: structure of the modules' state.
        state_statics: leaves of the state that are no arrays, None for those that are.
    """

    tree: Any
    leaves: tuple[Static | None, ...]
    modules: tuple[int, ...]
    graph: Any
    state: Any
    state_statics: tuple[Static | None, ...]

    @classmethod
    def of(cls, owner: Any, args: tuple, kwargs: dict) -> tuple[Signature, list[Any], tuple[Any, ...]]:
        """The signature of a call, its arrays, and the modules among its arguments."""
        leaves, tree = jax.tree.flatten(_with_pure_states((owner, args, kwargs)), is_leaf=is_module)
        places = tuple(i for i, leaf in enumerate(leaves) if is_module(leaf))
        modules = tuple(leaves[i] for i in places)
        statics, arrays = partition([None if i in places else leaf for i, leaf in enumerate(leaves)], places)
        graph = state_tree = None
        state_statics: tuple[Static | None, ...] = ()
        if modules:
            graph, state = nnx().split(modules)
            state_leaves, state_tree = jax.tree.flatten(state)
            state_statics, state_arrays = partition(state_leaves)
            arrays += state_arrays
        return cls(tree, statics, places, graph, state_tree, state_statics), arrays, modules

    def is_hashable(self) -> bool:
        """Whether the signature can be looked up."""
        try:
            hash(self)
        except TypeError:
            return False
        return True

    def restore(self, arrays: tuple[Any, ...]) -> tuple[Any, tuple, dict, tuple[Any, ...], Any]:
        """(owner, args, kwargs, modules, values): new modules of these arrays, and the values of their variables."""
        remaining = iter(arrays)
        leaves = fill([s for i, s in enumerate(self.leaves)], remaining, skip=self.modules)
        modules: tuple[Any, ...] = ()
        values = None
        if self.modules:
            state = jax.tree.unflatten(self.state, fill(self.state_statics, remaining))
            values = _values(state)  # taken now: the merged modules may share the state's variables
            modules = nnx().merge(self.graph, state)
            for place, module in zip(self.modules, modules, strict=True):
                leaves[place] = module
        owner, args, kwargs = _with_states(jax.tree.unflatten(self.tree, leaves))
        return owner, args, kwargs, modules, values

    def flat(self, call: Callable[..., Any]) -> Callable[..., Outcome]:
        """`call(owner, args, kwargs)` as a function of the arrays alone."""

        def traced(*arrays: Any) -> Outcome:
            owner, args, kwargs, modules, before = self.restore(arrays)
            out = call(owner, args, kwargs)
            updates, update_tree = ([], None) if not modules else self._updates(modules, before)
            leaves, tree = jax.tree.flatten(out)
            statics, result = partition(leaves)
            return Outcome(result, updates, tree, statics, update_tree)

        traced.__name__ = traced.__qualname__ = getattr(call, "__name__", "accelerated")
        return traced

    def _updates(self, modules: tuple[Any, ...], before: Any) -> tuple[list[Any], Any]:
        """Values of the variables that the call has set, and the structure of a state with only these."""
        graph, after = nnx().split(modules)
        if graph != self.graph:
            raise ValueError(
                "the call changed the structure or a static attribute of an NNX module among its arguments; under "
                "accelerate only values of its variables may change. Set modes (train(), eval()) and create variables "
                "before the call, or split and merge inside it"
            )
        now = _values(after)
        changed = [(path, var) for path, var in nnx().to_flat_state(after) if not _same(now[path], before[path])]
        return jax.tree.flatten(nnx().from_flat_state(changed))


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(eq=False)
class Outcome:
    """What a call gives back: arrays, and how to make of them what the function returned.

    Attributes:
        result: arrays among the leaves of the result.
        updates: new values of module variables.
        tree: structure of the result.
        statics: its other leaves, None where an array stands.
        update_tree: structure of the updates; None without modules.
    """

    result: list[Any]
    updates: list[Any]
    tree: Any
    statics: tuple[Static | None, ...]
    update_tree: Any

    def tree_flatten(self) -> tuple[tuple[list[Any], list[Any]], Any]:
        """Arrays are the children; the rest travels with the compiled function."""
        return (self.result, self.updates), (self.tree, self.statics, self.update_tree)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Outcome:
        """The inverse of `tree_flatten`."""
        return cls(*children, *aux)

    def deliver(self, modules: tuple[Any, ...]) -> Any:
        """Write the updates into the caller's modules and return the result."""
        if self.updates:
            nnx().update(modules, jax.tree.unflatten(self.update_tree, self.updates))
        return jax.tree.unflatten(self.tree, fill(self.statics, iter(self.result)))


@jax.tree_util.register_pytree_node_class
class PureState:
    """An `nnx.State` as its arrays: a pure value, unlike a module, whose variables a call may set."""

    def __init__(self, leaves: Any, tree: Any):
        self.leaves = leaves
        self.tree = tree

    def tree_flatten(self) -> tuple[Any, Any]:
        """Arrays are the children."""
        return self.leaves, self.tree

    @classmethod
    def tree_unflatten(cls, tree: Any, leaves: Any) -> PureState:
        """The inverse of `tree_flatten`."""
        return cls(leaves, tree)


def _with_pure_states(tree: Any) -> Any:
    if nnx() is None:
        return tree

    def pure(value: Any) -> Any:
        return PureState(*jax.tree.flatten(value)) if isinstance(value, nnx().State) else value

    return jax.tree.map(pure, tree, is_leaf=lambda v: isinstance(v, nnx().State) or is_module(v))


def _with_states(tree: Any) -> Any:
    def restored(value: Any) -> Any:
        return jax.tree.unflatten(value.tree, value.leaves) if isinstance(value, PureState) else value

    return jax.tree.map(restored, tree, is_leaf=lambda v: isinstance(v, PureState) or is_module(v))


def is_array(value: Any) -> bool:
    """Whether a leaf is traced: a jax or NumPy array of numbers (or its shape and dtype); scalars are not."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "OUSMm"
    return isinstance(value, jax.Array | jax.ShapeDtypeStruct)


def partition(leaves: Any, skip: tuple[int, ...] = ()) -> tuple[tuple[Static | None, ...], list[Any]]:
    """(statics with None where an array stands, arrays); positions in `skip` are neither."""
    statics, arrays = [], []
    for i, leaf in enumerate(leaves):
        traced = i not in skip and is_array(leaf)
        statics.append(None if traced or i in skip else Static(leaf))
        if traced:
            arrays.append(leaf)
    return tuple(statics), arrays


def fill(statics: Any, arrays: Any, skip: tuple[int, ...] = ()) -> list[Any]:
    """The inverse of `partition`; `arrays` is an iterator; positions in `skip` become None."""
    return [None if i in skip else next(arrays) if static is None else static.value for i, static in enumerate(statics)]


def _values(state: Any) -> dict[Any, list[Any]]:
    return {path: jax.tree.leaves(variable) for path, variable in nnx().to_flat_state(state)}


def _same(new: list[Any], old: list[Any]) -> bool:
    return len(new) == len(old) and all(a is b for a, b in zip(new, old, strict=True))
