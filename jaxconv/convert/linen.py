"""The same conversion for flax.linen modules, whose parameters lie in a nested dict beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxconv.convert.layers import Layer, check_convention, layer_of
from jaxconv.convert.matching import Rename, place
from jaxconv.convert.report import Report


class _Leaf:
    """One entry of the variables, with the two methods by which it is filled."""

    def __init__(self, value: Any):
        self.value = value

    def get_value(self) -> Any:
        return self.value

    def set_value(self, value: Any) -> None:
        self.value = value


def load_linen(
    module: linen.Module,
    inputs: tuple[Any, ...],
    tensors: Mapping[str, Any],
    *,
    convention: str = "torch",
    rename: Rename | None = None,
    ordered: bool = True,
    strict: bool = True,
    dry_run: bool = False,
    source: str = "the checkpoint",
    **call: Any,
) -> tuple[dict[str, Any], Report]:
    """Make the variables of a linen module from the tensors of a checkpoint.

    As `load_tensors`; the module is traced once (without computing anything) to see which kinds of layers it holds and
    in which order it calls them. That order is what matching by structure goes by.

    Args:
        module: a linen module.
        inputs: arguments of a call, arrays or `jax.ShapeDtypeStruct`.
        tensors: name -> array.
        convention, rename, ordered: as for `load_tensors`.
        strict: as for `load_tensors`; without it, what no tensor fits stays a `jax.ShapeDtypeStruct`.
        dry_run: only report; all variables stay shapes.
        source: name of the checkpoint for messages.
        **call: keyword arguments of the call.

    Returns:
        The variables ({"params": ..., "batch_stats": ...}) for ``module.apply``, and the `Report`.

    Raises:
        ValueError: as for `load_tensors`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxconv.nn.linen import Conv
        >>> layer, x = Conv(8, (5, 5)), jax.ShapeDtypeStruct((1, 9, 9, 3), jnp.float32)
        >>> variables, report = load_linen(layer, (x,), {"weight": np.ones((8, 3, 5, 5)), "bias": np.zeros(8)})
        >>> variables["params"]["kernel"].shape, report.ok
        ((5, 5, 3, 8), True)
    """
    check_convention(convention)
    layers, leaves = _walk(module, inputs, call, convention)
    report = place(layers, tensors, rename=rename, ordered=ordered, strict=strict, dry_run=dry_run, source=source)
    return unflatten_dict({path: leaf.value for path, leaf in leaves.items()}), report


def _walk(
    module: linen.Module, inputs: tuple[Any, ...], call: dict[str, Any], convention: str
) -> tuple[list[Layer], dict[tuple[str, ...], _Leaf]]:
    """The layers in the order of their calls, and every variable by (collection, *path)."""
    called: dict[tuple[str, ...], linen.Module] = {}

    def record(function, arguments, keywords, context):
        called.setdefault(tuple(context.module.path), context.module)
        return function(*arguments, **keywords)

    with linen.intercept_methods(record):
        shapes = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, **call), *inputs)
    leaves = {path: _Leaf(value) for path, value in flatten_dict(shapes).items()}
    layers = []
    for path, node in called.items():
        own = {name: leaf for (_, *at, name), leaf in leaves.items() if tuple(at) == path}
        if own:
            layers.append(layer_of(node, path, own, convention))
    return layers, leaves
