"""Fine-tuning: which leaves train, and frozen parts whose batch statistics stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx


def is_under(name: str, places: Sequence[str]) -> bool:
    """Whether one of the dotted paths leads to `name` or a part of it."""
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _check(places: tuple[str, ...], names: Sequence[str]) -> None:
    for place in places:
        if not any(is_under(name, (place,)) for name in names):
            top = ", ".join(dict.fromkeys(name.split(".")[0] for name in names if name))
            raise ValueError(f"frozen={place!r}: nothing has that path; at the top there are {top or 'no names'}")


def trainable(params: Any, *frozen: str) -> Any:
    """Which leaves of a tree of parameters train: True but for those under the frozen places.

    For ``optax.multi_transform({True: optax.adam(1e-3), False: optax.set_to_zero()}, labels)`` and ``optax.masked``.

    Args:
        params: an `nnx.State`, or any tree of dictionaries.
        *frozen: dotted paths such as "encoder" or "encoder.layer1".

    Returns:
        A tree of the same structure with a bool at each leaf.

    Raises:
        ValueError: nothing lies under one of the places; the message has the names at the top.

    Example:
        >>> trainable({"encoder": {"kernel": 1.0}, "head": {"kernel": 2.0}}, "encoder")
        {'encoder': {'kernel': False}, 'head': {'kernel': True}}
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    _check(frozen, names)
    return jax.tree.unflatten(structure, [not is_under(name, frozen) for name in names])


def freeze(model: nnx.Module, *frozen: str) -> nnx.filterlib.Filter:
    """Put parts of a model into evaluation mode, so that their batch statistics stay, and the rest into training mode.

    Args:
        model: it is changed; ``model.train()`` undoes it.
        *frozen: dotted paths of modules, such as "encoder".

    Returns:
        The filter of the parameters that train, for ``nnx.Optimizer(model, optimizer, wrt=...)``, ``nnx.DiffState(0,
        ...)`` and ``nnx.split``.

    Raises:
        ValueError: no module has one of the paths.

    Example:
        >>> from jaxconv.models import UNet
        >>> model = nnx.eval_shape(lambda: UNet(1, 2, widths=(2, 4), rngs=nnx.Rngs(0)))
        >>> kept = freeze(model, "encoder")
        >>> sorted({path[0] for path in nnx.to_flat_state(nnx.state(model, kept)).paths})
        ['decoder', 'head', 'ups']
    """
    modules = {_dotted(path): module for path, module in nnx.iter_modules(model)}
    _check(frozen, list(modules))
    model.train()
    for place in frozen:
        modules[place].eval()
    return nnx.All(nnx.Param, lambda path, _: not is_under(_dotted(path), frozen))
